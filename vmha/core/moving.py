"""Moves the instances of a host that is proven dead and forced down: evacuate, verify, retry, until every step is closed.

The evacuation of one instance:

    waiting -> asked -> moving -> arrived -> done
                 \\-> retry <-/  (only on Nova's final word, or reset-state after proof of death of the target)
"""

from __future__ import annotations

from dataclasses import replace

from vmha.core import events as ev
from vmha.core import explain, planner, preflight, reserved, schedule
from vmha.core.model import (
    CLOSED_STEPS,
    FINAL_BAD,
    FINAL_GOOD,
    Call,
    CallKind,
    HostState,
    Instance,
    Migration,
    Outcome,
    Stage,
    Step,
    StepState,
)
from vmha.core.upkeep import back_off, done, hold, settle, wake_for_open
from vmha.core.view import NEVER, Case, HostView, Turn

PROVEN_STAGES = frozenset({Stage.PROVEN, Stage.MOVING, Stage.CLOSED})


def move(case: Case, view: HostView, turn: Turn) -> None:
    """Evacuate, verify, retry, until every step is closed."""
    if case.inventory is None:
        turn.read_inventory(view)
        return
    fresh = turn.now - case.inventory_began <= turn.settings.read_fresh
    room = 0 if case.plans_unsaved else case.window - in_flight(case)  # a call follows its plan into the journal
    for step in sorted(case.steps.values(), key=lambda s: s.order):
        if step.state in (StepState.WAITING, StepState.RETRY) and room > 0:
            fresh = _try_evacuate(case, step, view, turn, fresh)
            room -= case.steps[step.instance].state is StepState.ASKED
        elif step.state is StepState.MOVING:
            _watch_target(case, step, turn)
        elif step.state in (StepState.ARRIVED, StepState.STARTING):
            verify(case, step, turn)
    schedule.drive(case, view, turn)
    reserved.drive(case, view, turn)
    if any(s.state in (StepState.MOVING, StepState.ASKED) for s in case.steps.values()) or not fresh:
        turn.read_inventory(view)
    if all(s.state in CLOSED_STEPS for s in case.steps.values()):
        finish(case, view, turn)


def _try_evacuate(case: Case, step: Step, view: HostView, turn: Turn, fresh: bool) -> bool:
    """Ask Nova to evacuate the instance when everything allows it; returns whether the inventory is fresh enough."""
    due = case.retry_at.get(step.instance, NEVER)
    if turn.now < due:
        turn.wake(view.name, due)
        return fresh
    instance = (case.inventory or {}).get(step.instance)
    if not fresh or case.inventory_began < due:
        return False
    if instance is None:
        turn.read_instance(case, step.instance)
    elif instance.task_state is not None:
        _stuck_task(case, step, instance, turn)
    elif step.stopped and instance.vm_state == "error":
        _clear_error(case, step, turn)
    elif companion := _companion(step, turn):
        _wait_for(case, step, companion, turn)
    elif turn.settings.reserved_only and not reserved.destination(case, step, turn):
        turn.wake(view.name, turn.now + turn.settings.poll)
    elif turn.free(CallKind.EVACUATE, view.name, step.instance):
        evacuate(case, step, turn)
    return fresh


def _clear_error(case: Case, step: Step, turn: Turn) -> None:
    """A failed attempt left a stopped instance in error, and Nova starts at its new host whatever it finds so.

    Nova's ``ComputeManager._do_rebuild_instance`` heeds the wish to arrive stopped in every other state.  The attempt is over: its
    migration record was final before this retry.
    """
    if turn.free(CallKind.RESET_STATE, case.record.host, step.instance):
        name = step.name or step.instance
        turn.say(case.record.host, f"instance {name} was stopped: its error is cleared, so that it arrives stopped")
        turn.call(case, CallKind.RESET_STATE, instance=step.instance, state="active")


def _companion(step: Step, turn: Turn) -> str:
    """The member of its hard server group that is under way: Nova could choose the same host for both, and then fail one."""
    others = (s for c in turn.cases.values() for s in c.steps.values() if step.together and s.together == step.together)
    under_way = (s for s in others if s.state in (StepState.ASKED, StepState.MOVING) and s.instance != step.instance)
    return next((s.name or s.instance for s in under_way), "")


