"""What every stage of a recovery needs: its record saved, its holds told, its open calls waited for."""

from __future__ import annotations

from dataclasses import replace

from vmha.core import explain
from vmha.core.actions import Commit
from vmha.core.calls import landed_by
from vmha.core.model import CLOSED_STEPS, Call, Outcome, Step, StepState
from vmha.core.settings import Settings
from vmha.core.view import NEVER, Case, Turn

AGE_EVERY = 30.0  # seconds between two writes of a hold's age


def save_soon(case: Case, turn: Turn) -> None:
    """Write a changed record, at most once in ``save_every``."""
    if case.dirty and turn.now - case.saved >= turn.settings.save_every:
        turn.save(case)
    elif case.dirty:
        turn.wake(case.record.host, case.saved + turn.settings.save_every)


def hold(case: Case, turn: Turn, reason: str, page: bool = True) -> None:
    """Wait, and say why; a person is paged, and again for as long as the same reason lasts (I13).

    Its age is kept in the record, so that the next leader knows when it is overdue (safety.md section 4, 8).
    """
    if case.record.hold != reason:
        case.change(hold=reason, hold_age=0.0)
        case.hold_since = turn.now
        turn.say(
            case.record.host, f"recovery {case.record.id} holds: {reason}", "warning" if page else "info", do="hold"
        )
    age = turn.now - case.hold_since
    if age >= case.record.hold_age + AGE_EVERY:
        case.change(hold_age=round(age))
    turn.wake(case.record.host, case.hold_since + case.record.hold_age + AGE_EVERY)
    if page:
        page_again(case, turn, explain.overdue(reason, age, turn.settings.hold_max), reason)


def page_again(case: Case, turn: Turn, text: str, reason: str) -> None:
    """Page a person, once in ``hold_page_every`` for one reason."""
    due = case.paged_at.get(reason, NEVER) + turn.settings.hold_page_every
    if turn.now >= due:
        case.paged_at[reason] = turn.now
        turn.page(case.record.host, text)
        due = turn.now + turn.settings.hold_page_every
    turn.wake(case.record.host, due)


def unhold(case: Case) -> None:
    if case.record.hold:
        case.change(hold="")


def wake_for_open(case: Case, turn: Turn) -> None:
    """Look again when the first open record of this case can be closed by its wait."""
    for open_call in case.open_calls.values():
        if open_call.ended:
            turn.wake(case.record.host, landed_by(open_call, turn.settings) + 0.01)


def settle(case: Case, call: Call, outcome: Outcome, detail: str, turn: Turn) -> None:
    """Write the outcome of a call: its record is closed and blocks nothing any more."""
    case.open_calls.pop(call.id, None)
    ended = replace(call, outcome=outcome, detail=detail[:500])
    if case.last_call.get(call.instance) == call:
        case.last_call[call.instance] = ended
    turn.out.append(Commit(f"close/{call.recovery}/{call.id}", (ended,)))


def done(case: Case, step: Step, how: str, turn: Turn) -> None:
    """The instance is verified at its new host."""
    case.set(step, state=StepState.DONE, reason=how, owed=False)
    case.change(times_wall={**case.record.times_wall, f"done/{step.instance}": turn.wall})
    case.stamp("first_done", turn.wall)
    case.change(times_wall={**case.record.times_wall, "last_done": turn.wall})
    text = f"instance {step.name or step.instance} is back: {how}"
    turn.say(case.record.host, text, do="evacuate_done", instance=step.instance, to=step.target)


def back_off(attempts: int, settings: Settings) -> float:
    """Seconds until something that failed so many times is tried again."""
    doublings = max(0, min(attempts, 30) - 1)
    return min(settings.retry_first * float(2**doublings), settings.retry_most)


def verifying(case: Case, uuid: str) -> bool:
    """What an agent sees of this instance may take the case further."""
    step = case.steps.get(uuid)
    if step is None:
        return any(s.state is StepState.PLACED for s in case.steps.values())
    return step.state in (StepState.ARRIVED, StepState.STARTING, StepState.DONE)


def bound_for(host: str, turn: Turn) -> list[Case]:
    """Recoveries with an instance on its way to this host."""
    return [
        c
        for c in turn.cases.values()
        if any(s.target == host and s.state not in CLOSED_STEPS for s in c.steps.values())
    ]
