"""The invariants of design section 5 that physics can judge: who runs where, and what was true when a call took effect.

``check`` is asked after every step of a simulated world and judges facts, never the engine's opinion.  Each violation is one
sentence that begins with the invariant's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vmha.core.model import EVACUATED, CallKind, Protect


@dataclass(frozen=True, slots=True)
class Landing:
    """What was physically true at the moment in which an outside call took effect.

    ``running``: protected instances with a QEMU process on the host, or hosts with one of the instance, for calls about an
    instance.  ``fenced``: hosts that vmha had switched off and that were off; ``cap``: how many may be.
    """

    kind: CallKind
    host: str
    instance: str = ""
    running: tuple[str, ...] = ()
    powered: bool = False
    later_boot: bool = False  # what runs is not the boot that is condemned
    dead_for: float = 0.0  # seconds since it lost its power; 0 while it has it
    noticed_after: float = 0.0  # an order that was given within so many seconds of a death may still land
    fenced: tuple[str, ...] = ()
    cap: int = 0
    protect: Protect | None = None
    own_error: bool = False  # in error by itself, not by an evacuation of ours
    disabled_by: str = ""  # reason of the service's disablement
    our_reason: str = ""
    stale: tuple[str, ...] = ()  # domains defined there whose instances live elsewhere
    open_targets: tuple[int, ...] = ()  # evacuation records that still name it as their target


class Judged(Protocol):
    """A world as the judge sees it; both are about what happened since the last check."""

    def touched(self) -> Mapping[str, Collection[str]]:
        """Instance to the hosts where a QEMU process of it is now."""

    def landings(self) -> Sequence[Landing]: ...


def check(world: Judged) -> Iterator[str]:
    """Every violation that the last step made."""
    for instance, hosts in world.touched().items():
        if len(hosts) > 1:
            yield f"I1: {instance} runs on {' and '.join(sorted(hosts))} at once"
    for landing in world.landings():
        yield from _judge(landing)


def _judge(landing: Landing) -> Iterator[str]:
    match landing.kind:
        case CallKind.FORCE_DOWN:
            if landing.running:
                yield f"I2: {landing.host} was forced down while {', '.join(landing.running)} still ran there"
        case CallKind.EVACUATE:
            yield from _evacuation(landing)
        case CallKind.POWER_OFF:
            yield from _fence(landing)
        case CallKind.ENABLE | CallKind.UNFORCE:
            yield from _return(landing)


def _evacuation(landing: Landing) -> Iterator[str]:
    if landing.running:
        yield f"I2: {landing.instance} was evacuated while it still ran on {', '.join(landing.running)}"
    if landing.protect is not None and landing.protect not in EVACUATED:
        yield f"I10: {landing.instance} was evacuated though its protection is {landing.protect}"
    if landing.own_error:
        yield f"I10: {landing.instance} was evacuated though it was in error before"


def _fence(landing: Landing) -> Iterator[str]:
    others = [h for h in landing.fenced if h != landing.host]
    if landing.powered and not landing.later_boot and len(others) + 1 > landing.cap:
        yield (
            f"I5: {landing.host} was switched off while {', '.join(others)} were off by our orders: at most {landing.cap} may be"
        )


def _return(landing: Landing) -> Iterator[str]:
    if landing.kind is CallKind.ENABLE and landing.disabled_by not in ("", landing.our_reason):
        yield f"I9: {landing.host} was enabled though somebody else had disabled it: {landing.disabled_by}"
    if landing.dead_for > landing.noticed_after:
        yield f"I9: {landing.host} was put back in service {landing.dead_for:.1f} s after its death"
    if landing.stale:
        yield f"I9: {landing.host} was put back in service with stale domains of {', '.join(landing.stale)}"
    if landing.open_targets:
        yield f"I9: {landing.host} was put back in service as the open target of evacuations {landing.open_targets}"
