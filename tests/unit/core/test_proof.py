"""Proofs of death, rule by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmha.core.events import CutRead, PowerRead
from vmha.core.model import HostAlive, PowerState, Voters, Word
from vmha.core.proof import (
    Observed,
    Watchdog,
    acknowledged,
    against_person,
    by_power,
    by_self_fence,
    by_storage,
    by_word,
    self_fence_off,
    spoke,
)
from vmha.core.settings import Settings, check, least_watchdog, self_fence_wait

S = Settings()
DOG = Watchdog("b1", "iTCO_wdt", 30.0, held=True)
VOTERS = Voters(("h1", "h2", "h3"), revision=5)


def off(**fields: object) -> PowerRead:
    return replace(PowerRead("h1", PowerState.OFF, 10.0, 10.2), **fields)  # type: ignore[arg-type]


def test_power_proves_only_off_and_only_after_the_commit() -> None:
    assert by_power(off(), 9.9)
    assert not by_power(off(), 10.0) and not by_power(off(), 10.1) and not by_power(None, 0.0)
    assert not by_power(off(state=PowerState.UNKNOWN), 9.0) and not by_power(off(state=PowerState.ON), 9.0)


# --- P2 ------------------------------------------------------------------------------------------------------------


def test_the_wait_of_a_self_fence() -> None:
    assert self_fence_wait(S, 30.0, True) == pytest.approx((9 + 60) * 1.002 + 3)
    assert self_fence_wait(S, 30.0, False) == pytest.approx((9 + 90) * 1.002 + 3)
    assert round(self_fence_wait(Settings(word=6.0, ask_every=2.0), 5.0, True)) == 19
    assert round(self_fence_wait(S, 30.0, True)) == 72


def test_the_wait_is_strict_and_counts_from_the_acknowledgement() -> None:
    wait = self_fence_wait(S, 30.0, True)
    assert not by_self_fence(100.0, DOG, S, 100.0 + wait) and by_self_fence(100.0, DOG, S, 100.0 + wait + 0.001)
    assert not by_self_fence(100.0, replace(DOG, held=False), S, 100.0 + wait + 0.001)
    assert not by_self_fence(100.0, replace(DOG, timeout=None), S, 1e9)


@pytest.mark.parametrize(
    ("voters", "boot", "dog", "why"),
    [
        (None, "b1", DOG, "no list of voters"),
        (replace(VOTERS, revision=0), "b1", DOG, "no list of voters"),
        (Voters(("h1", "c1"), revision=5), "b1", DOG, "no majority"),
        (Voters(("h1", "h2", "h3"), previous=("h1", "h2"), revision=5), "b1", DOG, "no majority"),
        (VOTERS, "", replace(DOG, boot=""), "no watchdog was armed in that boot"),
        (VOTERS, "b1", replace(DOG, boot="b0"), "no watchdog was armed in that boot"),
        (VOTERS, "b1", replace(DOG, timeout=None), "no watchdog was armed in that boot"),
        (VOTERS, "b1", replace(DOG, kind="softdog"), "(softdog) is not hardware"),
        (VOTERS, "b1", replace(DOG, kind="Software Watchdog"), "not hardware"),
        (VOTERS, "b1", replace(DOG, kind=None), "(of unknown kind) is not hardware"),
        (VOTERS, "b1", replace(DOG, timeout=4.9), "shorter than the 5 s"),
    ],
)
def test_when_there_can_be_no_proof_by_self_fence(voters: Voters | None, boot: str, dog: Watchdog, why: str) -> None:
    assert why in self_fence_off(voters, "h1", boot, dog, S)


def test_when_there_can() -> None:
    assert self_fence_off(VOTERS, "h1", "b1", DOG, S) == ""
    assert self_fence_off(VOTERS, "h9", "b1", replace(DOG, timeout=5.0), S) == ""
    assert least_watchdog(S) == 5.0


def test_the_host_itself_does_not_count_among_those_who_acknowledged() -> None:
    assert acknowledged(VOTERS, "h1", frozenset({"h2", "h3"}))
    assert not acknowledged(VOTERS, "h1", frozenset({"h1", "h2"}))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Settings(word=8.9), "three questions"),
        (Settings(word=5.9, ask_every=1.9), ""),
        (Settings(word=4.5, ask_every=1.5), "election of etcd"),
        (Settings(settle=2.9), "tick"),
        (Settings(agent_restart=-1.0), "agent_restart"),
        (Settings(feed_every=0.0), "feed_every"),
    ],
)
def test_relations_of_the_settings(wrong: Settings, says: str) -> None:
    found = " ".join(check(wrong))
    assert says in found if says else not found


def test_the_defaults_are_safe() -> None:
    assert list(check(S)) == []


# --- P3, P4, P5 ----------------------------------------------------------------------------------------------------


def test_storage_proves_only_with_the_networks_and_after_the_commit() -> None:
    cut = CutRead("h1", True, True, 10.0, 10.1)
    assert by_storage(cut, 9.0)
    for wrong in ({"storage": None}, {"storage": False}, {"networks": None}, {"networks": False}):
        assert not by_storage(replace(cut, **wrong), 9.0)  # type: ignore[arg-type]
    assert not by_storage(cut, 10.0) and not by_storage(None, 0.0)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Observed(), ""),
        (Observed(power=PowerState.OFF), ""),
        (Observed(beats=("storage",)), "beats come on storage"),
        (Observed(kernel=("tenant",)), "kernel answers on tenant"),
        (Observed(power=PowerState.ON), "reads on"),
        (Observed(leased=True), "lease"),
    ],
)
def test_what_speaks_against_a_person(seen: Observed, why: str) -> None:
    found = against_person("ann", "saw it", seen)
    assert why in found if why else not found


def test_a_person_has_a_name_and_a_reason() -> None:
    assert "name" in against_person("", "saw it", Observed()) and "reason" in against_person("ann", "", Observed())


def test_a_word_is_complete_and_about_this_condemnation() -> None:
    alive = HostAlive("h1", "b2", "a", {}, gate="shut", hook=True, word=Word(7, defined=("v1",)))
    assert by_word(alive, 7)
    assert not by_word(alive, 6) and not by_word(alive, 0) and not by_word(None, 7)
    assert not by_word(replace(alive, word=None), 7) and not by_word(replace(alive, gate="open"), 7)
    assert not by_word(replace(alive, hook=False), 7)
    assert not by_word(replace(alive, word=Word(7, active=("v1",))), 7)
    assert not by_word(replace(alive, word=Word(7, processes=("v1",))), 7)
    assert not by_word(replace(alive, word=Word(0)), 0)


# --- silence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heard", "last", "still", "now", "says"),
    [
        ("b1", 9.0, False, 20.0, False),
        ("b1", 10.5, False, 20.0, True),
        ("b1", 9.0, True, 10.5, None),
        ("b1", 9.0, True, 11.2, None),
        ("b1", 9.0, True, 11.3, True),
        ("b2", 15.0, True, 20.0, False),
        ("", 9.0, False, 20.0, False),
    ],
)
def test_whether_a_boot_spoke_after_ten(heard: str, last: float, still: bool, now: float, says: bool | None) -> None:
    assert spoke("b1", 10.0, heard, last, still, 1.2, now) is says


def test_a_boot_that_is_not_known_may_be_any() -> None:
    assert spoke("", 10.0, "b2", 15.0, False, 1.2, 20.0) is True
