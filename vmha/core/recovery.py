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
from vmha.core.model import CallKind, HostState, Outcome, Stage, StepState
from vmha.core.seek import seek_proof, stopped_by_refutation
from vmha.core.upkeep import hold, save_soon, settle, wake_for_open
from vmha.core.view import NEVER, Case, HostView, Turn


def drive(case: Case, view: HostView, turn: Turn) -> None:
    """Do what can be done now for a recovery that is not closed."""
    close_waited_out(case, turn)
    if stopped_by_refutation(case, view, turn):
        return
    if case.record.aborted:
        _aborted(case, view, turn)
        return
    if case.stage() is Stage.CONDEMNED:
        seek_proof(case, view, turn)
    if case.stage() is Stage.PROVEN:
        force_down(case, view, turn)
    if case.stage() is Stage.MOVING:
        moving.move(case, view, turn)
    save_soon(case, turn)


def _aborted(case: Case, view: HostView, turn: Turn) -> None:
    """No new calls; what runs is followed to its end."""
    hold(case, turn, explain.aborted(case))
    if any(s.state in (StepState.ASKED, StepState.MOVING) for s in case.steps.values()):
        turn.read_inventory(view)
    for step in [s for s in case.steps.values() if s.state is StepState.ARRIVED]:
        moving.verify(case, step, turn)
    save_soon(case, turn)


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
        turn.views[open_call.call.host].service_began = NEVER
