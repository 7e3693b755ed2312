"""The acknowledgements of the arbiter, the one controller that votes where the hosts are even (safety.md section 1).

Hosts acknowledge on their beats; a controller sends none, so it writes what it has applied to ``acknowledged/<name>``, where whoever
leads reads it.  Level, not edges: the thread writes the newest, also after etcd was away.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence

from vmha.controller import intake
from vmha.core.model import Voters
from vmha.core.voters import lists
from vmha.errors import BadRecord, StoreUnavailable
from vmha.ports import Change, Item, Sink, Snapshot, Store
from vmha.wire import keys, records

LOG = logging.getLogger(__name__)
PAUSE = 0.5  # seconds between two tries


class Arbiter:
    """A watch's sink in front of ``sink``: the same is passed on, and what it shows of the lists is acknowledged under ``name``."""

    def __init__(self, store: Store, name: str, sink: Sink) -> None:
        self._store, self._name, self._sink = store, name, sink
        self._voters: Voters | None = None
        self._applied = 0
        self._wish = threading.Condition()
        self._wanted: tuple[int, int] | None = None
        self._written: tuple[int, int] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="arbiter", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._wish:
            self._stopping = True
            self._wish.notify()
        self._thread.join(timeout=5)

    # --- the watch's thread ----------------------------------------------------------------------------------------

    def snapshot(self, snapshot: Snapshot) -> None:
        self._sink.snapshot(snapshot)
        self._know(snapshot.items.get(keys.VOTERS))
        self._apply(snapshot.revision)

    def changes(self, changes: Sequence[Change]) -> None:
        self._sink.changes(changes)
        for change in changes:
            if change.key == keys.VOTERS:
                self._know(change.item)
                self._apply(self._applied)
            elif change.key.startswith(keys.CONDEMNED):
                self._apply(change.revision)

    def not_ready(self, reason: str) -> None:
        self._sink.not_ready(reason)

    def _know(self, item: Item | None) -> None:
        try:
            self._voters = intake.decode(Voters, item) if item is not None else None
        except BadRecord as e:
            LOG.error("the list of voters stays as it was known: %s", e)

    def _apply(self, revision: int) -> None:
        self._applied = max(self._applied, revision)
        voters = self._voters
        if voters is None or not any(self._name in names for names in lists(voters)):
            return
        with self._wish:
            self._wanted = (voters.revision, self._applied)
            self._wish.notify()

    # --- the writer ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wish:
                self._wish.wait_for(lambda: self._stopping or self._wanted != self._written)
                if self._stopping:
                    return
                wanted = self._wanted
            assert wanted is not None
            if self._write(wanted):
                self._written = wanted
            else:
                with self._wish:
                    self._wish.wait_for(lambda: self._stopping, timeout=PAUSE)

    def _write(self, wanted: tuple[int, int]) -> bool:
        value = {"v": records.VERSION, "voters": wanted[0], "condemned": wanted[1]}
        try:
            self._store.commit({keys.acknowledged(self._name): json.dumps(value).encode()})
        except StoreUnavailable as e:
            LOG.warning("what this arbiter has applied is not acknowledged yet: %s", e)
            return False
        return True
