"""Drives one recovery from the condemnation to its close: what to do next, by level.

Called whenever anything about the host may have changed; it looks at what is known now and asks for what is missing.  It can
be called any number of times: nothing is asked twice while the first is under way, and no outside call starts beside another
open record about the same host or instance (``vmha.core.calls``).

    condemned --proof of death--> proven --forced down in Nova--> moving --every step closed, host disabled--> closed

How the instances are moved: see ``moving``.
"""

from __future__ import annotations

from vmha.core import explain, moving
from vmha.core.calls import landed_by, waited_out
from vmha.core.model import CallKind, HostState, Outcome, PowerState, Proof, Stage
from vmha.core.proof import by_power, refuted
from vmha.core.upkeep import hold, save_soon, settle, unhold, wake_for_open
from vmha.core.view import NEVER, Case, HostView, Turn


def drive(case: Case, view: HostView, turn: Turn) -> None:
    """Do what can be done now for a recovery that is not closed."""
    close_waited_out(case, turn)
    if stopped_by_refutation(case, view, turn):
        return
    if case.stage() is Stage.CONDEMNED:
        seek_proof(case, view, turn)
    if case.stage() is Stage.PROVEN:
        force_down(case, view, turn)
    if case.stage() is Stage.MOVING:
        moving.move(case, view, turn)
    save_soon(case, turn)


# --- proof ---------------------------------------------------------------------------------------------------------


def stopped_by_refutation(case: Case, view: HostView, turn: Turn) -> bool:
    """P1 assumes that a device that reads "off" is right; a beat of that boot says otherwise: stop, hold, page."""
    proven = case.record.proof is Proof.POWER and not case.record.refuted
    if proven and refuted(case.proof_began, case.record.boot, view.last_boot, view.last_heard):
        case.change(refuted=True)
    if case.record.refuted:
        hold(case, turn, explain.refuted(view))
        save_soon(case, turn)
    return case.record.refuted


def seek_proof(case: Case, view: HostView, turn: Turn) -> None:
    """Read the power after the commit; order "off" until a reading says off."""
    proof = by_power(view.power, case.committed_at)
    if proof is not None:
        prove(case, view, turn, proof)
        return
    if turn.now - view.service_began > turn.settings.read_fresh:
        turn.read_service(view)
    if view.reading_power or any(o.call.kind is CallKind.POWER_OFF and not o.ended for o in case.open_calls.values()):
        return
    reading = view.power
    if reading is None or reading.began <= case.committed_at or reading.began <= case.off_ended:
        turn.read_power(view)
        return
    if reading.state is PowerState.UNKNOWN:
        hold(case, turn, explain.power_unknown(case, view))
    _fence(case, view, turn)


def _fence(case: Case, view: HostView, turn: Turn) -> None:
    """The host's power is not off: order it, later each time that the device does not take it; else read again after a moment."""
    if view.power is not None and view.power.state is PowerState.ON:
        case.off_refused = min(case.off_refused, 1)  # it answers
    s = turn.settings
    due = case.off_ordered + min(s.fence_again * 2 ** min(case.off_refused, 9), max(s.retry_most, s.fence_again))
    if turn.now >= due and turn.free(CallKind.POWER_OFF, view.name):
        if case.record.hold and view.power is not None and view.power.state is PowerState.ON:
            unhold(case)
        case.off_ordered = turn.now
        turn.say(view.name, explain.fencing(case, view))
        turn.call(case, CallKind.POWER_OFF, save=True, reason=case.record.reason)
    elif turn.now >= view.power_again:
        view.power_again = turn.now + turn.settings.fence_recheck
        turn.read_power(view)
    else:
        turn.wake(view.name, view.power_again)


def prove(case: Case, view: HostView, turn: Turn, proof: Proof) -> None:
    """Proof of death is held: written down with the first call that relies on it."""
    assert view.power is not None
    case.proven_at, case.proof_began = turn.now, view.power.began
    evidence = explain.power_reading(view.power, turn.now)
    case.change(stage=Stage.PROVEN, proof=proof, evidence=evidence, fence_delay=round(view.fence_delay, 4), hold="")
    case.stamp("proven", turn.wall)
    view.state = HostState.FENCED
    turn.say(view.name, explain.proven(case, view, turn.now), do="fence_confirmed")
    turn.read_inventory(view)


# --- force down ----------------------------------------------------------------------------------------------------


def force_down(case: Case, view: HostView, turn: Turn) -> None:
    """Tell Nova that the host is down, before anything else is asked of it."""
    if view.service_began <= case.committed_at or turn.now - view.service_began > turn.settings.read_fresh:
        if turn.free(CallKind.FORCE_DOWN, view.name):
            turn.read_service(view)
        else:
            wake_for_open(case, turn)
        return
    if view.service is None:
        hold(case, turn, f"Nova knows no nova-compute on {view.name}: check that the host is named there as in vmha")
        turn.wake(view.name, turn.now + turn.settings.retry_most)
        view.service_began = NEVER
        return
    if not turn.free(CallKind.FORCE_DOWN, view.name):
        wake_for_open(case, turn)
    elif view.service.forced_down:
        forced_down(case, view, turn, "it was forced down already")
    elif turn.now >= case.host_retry:
        turn.call(case, CallKind.FORCE_DOWN, save=True, service=view.service.id)
    else:
        turn.wake(view.name, case.host_retry)


def forced_down(case: Case, view: HostView, turn: Turn, how: str) -> None:
    """Nova knows: evacuations may start."""
    case.change(stage=Stage.MOVING, hold="")
    case.stamp("forced_down", turn.wall)
    case.host_failures, case.host_retry = 0, NEVER
    case.window = turn.settings.evacuate_first
    view.state = HostState.RECOVERING
    turn.say(view.name, f"forced down in Nova ({how})")


def close_waited_out(case: Case, turn: Turn) -> None:
    """Close records whose call can no longer land: what they did is read anew before anything is repeated."""
    for open_call in list(case.open_calls.values()):
        if not open_call.ended:
            continue
        if not waited_out(open_call, turn.settings, turn.now):
            turn.wake(case.record.host, landed_by(open_call, turn.settings) + 0.01)
            continue
        turn.say(case.record.host, explain.waited_out(open_call.call), "warning")
        settle(case, open_call.call, Outcome.UNKNOWN, "waited out: it can no longer take effect", turn)
        if open_call.call.kind in (CallKind.EVACUATE, CallKind.START):
            moving.back_to_waiting(case, open_call.call, turn)
        case.inventory_began = NEVER  # the read that tells what happened must begin after the wait
        turn.views[case.record.host].service_began = NEVER
