"""An etcd as the core sees it: records by kind, revisions, leases, watches, and its own troubles.

Leases expire only while the store is up; when it comes back, or changes its leader, every lease is extended by its whole time to live
(etcd's lessor does so on promotion).  A watch that was interrupted lists everything afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.model import (
    Answer,
    Call,
    Command,
    Condemnation,
    HostAlive,
    HostSettings,
    InstanceSeen,
    InstanceSettings,
    Recovery,
    SegmentSettings,
    Voters,
)
from vmha.errors import LeadershipLost, StoreConflict
from vmha.sim.clock import Clock

# kind of record -> the World's field of it
FIELDS: dict[type, str] = {
    HostAlive: "alive",
    HostSettings: "hosts",
    SegmentSettings: "segments",
    InstanceSettings: "instances",
    Condemnation: "condemned",
    InstanceSeen: "seen",
    Recovery: "recoveries",
    Call: "calls",
    Command: "commands",
}
Key = tuple[str, ...]


def key_of(value: Any) -> Key:
    """What tells a record from others of its kind."""
    match value:
        case Call(recovery=recovery, id=name):
            return (recovery, name)
        case Command(target=target, id=name):
            return (target, name)
        case Answer(target=target):
            return (target,)
        case Voters():
            return ()
        case InstanceSeen(host=host, uuid=uuid):
            return (host, uuid)
        case Recovery(id=name) | SegmentSettings(name=name) | InstanceSettings(uuid=name):
            return (name,)
    return (value.host,)


@dataclass(slots=True)
class Lease:
    """``ends`` is None while its holder renews it."""

    owner: str
    ttl: float
    ends: float | None = None
    gone: bool = False
    life: int = 0


class Store:
    """``watchers`` are called with (kind, key, value or None) at the moment of each change; they add the latency."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.up = True
        self.revision = 100
        self.tables: dict[type, dict[Any, Any]] = {kind: {} for kind in FIELDS}
        self.unprotected: dict[str, tuple[str, ...]] = {}
        self.disarmed = False
        self.voters: Voters | None = None
        self.extra: dict[str, Any] = {}  # further fields of the core's World, by name
        self.leader = ""
        self.leader_lease: Lease | None = None
        self.epoch = 0
        self.watchers: list[Callable[[type, Key, Any], None]] = []
        self.expired: list[Callable[[Lease], None]] = []
        self._leases: list[Lease] = []

    # --- records -----------------------------------------------------------------------------------------------------

    def get(self, kind: type, *key: str) -> Any:
        return self.tables[kind].get(key[0] if len(key) == 1 else key)

    def world(self) -> ev.World:
        """Everything, as a linearizable listing tells it."""
        known = {f.name for f in fields(ev.World)}
        values: dict[str, Any] = {n: v for n, v in self.extra.items() if n in known}
        values |= {name: self.tables[kind] for kind, name in FIELDS.items() if name in known}
        values["voters"] = self.voters
        return ev.World(disarmed=self.disarmed, unprotected=self.unprotected, revision=self.revision, **values)

    def put(self, value: Any) -> int:
        """Write one record, outside any leadership."""
        self.revision += 1
        self._write(value)
        return self.revision

    def switch(self, disarmed: bool) -> None:
        """An operator disarms or arms."""
        self.disarmed, self.revision = disarmed, self.revision + 1
        self._tell(bool, (), disarmed)

    def delete(self, kind: type, *key: str) -> None:
        if self.tables[kind].pop(key[0] if len(key) == 1 else key, None) is not None:
            self.revision += 1
            self._tell(kind, key, None)

    def commit(self, epoch: int, action: act.Commit | act.StartCall) -> int:
        """One transaction of the leader; its revision.  LeadershipLost, StoreConflict."""
        if epoch != self.epoch or not self.leader:
            raise LeadershipLost(f"epoch {epoch} does not lead any more")
        if isinstance(action, act.StartCall):
            return self._all((action.call, *((action.recovery,) if action.recovery is not None else ())))
        if action.fresh and action.fresh in self.tables[Condemnation]:
            raise StoreConflict(f"{action.fresh} is condemned already")
        revision = self._all(action.puts)
        for recovery, call in action.forget:
            if call:
                self.delete(Call, recovery, call)
            else:
                self.delete(Recovery, recovery)
        if action.release:
            self.delete(Condemnation, action.release)
        for target, command in action.commands:
            self.delete(Command, target, command)
        if action.disarmed is not None:
            self.switch(action.disarmed)
        if action.unprotected is not None:
            self.unprotected[action.unprotected[0]] = action.unprotected[1]
            self._tell(tuple, (action.unprotected[0],), action.unprotected[1])
        return revision

    def _all(self, values: Iterable[Any]) -> int:
        self.revision += 1
        for value in values:
            self._write(value)
        return self.revision

    def _write(self, value: Any) -> None:
        kind, key = type(value), key_of(value)
        table = self.tables.setdefault(kind, {})
        if kind is Voters:
            value = self.voters = replace(value, revision=self.revision)
        if kind is Condemnation:
            old = table.get(value.host)
            value = replace(value, revision=old.revision if old is not None else self.revision)
        table[key[0] if len(key) == 1 else key] = value
        self._tell(kind, key, value)

    def _tell(self, kind: type, key: Key, value: Any) -> None:
        for watcher in self.watchers:
            watcher(kind, key, value)

    # --- leases ------------------------------------------------------------------------------------------------------

    def grant(self, owner: str, ttl: float) -> Lease:
        """A lease whose holder renews it from now on."""
        lease = Lease(owner, ttl)
        self._leases.append(lease)
        return lease

    def renew(self, lease: Lease) -> None:
        lease.ends, lease.life = None, lease.life + 1

    def let_go(self, lease: Lease, renewed: float) -> None:
        """Renewals stop; the last one was at ``renewed``."""
        if lease.ends is None and not lease.gone:
            self._end(lease, renewed + lease.ttl)

    def revoke(self, lease: Lease) -> None:
        """Given back by its holder."""
        if not lease.gone:
            lease.ends, lease.life = self._clock.now, lease.life + 1
            self._expire(lease, lease.life)

    def _end(self, lease: Lease, when: float) -> None:
        lease.ends, lease.life = when, lease.life + 1
        self._clock.at(when, self._expire, lease, lease.life)

    def _expire(self, lease: Lease, life: int) -> None:
        if lease.life != life or lease.ends is None or lease.gone or not self.up:
            return
        lease.gone = True
        self._leases.remove(lease)
        self.revision += 1
        for told in self.expired:
            told(lease)

    def expire_all(self) -> None:
        """Every lease is lost at once, whoever renews it."""
        for lease in list(self._leases):
            lease.ends, lease.life = self._clock.now, lease.life + 1
            self._expire(lease, lease.life)

    def down(self) -> None:
        self.up = False

    def recover(self) -> None:
        """Back, with a new leader inside: every lease lasts its whole time again."""
        self.up = True
        for lease in self._leases:
            if lease.ends is not None:
                self._end(lease, max(lease.ends, self._clock.now + lease.ttl))
