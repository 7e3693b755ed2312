"""The agent's engine: one thread with a queue.  Adapters and hands post events; nothing here waits for anything else.

What it keeps true: the gate follows ``vmha.core.word``; the store holds the host's registration and its instances as they are; a
condemned host clears itself and says so; vmha-beat runs and hears a sign of life each second from this very thread.
"""

from __future__ import annotations

import logging
import queue
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from vmha.agent.attach import BeatProcess
from vmha.agent.compute import restart
from vmha.agent.gate import GateFile, UnprotectedList
from vmha.agent.hands import Failed, Hand
from vmha.agent.lists import CondemnedChanged, CondemnedListed, CondemnedSink, Lists, VotersSeen, voters_seen
from vmha.agent.look import Look, clear, look, word
from vmha.agent.publish import Publisher
from vmha.agent.watched import CondemnedSeen, KeySink, UnprotectedSeen, condemned_seen, unprotected_seen
from vmha.core import word as gates
from vmha.core.model import FENCED, HostAlive, InstanceSeen, Word
from vmha.core.word import Found, GateAction
from vmha.errors import StoreUnavailable
from vmha.ports import Clock, Domain, Hypervisor, Processes, Store
from vmha.wire import keys, records

LOG = logging.getLogger(__name__)

TICK = 1.0  # seconds between signs of life
ASK_PAUSE = (1.0, 5.0)  # seconds before a question is asked again: first, longest
LOOK_AGAIN = 1.0  # seconds between looks while something is unknown, or left to clear
LOOK_EVERY = 60.0  # a look without any reason, should an event ever be lost
HOOK_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine needs to know; seconds.

    ``word`` is T of safety.md.
    """

    host: str
    boot: str
    addresses: Mapping[str, str]
    lease_ttl: float = 9.0
    lease_renew: float = 3.0
    word: float = 9.0
    versions: Mapping[str, str] = field(default_factory=dict)
    memory_mib: int = 0  # of this machine
    vcpus: int = 0
    restart_compute: str = ""  # command that restarts nova-compute; empty: none


@dataclass(frozen=True, slots=True)
class DomainChanged:
    domain: Domain | None
    uuid: str


@dataclass(frozen=True, slots=True)
class Attached:
    fault: str


@dataclass(frozen=True, slots=True)
class HookChecked:
    fault: str


@dataclass(frozen=True, slots=True)
class Cleared:
    pass


@dataclass(frozen=True, slots=True)
class Restarted:
    """nova-compute was started anew, for the leader's request of this number, or the fault that kept it from it."""

    asked: int
    fault: str


