"""The agent of each host: registration and lease, the gate, the watchdog, the word; by facts, not by periods.

The gate is the real ``vmha.core.word``.  Feeding follows safety.md section 1: a host is valid until ``q + T`` after a question that was
answered; while questions are answered, nothing happens here, and when they stop, the last question of the grid counts.
While its gate is shut and nothing protected runs, a host feeds freely.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Protocol, TypeVar

from vmha.core import word
from vmha.core.model import FENCED, Condemnation, HostAlive, InstanceSeen, Voters, Word
from vmha.core.settings import Settings
from vmha.core.voters import lists
from vmha.core.word import Found, GateAction
from vmha.sim.clock import Clock
from vmha.sim.hosts import Host
from vmha.sim.net import STORE, Net
from vmha.sim.physics import Physics
from vmha.sim.store import Lease, Store

NEVER = float("-inf")
WATCHDOG = "iTCO_wdt"
# what happens to a guest -> the state that the agent reports of its domain
SEEN = {"io_error": "paused", "panicked": "crashed", "hung": "running", "silent": "running"}
V = TypeVar("V")


def filled(kind: Callable[..., V], **known: Any) -> V:
    """A value of the core with those of the fields that it has: what the core does not know yet is left out."""
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{n: v for n, v in known.items() if n in names})


class Surroundings(Protocol):
    """What an agent needs of its world."""

    clock: Clock
    physics: Physics
    settings: Settings
    net: Net
    store: Store

    def answered(self, host: str) -> str:
        """By whom a question of the host would be answered now: "read", "voters" or nobody."""

    def record(self, do: str, host: str, instance: str = "", to: str = "", reason: str = "") -> None: ...

    def line(self, who: str, text: str) -> None: ...

    def restart_compute(self, host: str) -> None: ...

    def carry(self, host: str, fact: str, value: Any) -> None: ...


class Agent:
    """One host's agent, over all its runs and boots.  ``refresh`` after anything that it might notice."""

    def __init__(self, host: Host, world: Surroundings, number: int) -> None:
        self.host, self._world, self._number = host, world, number
        self._clock, self._store, self._net, self._physics = world.clock, world.store, world.net, world.physics
        self.running, self.hung = False, False
        self.run = 0
        self.life = 0  # what was begun under an older number is void
        self.gate = word.Gate(self._physics.word)
        self.lease: Lease | None = None
        self._leased_at = 0.0
        self._registering = False
        self._published: HostAlive | None = None
        self._word: Word | None = None
        self._fenced: set[str] = set()  # destroyed in this condemnation, as they ran
        self._restarted, self._restarts_done = (0, 0), 0
        self._waits = False  # for somebody who answers
        self._good_from: float | None = None  # since when every question was answered well
        self.valid_until = NEVER
        self._feeding_from: float | None = None
        self._last_feed = NEVER
        self._armed = False
        self.watching = False
        self.known: frozenset[str] | None = None  # condemned hosts as last loaded in this boot, None before
        self.voters: Voters | None = None  # the list as last read
        host.on_boot.append(lambda h: self.start())
        host.on_loss.append(lambda h: self._power_lost())

    @property
    def acting(self) -> bool:
        return self.running and not self.hung and self.host.up

    @property
    def reaches_store(self) -> bool:
        return self._store.up and self._net.talks(self.host.name, STORE, ("management",))

    # --- life ----------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """It has been running for long when the world begins: registered, gate open, valid."""
        now = self._clock.now
        self.running, self.run, self._armed, self.watching = True, 1, True, True
        self.gate = word.Gate(self._physics.word, word.GateState.OPEN)
        self.valid_until, self.known = now + self._physics.word, frozenset()
        self._apply(self.life)
        self._good_from = self._feeding_from = now - self._phase()
        self._grant()
        self._publish()

    def _phase(self) -> float:
        return (self._number * 0.37) % 1.0

    def start(self) -> None:
        """A new run of the agent."""
        if self.running or not self.host.up:
            return
        self.running, self.hung, self.run, self.life = True, False, self.run + 1, self.life + 1
        self._armed, self.watching, self._word, self._published = True, False, None, None
        self.lease, self._fenced, self._restarts_done = None, set(), 0
        self._world.carry(self.host.name, "stuck", 0.0)
        self._gate(word.Started(self.host.gate))
        self.refresh()

    def kill(self) -> None:
        """The process is gone; the watchdog's descriptor and the gate's file stay."""
        if self.running:
            self.running, self.hung, self.life = False, False, self.life + 1
            self.refresh()
            self.valid_until = NEVER  # an answer is one to a question of this run
            self._stands_still()

    def hang(self) -> None:
        if self.acting:
            self.hung = True
            self.refresh()
            self._stands_still()

    def resume(self) -> None:
        if self.hung:
            self.hung = False
            self._late_feed()
            self._world.carry(self.host.name, "stuck", 0.0)
            self._waits = True
            self.refresh()

    def _stands_still(self) -> None:
        """Beats tell that the agent makes no progress."""
        self._clock.after(6.0, self._stuck, self.life, self.host.life)

    def _stuck(self, life: int, boot: int) -> None:
        if self.life == life and self.host.life == boot and not self.acting and self.host.up:
            self._world.carry(self.host.name, "stuck", 6.0)

    def _power_lost(self) -> None:
        self.running, self.hung, self.life = False, False, self.life + 1
        self._armed, self.valid_until, self.known, self.voters = False, NEVER, None, None
        self._feeding_from, self._good_from = None, None
        self.refresh()

    # --- what surrounds it -----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at everything that may have changed."""
        reaches = self.acting and self.reaches_store
        self._renew(reaches)
        if reaches and not self.watching:
            self.watching = True
            self._clock.after(self._physics.watch_latency, self._look, self.life)
        elif not reaches and self.watching:
            self.watching, self.known = False, frozenset(self._store.tables[Condemnation])
        self._validity()
        self._feed()
        if self._waits and self.acting and self._world.answered(self.host.name):
            self._waits = False
            self._ask(self.life)

    def _renew(self, reaches: bool) -> None:
        if self.lease is not None and not self.lease.gone:
            if reaches:
                self._store.renew(self.lease)
            else:
                every = self._world.settings.host_renew
                now = self._clock.now
                renewed = self._leased_at + math.floor((now - self._leased_at) / every) * every
                self._store.let_go(self.lease, renewed)
        elif reaches and not self._registering:
            self._registering = True
            soon = 0.05 if self.lease is None else self._world.settings.host_renew / 2
            self._clock.after(soon, self._register, self.life)

    def _register(self, life: int) -> None:
        self._registering = False
        if self.life == life and self.acting and self.reaches_store:
            self._grant()
            self._publish()
            self._resync()
        else:
            self.refresh()

    def _grant(self) -> None:
        self.lease = self._store.grant(f"host:{self.host.name}", self._world.settings.host_lease)
        self._leased_at = self._clock.now - (self._phase() if self._clock.now == 0 else 0.0)
        self._published = None

    def lease_lost(self, lease: Lease) -> None:
        """The store ended the lease: the key goes with it, unless a newer run has taken it over."""
        if self.lease is lease or self.lease is None:
            self._store.delete(HostAlive, self.host.name)
            self._published = None
            self.refresh()

    def addresses(self) -> dict[str, str]:
        """One for each of the host's networks."""
        n = self._number
        return {name: f"10.{i}.{n // 250}.{n % 250 + 1}" for i, name in enumerate(self.host.spec.networks)}

    def _publish(self) -> None:
        """Write the registration when it has changed and can be written."""
        if not self.acting or self.lease is None or self.lease.gone or not self.reaches_store:
            return
        spec = self.host.spec
        value = filled(
            HostAlive,
            host=self.host.name,
            boot=self.host.boot,
            agent=f"{self.host.boot}.{self.run}",
            addresses=self.addresses(),
            gate="open" if self.host.gate else "shut",
            hook=spec.hook,
            word=self._word,
            compute_restarts=self._restarts_done,
            beating=self.host.beat,
            watchdog=WATCHDOG if spec.watchdog is not None else None,
            watchdog_timeout=spec.watchdog,
            watchdog_held=spec.watchdog is not None,
            versions={"vmha": "sim"},
            memory_mib=int(spec.memory_gib * 1024),
            vcpus=spec.vcpus,
        )
        if value != self._published:
            self._published = value
            self._store.put(value)

    # --- the gate --------------------------------------------------------------------------------------------------------

    def _gate(self, event: word.GateEvent) -> None:
        self.gate, actions = word.advance(self.gate, event)
        for action in actions:
            self._carry_out(action)
        self._publish()
        self._feed()

    def _carry_out(self, action: GateAction) -> None:
        match action:
            case GateAction.ASK:
                self._ask(self.life)
            case GateAction.ASK_LATER:
                self._waits = True
            case GateAction.OPEN:
                self.host.gate = True
                self.valid_until = max(self.valid_until, self.gate.valid_until)
            case GateAction.SHUT:
                self.host.gate = False
            case GateAction.WITHDRAW:
                self._word, self._fenced, self._restarts_done = None, set(), 0
            case GateAction.CLEAR:
                self._clock.after(self._physics.destroy, self._clear, self.life, self.gate.condemned)

    def _ask(self, life: int) -> None:
        if self.life != life or not self.acting:
            return
        asked = self._clock.now
        self._gate(word.Asked(asked))
        takes = 2 * self._physics.store_latency
        if not self._world.answered(self.host.name):
            takes = 2.0
        self._clock.after(takes, self._answer, life, asked)

    def _answer(self, life: int, asked: float) -> None:
        if self.life != life or not self.acting:
            return
        by = self._world.answered(self.host.name)
        condemnation = self._store.get(Condemnation, self.host.name)
        found, revision = Found.UNKNOWN, 0
        if by == "read" and condemnation is not None:
            found, revision = Found.CONDEMNED, condemnation.revision
        elif by:
            found = Found.ABSENT
        self._gate(word.Answered(asked, self._clock.now, found, revision))
        self.refresh()

    def _look(self, life: int) -> None:
        """What the watch shows of its own condemnation and lists."""
        if self.life != life or not self.acting or not self.reaches_store:
            return
        self.known = frozenset()
        self._apply(life)
        self.host.unprotected = frozenset(self._store.unprotected.get(self.host.name, ()))
        condemnation = self._store.get(Condemnation, self.host.name)
        self._gate(word.SeenCondemned(condemnation.revision) if condemnation else word.SeenReleased())
        if condemnation is not None:
            self._undefine(condemnation)
            self._restart_compute(condemnation)
        self._validity()

    def lists_changed(self) -> None:
        """The store's list of condemned hosts, or of voters, has changed: it is applied, then acknowledged."""
        if self.acting and self.reaches_store:
            self._clock.after(self._physics.watch_latency, self._apply, self.life)

    def _apply(self, life: int) -> None:
        if self.life != life or not self.acting or not self.reaches_store:
            return
        self.voters = self._store.voters
        if self.voters is not None and self.host.name in {n for one in lists(self.voters) for n in one}:
            self._world.carry(self.host.name, "Acked", (self.host.boot, self.voters.revision, self._store.revision))

    def told(self) -> None:
        """The store's record of its condemnation, or of its unprotected instances, has changed."""
        if self.acting and self.reaches_store:
            self._clock.after(self._physics.watch_latency, self._look, self.life)
        elif self.acting and self._world.answered(self.host.name):
            self._clock.after(self._physics.ask_every / 2, self._ask, self.life)
        self.refresh()

    def _clear(self, life: int, condemned: int) -> None:
        """Destroy what runs, then say what is left, until nothing is."""
        if self.life != life or not self.acting or self.gate.condemned != condemned:
            return
        for uuid in self.host.protected():
            self._fenced.add(uuid)
            if self.host.destroy(uuid):
                self._world.record("destroy", self.host.name, uuid, reason="the host is condemned")
        left = tuple(self.host.protected())
        self._say_word(left)
        if left:
            self._clock.after(5.0, self._clear, life, condemned)

    def _say_word(self, left: tuple[str, ...] = ()) -> None:
        defined = tuple(sorted(self.host.defined - self.host.unprotected))
        self._word = Word(self.gate.condemned, active=left, processes=left, defined=defined)
        self._publish()
        self._feed()

    def _restart_compute(self, condemnation: Condemnation) -> None:
        if condemnation.restart_compute and (condemnation.revision, condemnation.restart_compute) > self._restarted:
            self._restarted = (condemnation.revision, condemnation.restart_compute)
            self._world.restart_compute(self.host.name)
            done = condemnation.revision, condemnation.restart_compute
            self._clock.after(self._physics.nova_compute_start, self._compute_restarted, self.life, *done)

    def _compute_restarted(self, life: int, condemned: int, asked: int) -> None:
        if self.life == life and self.acting and self.gate.condemned == condemned:
            self._restarts_done = asked
            self._publish()

    def _undefine(self, condemnation: Condemnation) -> None:
        for uuid in sorted(set(condemnation.undefine) & self.host.defined):
            self.host.undefine(uuid)
        if self._word is not None:
            self._say_word(tuple(self.host.protected()))

    # --- the watchdog ----------------------------------------------------------------------------------------------------

    def _validity(self) -> None:
        """Whether questions are being answered well; when they stop, until when the last answer holds."""
        name, now = self.host.name, self._clock.now
        by = self._world.answered(name) if self.acting else ""
        good = bool(by) and not self.gate.condemned
        if by == "read" and self._store.get(Condemnation, name) is not None:
            good = False
        if good and self._good_from is None:
            self._good_from = now
        elif not good and self._good_from is not None:
            every = self._physics.ask_every
            asked = self._good_from + math.floor((now - self._good_from) / every) * every
            self._good_from, self.valid_until = None, max(self.valid_until, asked + self._physics.word)
            self._clock.at(self.valid_until, self._lapse, self.life)

    def _lapse(self, life: int) -> None:
        if self.life == life:
            self._feed()

    def _must_be_valid(self) -> bool:
        return self.host.gate or bool(self.host.protected())

    def _feed(self) -> None:
        """Begin or stop to feed; a watchdog that is not fed resets the host."""
        if self.host.spec.watchdog is None or not self._armed:
            return
        now = self._clock.now
        valid = self._good_from is not None or now < self.valid_until
        feeds = self.acting and (valid or not self._must_be_valid())
        if feeds and self._feeding_from is None:
            self._feeding_from = now
        elif not feeds and self._feeding_from is not None:
            every = self._physics.feed_every
            self._last_feed = self._feeding_from + math.floor((now - self._feeding_from) / every) * every
            self._feeding_from = None
            if self.acting:
                self._world.record(
                    "self_fence", self.host.name, reason="no answer holds any more: the watchdog is not fed"
                )
            self._clock.at(self._last_feed + self.host.spec.watchdog, self._fires, self.host.life, self._last_feed)

    def _late_feed(self) -> None:
        """It was stopped between its check and its feed: that feed lands now, whatever holds (why P2 waits for 2 W)."""
        if self._armed and self._feeding_from is None and self.host.spec.watchdog is not None:
            self._last_feed = self._clock.now
            self._clock.after(self.host.spec.watchdog, self._fires, self.host.life, self._last_feed)

    def _fires(self, boot: int, last_feed: float) -> None:
        if self.host.life == boot and self._feeding_from is None and self._last_feed == last_feed and self._armed:
            self._world.line(self.host.name, "its watchdog resets it")
            self.host.reset()

    # --- instances -------------------------------------------------------------------------------------------------------

    def domain(self, uuid: str, how: str) -> None:
        """libvirt tells of a domain that started or stopped."""
        if self.acting and self.host.libvirt:
            if self.reaches_store:
                self._see(uuid, how)
            if self._word is not None:
                self._say_word(tuple(self.host.protected()))
            self._feed()

    def _see(self, uuid: str, how: str) -> None:
        how = SEEN.get(how, how)
        qemu = self.host.qemu.get(uuid)
        guest = "ready" if how == "running" and qemu is not None and qemu.answers else "unknown"
        reason = FENCED if uuid in self._fenced and qemu is None else ""
        seen = InstanceSeen(self.host.name, uuid, self.host.boot, how, reason, guest=guest)
        if self._store.get(InstanceSeen, self.host.name, uuid) != seen:
            self._store.put(seen)

    def _resync(self) -> None:
        """Tell everything anew, after a time in which changes may have been missed."""
        if not self.host.libvirt:
            return
        for uuid in sorted(self.host.defined):
            self._see(uuid, "running" if uuid in self.host.qemu else "shutoff")
