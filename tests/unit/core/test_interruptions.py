"""The leader dies at every single action of a recovery and another goes on: same end, nothing done twice."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.core.harness import World
from vmha.core.model import Recovery, Stage
from vmha.core.settings import Settings

ACTIONS = 25  # more than a recovery of three instances and the host's return take


def story(die_at: int, how: str) -> World:
    """Power cut, recovery, return; the leader dies once on the way."""
    w = World(settings=Settings(fence_limit=12.0))
    for name in ("a", "b", "c"):
        w.add_instance(name, "h1")
    w.die_at, w.die_how = w.acted + die_at, how
    w.run(4)
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.run(60)
    w.boot("h1")
    w.run(60)
    return w


@pytest.mark.parametrize("how", ["before", "after", "record"])
@pytest.mark.parametrize("die_at", range(1, ACTIONS + 1))
def test_a_leader_killed_at_any_action_loses_and_repeats_nothing(die_at: int, how: str) -> None:
    w = story(die_at, how)
    assert [r.stage for r in w.of(Recovery).values()] == [Stage.ENDED]  # type: ignore[attr-defined]
    assert all(i.host != "h1" for i in w.instances.values())
    moved = Counter(m.instance for m in w.migrations)
    assert moved == {"a": 1, "b": 1, "c": 1}
    assert w.state("h1") == "online" and not w.services["h1"].forced_down and not w.services["h1"].disabled
    assert not [p for p in w.pages if "h1" in p]


def test_the_story_has_fewer_actions_than_the_test_kills_at() -> None:
    w = story(0, "after")
    assert w.acted <= ACTIONS
