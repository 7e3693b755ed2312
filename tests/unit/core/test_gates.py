"""Gates: each holds with its reason, and only as long as its reason lasts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.core.harness import World
from vmha.core.gates import Accused, Allow, Fleet, Hold, allowed_down, may_condemn, may_order
from vmha.core.model import HostSettings, Recovery, Stage
from vmha.core.settings import Settings

DEAD = Accused("h1", power_off=False, probed=True, kernel_asked=True, lease_gone=True)
OFF = Accused("h1", power_off=True, probed=True)


def fleet(total: int = 10, down: int = 1, **fields: object) -> Fleet:
    names = [f"h{n + 1}" for n in range(total)]
    one = Fleet(dict.fromkeys(names, "rack"), frozenset(names[:down]), frozenset(names[down:]))
    return replace(one, **fields)  # type: ignore[arg-type]


def reason(accused: Accused, f: Fleet, s: Settings, now: float = 0.0) -> str:
    verdict = may_condemn(accused, f, s, now)
    return verdict.reason if isinstance(verdict, Hold) else "allowed"


@pytest.mark.parametrize(("total", "percent", "cap"), [(1, 40, 1), (2, 40, 1), (5, 40, 2), (100, 40, 10), (100, 5, 5)])
def test_the_smallest_cap_wins_and_one_is_always_allowed(total: int, percent: float, cap: int) -> None:
    assert allowed_down(fleet(total), Settings(max_down_percent=percent)) == cap


@pytest.mark.parametrize(
    ("accused", "f", "s", "says"),
    [
        (DEAD, fleet(), Settings(), "allowed"),
        (DEAD, fleet(disarmed=True), Settings(), "disarmed"),
        (OFF, fleet(disarmed=True), Settings(), "disarmed"),
        (DEAD, fleet(), Settings(dry_run=True), "dry run"),
        (replace(DEAD, kernel_answers=("storage",)), fleet(), Settings(), "kernel answers ICMP on storage"),
        (replace(OFF, kernel_answers=("storage",)), fleet(), Settings(), "reads off but its kernel answers"),
        (replace(DEAD, lease_gone=False), fleet(), Settings(), "lease"),
        (replace(DEAD, probed=False), fleet(), Settings(), "not been asked"),
        (replace(DEAD, kernel_asked=False), fleet(), Settings(), "observer"),
        (DEAD, fleet(down=10), Settings(max_down_percent=100, max_down=20), "observer"),
        (DEAD, fleet(down=5), Settings(), "storm: 5 of 10"),
        (OFF, fleet(down=5), Settings(), "allowed"),
        (DEAD, fleet(down=3), Settings(max_down_per_domain=2), "failure domain rack"),
        (DEAD, fleet(down=3), Settings(max_down_per_domain={"rack": 2}), "failure domain rack"),
        (DEAD, fleet(down=3), Settings(max_down_per_domain={"other": 2}), "allowed"),
        (DEAD, fleet(down=2), Settings(max_down_per_domain=2), "allowed"),
        (DEAD, fleet(total=1), Settings(), "allowed"),
        (DEAD, fleet(disarmed=True), Settings(dry_run=True), "disarmed"),
        (replace(DEAD, kernel_answers=("storage",)), fleet(), Settings(icmp_answer_holds=False), "allowed"),
        (replace(DEAD, kernel_answers=("storage",)), fleet(approved=frozenset({"h1"})), Settings(), "allowed"),
        (replace(OFF, kernel_answers=("storage",)), fleet(), Settings(icmp_answer_holds=False), "allowed"),
        (replace(DEAD, segment_off="segment x is disabled"), fleet(), Settings(), "segment x is disabled"),
        (DEAD, fleet(fenced=10), Settings(), "10 hosts were fenced within 600 s"),
        (DEAD, fleet(stormy={"": 5.0}), Settings(), "storm has only just passed"),
        (DEAD, fleet(stormy={"rack": 5.0}), Settings(), "storm has only just passed"),
        (DEAD, fleet(stormy={"other": 5.0}), Settings(), "allowed"),
        (DEAD, fleet(), Settings(approval=True), "approval"),
        (OFF, fleet(), Settings(approval=True), "approval"),
        (DEAD, fleet(approved=frozenset({"h1"})), Settings(approval=True), "allowed"),
        (DEAD, fleet(down=9, approved=frozenset({"h1"})), Settings(), "allowed"),
        (replace(DEAD, lease_gone=False), fleet(approved=frozenset({"h1"})), Settings(), "lease"),
    ],
)
def test_each_gate(accused: Accused, f: Fleet, s: Settings, says: str) -> None:
    assert says in reason(accused, f, s)


@pytest.mark.parametrize(
    ("f", "s", "says"),
    [
        (fleet(), Settings(), "allowed"),
        (fleet(disarmed=True), Settings(), "disarmed"),
        (fleet(disarmed=True, approved=frozenset({"h1"})), Settings(), "disarmed"),
        (fleet(), Settings(dry_run=True), "dry run"),
        (fleet(approved=frozenset({"h1"})), Settings(dry_run=True), "dry run"),
        (fleet(down=5), Settings(), "storm"),
        (fleet(down=5, approved=frozenset({"h1"})), Settings(), "allowed"),
        (fleet(down=5, approved=frozenset({"h2"})), Settings(), "storm"),
        (fleet(fenced=10), Settings(), "were fenced within"),
        (fleet(), Settings(approval=True), "allowed"),
    ],
)
def test_an_order_stands_for_the_evidence_not_for_the_caps(f: Fleet, s: Settings, says: str) -> None:
    verdict = may_order("h1", f, s, 0.0)
    assert says in (verdict.reason if isinstance(verdict, Hold) else "allowed")


def test_a_storm_that_passed_is_forgotten_after_its_cooldown() -> None:
    assert isinstance(may_condemn(DEAD, fleet(stormy={"": 5.0}), Settings(), now=5.0), Allow)


def die(w: World, host: str) -> None:
    w.beating[host], w.icmp[host] = False, False
    w.lease_ends(host)


def test_fences_within_the_window_are_limited_and_go_on_after_it() -> None:
    w = World(hosts=6, settings=Settings(max_fences_per_window=1, fence_window=100.0))
    w.run(4)
    die(w, "h1")
    w.run(10)
    die(w, "h2")
    w.run(50)
    assert len(w.of(Recovery)) == 1
    w.run(60)
    assert len(w.of(Recovery)) == 2


def test_a_new_leader_counts_a_fence_as_if_it_had_just_happened() -> None:
    w = World(hosts=6, settings=Settings(max_fences_per_window=1, fence_window=100.0))
    w.run(4)
    die(w, "h1")
    w.run(60)
    w.start_controller()
    w.run(4)
    die(w, "h2")
    w.run(60)
    assert len(w.of(Recovery)) == 1
    w.run(50)
    assert len(w.of(Recovery)) == 2


def test_a_flapping_host_is_quarantined_until_it_is_released() -> None:
    w = World(settings=Settings(flap_limit=1))
    for number in (2, 3):
        w.run(4)
        w.cut_power("h1")
        w.run(6)
        w.boot("h1", number)
        w.run(40)
    stages = sorted(r.stage for r in w.of(Recovery).values())  # type: ignore[attr-defined]
    assert stages == [Stage.CLOSED, Stage.ENDED]
    assert any("quarantined after 2 recoveries" in p for p in w.pages)
    settings = w.engine.views["h1"].settings
    w.change(replace(settings, release=w.engine.views["h1"].condemnation.revision))  # type: ignore[union-attr]
    w.run(40)
    assert all(r.stage is Stage.ENDED for r in w.of(Recovery).values())  # type: ignore[attr-defined]
    assert isinstance(w.store[HostSettings, "h1"], HostSettings)
