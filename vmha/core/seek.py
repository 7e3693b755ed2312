"""Seeks proof of death in every way at once: the first that holds wins, each is told (``vmha.core.proof`` has the rules).

Power is read, and ordered off until it reads off.  Beside that the host's own word is listened for, the storage's, a person's, and the
clock of its self-fence runs from the moment in which a majority of the voters has acknowledged the condemnation *to this leader*: a
new leader counts from what it has seen itself, and so does this one when the list of voters changes.
"""

from __future__ import annotations

from vmha.core import explain, proof
from vmha.core.gates import Hold, may_order
from vmha.core.model import CallKind, HostState, PowerState, Proof, Stage
from vmha.core.settings import self_fence_wait
from vmha.core.upkeep import hold, save_soon, unhold
from vmha.core.view import MOMENT, NEVER, Case, HostView, Turn
from vmha.core.voters import acknowledging, told


def seek_proof(case: Case, view: HostView, turn: Turn) -> None:
    """Look at every kind of proof; where none holds, ask for what may give one."""
    if not (_word(case, view, turn) or _power(case, view, turn) or _storage(case, view, turn)):
        if view.service_began <= case.committed_at or turn.now - view.service_began > turn.settings.read_fresh:
            turn.read_service(view)  # beside the proof: the force-down follows a read that began after the commit
        if not _self_fence(case, view, turn):
            _ask_power(case, view, turn)


def prove(case: Case, view: HostView, turn: Turn, kind: Proof, evidence: str, began: float) -> bool:
    """Proof of death is held: written down with the first call that relies on it.  ``began``: what speaks after it refutes it."""
    case.proven_at, case.proof_began = turn.now, began
    case.change(stage=Stage.PROVEN, proof=kind, evidence=evidence, fence_delay=round(view.fence_delay, 4), hold="")
    case.stamp("proven", turn.wall)
    view.state = HostState.FENCED
    turn.say(view.name, explain.proven(case, view, turn.now), do="fence_confirmed")
    turn.read_inventory(view)
    return True


# --- is it silent? -------------------------------------------------------------------------------------------------


def quiet(case: Case, view: HostView, turn: Turn, since: float) -> bool | None:
    """Whether the condemned boot has sent no beat after ``since``; None when the next moments must tell."""
    silence = turn.settings.silence
    spoke = proof.spoke(case.record.boot, since, view.last_boot, view.last_heard, not view.silent(), silence, turn.now)
    if spoke is None:
        turn.wake(view.name, since + silence + MOMENT)
        return None
    return not spoke


def stopped_by_refutation(case: Case, view: HostView, turn: Turn) -> bool:
    """What was proven silent speaks, or takes its word back: stop, hold, page."""
    if case.record.proof is not None and not case.record.refuted and _refuted(case, view, turn):
        case.change(refuted=True)
    if case.record.refuted:
        hold(case, turn, explain.refuted(case, view))
        save_soon(case, turn)
    return case.record.refuted


def _refuted(case: Case, view: HostView, turn: Turn) -> bool:
    if case.record.proof is Proof.WORD:
        word = view.alive.word if view.alive is not None else None
        about = word is not None and word.condemned_revision == case.record.condemned_revision
        return about and not proof.by_word(view.alive, case.record.condemned_revision)
    if not case.record.boot:
        return False
    registered = view.registered_boot == case.record.boot
    late = case.proof_began + turn.settings.silence  # what was written before may still be on its way
    return (registered and view.registered_at > late) or quiet(case, view, turn, case.proof_began) is False


# --- the ways ------------------------------------------------------------------------------------------------------


def _word(case: Case, view: HostView, turn: Turn) -> bool:
    """P5."""
    if not proof.by_word(view.alive, case.record.condemned_revision):
        return False
    assert view.alive is not None
    later = "" if view.alive.boot == case.record.boot else f" (boot {view.alive.boot[:8]})"
    text = f"its own word{later}: gate shut, no protected domain is active, no process of one is there"
    return prove(case, view, turn, Proof.WORD, text, turn.now)


def _power(case: Case, view: HostView, turn: Turn) -> bool:
    """P1; waiting for a last beat that may still count as heard is no proof yet, and asks for nothing."""
    reading = view.power
    if reading is None or not proof.by_power(reading, case.committed_at):
        return False
    silent = quiet(case, view, turn, reading.began)
    if silent:
        return prove(case, view, turn, Proof.POWER, explain.power_reading(reading, turn.now), reading.began)
    if silent is False:
        hold(case, turn, explain.disputed(view))
    return silent is None


def _storage(case: Case, view: HostView, turn: Turn) -> bool:
    """P3."""
    reading = view.cut
    if reading is None or not proof.by_storage(reading, case.committed_at):
        return False
    if not quiet(case, view, turn, reading.began):
        return False
    text = "its storage says that it can write no more, and its networks are cut"
    return prove(
        case, view, turn, Proof.STORAGE, f"{text} ({reading.detail})" if reading.detail else text, reading.began
    )


