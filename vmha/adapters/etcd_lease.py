"""A lease of etcd, kept alive by a thread of its own, which never takes a new one in silence.

What a lease proves, and what not: ``valid_until`` counts from the *sending* of the last renewal that was answered, so a slow answer or a
stopped process never makes it too long.  A deposed etcd leader can still answer renewals until it steps down (about one
election time-out, 1 s by default), so the lease may end that much before ``valid_until``: what must not go wrong is
guarded by a compare of the epoch in the same transaction, never by this clock.
"""

from __future__ import annotations

import logging
import math
import threading

from vmha.adapters.etcd_gateway import Gateway
from vmha.errors import BadConfig, StoreRefused, StoreUnavailable
from vmha.ports import Clock

LOG = logging.getLogger(__name__)


class EtcdLease:
    """Implements ``vmha.ports.Lease``; made by ``EtcdStore.lease``."""

    def __init__(self, gateway: Gateway, clock: Clock, ttl: float, renew_every: float) -> None:
        if not 0 < renew_every < ttl:
            raise BadConfig(
                f"a lease of {ttl:g} s cannot be renewed every {renew_every:g} s: renew at least twice as often"
            )
        self._gateway = gateway
        self._clock = clock
        self._renew_every = renew_every
        self._lock = threading.Lock()
        self._lost = False
        self._stop = threading.Event()
        sent = clock.now()
        answer = gateway.ask("/lease/grant", {"TTL": math.ceil(ttl)}, min(ttl, 2.0), repeatable=False)
        self._id = int(answer["ID"])
        self.ttl = int(answer["TTL"])  # as granted: etcd raises it to its shortest, 1.5 election time-outs
        self._valid_until = sent + self.ttl
        self._thread = threading.Thread(target=self._run, name=f"etcd-lease-{self._id:x}", daemon=True)
        self._thread.start()

    @property
    def id(self) -> int:
        return self._id

    def lost(self) -> bool:
        """True for ever once it was revoked, answered as gone, or not renewed in time by our clock."""
        with self._lock:
            if not self._lost and self._clock.now() >= self._valid_until:
                self._lost = True
            return self._lost

    def valid_until(self) -> float:
        with self._lock:
            return self._valid_until

    def revoke(self) -> None:
        """Give it back: its keys vanish at once, or at its end when etcd does not answer (StoreUnavailable)."""
        self._stop.set()
        with self._lock:
            self._lost = True
        revoke(self._gateway, self._id)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._renew_every) and not self.lost():
                self._renew()
            if not self._stop.is_set():
                LOG.warning("etcd lease %x is lost: what was written on it cannot be relied on", self._id)
                self._give_back()
        except Exception:
            LOG.exception("the renewal of etcd lease %x failed: it is taken as lost", self._id)
            with self._lock:
                self._lost = True
        finally:
            self._gateway.disconnect()

    def _renew(self) -> None:
        sent = self._clock.now()
        try:
            answer = self._gateway.ask("/lease/keepalive", {"ID": self._id}, max(self.ttl / 2, 0.3), repeatable=True)
        except StoreUnavailable as e:
            LOG.warning("etcd lease %x was not renewed, it ends in %.1f s: %s", self._id, self.valid_until() - sent, e)
            return
        left = int(answer.get("result", {}).get("TTL", 0))  # left out by the gateway when 0: the lease is gone
        if left <= 0:
            with self._lock:
                self._lost = True
        elif not self.lost():
            with self._lock:
                self._valid_until = max(self._valid_until, sent + left)

    def _give_back(self) -> None:
        """A lost lease may still stand in etcd: end it, so that its keys do not mislead others for longer."""
        try:
            revoke(self._gateway, self._id)
        except StoreUnavailable as e:
            LOG.info("lost etcd lease %x could not be revoked, it ends by itself: %s", self._id, e)


def revoke(gateway: Gateway, lease_id: int) -> None:
    """End a lease; done as well when it is already gone.  StoreUnavailable when unknown."""
    try:
        gateway.ask("/lease/revoke", {"ID": lease_id}, 2.0, repeatable=True)
    except StoreRefused as e:
        if "lease not found" not in str(e):
            raise
