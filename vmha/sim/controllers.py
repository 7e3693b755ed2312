"""Controllers: the real engine, stepped as ``vmha.controller.loop`` does it, with its journal, calls and leadership around it.

Each has a clock of its own (an offset), so that a time of one leader means nothing to the next.  It can be killed, stopped (SIGSTOP) and
resumed at any action; what its outside calls do then follows safety.md section 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol

from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.engine import Engine
from vmha.core.model import Condemnation, Voters
from vmha.core.settings import Settings
from vmha.errors import LeadershipLost, StoreConflict
from vmha.sim.clock import WALL
from vmha.sim.hands import TIMEOUT, Hands, Outside
from vmha.sim.net import STORE, Net
from vmha.sim.output import Word, of_action
from vmha.sim.store import Key, Lease

SOON = 0.005  # the loop's grain
STOOD_STILL = 0.5
PAUSE = 0.2
LOOK = 0.1  # how often a leader looks at its own lease


class State(StrEnum):
    """Of the controller's process."""

    UP = "up"
    HUNG = "hung"
    DOWN = "down"


class Surroundings(Outside, Protocol):
    """What a controller needs of its world."""

    net: Net

    def forget(self, controller: str) -> None:
        """Its new process has heard nobody yet."""

    def excuse(self, controller: str) -> None:
        """It stood still until now."""

    def acknowledge(self, controller: str, revision: int) -> None:
        """It has applied the lists of that revision: where it is the arbiter, the leader hears of it."""


