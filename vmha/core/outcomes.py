"""What the end of an outside call means for its recovery.

An outcome other than unknown closes the record of the call.  An unknown one keeps it open, blocking, until the call can no longer
take effect (safety.md section 4, rule 4); only the trace of that very call closes it sooner.  A power-off is different: its
process group is gone when it returns, so only readings count from then on.
"""

from __future__ import annotations

from vmha.core import explain, reserved, schedule
from vmha.core.calls import OpenCall, landed_by, settles
from vmha.core.model import Call, CallKind, Outcome, StepState
from vmha.core.moving import retry
from vmha.core.recovery import forced_down
from vmha.core.upkeep import hold, settle
from vmha.core.view import NEVER, Case, HostView, Turn


def call_ended(case: Case, call: Call, outcome: Outcome, detail: str, turn: Turn) -> None:
    """Take the end of one of our own calls."""
    if call.id not in case.open_calls:
        return
    turn.say(case.record.host, explain.call_ended(call, outcome, detail), explain.level(outcome))
    if not settles(outcome) and call.kind is not CallKind.POWER_OFF:
        open_call = OpenCall(call, turn.now, ended=True)
        case.open_calls[call.id] = open_call
        turn.wake(case.record.host, landed_by(open_call, turn.settings) + 0.01)
        return
    view = turn.views[case.record.host]
    if call.kind is CallKind.POWER_OFF:
        view.fence_delay += turn.now - case.open_calls[call.id].since
    settle(case, call, outcome, detail, turn)
    match call.kind:
        case CallKind.POWER_OFF:
            _power_off(case, view, outcome, detail, turn)
        case CallKind.EVACUATE:
            _evacuate(case, call, outcome, detail, turn)
        case CallKind.START:
            schedule.call_ended(case, call, outcome, detail, turn)
        case CallKind.RESET_STATE:
            _reset_state(case, call, outcome, detail, turn)
        case CallKind.ENABLE | CallKind.DISABLE if call.host != case.record.host:
            reserved.call_ended(case, call, outcome, detail, turn)
        case CallKind.FORCE_DOWN | CallKind.UNFORCE | CallKind.DISABLE | CallKind.ENABLE:
            _service(case, view, call, outcome, detail, turn)


def _power_off(case: Case, view: HostView, outcome: Outcome, detail: str, turn: Turn) -> None:
    case.off_ended = turn.now
    view.power_again = NEVER
    case.off_refused = 0 if outcome is Outcome.DONE else case.off_refused + 1
    if outcome is not Outcome.DONE and not case.record.hold:
        hold(case, turn, f"the fencing device of {view.name} did not take the order to power off: {detail}")


def _service(case: Case, view: HostView, call: Call, outcome: Outcome, detail: str, turn: Turn) -> None:
    view.service_began = NEVER  # it changed, or must be looked at again
    if outcome is Outcome.DONE:
        case.host_failures, case.host_retry = 0, NEVER
        if call.kind is CallKind.FORCE_DOWN:
            forced_down(case, view, turn, "by us")
        return
    s = turn.settings
    case.host_failures += 1
    delay = min(s.retry_first * 2 ** (case.host_failures - 1), s.retry_most)
    case.host_retry = turn.now + delay
    turn.wake(view.name, case.host_retry)
    if outcome is Outcome.FAILED:
        hold(case, turn, f"Nova refused to {call.kind.replace('_', ' ')} the service of {view.name}: {detail}")


def _evacuate(case: Case, call: Call, outcome: Outcome, detail: str, turn: Turn) -> None:
    step = case.steps.get(call.instance)
    if step is None or step.state is not StepState.ASKED:
        return
    match outcome:
        case Outcome.DONE:
            case.set(step, state=StepState.MOVING)
            case.called_at[call.instance] = turn.now
        case Outcome.FAILED:
            retry(case, step, f"Nova refused: {detail}", turn)
        case _:
            case.set(step, state=StepState.WAITING, attempts=step.attempts - 1)
            case.retry_at[call.instance] = turn.now + turn.settings.poll
            turn.wake(case.record.host, turn.now + turn.settings.poll)


def _reset_state(case: Case, call: Call, outcome: Outcome, detail: str, turn: Turn) -> None:
    step = case.steps.get(call.instance)
    if step is not None and step.state in (StepState.WAITING, StepState.RETRY):
        case.inventory_began = NEVER  # a start that died with its host, or a stopped instance's error: looked at again
        if outcome is Outcome.FAILED and call.state == "active":
            case.set(step, attempts=step.attempts + 1)
            retry(case, case.steps[call.instance], f"its error could not be cleared: {detail}", turn)
    if step is None or step.state not in (StepState.MOVING, StepState.ARRIVED):
        return
    if outcome is Outcome.DONE:
        retry(case, step, f"its target {step.target} died", turn)
        case.retry_at[call.instance] = turn.now
        case.inventory_began = NEVER
    else:
        turn.wake(case.record.host, turn.now + turn.settings.retry_first)
