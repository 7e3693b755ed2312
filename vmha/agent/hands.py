"""Threads that do slow work for the engine, which itself never waits for libvirt, etcd or a process."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """The work of the hand ``name`` ended by a fault of vmha, which is in the log."""

    name: str


class Hand:
    """One thread for one kind of work; what the work returns is posted to the engine.  One piece of work at a time."""

    def __init__(self, name: str, post: Callable[[object], None]) -> None:
        self.name = name
        self.busy = False  # the engine's view: set by ``do``, reset by the engine when the result arrives
        self._post = post
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=f"hand-{name}", daemon=True).start()

    def do(self, work: Callable[[], object]) -> bool:
        """Start the work; False when the hand is still busy with earlier work."""
        if self.busy:
            return False
        self.busy = True
        self._work.put(work)
        return True

    def close(self) -> None:
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._post(work())
            except Exception:
                LOG.exception("the agent's work %r failed", self.name)
                self._post(Failed(self.name))
