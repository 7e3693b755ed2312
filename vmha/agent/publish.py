"""Brings what the agent knows into the store, whatever happens to the store meanwhile.

Level, not edges: the engine says what should stand there, a thread of its own makes it so.  While the store is away the wish only
changes; when it is back the present truth is written, and nothing needs to be remembered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from vmha.errors import StoreRefused, StoreUnavailable
from vmha.ports import Lease, Store
from vmha.wire import keys

LOG = logging.getLogger(__name__)

BATCH = 100  # operations of one transaction; etcd takes 128
LOOK = 0.25  # seconds between looks at the lease
PAUSE = (0.2, 3.0)  # seconds after a failure: first, longest


class Publisher:
    """Writes ``hosts/<host>/alive`` on a lease and ``instances/<host>/<uuid>``, each only when it differs.

    A lost lease is replaced by a new one and the registration written again.  The lease is never given back: a
    restarted agent overwrites the registration within its TTL, so a quick restart leaves no gap that anybody sees.
    """

    def __init__(self, store: Store, host: str, ttl: float, renew_every: float) -> None:
        self._store = store
        self._alive_key = keys.alive(host)
        self._prefix = f"{keys.INSTANCES}{keys.part(host)}/"
        self._ttl, self._renew_every = ttl, renew_every
        self._wish = threading.Condition()
        self._alive: bytes | None = None
        self._instances: Mapping[str, bytes] = {}
        self._complete = False
        self._stopping = False
        self._changes = 0  # wishes so far
        self._done = 0  # of these, those that stand in the store
        # known to the thread only
        self._lease: Lease | None = None
        self._alive_written: bytes | None = None
        self._written: dict[str, bytes] | None = None  # None: not known
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self._thread.start()

    def alive(self, value: bytes) -> None:
        """The registration should read ``value``."""
        with self._wish:
            if value != self._alive:
                self._alive = value
                self._changed()

    def instances(self, wanted: Mapping[str, bytes], complete: bool) -> None:
        """The instances' keys should be ``wanted`` (key to value); other keys of this host go when it is ``complete``."""
        with self._wish:
            if wanted != self._instances or complete != self._complete:
                self._instances, self._complete = dict(wanted), complete
                self._changed()

    def _changed(self) -> None:
        self._changes += 1
        self._wish.notify()

    def settled(self) -> bool:
        """Everything wished so far stands in the store."""
        with self._wish:
            return self._done == self._changes

    def stop(self) -> None:
        """End the thread; the lease runs out by itself."""
        with self._wish:
            self._stopping = True
            self._wish.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        pause = PAUSE[0]
        away = ""
        while True:
            with self._wish:
                if not self._stopping and self._done == self._changes:
                    self._wish.wait(LOOK)
                if self._stopping:
                    return
                wish = self._changes
            try:
                self._bring()
            except StoreUnavailable as e:
                self._written = None  # a lost answer may be of a write that happened
                if not away:
                    LOG.warning("the store does not take this host's state, trying again: %s", e)
                away, pause = str(e), min(pause * 2, PAUSE[1])
                self._wait(pause)
            except Exception:
                LOG.exception("publishing failed, trying again")
                self._wait(PAUSE[1])
            else:
                if away:
                    LOG.info("the store takes this host's state again")
                away, pause = "", PAUSE[0]
                with self._wish:
                    self._done = wish

    def _wait(self, pause: float) -> None:
        with self._wish:
            self._wish.wait_for(lambda: self._stopping, timeout=pause)

    def _bring(self) -> None:
        with self._wish:
            alive, instances, complete = self._alive, self._instances, self._complete
            changed = self._done != self._changes
        if alive is not None:
            self._register(alive)
        if changed or self._written is None:
            self._bring_instances(instances, complete)

    def _register(self, alive: bytes) -> None:
        if self._lease is None or self._lease.lost():
            self._lease = self._store.lease(self._ttl, self._renew_every)
            self._alive_written = None
        if self._alive_written != alive:
            try:
                self._store.commit({self._alive_key: alive}, lease=self._lease.id)
            except StoreRefused:
                self._lease = None  # it may be the lease that is gone
                raise
            self._alive_written = alive

    def _bring_instances(self, wanted: Mapping[str, bytes], complete: bool) -> None:
        if self._written is None:
            self._written = {key: item.value for key, item in self._store.list(self._prefix).items.items()}
        written = self._written
        differing = [key for key, value in wanted.items() if written.get(key) != value]
        differing += [key for key in written if key not in wanted] if complete else []
        for at in range(0, len(differing), BATCH):
            batch = differing[at : at + BATCH]
            puts = {key: wanted[key] for key in batch if key in wanted}
            gone = [key for key in batch if key not in wanted]
            self._store.commit(puts, gone)
            written.update(puts)
            for key in gone:
                del written[key]
