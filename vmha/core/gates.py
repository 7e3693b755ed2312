"""What may hold a condemnation back: each gate answers Allow, or Hold with a reason that an operator can read.

A hold says until when it is looked at again; it never lasts without paging a person (I13).  Gates never answer "no" for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vmha.core.settings import Settings

NEVER = float("-inf")


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
    """The cloud as the leader sees it now.  Hosts in maintenance are not in it, unless we have condemned them before.

    ``down``: hosts silent by beat or condemned.  ``fenced``: times of the orders to power off in the window.  ``stormy``: until
    when a storm that is over still counts, by failure domain, and under "" in the whole cloud.  ``approved``: hosts whose condemnation an operator has approved.
    """

    domains: Mapping[str, str]
    down: frozenset[str]
    heard: frozenset[str]
    disarmed: bool = False
    fenced: int = 0
    stormy: Mapping[str, float] = field(default_factory=dict)
    approved: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        return len(self.domains)

    def domain(self, host: str) -> str:
        """Its failure domain; a host of none is one by itself."""
        return self.domains.get(host, host)


@dataclass(frozen=True, slots=True)
class Accused:
    """One suspect and what is known of it.  ``power_off``: its device reads off, nothing was heard since."""

    host: str
    power_off: bool
    kernel_answers: tuple[str, ...] = ()  # networks whose ICMP echo was answered
    probed: bool = False  # its kernel's answers since the suspicion are in
    kernel_asked: bool = False  # at least one network could be asked
    lease_gone: bool = False  # seen through a fresh watch
    segment_off: str = ""  # its segment, where that is disabled


def allowed_down(fleet: Fleet, settings: Settings) -> int:
    """How many hosts may be down or being fenced at once; never less than one, the smallest cap wins (I5)."""
    return max(1, min(settings.max_down, int(fleet.total * settings.max_down_percent / 100)))


def allowed_in_domain(domain: str, settings: Settings) -> int | None:
    """The cap of one failure domain, None where it has none of its own."""
    caps = settings.max_down_per_domain
    cap = caps.get(domain, 0) if isinstance(caps, Mapping) else caps
    return cap or None


def storms(fleet: Fleet, settings: Settings, host: str) -> Iterator[tuple[str, str]]:
    """The caps on hosts down at once that would be exceeded with this host down: where ("" is the whole cloud), and a sentence."""
    down = fleet.down | {host}
    allowed = allowed_down(fleet, settings)
    if len(down) > allowed:
        yield "", f"storm: {len(down)} of {fleet.total} hosts are silent or down, at most {allowed} may be fenced"
    domain = fleet.domain(host)
    cap = allowed_in_domain(domain, settings)
    there = sum(fleet.domain(h) == domain for h in down)
    if cap is not None and there > cap:
        yield (
            domain,
            f"storm: {there} hosts of failure domain {domain} are silent or down, at most {cap} may be fenced",
        )


def stormy_until(fleet: Fleet, host: str) -> float:
    """Until when a storm that is over still holds this host's condemnation: one of its failure domain, or of the whole cloud."""
    return max(fleet.stormy.get("", NEVER), fleet.stormy.get(fleet.domain(host), NEVER))


def may_condemn(accused: Accused, fleet: Fleet, settings: Settings, now: float) -> Allow | Hold:
    """Whether the leader may condemn the suspect now.

    A host whose power reads off waits for nothing but arming, approval and an answering kernel (a device that is disputed); for any
    other the lease must be gone, its kernel silent, the observer able to hear somebody, and no cap exceeded.  An operator's
    approval stands in for the caps and the observer's doubt, not for the evidence.
    """
    verdict = _may_condemn(accused, fleet, settings, now)
    if settings.dry_run and isinstance(verdict, Allow):
        return Hold("dry run: it would be condemned now", page=False)
    return verdict


def _may_condemn(accused: Accused, fleet: Fleet, settings: Settings, now: float) -> Allow | Hold:
    approved = accused.host in fleet.approved
    if fleet.disarmed:
        return Hold("vmha is disarmed: arm it to let it act")
    if accused.segment_off:
        return Hold(f"segment {accused.segment_off} is disabled: enable it to let vmha recover its hosts")
    if accused.kernel_answers and settings.icmp_answer_holds and not approved:
        return _answers(accused)
    evidence = Allow() if accused.power_off else _evidence(accused)
    if isinstance(evidence, Hold):
        return evidence
    if settings.approval and not approved:
        return Hold("approval mode: an operator must approve its condemnation")
    if accused.power_off or approved:
        return Allow()
    return _caps(accused, fleet, settings, now)


def may_order(host: str, fleet: Fleet, settings: Settings, now: float) -> Allow | Hold:
    """Whether an operator's order to condemn may be followed now: it stands for the evidence, not for the caps."""
    if fleet.disarmed:
        return Hold("vmha is disarmed: arm it to let it act")
    if settings.dry_run:
        return Hold("dry run: it would be condemned now", page=False)
    if host in fleet.approved:
        return Allow()
    return _caps(Accused(host, power_off=False), fleet, settings, now)


def _answers(accused: Accused) -> Hold:
    where = ", ".join(accused.kernel_answers)
    if accused.power_off:
        return Hold(f"its power reads off but its kernel answers ICMP on {where}: check the fencing device's wiring")
    return Hold(f"its beats stopped but its kernel answers ICMP on {where}: check vmha-beat and vmha-agent there")


def _evidence(accused: Accused) -> Allow | Hold:
    if not accused.lease_gone:
        return Hold("its lease is not known to be gone yet", page=False)
    if not accused.probed:
        return Hold("its kernel has not been asked yet", page=False)
    if not accused.kernel_asked:
        return Hold("none of its addresses could be asked by ICMP: the observer's own network may be down")
    return Allow()


def _caps(accused: Accused, fleet: Fleet, settings: Settings, now: float) -> Allow | Hold:
    others = fleet.total - 1
    if others and not fleet.heard - {accused.host}:
        return Hold(f"none of the other {others} hosts is heard either: the observer is the first suspect")
    for _, reason in storms(fleet, settings, accused.host):
        return Hold(reason)
    if now < stormy_until(fleet, accused.host):
        return Hold("a storm has only just passed: its caps must be kept for a moment", page=False)
    if fleet.fenced >= settings.max_fences_per_window:
        window = f"{settings.fence_window:g} s"
        return Hold(
            f"{fleet.fenced} hosts were fenced within {window}, at most {settings.max_fences_per_window} may be"
        )
    return Allow()
