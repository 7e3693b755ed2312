"""How a fenced host comes back (I9, safety.md section 3).

Order: its recovery is closed; a later boot registers; its gate is shut, nothing protected runs there; its nova-compute has reported
anew and closed Nova's own records of what left the host; no record names the host as an open target; stale domains of instances
that live elsewhere are undefined; ``fence_limit`` has passed since the last "off" and the stability delay since its
return.  Only then the condemnation is deleted, the host opens its gate after its own fresh read, and the leader un-forces its service, waits
until it is up, and enables it: if it was vmha that disabled it.
"""

from __future__ import annotations

from dataclasses import replace

from vmha.core import explain
from vmha.core.actions import Commit
from vmha.core.host import Cause, advance
from vmha.core.model import CallKind, HostState, Proof, Stage, StepState
from vmha.core.recovery import close_waited_out
from vmha.core.seek import stopped_by_refutation
from vmha.core.upkeep import hold, save_soon, unhold, wake_for_open
from vmha.core.view import NEVER, Case, HostView, Turn, remembered


def drive(case: Case, view: HostView, turn: Turn) -> None:
    """Do what can be done now for a host whose recovery is closed."""
    close_waited_out(case, turn)
    if stopped_by_refutation(case, view, turn):
        return
    if case.record.aborted:
        hold(case, turn, explain.aborted(case))
    elif case.stage() is Stage.CLOSED:
        _closed(case, view, turn)
    elif case.stage() is Stage.RELEASED:
        _released(case, view, turn)
    save_soon(case, turn)


def _closed(case: Case, view: HostView, turn: Turn) -> None:
    if not _back(case, view):
        if view.state is HostState.RETURNING:
            view.state = advance(view.state, Cause.LOST)
            turn.say(
                view.name, "silent again while it was being reconciled; still condemned, nothing runs there", "warning"
            )
        view.back_since = view.service_baseline = None
        if case.record.proof is Proof.WORD and not view.silent() and view.last_boot == case.record.boot:
            reason = f"{view.name} is condemned but alive, nothing is left to do for its instances: boot it, or run vmha-manage host release"
            hold(case, turn, f"{reason} {view.name}")
        return
    if view.back_since is None:
        view.back_since = turn.now
        view.state = advance(view.state, Cause.BACK)
        boot = "in a later boot" if view.alive and view.alive.boot != case.record.boot else "in the same boot"
        turn.say(view.name, f"is back {boot}: still condemned, gate shut, being reconciled")
    reason = _not_yet(case, view, turn)
    if reason:
        turn.wake(view.name, turn.now + turn.settings.poll)
        long = turn.now - view.back_since > turn.settings.hold_page_every
        hold(case, turn, f"{view.name} is back, not yet in service: {reason}", page=long)
        return
    _release(case, view, turn)


def _back(case: Case, view: HostView) -> bool:
    """Heard and registered: in a later boot, or in the condemned one where that was never to die and an operator lets it back."""
    if view.alive is None or view.lease_gone_at is not None or view.silent():
        return False
    let = bool(case.record.resolved) or view.settings.release == case.record.condemned_revision
    alive = case.record.proof is Proof.WORD or bool(case.record.resolved)
    return view.alive.boot != case.record.boot or (let and alive)


def _not_yet(case: Case, view: HostView, turn: Turn) -> str:
    """Why the host may not be released yet; empty when it may.  Asks for what must be read."""
    return (
        _operator(case, view, turn)
        or _own_word(case, view)
        or _delays(case, view, turn)
        or _nova_compute(view, turn)
        or _given_up(case, view, turn)
        or _nova_records(case, view, turn)
        or _stale_domains(case, view, turn)
        or ("a call about it is not settled yet" if any(o.call.host == view.name for o in turn.open_calls()) else "")
    )


def _operator(case: Case, view: HostView, turn: Turn) -> str:
    """Whether a person must allow the return: by setting, or because the host flaps (quarantine)."""
    if view.settings.release == case.record.condemned_revision:
        return ""
    flaps, order = turn.flaps(view.name), f"run vmha-manage host release {view.name}"
    if flaps > turn.settings.flap_limit:
        text = (
            f"quarantined after {flaps} recoveries within {turn.settings.flap_window / 3600:g} h: mend it, then {order}"
        )
    elif not turn.settings.return_to_service:
        text = f"return_to_service is off: {order}"
    else:
        return ""
    if text not in case.paged:
        case.paged.add(text)
        turn.page(view.name, f"is back: {text}")
    return text


def _own_word(case: Case, view: HostView) -> str:
    word = view.alive.word if view.alive else None
    assert view.alive is not None
    if not view.alive.hook:
        return "its libvirt hook is missing: install /etc/libvirt/hooks/qemu.d/vmha and restart libvirtd and vmha-agent"
    if word is None or word.condemned_revision != case.record.condemned_revision:
        return "its agent has not yet told what runs there"
    if word.active or word.processes:
        return f"still running there: {', '.join(sorted({*word.active, *word.processes}))}"
    return ""


def _delays(case: Case, view: HostView, turn: Turn) -> str:
    s = turn.settings
    since = view.back_since if view.back_since is not None else turn.now
    if turn.now < since + s.stability_delay:
        return f"it must be stable for {s.stability_delay:g} s"
    after_off = s.fence_limit * (1 + 2 * s.drift)
    if turn.now <= case.off_ordered + after_off:
        return f"an order to power it off could still act until {after_off:g} s after it was given"
    return ""


