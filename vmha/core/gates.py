"""What may hold a condemnation back: each gate answers Allow, or Hold with a reason that an operator can read.

A hold says until when it is looked at again; it never lasts without paging a person (I13).  Gates never answer "no" for good.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmha.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Allow:
    """Nothing stands against it."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Not now; ``page`` tells whether a person is needed."""

    reason: str
    page: bool = True


@dataclass(frozen=True, slots=True)
class Fleet:
    """The cloud as the leader sees it now.  ``down``: hosts silent by beat or condemned, by name (maintenance not counted)."""

    total: int
    down: frozenset[str]
    heard: frozenset[str]
    disarmed: bool = False


@dataclass(frozen=True, slots=True)
class Accused:
    """One suspect and what is known of it.  ``power_off``: its device reads off, nothing was heard since."""

    host: str
    power_off: bool
    kernel_answers: tuple[str, ...] = ()  # networks whose ICMP echo was answered
    probed: bool = False  # its kernel's answers since the suspicion are in
    kernel_asked: bool = False  # at least one network could be asked and was silent
    lease_gone: bool = False  # seen through a fresh watch


def allowed_down(fleet: Fleet, settings: Settings) -> int:
    """How many hosts may be down or being fenced at once; never less than one, the smallest cap wins (I5)."""
    return max(1, min(settings.max_down, int(fleet.total * settings.max_down_percent / 100)))


def may_condemn(accused: Accused, fleet: Fleet, settings: Settings) -> Allow | Hold:
    """Whether the leader may condemn the suspect now.

    A host whose power reads off waits for nothing but arming and an answering kernel (a device that is disputed); for any other the
    lease must be gone, its kernel silent, the observer able to hear somebody, and the storm caps not exceeded.
    """
    if settings.dry_run:
        return Hold("dry run: it would be condemned now", page=False)
    if fleet.disarmed:
        return Hold("vmha is disarmed: arm it to let it act")
    if accused.kernel_answers and settings.icmp_answer_holds:
        return _answers(accused)
    if accused.power_off:
        return Allow()
    return _unproven(accused, fleet, settings)


def _answers(accused: Accused) -> Hold:
    where = ", ".join(accused.kernel_answers)
    if accused.power_off:
        return Hold(f"its power reads off but its kernel answers ICMP on {where}: check the fencing device's wiring")
    return Hold(f"its beats stopped but its kernel answers ICMP on {where}: check vmha-beat and vmha-agent there")


def _unproven(accused: Accused, fleet: Fleet, settings: Settings) -> Allow | Hold:
    if not accused.lease_gone:
        return Hold("its lease is not known to be gone yet", page=False)
    if not accused.probed:
        return Hold("its kernel has not been asked yet", page=False)
    if not accused.kernel_asked:
        return Hold("none of its addresses could be asked by ICMP: the observer's own network may be down")
    others = fleet.total - 1
    if others and not fleet.heard - {accused.host}:
        return Hold(f"none of the other {others} hosts is heard either: the observer is the first suspect")
    down = len(fleet.down | {accused.host})
    if down > allowed_down(fleet, settings):
        return Hold(
            f"storm: {down} of {fleet.total} hosts are silent or down, at most {allowed_down(fleet, settings)} may be fenced"
        )
    return Allow()
