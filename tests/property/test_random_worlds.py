"""Seeded random worlds: the invariants hold after every step, and every recovery ends or a person was told (liveness).

``VMHA_WORLDS`` worlds are run (500 in the fast tests), from seed ``VMHA_FIRST_WORLD`` on.  A failing seed prints a shrunken
scenario file that reproduces it, and its log.
"""

from __future__ import annotations

import copy
import os

import pytest

from tests.property.random_worlds import drawn, fails, run, shrunken, told
from vmha.core.actions import Action
from vmha.core.engine import Engine
from vmha.core.events import Event
from vmha.core.settings import Settings
from vmha.sim import scenario

FIRST, WORLDS = int(os.environ.get("VMHA_FIRST_WORLD", "0")), int(os.environ.get("VMHA_WORLDS", "500"))
CHUNK = 50


@pytest.mark.parametrize("first", range(FIRST, FIRST + WORLDS, CHUNK))
def test_random_worlds(first: int) -> None:
    for seed in range(first, min(first + CHUNK, FIRST + WORLDS)):
        data = drawn(seed)
        wrong = fails(data)
        if wrong:
            pytest.fail(f"seed {seed}\n{told(data, wrong)}", pytrace=False)


def test_drawn_worlds_are_scenario_files() -> None:
    for seed in range(20):
        scenario.parse(drawn(seed), "drawn")


def test_worlds_are_busy_enough_to_mean_something() -> None:
    done = [word.do for seed in range(80) for _, word in run(drawn(seed))[0].output.actions]
    for do in ("condemn", "fence", "evacuate", "evacuate_failed", "enable", "self_fence", "hold", "page"):
        assert done.count(do) >= 2, do


def test_the_same_events_give_the_same_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """I15, of every engine of twenty worlds: what it was told, told again to a new one."""
    recorded: list[Recording] = []

    class Recording(Engine):
        def __init__(self, settings: Settings) -> None:
            super().__init__(settings)
            self.begun_with, self.told = settings, list[tuple[Event, float, float, str]]()
            recorded.append(self)

        def step(self, event: Event, now: float, wall: float = 0.0) -> list[Action]:
            given = copy.deepcopy(event)
            found = super().step(event, now, wall)
            self.told.append((given, now, wall, repr(found)))
            return found

    monkeypatch.setattr("vmha.sim.controllers.Engine", Recording)
    for seed in range(20):
        run(drawn(seed))
    assert sum(len(r.told) for r in recorded) > 10_000
    for one in recorded:
        again = Engine(one.begun_with)
        for event, now, wall, actions in one.told:
            assert repr(again.step(event, now, wall)) == actions


def test_a_failure_is_shrunken_to_what_makes_it() -> None:
    """A lying device about a silent host breaks the assumption of P1, and the double run is found and made small."""
    data = drawn(7)
    data["hosts"], data["instances"] = (
        {f"h{n}": {"watchdog": None} for n in (1, 2, 3, 4)},
        {"v1": {"host": "h1"}, "v2": {"host": "h2"}},
    )
    noise = [{"at": 30.0 + n, "do": "watch_lost"} for n in range(6)]
    lie = [
        {"at": 10.0, "do": "bmc_fail", "host": "h1", "mode": "lies_off"},
        {"at": 20.0, "do": "net_cut", "host": "h1"},
    ]
    data["events"] = [*lie, *noise]
    wrong = fails(data)
    assert any(text.startswith("I2") for text in wrong)
    small = shrunken(data)
    assert [e["do"] for e in small["events"]] == ["bmc_fail", "net_cut"]
    assert list(small["instances"]) == ["v1"] and len(small["hosts"]) == 2
