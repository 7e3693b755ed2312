"""Membership and locks of one process on etcd: ``vmha.ports.Coordination``.

Members' keys stand on one lease of the process; when it is lost (etcd away for longer than ``ttl``) a new one is taken and every
membership is written again.  A lock is a claim on a lease of its own: a lost lock is never taken again in silence.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping

from vmha.adapters.etcd_election import Claim
from vmha.errors import StoreConflict, StoreUnavailable
from vmha.ports import Lease, Store
from vmha.wire.keys import LOCKS, MEMBERS, part

LOG = logging.getLogger(__name__)
LOOK = 0.5  # seconds between looks at the lease: it lasts much longer


class Deadline:
    """A ``Stop`` that is set once ``seconds`` have passed."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def is_set(self) -> bool:
        return time.monotonic() >= self._at


class EtcdCoordination:
    """Implements ``vmha.ports.Coordination``.  ``ttl`` seconds after the process's death its members and locks are gone."""

    def __init__(self, store: Store, ttl: float = 9.0, renew_every: float = 3.0) -> None:
        self._store = store
        self._ttl = ttl
        self._renew_every = renew_every
        self._guard = threading.Lock()
        self._lease: Lease | None = None
        self._joined: dict[str, tuple[bytes, int]] = {}  # key to value and modified revision (0: to be written again)
        self._claims: list[Claim] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def membership(self, group: str) -> EtcdMembership:
        return EtcdMembership(self, self._store, f"{MEMBERS}{part(group)}/")

    def lock(self, name: str) -> EtcdLock:
        value = json.dumps({"v": 1, "pid": os.getpid()}).encode()
        claim = Claim(self._store, LOCKS + part(name), value, self._ttl, self._renew_every)
        self._claims.append(claim)
        return EtcdLock(claim)

    def close(self) -> None:
        """Leave all groups, release all locks, end all threads.  Never raises: leases end by themselves."""
        self._stop.set()
        for claim in self._claims:
            claim.close()
        with self._guard:
            lease, self._lease = self._lease, None
            self._joined.clear()
        if lease is not None:
            try:
                lease.revoke()
            except StoreUnavailable as e:
                LOG.info("membership ends with its lease: %s", e)

    # --- for EtcdMembership ----------------------------------------------------------------------------------------

    def write(self, key: str, value: bytes) -> None:
        """Write a member's key now and again after every lost lease.  StoreUnavailable: it will be written later."""
        with self._guard:
            self._joined[key] = (value, 0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="etcd-members", daemon=True)
                self._thread.start()
            self._write_missing()

    def remove(self, key: str) -> None:
        """Delete a member's key unless someone has taken it over.  StoreUnavailable."""
        with self._guard:
            if key not in self._joined:
                return
            _, modified = self._joined.pop(key)
            if not modified:  # perhaps written: nobody can say at which revision
                self._drop_lease()
                return
            try:
                self._store.commit({}, [key], expect={key: modified})
            except StoreConflict:
                LOG.info("%s was taken over or has ended: left alone", key)
            except StoreUnavailable:
                self._drop_lease()
                raise

    def _drop_lease(self) -> None:
        """An unanswered deletion must not leave the key renewed for ever: let the lease end, write the others on a new one."""
        lease, self._lease = self._lease, None
        self._joined = {k: (value, 0) for k, (value, _) in self._joined.items()}
        if lease is not None:
            try:
                lease.revoke()
            except StoreUnavailable as e:
                LOG.info("the old lease ends by itself: %s", e)

    def _write_missing(self) -> None:
        if self._lease is None or self._lease.lost():
            self._joined = {k: (value, 0) for k, (value, _) in self._joined.items()}
            self._lease = self._store.lease(self._ttl, self._renew_every)
        for key, (value, modified) in self._joined.items():
            if not modified:
                self._joined[key] = (value, self._store.commit({key: value}, lease=self._lease.id))

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                with self._guard:
                    if self._joined and not self._stop.is_set():
                        self._write_missing()
            except StoreUnavailable as e:
                LOG.warning("memberships cannot be renewed now: %s", e)
            except Exception:
                LOG.exception("the renewal of memberships failed")


class EtcdMembership:
    """Implements ``vmha.ports.Membership`` for one group; one member of it at a time."""

    def __init__(self, coordination: EtcdCoordination, store: Store, prefix: str) -> None:
        self._coordination = coordination
        self._store = store
        self._prefix = prefix
        self._key: str | None = None

    def join(self, member: str, value: bytes) -> None:
        """Join; an own earlier membership, of a run that died, is taken over at once with the new lease.  StoreUnavailable."""
        self._key = self._prefix + part(member)
        self._coordination.write(self._key, value)

    def update(self, value: bytes) -> None:
        """Another value.  StoreUnavailable; it will still be written once etcd answers."""
        if self._key is None:
            raise StoreConflict("not a member: join first")
        self._coordination.write(self._key, value)

    def leave(self) -> None:
        """Gone at once, or with the lease when etcd does not answer (StoreUnavailable)."""
        key, self._key = self._key, None
        if key is not None:
            self._coordination.remove(key)

    def members(self) -> Mapping[str, bytes]:
        """All members now, by a linearizable read.  StoreUnavailable."""
        found = self._store.list(self._prefix).items
        return {key[len(self._prefix) :]: i.value for key, i in found.items()}


class EtcdLock:
    """Implements ``vmha.ports.Lock``; not re-entrant, for one thread."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    def acquire(self, timeout: float) -> bool:
        """Ours within ``timeout`` seconds?  True as well when it is still held.  False also when etcd does not answer."""
        if self.held():
            return True
        if self._claim.claim(Deadline(timeout)):
            return True
        self._claim.close()
        return False

    def held(self) -> bool:
        return not self._claim.lost()

    def release(self) -> None:
        self._claim.close()
