"""Edges computed analytically are those that ``BeatFold`` makes of every single beat."""

from __future__ import annotations

import random
from typing import Any

import pytest

from vmha.core.events import Heard, Silent
from vmha.core.suspicion import BeatFold
from vmha.sim.beats import Beats
from vmha.sim.clock import Clock
from vmha.sim.net import Net

PERIOD, SILENCE, END = 0.2, 1.2, 60.0
Change = tuple[float, bool, float, str]  # at, arrives, delay, boot


class Ear:
    name = "c1"

    def __init__(self, clock: Clock) -> None:
        self.clock, self.edges, self.facts = clock, [], []  # type: ignore[var-annotated]

    def beat(self, host: str, network: str, boot: str, at: float) -> None:
        self.edges.append((round(at, 4), "heard", boot))

    def silence(self, host: str, network: str, last: float) -> None:
        self.edges.append((round(self.clock.now, 4), "silent", round(last, 4)))

    def carried(self, host: str, fact: str, value: Any) -> None:
        self.facts.append((self.clock.now, fact, value))


def drawn(seed: int) -> list[Change]:
    """A way that is cut and healed, and a host that boots; the delay stays, as beats of older boots are refused anyway."""
    rng = random.Random(seed)
    delay = rng.choice([0.0, 0.0, 0.35])
    at, boot, changes = 0.0, 1, []
    while (at := at + rng.choice([0.05, 0.3, 0.7, 1.1, 1.25, 3.0]) * rng.uniform(0.5, 1.5)) < END - 5:
        boot += rng.random() < 0.2
        changes.append((round(at, 3) + 0.0003, rng.random() < 0.6, delay, f"b{boot}"))
    return changes


def by_edges(changes: list[Change], phase: float) -> list[Any]:
    clock, net = Clock(), Net({"h1": ("management",)})
    beats = Beats(clock, net, PERIOD, SILENCE, random.Random(0))
    ear = Ear(clock)
    beats.add_ear(ear)
    beats.add_host("h1", phase)
    net.set_delay("h1", "c1", ["management"], changes[0][2])
    beats.set("h1", True, "b1")

    def change(up: bool, delay: float, boot: str) -> None:
        net.set_delay("h1", "c1", ["management"], delay)
        beats.set("h1", up, boot)

    for at, up, delay, boot in changes:
        clock.at(at, change, up, delay, boot)
    clock.run(END, lambda: None)
    return ear.edges


def beat_by_beat(changes: list[Change], phase: float) -> list[Any]:
    """The same by the core's fold: each beat sent under the state of its moment, edges of silence at their deadline."""
    arrivals, state, pending = [], (True, changes[0][2], "b1"), list(changes)
    for n in range(int(END / PERIOD) + 10):
        sent = phase + n * PERIOD
        while pending and pending[0][0] <= sent:
            state = pending.pop(0)[1:]
        if sent >= 0 and state[0]:
            arrivals.append((sent + state[1], state[2]))
    fold, edges = BeatFold(SILENCE), []
    for at, boot in [*sorted(arrivals), (END, "")]:
        while (due := fold.deadline()) is not None and due < at - 1e-6:
            found = fold.silent(due + 1e-9)
            edges += [(round(due, 4), "silent", round(e.last, 4)) for e in found if isinstance(e, Silent)]
        if boot:
            edge = fold.heard("h1", "management", boot, at)
            edges += [(round(at, 4), "heard", edge.boot)] if isinstance(edge, Heard) else []
    return edges


@pytest.mark.parametrize("seed", range(150))
def test_edges_are_those_of_every_single_beat(seed: int) -> None:
    changes, phase = drawn(seed), -1.0 + (seed * 0.0137) % PERIOD
    assert by_edges(changes, phase) == beat_by_beat(changes, phase)


def test_a_lossy_link_falls_silent_now_and_then_and_is_heard_again() -> None:
    clock, net = Clock(), Net({"h1": ("management",)})
    beats, ear = Beats(clock, net, PERIOD, SILENCE, random.Random(3)), Ear(clock)
    beats.add_ear(ear)
    beats.add_host("h1", 0.0)
    net.set_loss("h1", "c1", ["management"], 0.5)
    beats.set("h1", True, "b1")
    clock.run(3600, lambda: None)
    silences = [e for e in ear.edges if e[1] == "silent"]
    # a run of 6 lost beats begins after an arrived one with chance 0.5 ** 6: 9000 arrivals of 18000 beats, so about 140
    assert 90 < len(silences) < 200
    words = [e[1] for e in ear.edges]
    assert all(a != b for a, b in zip(words, words[1:], strict=False))


def test_a_fact_rides_on_the_next_beat_that_arrives() -> None:
    clock, net = Clock(), Net({"h1": ("management",)})
    beats, ear = Beats(clock, net, PERIOD, SILENCE, random.Random(3)), Ear(clock)
    beats.add_ear(ear)
    beats.add_host("h1", 0.0)
    beats.set("h1", True, "b1")
    clock.at(5.05, beats.carry, "h1", "stuck", 6.0)
    clock.run(5.3, lambda: None)
    assert [(round(t, 6), f, v) for t, f, v in ear.facts] == [(5.2, "stuck", 6.0)]
    net.cut("h1", ["management"])
    beats.refresh()
    beats.carry("h1", "stuck", 0.0)
    clock.run(9.0, lambda: None)
    assert len(ear.facts) == 1
    net.heal("h1", ["management"])
    beats.refresh()
    clock.run(9.5, lambda: None)
    assert ear.facts[1:] and ear.facts[-1][1:] == ("stuck", 0.0)
