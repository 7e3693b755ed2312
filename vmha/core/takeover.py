"""A new leader goes on from what its predecessors have written (safety.md section 4, rules 4 and 8).

Every open record of theirs blocks, and is closed by its own trace or after its wait, counted from our election; waiting times start
again; readings count only if they began after it; what still counts in a limiting window counts as if it had happened now.
"""

from __future__ import annotations

from dataclasses import replace

from vmha.core import judge, moving
from vmha.core.calls import OpenCall
from vmha.core.model import CallKind, HostState, Recovery, Stage
from vmha.core.view import NEVER, Case, HostView, Turn

STATES = {
    Stage.CONDEMNED: HostState.CONDEMNED,
    Stage.PROVEN: HostState.FENCED,
    Stage.MOVING: HostState.RECOVERING,
    Stage.CLOSED: HostState.RECOVERED,
}


def count_windows(turn: Turn) -> None:
    """What predecessors still counted, counts as if it had happened now."""
    turn.brakes.fences = {r.id: turn.now for r in turn.world.recoveries.values() if r.fence_counts}
    turn.brakes.flaps = {}
    for record in turn.world.recoveries.values():
        if record.flap_counts:
            turn.brakes.flaps.setdefault(record.host, {})[record.id] = turn.now
    turn.brakes.groups, turn.brakes.starts = {}, {}
    for call in turn.world.calls.values():
        of = turn.world.recoveries.get(call.recovery)
        if call.kind is CallKind.START and of is not None and of.stage is Stage.MOVING:
            turn.brakes.starts.setdefault(call.target, []).append(turn.now)


def resume(record: Recovery, view: HostView, turn: Turn) -> None:
    """Go on with a predecessor's case from what it has written."""
    condemnation = turn.world.condemned.get(record.host)
    if condemnation is not None and condemnation.recovery == record.id:
        record = replace(record, condemned_revision=condemnation.revision)
    case = Case(record, committed_at=turn.now)
    case.proven_at = case.proof_began = turn.now if record.proof else NEVER
    case.closed_at = turn.now
    case.hold_since = turn.now - record.hold_age
    case.window = turn.settings.evacuate_first
    case.steps = {s.instance: s for s in record.steps}
    calls = sorted((c for c in turn.world.calls.values() if c.recovery == record.id), key=lambda c: (c.epoch, c.id))
    case.counted = len(calls)
    for call in calls:
        if call.kind is CallKind.POWER_OFF:
            case.off_ordered = turn.now
        if call.outcome is None:
            case.open_calls[call.id] = OpenCall(call, turn.now, ended=True)
        if call.kind is CallKind.EVACUATE:
            case.last_call[call.instance] = call
    for call in (*case.last_call.values(), *(c for c in calls if c.kind is CallKind.START)):
        moving.resume_step(case, call, turn)
    turn.cases[record.id] = case
    view.state = STATES.get(record.stage, HostState.UNKNOWN)
    turn.say(record.host, f"recovery {record.id} goes on from stage {record.stage}, {len(case.open_calls)} calls open")


def without_key(turn: Turn) -> None:
    """Recoveries that are not over and whose condemnation somebody has deleted while nobody led."""
    for case in list(turn.cases.values()):
        if case.record.host not in turn.world.condemned and case.stage() is not Stage.RELEASED:
            judge.condemn_anew(case, turn.views[case.record.host], turn)


def restart(view: HostView) -> None:
    """A new leader waits for no answer of the old one and counts no reading of before its election."""
    view.reading_power = view.reading_service = view.reading_inventory = view.probing = False
    view.power = view.probe = None
    view.service_began = view.condemning = view.power_again = view.probe_again = NEVER
    view.suspect_since = view.back_since = view.service_baseline = view.cut = None
    view.orders = ()
    view.hold = ""
    if view.state is not HostState.MAINTENANCE:
        view.state = HostState.UNKNOWN
