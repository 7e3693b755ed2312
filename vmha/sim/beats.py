"""Beats by their edges: when a network of a host becomes silent or heard at a controller, without any single beat.

The same semantics as ``vmha.core.suspicion.BeatFold`` fed with every beat (tests/unit/sim/test_beats.py holds the two against each
other): beats leave at ``phase + n x period``; a network is heard when a beat arrives on it that was silent, or brings another boot;
it is silent ``silence`` seconds after the last arrival.  A lossy link is the one case in which single beats are drawn.

What an agent says rides on beats: ``carry`` gives a fact to each controller with the next beat that reaches it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any, Protocol

from vmha.sim.clock import Clock
from vmha.sim.net import Net

NEVER = float("-inf")
TIE = 1e-6  # a beat that arrives in the very moment of silence was heard: sockets are read first
AHEAD = 40.0  # seconds of single beats that a lossy link draws at once


class Ear(Protocol):
    """A controller as the network sees it."""

    name: str

    def beat(self, host: str, network: str, boot: str, at: float) -> None: ...

    def silence(self, host: str, network: str, last: float) -> None: ...

    def carried(self, host: str, fact: str, value: Any) -> None: ...


@dataclass(slots=True)
class Way:
    """Beats of one host to one ear on one network: while ``on`` they arrive at ``first + n x period``."""

    network: str
    on: bool = False
    delay: float = 0.0
    loss: float = 0.0
    boot: str = ""
    first: float = NEVER
    last: float = NEVER  # the last arrival, as far as it matters: known while off or lossy
    final: float = NEVER  # the last arrival of those that were sent before it went off
    heard: bool = False
    heard_boot: str = ""
    life: int = 0  # number of this stretch of being on
    void: set[int] = field(default_factory=set)  # stretches of which nothing arrives any more


@dataclass(slots=True)
class Beating:
    """One host's beat process and what its agent lets it say."""

    phase: float
    up: bool = False
    boot: str = ""
    ways: dict[str, dict[str, Way]] = field(default_factory=dict)  # ear -> network
    facts: dict[str, Any] = field(default_factory=dict)


