"""Wires one controller: adapters, engine, loop.  Runs in the child that ``guard`` watches over."""

from __future__ import annotations

import logging
import queue
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from oslo_config import cfg

from vmha.adapters.beats import BeatReceiver
from vmha.adapters.etcd import BootClock, EtcdStore
from vmha.adapters.etcd_election import Election
from vmha.adapters.fence_agents import FenceAgents
from vmha.adapters.fence_devices import load
from vmha.adapters.icmp import Icmp
from vmha.adapters.notifier import LogNotifier
from vmha.adapters.nova import Nova
from vmha.conf import base, controller, engine, etcd
from vmha.controller import guard
from vmha.controller.arbiter import Arbiter
from vmha.controller.beats import Ear
from vmha.controller.dispatch import Dispatcher
from vmha.controller.intake import SeenPages
from vmha.controller.journal import Journal
from vmha.controller.leadership import Leadership
from vmha.controller.loop import Loop, StoreSink
from vmha.controller.recorder import Recorder
from vmha.core import events as ev
from vmha.core.engine import Engine
from vmha.core.settings import Settings
from vmha.errors import StoreUnavailable
from vmha.wire import keys

LOG = logging.getLogger(__name__)
SWITCH = 0.0005  # seconds that a busy thread keeps the interpreter: a large listing must not make the loop deaf


@dataclass(frozen=True, slots=True)
class Configuration:
    """All settings of a controller, checked."""

    base: base.BaseSettings
    etcd: etcd.EtcdSettings
    controller: controller.ControllerSettings
    core: Settings


def configuration(conf: cfg.ConfigOpts) -> Configuration:
    """Read and check everything before anything starts.  BadConfig."""
    checked = controller.settings(conf)
    load(checked.fencing_file)
    return Configuration(base.settings(conf), etcd.settings(conf), checked, engine.settings(conf))


def store_of(c: Configuration) -> EtcdStore:
    e = c.etcd
    return EtcdStore(e.endpoints, user=e.user, password=e.password, ca=e.ca, cert=e.cert, key=e.key)


def run(c: Configuration) -> int:
    """Until a signal ends it; the exit status."""
    return guard.watch_over(lambda tell: lead(c, tell), lambda lease: give_back(c, lease))


def give_back(c: Configuration, lease: int) -> None:
    """End the dead leader's lease, so that a follower takes over now."""
    try:
        store_of(c).revoke(lease)
        LOG.info("the leader has ended; its lease %x was given back", lease)
    except StoreUnavailable as e:
        LOG.warning("the leader has ended; its lease %x ends by itself: %s", lease, e)


def lead(c: Configuration, tell_lease: Callable[[int], None]) -> int:
    """One controller, in this process, until SIGTERM."""
    sys.setswitchinterval(SWITCH)
    clock = BootClock()
    store = store_of(c)
    events: queue.SimpleQueue[ev.Event | None] = queue.SimpleQueue()
    ear = Ear(c.core.silence, events.put)
    receiver = BeatReceiver(c.controller.listen, c.base.deployment_key, clock, ear)
    fencer = FenceAgents(load(c.controller.fencing_file), clock)
    nova = Nova(**c.controller.nova, clock=clock)  # type: ignore[arg-type]
    journal = Journal(store, events.put)
    dispatcher = Dispatcher(c.core, clock, journal, fencer, Icmp(clock), nova, LogNotifier(), events.put)
    recorder = recorder_of(c)
    loop = Loop(Engine(c.core), clock, events, ear, receiver.heard_until, dispatcher.do, recorder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    election = Election(store, c.controller.name, c.core.leader_lease, c.core.leader_renew)
    leadership = Leadership(store, election, events.put, journal, tell_lease)
    pages = SeenPages()
    arbiter = Arbiter(store, c.controller.name, StoreSink(events.put, pages))
    watch = store.watch(keys.PREFIX, arbiter, pages)
    leadership.start()
    LOG.info(
        "controller %s hears beats on %s",
        c.controller.name,
        ", ".join(f"{n} {a}:{p}" for n, a, p in c.controller.listen),
    )
    try:
        loop.run()
    finally:
        leadership.close()
        watch.stop()
        for part in (arbiter, dispatcher, journal, receiver, nova, fencer, recorder):
            if part is not None:
                part.close()
    return 0


def recorder_of(c: Configuration) -> Recorder | None:
    """What writes the engine's journal; None where none is wanted."""
    told = c.controller
    return Recorder(told.journal_file, told.journal_size << 20, told.name) if told.journal_file else None