def _nova_compute(view: HostView, turn: Turn) -> str:
    assert view.back_since is not None
    if view.service_began <= max(view.back_since, turn.now - 2 * turn.settings.poll):
        turn.read_service(view)
    if view.service is None or view.service_began <= view.back_since:
        return "Nova has not told the state of its nova-compute"
    if view.service_baseline is None:
        view.service_baseline = view.service.updated_wall
    if view.service.updated_wall <= view.service_baseline:
        return "its nova-compute has not reported since the return"
    return ""


def _given_up(case: Case, view: HostView, turn: Turn) -> str:
    """An evacuation to it was given up; what Nova's record says of it is no proof of its end, as its source's return completes it."""
    assert view.alive is not None
    if view.alive.compute_restarts >= case.record.restart_needed:
        return ""
    if case.restart_boot and view.alive.boot != case.restart_boot:
        return ""  # it has been booted since
    case.restart_boot = view.alive.boot
    _ask_for_restart(case, view, turn, "an evacuation to it was given up")
    return "its nova-compute may be at work on an evacuation that was given up: it is restarted first (else reboot the host)"


def _nova_records(case: Case, view: HostView, turn: Turn) -> str:
    assert view.back_since is not None
    if case.inventory_began <= max(view.back_since, turn.now - 2 * turn.settings.poll):
        turn.read_inventory(view)
    if case.inventory_began <= view.back_since:
        return "Nova's evacuation records of it are not read yet"
    final = ("completed", "failed", "error", "cancelled")
    for m in case.migrations:
        if m.status in final:
            continue
        if m.source == view.name:
            _ask_for_restart(case, view, turn, "evacuations ended after its nova-compute had started")
            return f"nova-compute has not yet cleaned up after evacuation {m.id} of {m.instance} ({m.status})"
        if m.status != "done":
            return f"evacuation {m.id} of {m.instance} names it as its open target"
    return ""


def _ask_for_restart(case: Case, view: HostView, turn: Turn, why: str) -> None:
    """nova-compute cleans up after evacuations only when it starts, and Nova refuses to un-force a host before: where an
    evacuation ended after that start (a host that was quickly back), the host's agent is asked to restart it."""
    condemnation, s = view.condemnation, turn.settings
    if condemnation is None:
        return
    if case.restart_asked <= NEVER:  # its first start may be at work just now
        case.restart_asked = turn.now - s.compute_restart_every + s.stability_delay
    if turn.now < case.restart_asked + s.compute_restart_every:
        return
    case.restart_asked = turn.now
    if condemnation.restart_compute >= s.compute_restarts:
        hold(
            case,
            turn,
            f"nova-compute of {view.name} was restarted and has still not cleaned up: look at its log, restart it by hand",
        )
        return
    view.condemnation = replace(condemnation, restart_compute=condemnation.restart_compute + 1)
    turn.say(view.name, f"{why}: its agent is asked to restart nova-compute")
    turn.out.append(Commit(f"restart/{case.record.id}", (view.condemnation,)))


def _stale_domains(case: Case, view: HostView, turn: Turn) -> str:
    word = view.alive.word if view.alive else None
    moved = {s.instance for s in case.steps.values() if s.state in (StepState.DONE, StepState.GONE)}
    stale = sorted(moved & set(word.defined if word else ()))
    if not stale:
        return ""
    if view.condemnation is not None and not set(stale) <= set(view.condemnation.undefine):
        view.condemnation = replace(view.condemnation, undefine=tuple(sorted(moved)))
        turn.out.append(Commit(f"undefine/{case.record.id}", (view.condemnation,)))
    return f"stale domains are still defined there: {', '.join(stale)}"


def _release(case: Case, view: HostView, turn: Turn) -> None:
    assert view.alive is not None
    view.settings = replace(remembered(view.settings, view.alive), release=0)
    case.change(stage=Stage.RELEASED, hold="")
    case.stamp("released", turn.wall)
    case.dirty, case.saved = False, turn.now
    token = f"release/{case.record.id}"
    turn.out.append(Commit(token, (case.written(), view.settings), release=view.name))
    turn.say(view.name, "reconciled: condemnation deleted, the host may open its gate")


def _released(case: Case, view: HostView, turn: Turn) -> None:
    """Gate open, then un-force, then up, then enable: one call at a time."""
    if view.condemnation is not None or view.alive is None or view.alive.gate != "open":
        return
    if case.open_calls:
        wake_for_open(case, turn)
        return
    if turn.now < case.host_retry:
        turn.wake(view.name, case.host_retry)
        return
    if turn.now - view.service_began > 2 * turn.settings.poll or view.service is None:
        turn.read_service(view)
        return
    service = view.service
    if service.forced_down:
        if turn.free(CallKind.UNFORCE, view.name):
            turn.call(case, CallKind.UNFORCE, save=True, service=service.id)
    elif not service.up:
        hold(case, turn, f"{view.name}: its service is not up yet", page=False)
        turn.wake(view.name, turn.now + turn.settings.poll)
        view.service_began = NEVER
    elif service.disabled and service.disabled_reason == turn.settings.disabled_reason:
        if turn.free(CallKind.ENABLE, view.name):
            turn.call(case, CallKind.ENABLE, service=service.id)
    else:
        _ended(case, view, turn)


def _ended(case: Case, view: HostView, turn: Turn) -> None:
    unhold(case)
    case.change(stage=Stage.ENDED)
    case.stamp("in_service", turn.wall)
    turn.save(case)
    left = " (an admin had disabled its service: left so)" if view.service and view.service.disabled else ""
    turn.say(view.name, f"back in service{left}")
