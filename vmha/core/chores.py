"""What a leader does now and then: windows that passed, old records, the list of voters, who is not protected."""

from __future__ import annotations

from dataclasses import replace

from vmha.core import planner, preflight, voters
from vmha.core.actions import Commit
from vmha.core.events import InventoryRead
from vmha.core.model import Protect, Recovery, Stage, Voters
from vmha.core.view import NEVER, HostView, Turn


def uncount(turn: Turn) -> None:
    """Windows that have passed are written down as passed, so that no later leader counts them again."""
    for record in list(turn.world.recoveries.values()):
        fenced = turn.brakes.fences.get(record.id, NEVER) > turn.now - turn.settings.fence_window
        flapped = turn.brakes.flaps.get(record.host, {}).get(record.id, NEVER) > turn.now - turn.settings.flap_window
        if record.stage is Stage.ENDED and (record.fence_counts > fenced or record.flap_counts > flapped):
            passed = replace(record, fence_counts=fenced, flap_counts=flapped)
            turn.world.recoveries[record.id] = passed  # type: ignore[index]
            turn.out.append(Commit(f"passed/{record.id}", (passed,)))


def prune(turn: Turn) -> None:
    """Keep the journal bounded: the oldest ended recoveries and their calls are deleted."""
    ended = sorted((r for r in turn.world.recoveries.values() if r.stage is Stage.ENDED), key=_ended_wall)
    for record in ended[: max(0, len(ended) - turn.settings.keep_recoveries)]:
        calls = [k for k in turn.world.calls if k[0] == record.id]
        del turn.world.recoveries[record.id]  # type: ignore[attr-defined]
        turn.out.append(Commit(f"forget/{record.id}", forget=(*calls, (record.id, ""))))


def follow_voters(turn: Turn) -> Voters | None:
    """The list of voters follows hosts that are added, retired or put in maintenance; the list that is written, if any."""
    now = turn.world.voters
    if now is None or not now.revision:
        return None
    domains = {v.name: v.settings.failure_domain or v.name for v in turn.views.values() if _votes(v)}
    seen = {name: ack.voters_revision for name, ack in turn.acks.items()}
    new = voters.following(now, domains, seen)
    if new is not None:
        turn.out.append(Commit("voters/", (new,)))
        turn.say("voters", voters.changed(now, new))
    return new


def publish_unprotected(event: InventoryRead, turn: Turn) -> None:
    """Tell a living host's gate which of its instances are not protected, and count what they use."""
    if not turn.epoch:
        return
    preflight.count(turn.views[event.host], event)
    segment = turn.world.segments.get(turn.views[event.host].settings.segment)
    asked = turn.world.instances
    left = tuple(
        sorted(
            i.uuid
            for i in event.instances
            if planner.protection(i, segment, asked.get(i.uuid), turn.settings)[0] is Protect.NONE
        )
    )
    if left != turn.world.unprotected.get(event.host, ()):
        turn.world.unprotected[event.host] = left  # type: ignore[index]
        turn.out.append(Commit(f"unprotected/{event.host}", unprotected=(event.host, left)))
        turn.say(event.host, f"{len(left)} of its instances are not protected")


def _votes(view: HostView) -> bool:
    """Registered once, and not in maintenance; whether it is thought dead does not matter."""
    return bool(view.settings.last_boot) and not view.settings.maintenance


def _ended_wall(record: Recovery) -> float:
    return max(record.times_wall.values(), default=0.0)
