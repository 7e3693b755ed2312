"""In which order, and how many at once, instances that arrived stopped are started (design section 6).

Asked for by ``groups`` or ``start_limit_per_host``: then instances are evacuated so that they arrive stopped (Nova's microversion 2.95),
all at once, and started by us:

    arrived -> placed -> starting -> done
                  \\--<------/  (Nova refused, or its start failed)

1. A member of a start group waits until every earlier group is *settled*: each of its members, of all recoveries under way, is started
   (and its guest answers, where readiness is asked), left alone or gone.
2. No group is waited for longer than ``ready_timeout`` without any progress: then the next ones go on, and that is said.
3. At most ``start_limit_per_host`` starts on one destination within ``start_limit_window``.
4. Else the plan's order: priority, group, size.  Instances of no group wait for none.

An instance whose destination dies before it was started is *owed*: the recovery of that host starts it.  So is one that its own agent
destroyed because the host was condemned: Nova, whose nova-compute may be alive there, takes it for stopped by its user some seconds
later, and would leave it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vmha.core.model import CLOSED_STEPS, FENCED, Call, CallKind, Instance, Outcome, Recovery, Stage, Step, StepState
from vmha.core.upkeep import back_off, done
from vmha.core.view import NEVER, Case, HostView, Turn

BY_TURNS = frozenset({StepState.ARRIVED, StepState.PLACED, StepState.STARTING})
AFTER_ARRIVAL = "start after arrival"


def drive(case: Case, view: HostView, turn: Turn) -> None:
    """Start what may be started now."""
    placed = sorted((s for s in case.steps.values() if s.state is StepState.PLACED), key=lambda s: s.order)
    if not placed:
        return
    room = turn.settings.evacuate_most - sum(s.state is StepState.STARTING for s in case.steps.values())
    places = {name: n for n, name in enumerate(turn.settings.groups)}
    holding = _first_unsettled(turn) if any(places.get(s.group) for s in placed) else len(places)
    for step in placed[: max(0, room)] if holding == len(places) else placed:
        if _lost_its_host(step, turn):
            owe(case, step, turn)
        elif places.get(step.group, 0) > holding:
            _wait(case, step, f"waits for start group {turn.settings.groups[holding]}", turn)
            turn.wake(view.name, turn.now + turn.settings.poll)
        elif room > 0:
            room -= _try_start(case, step, turn)


def _try_start(case: Case, step: Step, turn: Turn) -> bool:
    """Start the instance when its turn, its destination's limit and a fresh look at it allow."""
    due = max(case.retry_at.get(step.instance, NEVER), _limit_allows_at(step.target, turn))
    if turn.now < due:
        if case.retry_at.get(step.instance, NEVER) <= turn.now:
            _wait(case, step, f"waits for the start limit of {step.target}", turn)
        turn.wake(case.record.host, due)
    elif turn.now - case.placed_at.get(step.instance, NEVER) > turn.settings.read_fresh:
        turn.read_instance(case, step.instance)
    elif turn.free(CallKind.START, case.record.host, step.instance):
        _start(case, step, turn)
        return True
    return False


def _start(case: Case, step: Step, turn: Turn) -> None:
    case.placed_at.pop(step.instance, None)
    case.arrived_at[step.instance] = turn.now
    group = f", group {step.group}" if step.group else ""
    case.set(step, state=StepState.STARTING, starts=step.starts + 1, reason="")
    turn.brakes.starts.setdefault(step.target, []).append(turn.now)
    turn.call(case, CallKind.START, instance=step.instance, target=step.target, reason=AFTER_ARRIVAL + group)
    turn.say(case.record.host, f"start {step.name or step.instance} at {step.target}{group}")


def _wait(case: Case, step: Step, reason: str, turn: Turn) -> None:
    if step.reason != reason:
        case.set(step, reason=reason)
        turn.say(case.record.host, f"instance {step.name or step.instance} {reason}")


# --- start limits --------------------------------------------------------------------------------------------------


def _limit_allows_at(target: str, turn: Turn) -> float:
    """The time from which one more start on the destination is within its limit."""
    limit, window = turn.settings.start_limit_per_host, turn.settings.start_limit_window
    if limit <= 0:
        return NEVER
    started = [at for at in turn.brakes.starts.get(target, ()) if at > turn.now - window]
    turn.brakes.starts[target] = started
    return started[-limit] + window if len(started) >= limit else NEVER


# --- groups --------------------------------------------------------------------------------------------------------


def _first_unsettled(turn: Turn) -> int:
    """The place of the group that all later ones wait for; the number of groups when none is waited for."""
    groups = turn.settings.groups
    progress = dict.fromkeys(groups, 0)
    members: dict[str, int] = dict.fromkeys(groups, 0)
    for case in _under_way(turn):
        if not case.steps and turn.now < case.proven_at + turn.settings.ready_timeout:
            return 0  # its plan is not made yet: it may have members of any group
        for step in case.steps.values():
            if step.group in members and not step.stopped:
                members[step.group] += 3
                progress[step.group] += _progress(step, turn)
    for place, name in enumerate(groups):
        if progress[name] == members[name]:
            turn.brakes.groups.pop(name, None)
        elif not _passed_over(name, progress[name], turn):
            return place
    return len(groups)


def _under_way(turn: Turn) -> Iterator[Case]:
    """Recoveries whose instances count: being moved, or closed so lately that a guest may still not answer."""
    for case in turn.cases.values():
        lately = case.stage() is Stage.CLOSED and turn.now < case.closed_at + turn.settings.ready_timeout
        if case.stage() in (Stage.PROVEN, Stage.MOVING) or lately:
            yield case


