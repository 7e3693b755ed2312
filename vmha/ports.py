"""What the loops need from the outside, as Protocols: adapters implement them, only ``main.py`` wires them in.

Each method says which errors of ``vmha.errors`` it raises.  Nothing here blocks longer than the deadline it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vmha.core.model import Call, Instance, Migration, Outcome, PowerState, Service


class Clock(Protocol):
    """``now()`` is seconds of CLOCK_BOOTTIME, the one clock that decides; ``wall()`` is for display."""

    def now(self) -> float: ...

    def wall(self) -> float: ...


# --- the store -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One key of the store.  ``created`` and ``modified`` are store revisions; ``lease`` 0 means none."""

    key: str
    value: bytes
    created: int
    modified: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One change seen by a watch, in revision order.  ``item`` is None for a deletion (or a lease that expired)."""

    key: str
    item: Item | None
    revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys under a prefix at one revision."""

    revision: int
    items: Mapping[str, Item]


class Sink(Protocol):
    """Receives what a watched cache learns.  Called from the cache's thread; must only enqueue."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """A full, fresh listing: replaces everything known; the cache is ready from now on."""

    def changes(self, changes: Sequence[Change]) -> None:
        """Changes after the last snapshot or changes, none missing, each key's in order."""

    def not_ready(self, reason: str) -> None:
        """The watch is in doubt (endpoint lost, compaction, silence): what was known may be old until the next snapshot."""


class Pages(Protocol):
    """Takes the pages of a listing as they arrive, so that a large one is never held as a whole.  Called from the cache's thread."""

    def begin(self) -> None:
        """A listing begins: what the pages of an earlier one gave is void."""

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """One page; returns the items that shall stand in the snapshot, the others are this taker's own."""


class Watch(Protocol):
    """A running watched cache; ``stop`` ends its thread."""

    def stop(self) -> None: ...


class Lease(Protocol):
    """A lease kept alive by its own thread.

    ``valid_until()`` is clock time: send time of the last renewal that was answered, plus its TTL.  After ``lost()``
    nothing written on it can be relied on; take a new lease and write again.
    """

    @property
    def id(self) -> int: ...

    def lost(self) -> bool: ...

    def valid_until(self) -> float: ...

    def revoke(self) -> None: ...


class Store(Protocol):
    """The linearizable key-value store (etcd).  Keys are full strings; values are bytes of ``vmha.wire``.

    Every method raises StoreUnavailable when no endpoint answered within ``timeout`` seconds: nothing is known then.
    """

    def get(self, key: str, timeout: float = 2.0) -> Item | None:
        """Linearizable read of one key; None means absent, surely."""

    def list(self, prefix: str, timeout: float = 5.0, *, without: str = "") -> Snapshot:
        """Linearizable read of all keys under a prefix, at one revision; those under ``without`` are left out."""

    def commit(
        self,
        puts: Mapping[str, bytes],
        deletes: Sequence[str] = (),
        *,
        epoch: int | None = None,
        expect: Mapping[str, int] | None = None,
        lease: int = 0,
        timeout: float = 2.0,
    ) -> int:
        """One transaction; returns its revision.

        ``epoch``: compares the create revision of ``controller/leader``; raises LeadershipLost when it differs.
        ``expect``: key to modified revision (0: must be absent); raises StoreConflict when one differs.
        """

    def lease(self, ttl: float, renew_every: float) -> Lease:
        """A new lease, renewed by a thread until revoked or lost."""

    def watch(self, prefix: str, sink: Sink, pages: Pages | None = None) -> Watch:
        """A watched cache of a prefix: snapshot first, then changes for ever, over any endpoint loss or compaction.

        ``pages`` takes each listing page by page before the sink gets what it left as the snapshot.
        """


class Membership(Protocol):
    """Who is there, by name, each with a value; the part of the store that tooz can serve as well."""

    def join(self, member: str, value: bytes) -> None:
        """Join, or take over an own earlier membership; kept alive until ``leave`` or death.  StoreUnavailable."""

    def update(self, value: bytes) -> None: ...

    def leave(self) -> None: ...

    def members(self) -> Mapping[str, bytes]:
        """All members now.  Never a partial answer: StoreUnavailable instead."""