class Agent:
    """The agent of one host, until ``stop``.  ``hypervisor`` None: a host that runs no instances.

    ``hook_fault`` says why the libvirt hook is not in effect, or "".
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        hypervisor: Hypervisor | None,
        processes: Processes,
        beat: BeatProcess,
        gate_file: GateFile,
        unprotected: UnprotectedList,
        lists: Lists,
        hook_fault: Callable[[], str],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._hypervisor = hypervisor
        self._processes = processes
        self._beat = beat
        self._gate_file = gate_file
        self._unprotected = unprotected
        self._lists = lists
        self._hook_fault = hook_fault
        self._clock = clock
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._run_id = uuid.uuid4().hex
        self._gate = gates.Gate(settings.word)
        self._word: Word | None = None
        self._shut_at = 0.0
        self._ask_at: float | None = None
        self._ask_pause = ASK_PAUSE[0]
        self._domains: dict[str, Domain] = {}
        self._complete = False
        self._look_at: float | None = None
        self._look_again = False  # something changed while a look was on its way
        self._restarts_done = 0  # of the present condemnation
        self._restarted = (0, 0)  # condemnation and count of the last restart of nova-compute that was carried out
        self._fenced: frozenset[str] = frozenset()  # condemned: domains that ran and were destroyed for that
        self._stale: frozenset[str] = frozenset()  # condemned: instances that live elsewhere now
        self._beating = False
        self._troubles: dict[str, str] = {}
        self._hook: str | None = None  # not checked yet
        self._hook_at = 0.0
        self._tick_at = 0.0
        self._stopping = False
        self._hands = {
            name: Hand(name, self._queue.put) for name in ("ask", "look", "clear", "attach", "hook", "restart")
        }
        self._publisher: Publisher | None = None

    def stop(self) -> None:
        """End ``run``; for signal handlers and other threads."""
        self._stopping = True
        self._queue.put(None)

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """The engine.  ``ready`` is called once the gate is as it should be, which waits for nobody.

        It ends with the beat process running, the gate as it is and the lease running out by itself: a restarted agent
        takes all three over, and only an agent that stays away is missed (beats go on, without progress).
        """
        self._step(gates.Started(self._gate_file.is_open()))
        ready()
        host = self._settings.host
        self._publisher = Publisher(self._store, host, self._settings.lease_ttl, self._settings.lease_renew)
        own = KeySink(keys.condemned(host), condemned_seen, self._queue.put)
        watches = [
            self._store.watch(keys.CONDEMNED, CondemnedSink(own, self._queue.put)),
            self._store.watch(keys.VOTERS, KeySink(keys.VOTERS, voters_seen, self._queue.put)),
            self._store.watch(
                keys.unprotected(host), KeySink(keys.unprotected(host), unprotected_seen, self._queue.put)
            ),
        ]
        self._look_at = self._clock.now()
        if self._hypervisor is not None:
            self._hypervisor.subscribe(lambda domain, changed: self._queue.put(DomainChanged(domain, changed)))
        while not self._stopping:
            self._wait_and_take()
        for watch in watches:
            watch.stop()
        self._publisher.stop()
        for hand in self._hands.values():
            hand.close()

    # --- the queue and the time ------------------------------------------------------------------------------------

    def _wait_and_take(self) -> None:
        due = min(t for t in (self._tick_at, self._ask_at, self._look_at, self._hook_at) if t is not None)
        try:
            event = self._queue.get(timeout=max(0.0, due - self._clock.now()))
        except queue.Empty:
            event = None
        if event is not None:
            self._take(event)
        self._on_time(self._clock.now())
        self._publish_alive()

    def _on_time(self, now: float) -> None:
        if now >= self._tick_at:
            self._tick_at = now + TICK
            self._live(now)
        if self._ask_at is not None and now >= self._ask_at:
            self._ask()
        if self._look_at is not None and now >= self._look_at:
            self._look(now)
        if now >= self._hook_at:
            self._hook_at = now + HOOK_EVERY
            self._hands["hook"].do(lambda: HookChecked(self._hook_fault()))

    def _live(self, now: float) -> None:
        self._beating = self._beat.progress(*self._lists.acknowledged())
        if not self._beating:
            self._hands["attach"].do(lambda: Attached(self._beat.attach()))

    def _take(self, event: object) -> None:
        match event:
            case DomainChanged():
                self._changed(event)
            case Look():
                self._hands["look"].busy = False
                self._looked(event)
            case gates.Answered():
                self._hands["ask"].busy = False
                self._step(event)
            case CondemnedSeen(revision, undefine, restart):
                self._restart_compute(revision, restart)
                if undefine - self._stale:
                    self._look_at = self._clock.now()
                self._stale = undefine
                self._step(gates.SeenCondemned(revision) if revision else gates.SeenReleased())
            case CondemnedListed() | CondemnedChanged() | VotersSeen():
                if self._lists.take(event) and self._beating:
                    self._beating = self._beat.progress(*self._lists.acknowledged())
            case UnprotectedSeen(uuids):
                self._new_unprotected(uuids)
            case Attached(fault):
                self._hands["attach"].busy = False
                self._attached(fault)
            case HookChecked(fault):
                self._hands["hook"].busy = False
                self._told("hook", f"this host is not protected: {fault}" if fault else "")
                self._hook = fault
            case Restarted(asked, fault):
                self._hands["restart"].busy = False
                if fault:
                    LOG.error("nova-compute could not be restarted: %s", fault)
                else:
                    self._restarts_done = asked
                    LOG.info("nova-compute was restarted, as the leader asked")
            case Cleared():
                self._hands["clear"].busy = False
                self._look_at = self._clock.now()
            case Failed(name):
                self._hands[name].busy = False
                self._after_fault(name)

    def _after_fault(self, name: str) -> None:
        """A hand's work ended by a fault of ours: do it again after a pause."""
        later = self._clock.now() + LOOK_EVERY / 10
        if name in ("look", "clear"):
            self._look_at = later
        elif name == "ask":
            self._ask_at = later

    # --- the gate --------------------------------------------------------------------------------------------------

    def _step(self, event: gates.GateEvent) -> None:
        before = self._gate
        self._gate, actions = gates.advance(self._gate, event)
        for action in actions:
            self._act(action)
        if self._gate.open != before.open or self._gate.condemned != before.condemned:
            condemned = f", condemned at revision {self._gate.condemned}" if self._gate.condemned else ""
            LOG.warning("the gate is %s%s (%s)", "open" if self._gate.open else "shut", condemned, event)

    def _act(self, action: GateAction) -> None:
        now = self._clock.now()
        match action:
            case GateAction.ASK:
                self._ask_at, self._ask_pause = now, ASK_PAUSE[0]
            case GateAction.ASK_LATER:
                self._ask_at = now + self._ask_pause
                self._ask_pause = min(self._ask_pause * 2, ASK_PAUSE[1])
            case GateAction.OPEN:
                self._gate_file.open()
            case GateAction.SHUT:
                self._gate_file.shut()
                self._shut_at = self._clock.now()
            case GateAction.WITHDRAW:
                self._word, self._fenced, self._restarts_done = None, frozenset(), 0
            case GateAction.CLEAR:
                self._look_at = now

    def _ask(self) -> None:
        if self._hands["ask"].busy:  # its answer decides when to ask again; an older question's never counts
            self._ask_at = self._clock.now() + ASK_PAUSE[0]
            return
        self._ask_at = None
        asked = self._clock.now()
        self._step(gates.Asked(asked))
        self._hands["ask"].do(lambda: self._question(asked))

    def _question(self, asked: float) -> gates.Answered:
        """In the hand's thread: a linearizable read, begun after ``asked``."""
        try:
            item = self._store.get(keys.condemned(self._settings.host))
        except StoreUnavailable as e:
            LOG.info("whether this host is condemned is not known: %s", e)
            return gates.Answered(asked, self._clock.now(), Found.UNKNOWN)
        if item is None:
            return gates.Answered(asked, self._clock.now(), Found.ABSENT)
        return gates.Answered(asked, self._clock.now(), Found.CONDEMNED, item.created)

    def _new_unprotected(self, uuids: frozenset[str]) -> None:
        self._unprotected.save(uuids)
        if self._gate.condemned:
            self._look_at = self._clock.now()

    # --- domains ---------------------------------------------------------------------------------------------------

    def _changed(self, event: DomainChanged) -> None:
        self._look_again = self._hands["look"].busy
        if not event.uuid:
            self._look_at = self._clock.now()
            return
        if event.domain is None:
            self._domains.pop(event.uuid, None)
        else:
            self._domains[event.uuid] = event.domain
        if self._gate.condemned:
            self._look_at = self._clock.now()
        self._publish_instances()

    def _look(self, now: float) -> None:
        self._look_at = now + LOOK_EVERY
        if not self._hands["look"].do(lambda: look(self._hypervisor, self._processes, now)):
            self._look_again = True

    def _looked(self, seen: Look) -> None:
        now = self._clock.now()
        if self._look_again:
            self._look_again, self._look_at = False, now
        if seen.domains is None:
            self._told("domains", f"which domains run is not known: {seen.why}")
            self._look_at = now + LOOK_AGAIN
            return
        self._told("domains", "")
        self._domains = {d.uuid: d for d in seen.domains}
        self._complete = True
        self._publish_instances()
        if self._gate.condemned and seen.began >= self._shut_at:
            self._say_and_clear(seen, now)

    def _restart_compute(self, revision: int, asked: int) -> None:
        """The leader asks, by a count within one condemnation, that nova-compute be started anew."""
        if asked and (revision, asked) > self._restarted:
            self._restarted = (revision, asked)
            self._hands["restart"].do(lambda: Restarted(asked, restart(self._settings.restart_compute)))

    def _say_and_clear(self, seen: Look, now: float) -> None:
        """Condemned, the gate was shut before the look: its outcome is the word, and what is left is cleared."""
        said = word(seen, self._unprotected.uuids, self._gate.condemned)
        if said is None:
            return
        if said != self._word:
            LOG.warning("this host is condemned; still there: %s", said)
        self._word, self._fenced = said, self._fenced | frozenset(said.active)
        stale = [u for u in said.defined if u in self._stale and u not in said.active]
        if self._hypervisor is not None and (said.active or stale):
            hypervisor = self._hypervisor
            self._hands["clear"].do(lambda: _cleared(hypervisor, said.active, stale))
        if said.active or said.processes or said.defined:
            self._look_at = min(self._look_at or now, now + LOOK_AGAIN)

    # --- what others see -------------------------------------------------------------------------------------------

    def _attached(self, fault: str) -> None:
        self._told("beat", fault)
        if not fault:
            LOG.info("attached to vmha-beat")
            self._beating = self._beat.progress(*self._lists.acknowledged())

    def _told(self, about: str, trouble: str) -> None:
        """Log a trouble when it begins or changes, not each time it is met again."""
        if trouble and trouble != self._troubles.get(about):
            LOG.error("%s; trying again", trouble)
        self._troubles[about] = trouble

    def _publish_instances(self) -> None:
        assert self._publisher is not None
        host, boot = self._settings.host, self._settings.boot
        wanted = {
            keys.instance(host, d.uuid): records.encode(InstanceSeen(host, d.uuid, boot, d.state, self._reason(d)))
            for d in self._domains.values()
        }
        self._publisher.instances(wanted, self._complete)

    def _reason(self, domain: Domain) -> str:
        return FENCED if domain.uuid in self._fenced and not domain.active else domain.reason

    def _publish_alive(self) -> None:
        assert self._publisher is not None
        if self._hook is None:
            return  # it is being checked: what is not known yet is not said
        s = self._settings
        self._publisher.alive(
            records.encode(
                HostAlive(
                    host=s.host,
                    boot=s.boot,
                    agent=self._run_id,
                    addresses=s.addresses,
                    gate="open" if self._gate.open else "shut",
                    hook=self._hook == "",
                    word=self._word,
                    beating=self._beating,
                    watches_domains=self._hypervisor is not None,
                    compute_restarts=self._restarts_done,
                    versions=s.versions,
                    memory_mib=s.memory_mib,
                    vcpus=s.vcpus,
                )
            )
        )


def _cleared(hypervisor: Hypervisor, destroy: Collection[str], undefine: Collection[str]) -> Cleared:
    clear(hypervisor, destroy, undefine)
    return Cleared()