class Controller:
    """One controller host.  ``give`` takes facts; what is decided is carried out in the world."""

    def __init__(self, name: str, world: Surroundings, offset: float) -> None:
        self.name, self._world, self._offset = name, world, offset
        self._clock, self._store, self._physics, self._settings = (
            world.clock,
            world.store,
            world.physics,
            world.settings,
        )
        self.state = State.UP
        self.life = 0  # what was begun by an older process finds nobody
        self.engine = Engine(self._settings)
        self.condemned: set[str] = set()  # as its watch told
        self.voters: Voters | None = None
        self._held: list[Callable[[], None]] = []  # what waits for SIGCONT
        self._hung_at = 0.0
        self._tick_at = float("inf")
        self._ticks = 0
        self._queue: deque[tuple[act.Commit | act.StartCall, int]] = deque()
        self._writing = False
        self._lease: Lease | None = None
        self._leased_at = 0.0
        self._fresh = True  # its watch
        self._facts: dict[tuple[str, str], Any] = {}
        self._hands = Hands(self, world)

    # --- its process ---------------------------------------------------------------------------------------------------

    @property
    def working(self) -> bool:
        return self.state is State.UP

    @property
    def reaches_store(self) -> bool:
        return self._store.up and self._world.net.talks(self.name, STORE, ("management",))

    @property
    def leads(self) -> bool:
        return self._store.leader == self.name and self.state is not State.DOWN

    def now(self) -> float:
        return self._clock.now + self._offset

    def kill(self) -> None:
        """The process ends; its guard ends its children and gives the lease back."""
        if self.state is State.DOWN:
            return
        self.state, self.life = State.DOWN, self.life + 1
        self._held.clear()
        self._queue.clear()
        self._writing, self._tick_at = False, float("inf")
        if self._lease is not None:
            self._clock.after(self._physics.guard, self._give_back, self._lease)
        self._lease = None

    def _give_back(self, lease: Lease) -> None:
        if self.reaches_store:
            self._store.revoke(lease)
        else:
            self._store.let_go(lease, self._clock.now)

    def start(self) -> None:
        """A new process: an empty engine, which lists the store and listens."""
        if self.state is not State.DOWN:
            return
        self.state, self.engine = State.UP, Engine(self._settings)
        self._fresh = False
        self._facts.clear()
        self._world.forget(self.name)
        self.refresh()
        self.campaign()

    def hang(self) -> None:
        """SIGSTOP: nothing goes on here, fence agents and requests that were sent do."""
        if self.state is State.UP:
            self.state, self._hung_at = State.HUNG, self._clock.now
            self.refresh()

    def resume(self) -> None:
        """SIGCONT: what came in the meantime is taken first, then the loss of the lease is noticed."""
        if self.state is not State.HUNG:
            return
        self.state = State.UP
        if self._clock.now - self._hung_at > STOOD_STILL:
            self._world.excuse(self.name)
        held, self._held = self._held, []
        for do in held:
            do()
        if self._lease is not None and self._lease.gone:
            self._clock.after(LOOK, self.deposed, self.life)
        self.refresh()
        self._step(ev.Tick())

    def configure(self, settings: Settings) -> None:
        """Its configuration has changed and is read again."""
        self._settings = self.engine.settings = settings

    def when_running(self, do: Callable[[], None]) -> None:
        """Now, or after SIGCONT; never after the process ended."""
        if self.state is State.UP:
            do()
        elif self.state is State.HUNG:
            self._held.append(do)

    def later(self, delay: float, do: Callable[[], None]) -> None:
        """``do`` by this very process, after ``delay``."""
        self._clock.after(delay, self.mine, self.life, do)

    def mine(self, life: int, do: Callable[[], None]) -> None:
        if life == self.life:
            self.when_running(do)

    # --- the loop --------------------------------------------------------------------------------------------------------

    def give(self, event: ev.Event) -> None:
        """One fact, now; kept while the process is stopped, lost while there is none."""
        self.when_running(lambda: self._take(event))

    def _take(self, event: ev.Event) -> None:
        life = self.life
        self._step(event)
        if self.life == life and self.working:
            self._step(ev.Tick())

    def _step(self, event: ev.Event) -> None:
        life = self.life
        actions = self.engine.step(event, self.now(), WALL + self._clock.now)
        if actions:
            self._run(deque(actions), self.engine.epoch)
        if self.life == life:
            self._plan()

    def _run(self, actions: deque[act.Action], epoch: int, announced: bool = False) -> None:
        """Carry out in order; the world may kill or stop this process before and after each."""
        life = self.life
        while actions and self.life == life:
            words = of_action(actions[0])
            for word in words if not announced else ():
                self._world.output.before(word)
            announced = True
            if self.state is State.HUNG:
                self._held.append(lambda: self._run(actions, epoch, announced=True))
                return
            if self.life == life:
                announced = False
                self._do(actions.popleft(), epoch, words)

    def _plan(self) -> None:
        due = self.engine.next_deadline()
        if due is None:
            return
        when = max(due - self._offset, self._clock.now + SOON)
        if when < self._tick_at or self._tick_at <= self._clock.now:
            self._tick_at, self._ticks = when, self._ticks + 1
            self._clock.at(when, self._tick, self.life, self._ticks)

    def _tick(self, life: int, number: int) -> None:
        if life == self.life and number == self._ticks:
            self._tick_at = float("inf")
            self.when_running(lambda: self._step(ev.Tick()))

    # --- what it hears ---------------------------------------------------------------------------------------------------

    def beat(self, host: str, network: str, boot: str, at: float) -> None:
        self.give(ev.Heard(host, network, boot, at + self._offset))

    def silence(self, host: str, network: str, last: float) -> None:
        self.give(ev.Silent(host, network, last + self._offset))

    def carried(self, host: str, fact: str, value: Any) -> None:
        """A fact that rode on a beat; told once for each value."""
        if self._facts.get((host, fact), 0.0 if fact == "stuck" else None) == value or self.state is State.DOWN:
            return
        self._facts[host, fact] = value
        if fact == "stuck":
            self.give(ev.AgentStuck(host, value))
        else:
            event = getattr(ev, fact, None)  # an event of the core that is named like the fact
            if event is not None and isinstance(value, tuple):
                self.give(event(host, *value, self.now()))
            elif event is not None:
                self.give(event(host, value))

    def changed(self, kind: type, key: Key, value: Any) -> None:
        """The watch tells of one change."""
        if self.state is not State.DOWN and self._fresh and self.reaches_store:
            at = self._store.revision
            self._clock.after(self._physics.watch_latency, self._changed, self.life, kind, key, value, at)

    def _changed(self, life: int, kind: type, key: Key, value: Any, revision: int) -> None:
        if life != self.life or not self._fresh:
            return
        if kind is Condemnation:
            (self.condemned.add if value is not None else self.condemned.discard)(key[0])
        if kind is Voters:
            self.voters = value
        if kind in (Condemnation, Voters):
            self._world.acknowledge(self.name, revision)
        if kind is bool:
            self.give(ev.Disarm(value))
        elif kind is not tuple:
            self.give(ev.StoreChanged(kind, key, value, revision))

    def refresh(self) -> None:
        """Its way to the store may have changed: the lease, the watch."""
        reaches = self.reaches_store and self.working
        if self._lease is not None and not self._lease.gone:
            if reaches:
                self._store.renew(self._lease)
            elif self._lease.ends is None:
                self._lets_go(self._lease)
        if not self.reaches_store and self._fresh and self.state is not State.DOWN:
            self._fresh = False
            self.later(self._physics.watch_doubt, self._doubts)
        elif reaches and not self._fresh:
            self._fresh = True
            self.later(0.1, self._lists)
        if reaches:
            self.campaign()

    def lose_watch(self) -> None:
        """The watch died: it says so, then lists afresh."""
        if self.working and self._fresh:
            self._fresh = False
            self.later(0.0, self._doubts)
            self.later(1.0, self.refresh)

    def _doubts(self) -> None:
        if not self._fresh:
            self.give(ev.StoreDoubt("the watch of etcd is silent"))

    def give_world(self) -> None:
        """Its watch has listed everything."""
        self._step(ev.StoreSnapshot(self._store.world()))

    def _lists(self) -> None:
        if self._fresh and self.reaches_store:
            self._load()
            self.give(ev.StoreSnapshot(self._store.world()))

    def _load(self) -> None:
        self.condemned, self.voters = set(self._store.tables[Condemnation]), self._store.voters
        self._clock.after(0.0, self._world.acknowledge, self.name, self._store.revision)

    # --- leadership --------------------------------------------------------------------------------------------------------

    def _lets_go(self, lease: Lease) -> None:
        """Renewals stop; by its own clock the lease is over no later than by etcd's."""
        s = self._settings
        renewed = self._leased_at + int((self._clock.now - self._leased_at) / s.leader_renew) * s.leader_renew
        self._store.let_go(lease, renewed)
        self._clock.at(renewed + s.leader_lease, self.mine, self.life, lambda: self._lost(lease))

    def _lost(self, lease: Lease) -> None:
        if self._lease is lease and (lease.ends is not None or lease.gone):
            self.deposed(self.life)

    def campaign(self) -> None:
        """Try to lead, when nobody does."""
        if self.working and self.reaches_store and not self._store.leader:
            self.later(2 * self._physics.store_latency, self._try)

    def _try(self) -> None:
        if self._store.leader or not self.reaches_store or self._lease is not None:
            return
        self.elect()
        self.later(2 * self._physics.store_latency, self._reads_world)

    def elect(self) -> None:
        """The leader's key is made, on a lease of this controller."""
        store = self._store
        self._lease = store.leader_lease = store.grant(self.name, self._settings.leader_lease)
        self._leased_at = self._clock.now
        store.revision += 1
        store.leader, store.epoch = self.name, store.revision

    def _reads_world(self) -> None:
        """Nothing is decided before the world was read after the election."""
        if self._lease is None or self._lease.gone:
            self._lease = None
        elif not self.reaches_store:
            self.later(1.0, self._reads_world)
        else:
            self.begin_reign()

    def begin_reign(self) -> None:
        self._load()
        self._take(ev.Elected(self._store.epoch, self._store.world()))

    def deposed(self, life: int) -> None:
        """Its lease is gone, or the store refused its epoch."""
        if life != self.life or self._lease is None:
            return
        lease, self._lease = self._lease, None
        self._queue.clear()
        self.when_running(lambda: self._step(ev.Deposed()))
        if not lease.gone and self.reaches_store:
            self._store.revoke(lease)
        self.campaign()

    def lease_lost(self, lease: Lease) -> None:
        """The store ended the leader's lease."""
        if self._lease is lease and self.working:
            self.later(LOOK, lambda: self.deposed(self.life))

    # --- actions -----------------------------------------------------------------------------------------------------------

    def _do(self, action: act.Action, epoch: int, words: Sequence[Word]) -> None:
        match action:
            case act.StartCall() if action.recovery is None:
                self._hands.try_call(action, epoch)
            case act.Commit() | act.StartCall():
                self._queue.append((action, epoch))
                self._write_next()
            case act.ReadPower() | act.Probe() | act.ReadService() | act.ReadInventory() | act.ReadInstance():
                self._hands.read(action)
            case act.Say(level, subject, text):
                self._world.output.line(subject, text, level)
            case act.Page(subject, text):
                self._world.output.line(subject, text, "PAGE")
        if not isinstance(action, (act.Commit, act.StartCall)):
            for word in words:
                self._world.output.done(word)

    # --- the journal ---------------------------------------------------------------------------------------------------------

    def _write_next(self) -> None:
        if self._queue and not self._writing:
            self._writing = True
            action, epoch = self._queue[0]
            self.later(self._physics.store_latency, lambda: self._arrives(action, epoch))

    def written(self, after: float, then: Callable[[], None]) -> None:
        """The head of the queue is answered, after a while."""

        def answered() -> None:
            self._writing = False
            if self._queue:
                self._queue.popleft()
            then()
            self._write_next()

        self.later(after, answered)

    def _arrives(self, action: act.Commit | act.StartCall, epoch: int) -> None:
        if isinstance(action, act.StartCall):
            self._hands.try_call(action, epoch, queued=True)
            return
        lag = self._physics.store_latency
        if not self.reaches_store:
            self._unanswered(action)
            return
        try:
            revision = self._store.commit(epoch, action)
        except LeadershipLost:
            self.written(lag, lambda: self.deposed(self.life))
        except StoreConflict as e:
            text = str(e)
            self.written(lag, lambda: self.give(ev.NotCommitted(action.token, True, text)))
        else:
            self.written(lag, lambda: self.give(ev.Committed(action.token, revision)))
            for word in of_action(action):
                self._world.output.done(word)

    def _unanswered(self, action: act.Commit) -> None:
        """No answer: a decision is given up, anything else is written again."""
        if action.once:
            self.written(TIMEOUT, lambda: self.give(ev.NotCommitted(action.token, False, "etcd did not answer")))
            return

        def again() -> None:
            self._writing = False
            self._write_next()

        self.later(TIMEOUT + PAUSE, again)