def _self_fence(case: Case, view: HostView, turn: Turn) -> bool:
    """P2."""
    since = _acknowledged(case, view, turn)
    if since is None:
        return False
    dog = watchdog_of(view, case.record.boot)
    assert dog.timeout is not None
    end = since + self_fence_wait(turn.settings, dog.timeout, dog.held)
    if turn.doubt or not proof.by_self_fence(since, dog, turn.settings, turn.now):
        turn.wake(view.name, end + MOMENT)
        return False
    silent = quiet(case, view, turn, end)
    if silent is False:
        case.outlived = True
        turn.page(view.name, explain.outlived(view))
    if not silent:
        return False
    text = (
        f"its watchdog ({dog.timeout:g} s) has stopped it: {turn.now - since:.1f} s after {case.acked_by} acknowledged"
    )
    return prove(case, view, turn, Proof.SELF_FENCE, text, end)


def _acknowledged(case: Case, view: HostView, turn: Turn) -> float | None:
    """Since when a majority of the voters has acknowledged the condemnation; None while P2 is off or it has not."""
    voters, record = turn.world.voters, case.record
    dog = watchdog_of(view, record.boot)
    off = proof.self_fence_off(voters, view.name, record.boot, dog, turn.settings)
    case.self_fence_off = off = off or (explain.outlived(view) if case.outlived else "")
    if off:
        return None
    assert voters is not None  # else it were off
    assert dog.timeout is not None
    applied = {name: ack.condemned_applied for name, ack in turn.acks.items()}
    by = acknowledging(voters, view.name, applied, record.condemned_revision)
    if case.acked_list != voters.revision:
        case.acked_since, case.acked_list = NEVER, voters.revision
    if not proof.acknowledged(voters, view.name, by):
        return None
    if case.acked_since <= NEVER:
        case.acked_since, case.acked_by, case.acked_said = turn.now, told(voters, by), False
    read = view.power is not None and view.power.began > case.committed_at
    if read and not case.acked_said:
        case.acked_said = True
        left = case.acked_since + self_fence_wait(turn.settings, dog.timeout, dog.held) - turn.now
        turn.say(view.name, explain.acknowledged(case.acked_by, dog.timeout, left))
    return case.acked_since


def watchdog_of(view: HostView, boot: str) -> proof.Watchdog:
    """What that boot registered of its watchdog: its registration, or what a leader remembered of it."""
    if view.alive is not None and view.alive.boot == boot:
        a = view.alive
        return proof.Watchdog(boot, a.watchdog, a.watchdog_timeout, a.watchdog_held)
    s = view.settings
    return proof.Watchdog(s.last_boot, s.watchdog, s.watchdog_timeout, s.watchdog_held)


# --- power ---------------------------------------------------------------------------------------------------------


def _ask_power(case: Case, view: HostView, turn: Turn) -> None:
    """Read the power after the commit; order "off" until a reading says off."""
    if view.reading_power or any(o.call.kind is CallKind.POWER_OFF and not o.ended for o in case.open_calls.values()):
        return
    reading = view.power
    if reading is None or reading.began <= case.committed_at or reading.began <= case.off_ended:
        turn.read_power(view)
        return
    if reading.state is PowerState.UNKNOWN:
        counting = case.acked_since > NEVER and not case.self_fence_off
        hold(case, turn, explain.power_unknown(case, view), page=not counting)
    _fence(case, view, turn)


def _fence(case: Case, view: HostView, turn: Turn) -> None:
    """The host's power is not off: order it, later each time that the device does not take it; else read again after a moment."""
    on = view.power is not None and view.power.state is PowerState.ON
    if on:
        case.off_refused = min(case.off_refused, 1)  # it answers
    s = turn.settings
    due = case.off_ordered + min(s.fence_again * 2 ** min(case.off_refused, 9), max(s.retry_most, s.fence_again))
    if turn.now >= due and turn.free(CallKind.POWER_OFF, view.name) and _may_fence(case, view, on, turn):
        if on:
            unhold(case)
        case.off_ordered = turn.now
        turn.say(view.name, explain.fencing(case, view))
        turn.call(case, CallKind.POWER_OFF, save=True, reason=case.record.reason)
    elif turn.now >= view.power_again:
        view.power_again = turn.now + turn.settings.fence_recheck
        turn.read_power(view)
    else:
        turn.wake(view.name, view.power_again)


def _may_fence(case: Case, view: HostView, on: bool, turn: Turn) -> bool:
    """A host that was condemned because its power read off passed no cap; one that is switched on again must, before it is ordered off."""
    if case.record.fence_counts:
        return True
    verdict = may_order(view.name, turn.fleet(), turn.settings, turn.now)
    if isinstance(verdict, Hold):
        if on:  # else that it is unknown is told
            hold(case, turn, f"its power read off, but is on again, and it may not be ordered off: {verdict.reason}")
        return False
    turn.brakes.fences[case.record.id] = turn.now
    case.change(fence_counts=True)
    return True
