"""Shared by the tests of the store: sinks that record, accounts of facts, waiting."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from vmha.ports import Change, Item, Snapshot


class Recorder:
    """A sink that keeps what the cache would hold, and everything it was told.  Fails when it is called by two at once."""

    def __init__(self) -> None:
        self.state: dict[str, Item] = {}
        self.revision = 0
        self.told: list[str] = []  # "snapshot", "changes", "not_ready"
        self.reasons: list[str] = []
        self.all: list[Change] = []
        self.faults: list[str] = []
        self.ready = False
        self._calling = threading.Lock()

    def snapshot(self, snapshot: Snapshot) -> None:
        self._alone()
        self.state = dict(snapshot.items)
        self.revision = snapshot.revision
        self.ready = True
        self.told.append("snapshot")
        self._calling.release()

    def changes(self, changes: Sequence[Change]) -> None:
        self._alone()
        for change in changes:
            if change.revision < self.revision:
                self.faults.append(f"{change.key}: revision {change.revision} after {self.revision}")
            self.revision = change.revision
            if change.item is None:
                self.state.pop(change.key, None)
            else:
                self.state[change.key] = change.item
        if not self.ready:
            self.faults.append("changes while not ready")
        self.all.extend(changes)
        self.told.append("changes")
        self._calling.release()

    def not_ready(self, reason: str) -> None:
        self._alone()
        self.ready = False
        self.reasons.append(reason)
        self.told.append("not_ready")
        self._calling.release()

    def _alone(self) -> None:
        if not self._calling.acquire(blocking=False):
            self.faults.append("called by two threads at once")
            self._calling.acquire()