def _wait_for(case: Case, step: Step, companion: str, turn: Turn) -> None:
    since = case.companion_since.setdefault(step.instance, turn.now)
    if turn.now - since > turn.settings.verify_page:
        name = step.name or step.instance
        hold(case, turn, f"instance {name} waits: {companion}, of the same server group, is still on its way")
    turn.wake(case.record.host, turn.now + turn.settings.poll)


def in_flight(case: Case) -> int:
    """Evacuations asked for and not final."""
    return sum(s.state in (StepState.ASKED, StepState.MOVING) for s in case.steps.values())


def _stuck_task(case: Case, step: Step, instance: Instance, turn: Turn) -> None:
    """Nova works on it, or did as the host died and will never end; ended by us only where the task is our own start's."""
    text = f"task {instance.task_state} is in flight in Nova"
    name = step.name or step.instance
    if (
        step.owed
        and instance.task_state == "powering-on"
        and turn.free(CallKind.RESET_STATE, case.record.host, step.instance)
    ):
        turn.call(case, CallKind.RESET_STATE, instance=step.instance)
    since = case.stuck_since.setdefault(step.instance, turn.now)
    if turn.now - since > turn.settings.verify_page and f"stuck {step.instance}" not in case.paged:
        case.paged.add(f"stuck {step.instance}")
        turn.page(case.record.host, f"instance {name} still waits: {text}; reset its state there if it will never end")
    if step.reason != text:
        turn.say(case.record.host, f"instance {name} waits: {text}", "warning")
        case.called_at[step.instance] = turn.now
    case.set(step, state=StepState.RETRY, reason=text)
    if turn.now - case.called_at.get(step.instance, turn.now) > turn.settings.verify_page:
        hold(
            case,
            turn,
            f"instance {step.name or step.instance} waits: {text}; its dead host cannot end it, an admin can (reset its state)",
        )
    case.retry_at[step.instance] = turn.now + turn.settings.retry_first
    turn.wake(case.record.host, case.retry_at[step.instance])


def evacuate(case: Case, step: Step, turn: Turn) -> None:
    """Start the call; its record tells which migrations of the instance are older than it."""
    known = tuple(m.id for m in case.migrations if m.instance == step.instance)
    case.set(step, state=StepState.ASKED, attempts=step.attempts + 1, target="", migration=0)
    case.stamp("first_evacuate", turn.wall)
    case.change(times_wall={**case.record.times_wall, "last_evacuate": turn.wall})
    target = reserved.destination(case, step, turn) if turn.settings.reserved_only else ""
    stopped = step.ordered or step.stopped  # an earlier failed attempt may have made Nova forget that it was stopped
    call = turn.call(
        case, CallKind.EVACUATE, instance=step.instance, known=known, target=target, arrive_stopped=stopped
    )
    case.last_call[step.instance] = call
    case.companion_since.pop(step.instance, None)
    if case.record.hold.startswith(f"instance {step.name or step.instance} waits"):
        case.change(hold="")
    turn.say(case.record.host, f"evacuate {step.name or step.instance} (attempt {step.attempts + 1})")