def _progress(step: Step, turn: Turn) -> int:
    """0 to 3: not yet started, being started, started, settled."""
    if step.state is StepState.DONE:
        moved_on = _lost_its_host(step, turn)  # the recovery of that host has a step of its own for it
        return 3 if not step.ready or moved_on or answers(step, turn) else 2
    if step.state in CLOSED_STEPS:
        return 3
    return 1 if step.state is StepState.STARTING else 0


def answers(step: Step, turn: Turn) -> bool:
    """The guest answers, by the word of the agent at its new host."""
    seen = turn.world.seen.get((step.target, step.instance))
    return seen is not None and seen.guest == "ready"


def _passed_over(name: str, progress: int, turn: Turn) -> bool:
    """Whether the group has made no progress for so long that the next ones go on; said once."""
    before, since = turn.brakes.groups.get(name, (-1, turn.now))
    if before != progress:
        turn.brakes.groups[name] = (progress, turn.now)
        return False
    limit = turn.settings.ready_timeout
    if turn.now < since + limit:
        return False
    if (name, since) not in turn.brakes.passed:
        turn.brakes.passed.add((name, since))
        turn.say("start order", f"group {name} is not ready after {limit:g} s: the next ones go on", "warning")
    return True


# --- ends ----------------------------------------------------------------------------------------------------------


def call_ended(case: Case, call: Call, outcome: Outcome, detail: str, turn: Turn) -> None:
    """A start call ended with an outcome that is known."""
    step = case.steps.get(call.instance)
    if step is None or step.state is not StepState.STARTING:
        return
    case.called_at[step.instance] = turn.now
    if outcome is Outcome.DONE:
        turn.read_instance(case, step.instance)
    elif outcome is Outcome.NOT_STARTED:
        back_to_placed(case, step, turn, "the start was not sent", turn.settings.poll)
    else:
        _failed(case, step, f"Nova refused: {detail}", turn)


def _failed(case: Case, step: Step, reason: str, turn: Turn) -> None:
    """Nova did not start it: again later, later each time; a person hears of it after several."""
    delay = back_off(step.starts, turn.settings)
    name = step.name or step.instance
    turn.say(
        case.record.host, f"the start of {name} at {step.target} failed, again in {delay:g} s: {reason}", "warning"
    )
    if step.starts >= turn.settings.evacuate_retries and f"start {step.instance}" not in case.paged:
        case.paged.add(f"start {step.instance}")
        turn.page(
            case.record.host,
            f"instance {name} could not be started at {step.target} {step.starts} times, still trying: {reason}",
        )
    back_to_placed(case, step, turn, reason, delay)


def back_to_placed(case: Case, step: Step, turn: Turn, reason: str, delay: float) -> None:
    """It is looked at again, and started again in its turn."""
    case.set(step, state=StepState.PLACED, reason=reason)
    case.placed_at.pop(step.instance, None)
    case.retry_at[step.instance] = turn.now + delay
    turn.wake(case.record.host, turn.now + delay)


def instance_read(case: Case, step: Step, instance: Instance, began: float, turn: Turn) -> None:
    """Nova's word on an instance that arrived stopped, or should have."""
    idle = instance.vm_state == "stopped" and instance.task_state is None
    agent = turn.views[step.target].alive if step.target in turn.views else None
    believed = agent is None or not agent.watches_domains or step.state is not StepState.STARTING
    if instance.vm_state == "active" and instance.power_state == 1 and instance.task_state is None and believed:
        how = "by Nova's word: no vmha-agent watches domains there" if step.state is StepState.STARTING else "already"
        done(case, step, f"running at {step.target} {how}", turn)
    elif step.state is StepState.STARTING:
        if idle and began > case.called_at.get(step.instance, turn.now) and not _call_open(case, step):
            _failed(case, step, "Nova has it stopped again", turn)
    elif idle:
        case.placed_at[step.instance] = began
        if step.state is StepState.ARRIVED:
            case.set(step, state=StepState.PLACED, reason=f"arrived stopped at {step.target}")
    elif step.state is StepState.PLACED:
        task = f"with task {instance.task_state}" if instance.task_state else "in Nova"
        back_to_placed(case, step, turn, f"it is {instance.vm_state} {task}", turn.settings.retry_first)


def _call_open(case: Case, step: Step) -> bool:
    return any(o.call.instance == step.instance for o in case.open_calls.values())


# --- a destination that died -----------------------------------------------------------------------------------------


def _lost_its_host(step: Step, turn: Turn) -> bool:
    target = turn.views.get(step.target)
    return target is not None and target.condemnation is not None


def owe(case: Case, step: Step, turn: Turn) -> None:
    """Its destination died before it was seen running: the recovery of that host starts it."""
    done(case, step, f"arrived at {step.target}, which is being recovered itself and starts it elsewhere", turn)
    case.set(case.steps[step.instance], owed=True)


def owed_to(host: str, turn: Turn) -> frozenset[str]:
    """Instances that other recoveries have brought to this host and not started."""
    records: list[Recovery] = [*turn.world.recoveries.values(), *(c.written() for c in turn.cases.values())]
    return frozenset(s.instance for r in records if r.host != host for s in r.steps if s.owed and s.target == host)


def fenced_at(host: str, boot: str, instances: Iterable[str], turn: Turn) -> frozenset[str]:
    """Those of the instances that the host's own agent destroyed in that boot because the host was condemned."""
    found = ((uuid, turn.world.seen.get((host, uuid))) for uuid in instances)
    return frozenset(uuid for uuid, seen in found if seen and seen.reason == FENCED and seen.boot == boot)
