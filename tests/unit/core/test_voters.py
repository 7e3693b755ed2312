"""Voters: majorities, the panel, and a change of the list that leaves no moment for two opinions."""

from __future__ import annotations

from itertools import combinations

import pytest

from vmha.core.model import Voters
from vmha.core.voters import (
    PANEL,
    acknowledging,
    agreed,
    can_do_without,
    changed,
    following,
    lists,
    majority,
    panel,
    seats,
    told,
)


def voters(*names: str, previous: tuple[str, ...] = (), arbiter: str = "", revision: int = 5) -> Voters:
    return Voters(names, arbiter, previous, revision=revision)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (63, 32)])
def test_a_majority_is_more_than_half(count: int, needed: int) -> None:
    assert majority(count) == needed


def test_both_lists_must_agree_while_a_change_is_not_settled() -> None:
    joint = voters("a", "b", "c", previous=("a", "d", "e"))
    assert agreed(joint, {"a", "b", "d"}) and not agreed(joint, {"a", "b", "c"}) and not agreed(joint, {"a", "d", "e"})
    assert not agreed(voters(), {"a"})


@pytest.mark.parametrize(("names", "can"), [(("a",), False), (("a", "c1"), False), (("a", "b", "c1"), True)])
def test_whether_a_majority_is_left_without_one(names: tuple[str, ...], can: bool) -> None:
    assert can_do_without(voters(*names), "a") is can


def test_in_a_change_a_majority_of_both_must_be_left_without_one() -> None:
    assert not can_do_without(voters("a", "b", "c", previous=("a", "b")), "a")
    assert can_do_without(voters("a", "b", "c", previous=("a", "b", "d")), "a")


def test_an_acknowledgement_is_of_this_condemnation_or_a_later_list_and_never_the_hosts_own() -> None:
    applied = {"a": 9, "b": 6, "c": 7, "x": 9}
    assert acknowledging(voters("a", "b", "c"), "a", applied, 7) == {"c"}
    assert acknowledging(voters("a", "b", "c"), "z", applied, 7) == {"a", "c"}
    assert acknowledging(voters("a", "b", "c"), "z", applied, 0) == frozenset()


def test_the_arbiter_votes_where_the_hosts_are_even() -> None:
    assert seats({"a": "1", "b": "2"}, "c1") == ("a", "b", "c1")
    assert seats({"a": "1", "b": "2", "c": "3"}, "c1") == ("a", "b", "c")
    assert seats({"a": "1", "b": "2"}, "") == ("a", "b")


def test_a_large_cloud_has_a_panel_spread_over_failure_domains() -> None:
    domains = {f"h{n:03}": f"rack{n % 4}" for n in range(200)} | {f"x{n:03}": "rack9" for n in range(100)}
    chosen = panel(domains)
    assert len(chosen) == PANEL
    counts = [sum(domains[h] == d for h in chosen) for d in set(domains.values())]
    assert max(counts) - min(counts) <= 1


def test_the_panel_keeps_whom_it_can() -> None:
    domains = {f"h{n:03}": f"rack{n % 4}" for n in range(200)}
    kept = tuple(sorted(domains))[100:160]
    chosen = panel(domains, kept)
    assert set(kept) <= set(chosen) and len(chosen) == PANEL
    del domains[kept[0]]
    assert len(set(panel(domains, chosen)) - set(chosen)) == 1


def test_a_change_goes_through_both_lists_and_waits_for_the_old_one() -> None:
    old = voters("a", "b", "c", arbiter="c1", revision=5)
    domains = dict.fromkeys("abcd", "rack")
    joint = following(old, domains, {})
    assert joint is not None and joint.names == ("a", "b", "c", "d", "c1") and joint.previous == ("a", "b", "c")
    assert "added" in changed(old, joint)
    written = Voters(joint.names, joint.arbiter, joint.previous, revision=8)
    assert following(written, domains, {"a": 8, "b": 7, "d": 8, "c1": 8}) is None
    alone = following(written, domains, {"a": 8, "b": 8})
    assert alone is not None and alone.names == joint.names and alone.previous == ()
    assert "alone" in changed(written, alone)
    assert following(Voters(joint.names, "c1", revision=9), domains, {}) is None


def test_the_last_voter_is_not_voted_out() -> None:
    assert following(voters("a", "b", "c"), {}, {}) is None


def test_no_stale_list_can_outvote_the_acknowledgements() -> None:
    """All changes of small lists: whichever of the records a host holds, no majority of it misses all acknowledgers."""
    everybody = "Habcde"
    for old_size in range(2, 6):
        for new_size in range(2, 7):
            old = voters(*everybody[:old_size], revision=1)
            joint = voters(*everybody[-new_size:], previous=old.names, revision=2)
            new = voters(*everybody[-new_size:], revision=3)
            for held, current in ((old, joint), (joint, joint), (joint, new), (new, new), (old, old)):
                _no_escape(held, current)


def _no_escape(held: Voters, current: Voters) -> None:
    """``held``: the record of the condemned host H; ``current``: the leader's.  A voter answers holders of its own record only."""
    names = sorted({n for one in lists(current) for n in one} - {"H"})
    for size in range(len(names) + 1):
        for aware in combinations(names, size):
            if not agreed(current, aware):
                continue
            innocent = {n for one in lists(held) for n in one} - set(aware)
            assert not agreed(held, innocent), (held, current, aware)


def test_counts_for_people() -> None:
    assert told(voters("a", "b", "c"), {"a", "b", "x"}) == "2 of 3 voters"
    assert told(voters("a", "b", "c", previous=("a",)), {"a"}) == "1 of 3 voters and 1 of 1 voters"