def retry(case: Case, step: Step, reason: str, turn: Turn) -> None:
    """The attempt is over and failed: again later, later each time, and a person hears of it after several."""
    s = turn.settings
    delay = back_off(step.attempts, s)
    case.set(step, state=StepState.RETRY, reason=reason, target="", migration=0)
    case.retry_at[step.instance] = turn.now + delay
    case.window = max(1, case.window // 2)
    name = step.name or step.instance
    text = f"evacuation of {name} failed, again in {delay:g} s: {reason}"
    turn.say(case.record.host, text, "warning", do="evacuate_failed", instance=step.instance, to=step.target)
    if step.attempts >= s.evacuate_retries and step.instance not in case.paged:
        case.paged.add(step.instance)
        turn.page(
            case.record.host, f"instance {name} could not be evacuated {step.attempts} times, still trying: {reason}"
        )
    turn.wake(case.record.host, turn.now + delay)


def own_migration(case: Case, step: Step) -> Migration | None:
    """Nova's record of the step's last call: of this instance, from this host, newer than the call."""
    call = case.last_call.get(step.instance)
    if call is None:
        return None
    mine = [
        m
        for m in case.migrations
        if m.instance == step.instance and m.source == case.record.host and m.id not in call.known
    ]
    return max(mine, key=lambda m: m.id, default=None)


def absorb(case: Case, turn: Turn) -> None:
    """Compare the steps with the inventory and migrations just read."""
    view = turn.views[case.record.host]
    assert case.inventory is not None
    if not case.steps or any(u not in case.steps for u in case.inventory):
        _extend_plan(case, view, turn)
    for step in list(case.steps.values()):
        if step.state is StepState.ASKED:
            _trace_of_lost_answer(case, step, turn)
        step = case.steps[step.instance]
        if step.state is StepState.MOVING:
            _follow(case, step, turn)
        elif step.state is StepState.ARRIVED:
            _failed_after_all(case, step, turn)


def _failed_after_all(case: Case, step: Step, turn: Turn) -> None:
    """The source's return had completed the record of an evacuation that its target was still at work on, and that has failed there."""
    migration = own_migration(case, step)
    if migration is not None and migration.id == step.migration and migration.status in FINAL_BAD:
        retry(case, step, f"Nova's migration {migration.id} ended {migration.status}", turn)


def _extend_plan(case: Case, view: HostView, turn: Turn) -> None:
    segment = turn.world.segments.get(view.settings.segment)
    assert case.inventory is not None
    owed = schedule.owed_to(view.name, turn) | schedule.fenced_at(view.name, case.record.boot, case.inventory, turn)
    planned = planner.plan(case.inventory.values(), segment, turn.world.instances, turn.settings, owed)
    new = [s for s in planned if s.instance not in case.steps]
    first = len(case.steps)
    for n, step in enumerate(new):
        if (
            step.instance in case.last_call
        ):  # a predecessor's call came before its plan was saved: not left alone for our own error
            step = replace(step, state=StepState.WAITING)
        case.set(step, order=first + n)
        if step.instance in case.last_call:
            resume_step(case, case.last_call[step.instance], turn)
    turn.save(case, "plan")
    case.plans_unsaved += 1
    turn.say(view.name, explain.planned(new))
    short = preflight.told(case, new, turn)
    for text in (*planner.no_host_for(new, case.inventory), *((short,) if short else ())):
        turn.say(view.name, f"pre-flight: {text}", "warning")
    for step in new:
        if step.state is StepState.SKIPPED:
            turn.say(view.name, f"instance {step.name or step.instance}: {step.reason}")


def resume_step(case: Case, call: Call, turn: Turn) -> None:
    """Where the instance stands by its last call, which may be later than the last saved step."""
    uuid = call.instance
    step = case.steps.get(uuid)
    if step is None or step.state in CLOSED_STEPS:
        return
    if call.kind is CallKind.START:
        started = call.outcome in (None, Outcome.DONE)
        case.set(step, state=StepState.STARTING if started else StepState.PLACED, target=call.target)
    elif call.outcome is None:
        case.set(step, state=StepState.ASKED)
    elif call.outcome is Outcome.DONE and step.state in (StepState.WAITING, StepState.ASKED, StepState.RETRY):
        case.set(step, state=StepState.MOVING)
    elif call.outcome is not Outcome.DONE and step.state in (StepState.ASKED, StepState.MOVING):
        case.set(step, state=StepState.RETRY)
    case.called_at[uuid] = case.arrived_at[uuid] = turn.now


def _trace_of_lost_answer(case: Case, step: Step, turn: Turn) -> None:
    """An evacuate call without an answer is closed as done by its own migration record, and by nothing less."""
    call = case.last_call.get(step.instance)
    if call is None or call.id not in case.open_calls or not case.open_calls[call.id].ended:
        return
    migration = own_migration(case, step)
    if migration is not None:
        settle(case, call, Outcome.DONE, f"found by its migration record {migration.id}", turn)
        case.set(step, state=StepState.MOVING)
        case.called_at[step.instance] = turn.now


def _follow(case: Case, step: Step, turn: Turn) -> None:
    migration = own_migration(case, step)
    if migration is None:
        since = case.called_at.get(step.instance, turn.now)
        if turn.now - since > turn.settings.verify_page and f"lost {step.instance}" not in case.paged:
            case.paged.add(f"lost {step.instance}")
            turn.page(
                case.record.host,
                f"Nova took the evacuation of {step.name or step.instance} but shows no migration record",
            )
        return
    if (migration.target, migration.id) != (step.target, step.migration):
        case.set(step, target=migration.target, migration=migration.id)
        step = case.steps[step.instance]
    _watch_patience(case, step, migration, turn)
    if migration.status in FINAL_GOOD:
        case.set(step, state=StepState.ARRIVED)
        case.arrived_at[step.instance] = turn.now
        case.window = min(case.window + 1, turn.settings.evacuate_most)
    elif migration.status in FINAL_BAD:
        if migration.status == "error" and migration.target in ("", case.last_call[step.instance].target):
            case.no_host.add(step.instance)  # the scheduler found none; a target that failed says "failed"
        retry(case, step, f"Nova's migration {migration.id} ended {migration.status}", turn)


def _watch_patience(case: Case, step: Step, migration: Migration, turn: Turn) -> None:
    """Nova can leave a record open for good; an attempt is not given up for that, but a person must hear of it."""
    since = case.called_at.get(step.instance, turn.now)
    key = f"slow {step.instance}"
    if turn.now - since > turn.settings.evacuate_patience and key not in case.paged:
        case.paged.add(key)
        name = step.name or step.instance
        turn.page(
            case.record.host,
            f"evacuation of {name} is {migration.status} in Nova since {turn.now - since:.0f} s: look at its target {step.target or 'not chosen yet'}",
        )


def _watch_target(case: Case, step: Step, turn: Turn) -> None:
    """Rule 5: an attempt is given up only on proof of death of its target; then its task state is reset.

    However old that proof is: the target's gate is shut since, so that what it is sent later cannot start there either.
    """
    target = next((c for c in turn.cases.values() if c.record.host == step.target and c.stage() in PROVEN_STAGES), None)
    if (
        target is not None
        and not target.record.refuted
        and turn.free(CallKind.RESET_STATE, case.record.host, step.instance)
    ):
        name = step.name or step.instance
        turn.say(
            case.record.host, f"the target {step.target} of {name} is proven dead: its attempt is given up", "warning"
        )
        returning_needs_restart(target, turn)
        turn.call(case, CallKind.RESET_STATE, instance=step.instance)


def returning_needs_restart(target: Case, turn: Turn) -> None:
    """The rebuild may have waited in the dead target's queue, and be at work in a later boot that nobody has heard yet: its shut gate refuses
    it, and before the gate opens its nova-compute must have been started anew.  Written before the attempt is given up."""
    condemnation = turn.views[target.record.host].condemnation
    asked = condemnation.restart_compute if condemnation is not None else 0
    if target.record.restart_needed <= asked:
        target.change(restart_needed=asked + 1)
        turn.save(target)


def verify(case: Case, step: Step, turn: Turn) -> None:
    """Done when the domain is seen running at its new host by the agent there; Nova's word alone where there is no agent."""
    target = turn.views.get(step.target)
    alive = target.alive if target else None
    name = step.name or step.instance
    if target is not None and target.condemnation is not None:
        if step.state is StepState.ARRIVED:
            turn.read_instance(case, step.instance)  # the source's return completes records too: is it there?
            turn.wake(case.record.host, turn.now + turn.settings.poll)
            _overdue(case, step, f"{name} has not arrived at {step.target}, which is being recovered itself", turn)
        else:
            schedule.owe(case, step, turn)
        return
    seen = turn.world.seen.get((step.target, step.instance))
    counts = not step.stopped and (not step.ordered or step.state is StepState.STARTING)
    if counts and alive and seen and seen.boot == alive.boot and seen.state == "running":
        done(case, step, f"running at {step.target}, seen there by its agent", turn)
        return
    if step.stopped or step.ordered or alive is None or not alive.watches_domains:
        turn.read_instance(case, step.instance)
    where = (
        step.target or "no host that it names"
    )  # the source's return can complete a record before its target took it
    _overdue(case, step, f"{name} arrived at {where} by Nova's record, but its domain is not seen running there", turn)
    turn.wake(case.record.host, turn.now + turn.settings.verify_page)


def _overdue(case: Case, step: Step, text: str, turn: Turn) -> None:
    if turn.now - case.arrived_at.get(step.instance, turn.now) > turn.settings.verify_page and not case.record.hold:
        hold(case, turn, text)


def instance_read(case: Case, event: ev.InstanceRead, turn: Turn) -> None:
    """Nova's word on one instance that is not on the dead host's list any more, or is to be verified."""
    uuid, instance = event.uuid, event.instance
    case.asking.discard(uuid)
    step = case.steps.get(uuid)
    if step is None or not event.known:
        return
    if instance is None:
        if step.state not in CLOSED_STEPS:
            case.set(step, state=StepState.GONE, reason="deleted in Nova")
            turn.say(case.record.host, f"instance {step.name or uuid} was deleted")
    elif step.state is StepState.ARRIVED and _is_condemned(step.target, turn):
        if event.began > case.arrived_at.get(uuid, NEVER):
            _at_condemned(case, step, instance, turn)
    elif step.ordered and step.state in schedule.BY_TURNS and instance.host == step.target:
        schedule.instance_read(case, step, instance, event.began, turn)
    elif step.ordered and step.state in (StepState.PLACED, StepState.STARTING):
        _moved(case, step, instance, turn)
    elif step.state is StepState.ARRIVED and instance.host == step.target:
        if step.stopped and instance.vm_state == "stopped":
            done(case, step, f"at {step.target}, stopped as before", turn)
        elif step.stopped and instance.vm_state == "active" and instance.task_state is None:
            done(
                case,
                step,
                f"at {step.target}, and running, although it was stopped before",
                turn,
            )
            turn.page(
                case.record.host,
                f"instance {step.name or uuid} was stopped before and runs at {step.target} now: stop it",
            )
        elif not step.stopped and instance.vm_state == "active" and instance.power_state == 1:
            done(case, step, f"running at {step.target} by Nova's word: no vmha-agent watches domains there", turn)
    elif step.state in (StepState.WAITING, StepState.RETRY) and instance.host != case.record.host:
        _moved(case, step, instance, turn)


def _is_condemned(host: str, turn: Turn) -> bool:
    view = turn.views.get(host)
    return view is not None and view.condemnation is not None


def _at_condemned(case: Case, step: Step, instance: Instance, turn: Turn) -> None:
    """Nova's record says that it has arrived at a host that has died since: where it lives tells."""
    if instance.host == case.record.host:
        _watch_target(case, step, turn)
    elif instance.host != step.target:
        _moved(case, step, instance, turn)
    elif step.ordered:
        schedule.owe(case, step, turn)
    else:
        done(case, step, f"arrived at {step.target}, which is being recovered itself", turn)


def _moved(case: Case, step: Step, instance: Instance, turn: Turn) -> None:
    where = instance.host or "no host"
    case.set(step, state=StepState.GONE, reason=f"lives at {where}, moved by somebody else")
    turn.say(case.record.host, f"instance {step.name or step.instance} lives at {where} already")


# --- the end -------------------------------------------------------------------------------------------------------


def finish(case: Case, view: HostView, turn: Turn) -> None:
    """Every step is closed: look once more for newcomers, disable the service with our reason, close."""
    if case.open_calls:
        wake_for_open(case, turn)
        return
    if not reserved.given_back(case, turn):
        return
    last = max((case.arrived_at.get(u, NEVER) for u in case.steps), default=NEVER)
    if case.inventory_began <= max(last, case.proven_at):
        turn.read_inventory(view)
        return
    if view.service_began <= max(last, case.proven_at):
        turn.read_service(view)
        return
    if view.service is not None and not view.service.disabled:
        _disable(case, view, turn)
        return
    ours = view.service is not None and view.service.disabled_reason == turn.settings.disabled_reason
    case.change(stage=Stage.CLOSED, disabled_by_us=ours, hold="")
    case.stamp("closed", turn.wall)
    case.closed_at = turn.now
    view.state = HostState.RECOVERED
    turn.say(view.name, explain.closed(case), do="close")
    turn.save(case)
    turn.wake(view.name, turn.now)


def _disable(case: Case, view: HostView, turn: Turn) -> None:
    assert view.service is not None
    if turn.now < case.host_retry:
        turn.wake(view.name, case.host_retry)
    elif turn.free(CallKind.DISABLE, view.name):
        view.service_began = NEVER
        turn.call(case, CallKind.DISABLE, service=view.service.id, reason=turn.settings.disabled_reason)


def back_to_waiting(case: Case, call: Call, turn: Turn) -> None:
    """The wait for the end of a call about an instance is over without its trace: asked again after a fresh read."""
    step = case.steps.get(call.instance)
    if step is not None and step.state is StepState.STARTING:
        schedule.back_to_placed(case, step, turn, f"no answer from Nova to call {call.id}", 0.0)
    elif step is not None and step.state is StepState.ASKED:
        case.set(step, state=StepState.RETRY, reason=f"no answer from Nova to call {call.id}")
        case.retry_at[call.instance] = turn.now
