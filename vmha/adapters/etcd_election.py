"""Claiming a key on a lease: leadership and locks are both this.

The key is created by a transaction that compares "absent", on the claimer's own lease; its create revision tells this claim from all
others (for ``controller/leader``: the epoch).  Who waits sees the deletion through a watch and tries at once: no polling, no
random sleep.  While claimed, the watch goes on, so that a key deleted by someone else is noticed as well.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from typing import Protocol

from vmha.errors import StoreConflict, StoreUnavailable
from vmha.ports import Change, Item, Lease, Snapshot, Store, Watch
from vmha.wire.keys import LEADER, part

LOG = logging.getLogger(__name__)
STOP_LOOK = 0.1  # seconds between looks at the caller's stop while nothing changes
RETRY_PAUSE = 0.2


class Stop(Protocol):
    """What ``threading.Event`` has and a deadline can have."""

    def is_set(self) -> bool: ...


class KeySink:
    """What a watch tells of one key: its create revision (0: absent) as of a revision of the store."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._changed = threading.Condition()
        self._created: int | None = None  # None: not known
        self._as_of = 0
        self._news = 0

    def snapshot(self, snapshot: Snapshot) -> None:
        self._set(snapshot.items.get(self._key), snapshot.revision)

    def changes(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.key == self._key:
                self._set(change.item, change.revision)

    def not_ready(self, reason: str) -> None:
        with self._changed:
            self._created = None

    def _set(self, item: Item | None, revision: int) -> None:
        with self._changed:
            self._created, self._as_of = (item.created if item else 0), revision
            self._news += 1
            self._changed.notify_all()

    def state(self) -> tuple[int | None, int, int]:
        """Create revision (0 absent, None not known), the store's revision it is from, and how often anything was told."""
        with self._changed:
            return self._created, self._as_of, self._news

    def wait(self, since: int, seconds: float) -> None:
        """Until more was told than ``since``, for at most ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: self._news > since, seconds)


class Claim:
    """A key claimed again and again.  ``claim`` and ``release`` from one thread, the rest from any."""

    def __init__(self, store: Store, key: str, value: bytes, ttl: float, renew_every: float) -> None:
        self._store = store
        self._key = key
        self._value = value
        self._ttl = ttl
        self._renew_every = renew_every
        self._sink = KeySink(key)
        self._watch: Watch | None = None
        self._held: tuple[Lease, int] | None = None  # lease and create revision of our key

    @property
    def created(self) -> int:
        """Create revision of the key we made last; 0 when released or never claimed."""
        held = self._held
        return held[1] if held else 0

    @property
    def lease_id(self) -> int:
        """The lease our key is on; 0 when released or never claimed."""
        held = self._held
        return held[0].id if held else 0

    def valid_until(self) -> float:
        """Clock time up to which the lease holds as far as etcd's answers tell; 0 when released or never claimed."""
        held = self._held
        return held[0].valid_until() if held else 0.0

    def lost(self) -> bool:
        """The claim cannot be relied on: never made or released, lease lost, or the key was seen gone or made by another."""
        held = self._held
        if held is None or held[0].lost():
            return True
        created, as_of, _ = self._sink.state()
        return created is not None and as_of >= held[1] and created != held[1]

    def claim(self, stop: Stop) -> bool:
        """Tries at least once; waits until the key is ours (True) or ``stop`` is set (False).  An earlier claim is released."""
        self.release()
        if self._watch is None:
            self._watch = self._store.watch(self._key, self._sink)
        while True:
            created, _, news = self._sink.state()
            if not created and self._attempt():
                return True
            if stop.is_set():
                return False
            self._sink.wait(news, STOP_LOOK if created else RETRY_PAUSE)
            if stop.is_set():
                return False

    def _attempt(self) -> bool:
        """One try.  After an unknown outcome the lease is given back: with it goes the key, also one that lands late."""
        try:
            lease = self._store.lease(self._ttl, self._renew_every)
        except StoreUnavailable as e:
            LOG.info("%s cannot be claimed now: %s", self._key, e)
            return False
        try:
            created = self._store.commit({self._key: self._value}, expect={self._key: 0}, lease=lease.id)
        except (StoreConflict, StoreUnavailable) as e:
            LOG.info("%s was not claimed: %s", self._key, e)
            _give_back(lease)
            return False
        self._held = (lease, created)
        return True

    def release(self) -> None:
        """Give the key back, at once where etcd answers, else when its lease ends."""
        held, self._held = self._held, None
        if held is not None:
            _give_back(held[0])

    def close(self) -> None:
        """Release, and end the watch."""
        self.release()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None


def _give_back(lease: Lease) -> None:
    try:
        lease.revoke()
    except StoreUnavailable as e:
        LOG.info("lease %x could not be given back, it ends by itself: %s", lease.id, e)


class Election:
    """Leadership among the controllers: who holds ``controller/leader``.

    The epoch fences store writes only (``commit(..., epoch=...)``); outside calls obey safety.md section 4.  ``lost`` may be late by a
    lease's length when etcd is away; a deposed leader's commits are refused all the same.
    """

    def __init__(self, store: Store, member_name: str, ttl: float = 2.0, renew_every: float = 0.5) -> None:
        value = {"v": 1, "member": part(member_name), "pid": os.getpid()}
        self._claim = Claim(store, LEADER, json.dumps(value, separators=(",", ":")).encode(), ttl, renew_every)

    def campaign(self, stop: Stop) -> int | None:
        """Waits until this member leads and returns the new epoch; None when ``stop`` was set first."""
        if stop.is_set() or not self._claim.claim(stop):
            return None
        return self._claim.created

    @property
    def epoch(self) -> int:
        """The epoch of our last leadership; 0 when resigned or never elected.  Ask ``lost`` whether it still holds."""
        return self._claim.created

    @property
    def lease_id(self) -> int:
        """For the parent process that gives it back once this process is dead (``EtcdStore.revoke``)."""
        return self._claim.lease_id

    def valid_until(self) -> float:
        return self._claim.valid_until()

    def lost(self) -> bool:
        return self._claim.lost()

    def resign(self) -> None:
        """Give leadership back at once; another ``campaign`` may follow."""
        self._claim.release()

    def close(self) -> None:
        """Resign and end the watch."""
        self._claim.close()
