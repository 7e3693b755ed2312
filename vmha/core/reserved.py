"""Reserved hosts: put in service only when a recovery needs them, and given back when nothing came to them.

A reserved host is idle: its service is disabled in Nova with ``reserved_reason``, and by that reason alone may vmha enable it.

1. Nova found no valid host for an instance: one reserved host of the same segment is enabled, another failure domain than the dead host's
   first, then by name; the instance is asked for again at once.  So one after another, as long as Nova finds none.
2. ``reserved_only``: evacuations name a reserved host as their destination, and one is enabled from the start.
3. At the end of the recovery a host that no instance went to is disabled again with the same reason; one that is in use is no reserved host
   any more, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vmha.core.actions import Commit
from vmha.core.model import Call, CallKind, HostState, Outcome, Step, StepState
from vmha.core.upkeep import back_off
from vmha.core.view import NEVER, Case, HostView, Turn

NOT_THERE = frozenset({StepState.SKIPPED, StepState.GONE})


def drive(case: Case, view: HostView, turn: Turn) -> None:
    """Put in service what is wanted and not yet in service."""
    for name in case.record.reserved:
        if turn.views[name].condemnation is not None:
            _drop(case, name)
        elif not in_service(turn.views[name]):
            _enable(case, turn.views[name], turn)
            return
    wants_first = turn.settings.reserved_only and not case.record.reserved and _any_waiting(case)
    if case.no_host or wants_first:
        _take_next(case, view, turn)


def in_service(view: HostView) -> bool:
    """As last read of Nova."""
    return view.service is not None and not view.service.disabled and view.service.up


def _drop(case: Case, name: str) -> None:
    case.change(reserved=tuple(h for h in case.record.reserved if h != name))


def _any_waiting(case: Case) -> bool:
    return any(s.state in (StepState.WAITING, StepState.RETRY) for s in case.steps.values())


def candidates(case: Case, view: HostView, turn: Turn) -> list[HostView]:
    """Idle reserved hosts of the segment, the best first."""
    taken = {h for c in turn.cases.values() for h in c.record.reserved}
    domain = view.settings.failure_domain or view.name
    found = [
        v
        for v in turn.views.values()
        if v.settings.reserved
        and v.settings.segment == view.settings.segment
        and v.state is HostState.ONLINE
        and v.name not in taken
    ]
    return sorted(found, key=lambda v: ((v.settings.failure_domain or v.name) == domain, v.name))


def _take_next(case: Case, view: HostView, turn: Turn) -> None:
    for one in candidates(case, view, turn):
        if turn.now - one.service_began > turn.settings.read_fresh:
            _look(case, one, turn)
            return
        idle = one.service is not None and one.service.up and one.service.disabled
        if idle and one.service is not None and one.service.disabled_reason == turn.settings.reserved_reason:
            case.change(reserved=(*case.record.reserved, one.name))
            _enable(case, one, turn)
            return
    _none_left(case, view, turn)


def _none_left(case: Case, view: HostView, turn: Turn) -> None:
    case.no_host.clear()
    text = f"no reserved host of segment {view.settings.segment} is left: make room, or add one"
    had_any = any(v.settings.reserved for v in turn.views.values())
    if (had_any or turn.settings.reserved_only) and text not in case.paged:
        case.paged.add(text)
        turn.page(view.name, text)
    if turn.settings.reserved_only:
        turn.wake(view.name, turn.now + turn.settings.retry_most)


def _look(case: Case, one: HostView, turn: Turn) -> None:
    """Read its service; this recovery goes on when the answer is there."""
    turn.read_service(one)
    turn.wake(case.record.host, turn.now + turn.settings.poll)


def _enable(case: Case, one: HostView, turn: Turn) -> None:
    due = case.retry_at.get(f"reserved/{one.name}", NEVER)
    if turn.now < due:
        turn.wake(case.record.host, due)
    elif not _read_as_idle(one, turn) or one.service is None:
        _look(case, one, turn)
    elif turn.free(CallKind.ENABLE, one.name):
        turn.say(case.record.host, f"reserved host {one.name} is put in service for this recovery")
        turn.call(case, CallKind.ENABLE, save=True, host=one.name, service=one.service.id)


def _read_as_idle(one: HostView, turn: Turn) -> bool:
    fresh = turn.now - one.service_began <= turn.settings.read_fresh
    return fresh and one.service is not None and one.service.disabled_reason == turn.settings.reserved_reason


def call_ended(case: Case, call: Call, outcome: Outcome, detail: str, turn: Turn) -> None:
    """A call about a reserved host ended with an outcome that is known."""
    one, key = turn.views[call.host], f"reserved/{call.host}"
    one.service_began = NEVER
    if outcome is Outcome.DONE:
        case.reserved_failures.pop(call.host, None)
        if one.service is not None:
            one.service = replace(one.service, disabled=call.kind is CallKind.DISABLE, disabled_reason=call.reason)
        if call.kind is CallKind.ENABLE:
            for uuid in case.no_host:
                case.retry_at[uuid] = turn.now
            case.no_host.clear()
        else:
            _drop(case, call.host)
            turn.say(case.record.host, f"reserved host {call.host} was not needed: out of service again")
        return
    failed = case.reserved_failures[call.host] = case.reserved_failures.get(call.host, 0) + 1
    case.retry_at[key] = turn.now + back_off(failed, turn.settings)
    turn.wake(case.record.host, case.retry_at[key])
    if outcome is Outcome.FAILED and failed == turn.settings.evacuate_retries:
        verb = call.kind.replace("_", " ")
        turn.page(case.record.host, f"Nova refused to {verb} the service of reserved host {call.host}: {detail}")


# --- reserved hosts only ---------------------------------------------------------------------------------------------


def destination(case: Case, step: Step, turn: Turn) -> str:
    """The reserved host to name in the evacuation: the one asked least; empty while there is none."""
    usable = [h for h in case.record.reserved if in_service(turn.views[h])]
    return min(usable, key=lambda h: (_refused(case, step, h), _asked(case, h), h), default="")


def _asked(case: Case, host: str) -> int:
    return sum(c.target == host for c in case.last_call.values())


def _refused(case: Case, step: Step, host: str) -> bool:
    """Its last attempt went there."""
    last = case.last_call.get(step.instance)
    return last is not None and last.target == host


# --- the end -----------------------------------------------------------------------------------------------------------


def given_back(case: Case, turn: Turn) -> bool:
    """Whether every reserved host that this recovery took is settled; asks for what is missing."""
    for name in case.record.reserved:
        one = turn.views[name]
        if name in _used(turn):
            _drop(case, name)
            one.settings = replace(one.settings, reserved=False)
            turn.out.append(Commit(f"reserved/{name}", (one.settings,)))
            turn.say(
                case.record.host, f"reserved host {name} is in use now, and no reserved host any more: add another"
            )
        elif one.service is None or turn.now - one.service_began > turn.settings.read_fresh:
            _look(case, one, turn)
        elif one.service.disabled or one.condemnation is not None:
            _drop(case, name)
        elif turn.now < case.retry_at.get(f"reserved/{name}", NEVER):
            turn.wake(case.record.host, case.retry_at[f"reserved/{name}"])
        elif turn.free(CallKind.DISABLE, name):
            reason = turn.settings.reserved_reason
            turn.call(case, CallKind.DISABLE, host=name, service=one.service.id, reason=reason)
    return not case.record.reserved


def _used(turn: Turn) -> set[str]:
    return set(_destinations(turn))


def _destinations(turn: Turn) -> Iterator[str]:
    for case in turn.cases.values():
        for step in case.steps.values():
            if step.target and step.state not in NOT_THERE:
                yield step.target
