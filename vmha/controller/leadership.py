"""Campaigns, tells the loop of election and loss, and reads the world afresh in between.

One thread.  The world that a new leader starts from is read linearizably after the election; while it cannot be read, nothing
is decided.  Leadership ends when the lease may have ended by our own clock, or when the store refuses a write of our epoch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from vmha.controller import intake
from vmha.core import events as ev
from vmha.errors import StoreUnavailable
from vmha.ports import Store
from vmha.wire import keys

LOG = logging.getLogger(__name__)
LOOK = 0.1  # seconds between two looks at our own lease: no question to etcd
PAUSE = 0.5


class Election(Protocol):
    """What is needed of an election; see ``vmha.adapters.etcd_election``."""

    def campaign(self, stop: threading.Event) -> int | None: ...

    @property
    def lease_id(self) -> int: ...

    def lost(self) -> bool: ...

    def resign(self) -> None: ...

    def close(self) -> None: ...


class Writer(Protocol):
    """What writes in the name of an epoch; see ``vmha.controller.journal``."""

    refused: int

    def lead(self, epoch: int) -> None: ...


class Leadership:
    """``writer`` is told the epoch, and 0 when it ends; ``leased(lease id)`` is called as soon as a lease is held."""

    def __init__(
        self,
        store: Store,
        election: Election,
        give: Callable[[ev.Event], None],
        writer: Writer,
        leased: Callable[[int], None],
    ) -> None:
        self._store, self._election = store, election
        self._give, self._writer, self._leased = give, writer, leased
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Resign, so that a follower takes over at once."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._election.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._term()
            except StoreUnavailable as e:
                LOG.warning("cannot campaign: %s", e)
                self._stop.wait(PAUSE)
            except Exception:
                LOG.exception("the campaign failed")
                self._stop.wait(PAUSE)

    def _term(self) -> None:
        """From the campaign to the end of the leadership that it won."""
        epoch = self._election.campaign(self._stop)
        if epoch is None:
            return
        self._leased(self._election.lease_id)
        try:
            world = self._world(epoch)
            if world is not None:
                LOG.info("elected, epoch %d", epoch)
                self._writer.lead(epoch)
                self._give(ev.Elected(epoch, world))
                self._reign(epoch)
        finally:
            self._writer.lead(0)
            self._give(ev.Deposed())
            self._election.resign()

    def _over(self, epoch: int) -> bool:
        return self._stop.is_set() or self._writer.refused >= epoch or self._election.lost()

    def _world(self, epoch: int) -> ev.World | None:
        """Everything the store holds, as soon as it can be read; None when the leadership ended before."""
        while not self._over(epoch):
            try:
                # what agents saw of their domains comes by the watch: followers have it, and it is large
                listed = self._store.list(keys.PREFIX, without=keys.INSTANCES)
                return intake.world(listed.items, listed.revision)
            except StoreUnavailable as e:
                LOG.warning("elected, but the store cannot be read: %s", e)
        return None

    def _reign(self, epoch: int) -> None:
        while not self._over(epoch):
            self._stop.wait(LOOK)
        LOG.warning("leadership of epoch %d is over", epoch)