class Lock(Protocol):
    """A named lock.  ``held()`` is False as soon as it cannot be proven to be held (lease lost, no answer in time)."""

    def acquire(self, timeout: float) -> bool: ...

    def held(self) -> bool: ...

    def release(self) -> None: ...


class Coordination(Protocol):
    """Membership and locks of one process, over any backend."""

    def membership(self, group: str) -> Membership: ...

    def lock(self, name: str) -> Lock: ...

    def close(self) -> None: ...


# --- hosts, power, kernel ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PowerReading:
    """One reading of a fencing device; ``began`` and ``ended`` are clock times around it.  ``detail`` says what the
    device or agent answered, without secrets."""

    state: PowerState
    began: float
    ended: float
    detail: str = ""


class Fencer(Protocol):
    """Power devices of the hosts, by host name.  Each run is a process group of its own, killed at its limit."""

    def has_device(self, host: str) -> bool: ...

    def status(self, host: str, timeout: float) -> PowerReading:
        """Read the power back.  Never raises for the device: an unanswered or refused question is UNKNOWN with detail."""

    def off(self, host: str, limit: float, sent: float | None = None) -> tuple[Outcome, str]:
        """Order "off" (never "reboot").  DONE means only that the order was taken: read back to know.

        The run ends at ``sent + limit`` at the latest (``sent``: clock time at which the commit of the order was sent; without
        it, from now), with all its children, whatever becomes of this process.  When this returns the run is over.
        """


class Prober(Protocol):
    """Does the host's kernel still answer?"""

    def probe(self, addresses: Mapping[str, str], timeout: float) -> Mapping[str, bool | None]:
        """ICMP echo to each network's address at once: True answered, False silent, None could not be asked."""


# --- Nova ----------------------------------------------------------------------------------------------------------


class Compute(Protocol):
    """Nova.  Reads raise ComputeUnknown (no answer) or ComputeError (refused); a failed read is unknown, never "none"."""

    def service(self, host: str, timeout: float) -> Service | None:
        """The host's nova-compute record; None when Nova knows no such service."""

    def instances(self, host: str, timeout: float) -> tuple[Instance, ...]:
        """All servers of all projects on the host (all pages, or an error)."""

    def instance(self, uuid: str, timeout: float) -> Instance | None:
        """One server; None when Nova says it does not exist."""

    def migrations(self, host: str, timeout: float) -> tuple[Migration, ...]:
        """Evacuation records whose source or target is the host."""

    def call(self, call: Call, sent: float, start_limit: float, call_limit: float) -> tuple[Outcome, str]:
        """Carry out one journalled call, by the rules of safety.md section 4.

        ``sent`` is the clock time at which the commit of its record was sent.  The request leaves before
        ``sent + start_limit`` or never (a kernel timer sees to it, also over SIGSTOP); no retry of any kind.
        DONE with detail (Nova's request id), FAILED only when Nova refused, NOT_STARTED when it surely never left,
        UNKNOWN in every other case.
        """


# --- hypervisor ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Domain:
    """A libvirt domain.  ``state``: running, paused, shutoff, crashed; ``active`` counts those starting up too."""

    uuid: str
    name: str
    state: str
    active: bool
    reason: str = ""


class Hypervisor(Protocol):
    """The local libvirt.  Every method raises HypervisorUnavailable when it does not answer."""

    def domains(self) -> tuple[Domain, ...]:
        """All domains, defined or transient, active or not."""

    def destroy(self, uuid: str) -> None:
        """End the domain's QEMU at once; done when it is already inactive or gone."""

    def undefine(self, uuid: str) -> None:
        """Forget the domain (NVRAM, managed save and snapshots' metadata too); done when it is already gone."""

    def subscribe(self, changed: Callable[[Domain | None, str], None]) -> None:
        """``changed(domain, uuid)`` for every change (None: gone), from the event thread: it must only enqueue.

        ``changed(None, "")`` after every reconnect or lost connection: list again, something may have been missed.
        """

    def close(self) -> None: ...


class Processes(Protocol):
    """QEMU processes of this host, seen without libvirt."""

    def running(self) -> Mapping[str, int]:
        """Instance uuid to pid of every QEMU process, from /proc."""


class Notifier(Protocol):
    """Tells people.  Never raises; never blocks longer than a moment."""

    def page(self, subject: str, text: str) -> None: ...
