"""The controller's one loop: takes facts from a queue, steps the engine, hands its actions out.  One thread owns the engine.

Adapters put events in from their own threads; the loop sleeps until the next event or the engine's next deadline.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from vmha.controller import intake
from vmha.controller.beats import Ear
from vmha.controller.memory import give_back
from vmha.controller.recorder import Recorder
from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.engine import Engine
from vmha.ports import Change, Clock, Snapshot
from vmha.wire import keys

LOG = logging.getLogger(__name__)
SOON = 0.005  # the loop's grain in seconds
IDLE = 1.0


class Loop:
    """``events`` takes facts from any thread (None ends it); ``do(action, epoch)`` gets what is decided."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        events: queue.SimpleQueue[ev.Event | None],
        ear: Ear,
        heard_until: Callable[[float], float],
        do: Callable[[act.Action, int], None],
        recorder: Recorder | None = None,
    ) -> None:
        self.engine, self._recorder = engine, recorder
        self._clock, self._queue, self._do = clock, events, do
        self._ear, self._heard_until = ear, heard_until
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()
        self._queue.put(None)

    def run(self) -> None:
        """Until ``stop``.  An error inside the engine ends it: another controller must take over from the journal."""
        planned = self._clock.now()
        while not self._stop.is_set():
            event = self._next(planned)
            now = self._clock.now()
            for silent in self._ear.silent(now, self._heard_until(now), planned):
                self._step(silent, now)
            if event is not None:
                self._step(event, now)
            self._step(ev.Tick(), now)
            planned = self._plan(self._clock.now())

    def _next(self, until: float) -> ev.Event | None:
        try:
            return self._queue.get(timeout=max(0.0, until - self._clock.now()))
        except queue.Empty:
            return None

    def _plan(self, now: float) -> float:
        """When to look again at the latest."""
        due = [t for t in (self._ear.deadline(), self.engine.next_deadline()) if t is not None]
        return max(now + SOON, min(due, default=now + IDLE))

    def _step(self, event: ev.Event, now: float) -> None:
        engine, wall = self.engine, self._clock.wall()
        recorder = self._recorder
        for action in recorder.step(engine, event, now, wall) if recorder else engine.step(event, now, wall):
            self._do(action, engine.epoch)


class StoreSink:
    """The watched cache's ear: snapshots and changes become events."""

    def __init__(self, give: Callable[[ev.Event], None], pages: intake.SeenPages) -> None:
        self._give, self._pages = give, pages

    def snapshot(self, snapshot: Snapshot) -> None:
        world = intake.world(snapshot.items, snapshot.revision)
        unreadable = (*world.unreadable, *self._pages.unreadable)
        self._give(ev.StoreSnapshot(replace(world, seen=self._pages.hand_over(), unreadable=unreadable)))
        for key, item in snapshot.items.items():
            acked = intake.acknowledgement(item) if key.startswith(keys.ACKNOWLEDGED) else None
            if acked is not None:
                self._give(acked)
        give_back()

    def changes(self, changes: Sequence[Change]) -> None:
        for event in intake.changes(changes):
            self._give(event)

    def not_ready(self, reason: str) -> None:
        LOG.warning("the watch of etcd is not fresh: %s", reason)
        self._give(ev.StoreDoubt(reason))