class Beats:
    """All beats of the world."""

    def __init__(self, clock: Clock, net: Net, period: float, silence: float, rng: random.Random) -> None:
        self._clock, self._net, self._rng = clock, net, rng
        self.period, self.silence = period, silence
        self._hosts: dict[str, Beating] = {}
        self._ears: dict[str, Ear] = {}

    def add_ear(self, ear: Ear) -> None:
        self._ears[ear.name] = ear

    def add_host(self, host: str, phase: float) -> None:
        """All ears must be there before."""
        ways = {ear: {n: Way(n) for n in self._net.of(host)} for ear in self._ears}
        self._hosts[host] = Beating(phase, ways=ways)

    def set(self, host: str, up: bool, boot: str) -> None:
        """The host's beat process runs in this boot, or does not."""
        beating = self._hosts[host]
        beating.up, beating.boot = up, boot
        self.refresh(host)

    def refresh(self, host: str = "") -> None:
        """Something about the ways of the host (or of all) may have changed."""
        for name in [host] if host else list(self._hosts):
            beating = self._hosts[name]
            for ear, ways in beating.ways.items():
                for way in ways.values():
                    self._refresh(name, beating, ear, way)

    def _refresh(self, host: str, beating: Beating, ear: str, way: Way) -> None:
        on = beating.up and self._net.path(host, ear, way.network)
        delay, loss = self._net.delay(host, ear, way.network), self._net.loss(host, ear, way.network)
        if (on, delay, loss, beating.boot) == (way.on, way.delay, way.loss, way.boot) or not (on or way.on):
            return
        if way.on:
            self._off(host, ear, way)
        way.on, way.delay, way.loss, way.boot = on, delay, loss, beating.boot
        if not on:
            return
        sent = self._next_send(beating)
        way.first, way.life = sent + delay, way.life + 1
        if loss:
            self._draw(host, ear, way, sent, way.life)
        else:
            self._clock.at(way.first, self._arrives, host, ear, way, way.life, way.boot)

    def _next_send(self, beating: Beating) -> float:
        return beating.phase + math.ceil((self._clock.now - beating.phase) / self.period - 1e-9) * self.period

    def _off(self, host: str, ear: str, way: Way) -> None:
        """Beats that were sent until now still arrive; silence follows the last of them."""
        end = self._clock.now + way.delay
        if way.loss:
            way.last = min(way.last, end)
            way.void.add(way.life)
        elif end >= way.first:
            way.final = way.first + math.floor((end - way.first) / self.period + 1e-9) * self.period
            if way.first <= self._clock.now:
                way.last = way.final
        else:
            way.void.add(way.life)
        way.on = False
        if way.heard:
            self._await_silence(host, ear, way)

    # --- at the ear --------------------------------------------------------------------------------------------------

    def _arrives(self, host: str, ear: str, way: Way, life: int, boot: str) -> None:
        """A beat that may make an edge: the first one after silence or in another boot."""
        if life in way.void:
            return
        edge = not way.heard or way.heard_boot != boot
        now = self._clock.now
        way.heard, way.heard_boot, way.last = True, boot, max(way.last, now)
        if edge:
            self._ears[ear].beat(host, way.network, boot, self._clock.now)
        for fact, value in list(self._hosts[host].facts.items()):
            self._ears[ear].carried(host, fact, value)
        if not way.on or (way.first > now and not way.loss):
            way.last = max(way.last, way.final)
            self._await_silence(host, ear, way)

    def _await_silence(self, host: str, ear: str, way: Way) -> None:
        self._clock.at(way.last + self.silence + TIE, self._silent, host, ear, way, way.last)

    def _silent(self, host: str, ear: str, way: Way, last: float) -> None:
        arriving = way.on and not way.loss and way.first <= self._clock.now
        if way.heard and way.last == last and not arriving:
            way.heard = False
            self._ears[ear].silence(host, way.network, last)

    # --- loss ----------------------------------------------------------------------------------------------------------

    def _draw(self, host: str, ear: str, way: Way, sent: float, life: int) -> None:
        """Draw single beats, up to one that makes an edge or for a while; go on from there."""
        if life in way.void:
            return
        horizon = self._clock.now + AHEAD
        while sent < horizon:
            sent += self._lost(way.loss) * self.period
            arrival = sent + way.delay
            gap = way.heard and arrival - way.last > self.silence + TIE
            if gap:
                self._await_silence(host, ear, way)
            if gap or not way.heard:
                self._clock.at(arrival, self._lossy_arrival, host, ear, way, sent, life)
                return
            way.last = arrival
            sent += self.period
        self._clock.at(sent - self.period, self._draw, host, ear, way, sent, life)

    def _lost(self, loss: float) -> int:
        """How many beats in a row are lost before one arrives."""
        return int(math.log(1.0 - self._rng.random()) / math.log(loss))

    def _lossy_arrival(self, host: str, ear: str, way: Way, sent: float, life: int) -> None:
        if life not in way.void:
            self._arrives(host, ear, way, life, way.boot)
            self._draw(host, ear, way, sent + self.period, life)

    # --- what rides on beats -------------------------------------------------------------------------------------------

    def carry(self, host: str, fact: str, value: Any) -> None:
        """Say a fact with every beat from now on; each ear has it with the next one that arrives."""
        beating = self._hosts[host]
        beating.facts[fact] = value
        for ear, ways in beating.ways.items():
            for way in ways.values():
                if way.on:
                    when = self._next_send(beating) + way.delay
                    self._clock.at(max(when, way.first), self._told, host, ear, way, way.life, fact)

    def _told(self, host: str, ear: str, way: Way, life: int, fact: str) -> None:
        facts = self._hosts[host].facts
        if way.life == life and way.on and fact in facts:
            self._ears[ear].carried(host, fact, facts[fact])

    # --- the ear itself ------------------------------------------------------------------------------------------------

    def forget(self, ear: str) -> None:
        """A new process listens: it has heard nobody yet."""
        for beating in self._hosts.values():
            for way in beating.ways[ear].values():
                way.on, way.heard, way.heard_boot, way.last, way.final = False, False, "", NEVER, NEVER
                way.void.add(way.life)
        self.refresh()

    def excuse(self, ear: str) -> None:
        """The ear stood still until now: what it heard before counts as heard now (``BeatFold.excuse``)."""
        for host, beating in self._hosts.items():
            for way in beating.ways[ear].values():
                if way.heard and not way.on:
                    way.last = self._clock.now
                    self._await_silence(host, ear, way)
