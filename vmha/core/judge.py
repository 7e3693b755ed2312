"""Judges one host that is not condemned: online, suspect, or to be condemned now.

By level: called whenever anything about the host may have changed, it compares what is known with the rules of design section 6.
A host is judged by its beats first; a lost lease or a stuck agent alone makes it sick, never dead.
"""

from __future__ import annotations

from dataclasses import replace

from vmha.core import explain
from vmha.core.actions import Commit, Probe
from vmha.core.gates import Accused, Allow, Hold, may_condemn, storms, stormy_until
from vmha.core.host import Cause, advance
from vmha.core.model import Condemnation, HostState, PowerState, Recovery, Stage
from vmha.core.view import NEVER, Case, HostView, Turn


def judge(view: HostView, turn: Turn) -> None:
    """Move the host by what is known now, and ask for what is missing."""
    if view.settings.maintenance:
        _maintenance(view, turn)
        return
    if view.state is HostState.MAINTENANCE:
        view.state = advance(view.state, Cause.RESUME)
    if not view.silent():
        _heard(view, turn)
    elif turn.now < view.silent_since() + _patience(view, turn):
        turn.wake(view.name, view.silent_since() + _patience(view, turn))
    else:
        _silent(view, turn)


def _patience(view: HostView, turn: Turn) -> float:
    return turn.settings.silence if view.last_heard > NEVER else turn.settings.start_grace


def _maintenance(view: HostView, turn: Turn) -> None:
    if view.state is not HostState.MAINTENANCE:
        view.state = advance(view.state, Cause.MAINTAIN)
        clear(view)
        turn.say(view.name, "in maintenance: not judged")


def clear(view: HostView) -> None:
    """Forget a suspicion that is over."""
    view.suspect_since = None
    view.power = view.probe = None
    view.hold = ""
    view.answered_at = view.power_again = view.probe_again = NEVER


# --- heard ---------------------------------------------------------------------------------------------------------


def _heard(view: HostView, turn: Turn) -> None:
    sick = sickness(view, turn)
    if view.state is HostState.SUSPECT and view.suspect_since is not None:
        turn.say(view.name, f"heard again on {', '.join(sorted(view.heard))}: not suspect any more")
    if view.suspect_since is not None:
        clear(view)
    if not sick:
        if view.state is not HostState.ONLINE:
            view.state = advance(view.state, Cause.HEARD)
            _unhold(view, turn)
            turn.say(view.name, f"online: beats on {', '.join(sorted(view.heard))}")
        return
    if view.state is not HostState.SUSPECT:
        view.state = advance(view.state, Cause.SICK)
    _hold(view, Hold(f"{sick}; its beats still come, so it is not fenced and nothing is moved"), turn)


def sickness(view: HostView, turn: Turn) -> str:
    """What is wrong with a host whose beats are heard; empty when nothing is."""
    if view.stuck > 0:
        return "vmha-agent is stopped or stuck there"
    if view.lease_gone_at is None:
        return ""
    due = (
        max(view.lease_gone_at, min(view.heard.values())) + turn.settings.host_renew
    )  # it is given time to register anew
    if turn.now > due:
        return "its lease in etcd is gone: vmha-agent is dead, or cut off from etcd"
    turn.wake(view.name, due + 0.01)
    return ""


# --- silent --------------------------------------------------------------------------------------------------------


def _silent(view: HostView, turn: Turn) -> None:
    if view.suspect_since is None:
        view.suspect_since, view.fence_delay = turn.now, 0.0
        view.power_again = view.probe_again = NEVER
        view.state = advance(view.state, Cause.SILENT)
        turn.say(view.name, explain.suspected(view, turn.now), "warning", do="suspect")
        turn.read_service(view)
    _look(view, turn)
    off = power_off(view)
    verdict = may_condemn(accusation(view, off, _segment_off(view, turn)), turn.fleet(), turn.settings, turn.now)
    if not off:
        _stormy(view, turn)
    match verdict:
        case Hold():
            _hold(view, verdict, turn)
        case Allow() if view.condemning > NEVER:
            pass  # the answer to the commit is awaited
        case Allow() if turn.now < view.condemn_again:
            turn.wake(view.name, view.condemn_again)
        case Allow():
            condemn(view, explain.verdict(view, off, turn.now), turn)


def _stormy(view: HostView, turn: Turn) -> None:
    """A cap that is exceeded is kept for a while after it is not: in its own failure domain, or in the whole cloud."""
    for where, _ in storms(turn.fleet(), turn.settings, view.name):
        turn.brakes.stormy[where] = turn.now + turn.settings.storm_cooldown
    until = stormy_until(turn.fleet(), view.name)
    if turn.now < until:
        turn.wake(view.name, until)


def _look(view: HostView, turn: Turn) -> None:
    """Read power and ask its kernel, again and again while it is suspect: both are harmless."""
    if not view.reading_power:
        if turn.now >= view.power_again:
            turn.read_power(view)
        else:
            turn.wake(view.name, view.power_again)
    if view.probing:
        return
    addresses = view.alive.addresses if view.alive else view.settings.addresses
    if turn.now < view.probe_again:
        turn.wake(view.name, view.probe_again)
    elif addresses:
        view.probing = True
        turn.out.append(Probe(view.name, addresses, turn.settings.probe_timeout))


def power_off(view: HostView) -> bool:
    """Its device reads off, and nothing was heard since the reading began."""
    return view.power is not None and view.power.state is PowerState.OFF and view.last_heard < view.power.began


def _segment_off(view: HostView, turn: Turn) -> str:
    segment = turn.world.segments.get(view.settings.segment)
    return segment.name if segment is not None and not segment.enabled else ""


def accusation(view: HostView, off: bool, segment_off: str = "") -> Accused:
    """What is known of a suspect, for the gates."""
    since = view.suspect_since if view.suspect_since is not None else NEVER
    probe = view.probe if view.probe is not None and view.probe.began >= since else None
    answers = probe.answers if probe is not None else {}
    return Accused(
        host=view.name,
        power_off=off,
        kernel_answers=tuple(sorted(n for n, a in answers.items() if a)),
        probed=probe is not None,
        kernel_asked=any(a is not None for a in answers.values()),
        lease_gone=view.lease_gone_at is not None and view.power is not None,
        segment_off=segment_off,
    )


def condemn(view: HostView, reason: str, turn: Turn) -> None:
    """Write the condemnation and its recovery; nothing follows before the store has answered."""
    view.condemning = turn.now
    turn.seen_fleet = None
    recovery_id = f"{view.name}-{turn.epoch:x}-{len(turn.cases) + 1}-{int(turn.wall)}"
    boot = view.boot()
    times = {"suspected": turn.wall - (turn.now - (view.suspect_since or turn.now)), "condemned": turn.wall}
    if view.last_heard > NEVER:
        times["last_beat"] = turn.wall - (turn.now - view.last_heard)
    fence = not power_off(view)
    if fence:
        turn.brakes.fences[recovery_id] = turn.now
    record = Recovery(recovery_id, view.name, boot, Stage.CONDEMNED, reason, fence_counts=fence, times_wall=times)
    condemnation = Condemnation(view.name, boot, recovery_id, reason, turn.wall)
    view.pending = (condemnation, record)
    puts, orders = (condemnation, record), tuple((c.target, c.id) for c in view.orders)
    turn.out.append(Commit(f"condemn/{view.name}", puts, fresh=view.name, once=True, commands=orders))
    turn.wake(view.name, turn.now + turn.settings.power_every)


def condemn_anew(case: Case, view: HostView, turn: Turn) -> None:
    """Somebody deleted the condemnation of a recovery that is not over: without it the host may open its gate, so it is written again."""
    r = case.record
    view.condemnation = view.condemnation or Condemnation(r.host, r.boot, r.id, r.reason, turn.wall)
    view.condemnation = replace(view.condemnation, revision=r.condemned_revision)
    if case.stage() is Stage.CONDEMNED:
        case.committed_at = float("inf")  # nothing proves before it is written
    turn.page(r.host, explain.deleted_by_hand(case))
    turn.out.append(Commit(f"anew/{r.id}", (view.condemnation,), fresh=r.host))


def condemned_anew(case: Case, view: HostView, revision: int, turn: Turn) -> None:
    """It is written again: words and acknowledgements are asked for anew, and so is a proof that was not held yet."""
    assert view.condemnation is not None
    view.condemnation = replace(view.condemnation, revision=revision)
    fresh = case.record.condemned_revision != revision
    if fresh:
        case.change(condemned_revision=revision)
    if fresh and case.stage() is Stage.CONDEMNED:
        case.committed_at, case.acked_since = turn.now, NEVER


# --- holds ---------------------------------------------------------------------------------------------------------


def _hold(view: HostView, verdict: Hold, turn: Turn) -> None:
    """Say once why nothing is done, and page a person now and again for as long as it lasts (I13)."""
    if view.hold != verdict.reason:
        view.hold, view.hold_since, view.paged_at = verdict.reason, turn.now, NEVER
        turn.say(view.name, f"hold: {verdict.reason}", "warning" if verdict.page else "info", do="hold")
    if not verdict.page:
        return
    if turn.now >= view.paged_at + turn.settings.hold_page_every:
        view.paged_at = turn.now
        turn.page(view.name, explain.overdue(verdict.reason, turn.now - view.hold_since, turn.settings.hold_max))
    turn.wake(view.name, view.paged_at + turn.settings.hold_page_every)


def _unhold(view: HostView, turn: Turn) -> None:
    if view.hold:
        turn.say(view.name, f"hold is over: {view.hold}")
    view.hold = ""
