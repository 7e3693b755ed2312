"""The state and the rules of the Nova stub: hosts, instances, migrations, and what an evacuation does over time.

Rules as in nova 34: nova/compute/api.py (evacuate), nova/api/openstack/compute/{services,migrations,evacuate}.py.
Time is CLOCK_BOOTTIME; what is due happens on the next look (``settle``), so nothing runs when nobody asks.
"""

from __future__ import annotations

import heapq
import itertools
import time
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SERVICE_DOWN_TIME = 60.0
STATUS = {"active": "ACTIVE", "stopped": "SHUTOFF", "error": "ERROR"}
EVACUABLE = ("active", "stopped", "error")


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


class Refused(Exception):
    """An HTTP error answer of Nova."""

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        kinds = {400: "badRequest", 403: "forbidden", 404: "itemNotFound", 409: "conflictingRequest"}
        self.kind = kind or kinds.get(status, "computeFault")


@dataclass
class Host:
    name: str
    service: str = field(default_factory=lambda: str(uuids.uuid4()))
    alive: bool = True
    died: float = 0.0
    forced_down: bool = False
    disabled: bool = False
    disabled_reason: str | None = None
    updated: str = field(default_factory=stamp)
    parked: list[Callable[[], None]] = field(default_factory=list)  # rebuilds that wait for a dead target's return

    def up(self) -> bool:
        return not self.forced_down and (self.alive or now() - self.died < SERVICE_DOWN_TIME)


@dataclass
class Server:
    uuid: str
    name: str
    host: str
    vm_state: str = "active"
    task_state: str | None = None
    power_state: int = 1
    metadata: dict[str, str] = field(default_factory=dict)
    project: str = "p-tenant"
    locked: bool = False
    memory: int = 96
    vcpus: int = 1
    image: str = "image-1"
    created: int = 0
    moving: bool = False  # an evacuation is under way
    spoiled: bool = False  # another was ordered meanwhile
    arrivals: list[str] = field(default_factory=list)  # every host it was started on, in order


@dataclass
class Record:
    id: int
    uuid: str
    instance: str
    source: str
    user: str
    status: str = "accepted"
    target: str | None = None
    created: str = field(default_factory=stamp)


class Cloud:
    """All of Nova's state.  Callers hold the server's lock."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.servers: dict[str, Server] = {}
        self.records: list[Record] = []
        self.rebuild_seconds = 0.2
        self.schedule_seconds = 0.02
        self.rpc_timeout = 60.0
        self.cell_down = False
        self.max_limit = 1000
        self._verdicts: list[dict[str, Any]] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._at = 0.0
        self._count = itertools.count(1)

    # --- time ---

    def settle(self) -> None:
        """Let everything happen that is due."""
        while self._due and self._due[0][0] <= now():
            self._at, _, what = heapq.heappop(self._due)
            what()
        self._at = 0.0

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do it so long after what happens at present (which may be looked at late)."""
        heapq.heappush(self._due, ((self._at or now()) + seconds, next(self._count), what))

    # --- the test's hand ---

    def add_host(self, name: str) -> str:
        self.hosts[name] = Host(name)
        return self.hosts[name].service

    def add_instance(self, host: str, name: str = "", uuid: str = "", **fields: Any) -> str:
        uuid = uuid or str(uuids.uuid4())
        server = Server(uuid, name or uuid[:8], host, created=next(self._count), **fields)
        server.power_state = 1 if server.vm_state == "active" else 4
        server.arrivals.append(host)
        self.servers[uuid] = server
        return uuid

    def add_instances(self, host: str, count: int, **fields: Any) -> list[str]:
        return [self.add_instance(host, f"{host}-{n}", **fields) for n in range(count)]

    def set_instance(self, uuid: str, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self.servers[uuid], name, value)

    def delete_instance(self, uuid: str) -> None:
        del self.servers[uuid]

    def host_dies(self, name: str) -> None:
        """The host stops: its service is up until Nova's own limit, rebuilds queued for it wait."""
        host = self.hosts[name]
        host.alive, host.died = False, now()

    def host_returns(self, name: str) -> None:
        """nova-compute starts: consumes queued rebuilds, its evacuations' records move from done to completed."""
        host = self.hosts[name]
        host.alive, host.updated = True, stamp()
        for record in self.records:
            if record.source == name and record.status == "done":
                record.status = "completed"
        parked, host.parked = host.parked, []
        for rebuild in parked:
            rebuild()

    def configure(self, **fields: Any) -> None:
        """rebuild_seconds, schedule_seconds, rpc_timeout, cell_down, max_limit."""
        for name, value in fields.items():
            if not hasattr(self, name):
                raise AttributeError(f"the stub has no setting {name}")
            setattr(self, name, value)

    def next_evacuation(self, outcome: str, uuid: str = "", count: int = 1, target: str = "") -> None:
        """The next ``count`` evacuations (of ``uuid``) end as no_valid_host or conflict, or go to ``target`` (done)."""
        self._verdicts.append({"outcome": outcome, "uuid": uuid, "count": count, "target": target})

    def dump(self) -> dict[str, Any]:
        """Everything, for assertions."""
        return {
            "servers": {s.uuid: {**vars(s)} for s in self.servers.values()},
            "hosts": {h.name: {k: v for k, v in vars(h).items() if k != "parked"} for h in self.hosts.values()},
            "migrations": [vars(r) for r in self.records],
        }

    # --- Nova's rules ---

    def server(self, uuid: str) -> Server:
        if uuid not in self.servers:
            raise Refused(404, f"Instance {uuid} could not be found.")
        return self.servers[uuid]

    def evacuate(self, uuid: str, user: str, version: tuple[int, int], body: dict[str, Any]) -> None:
        server = self.server(uuid)
        if set(body) - {"host", "adminPass"}:
            raise Refused(400, "Invalid input for field/attribute evacuate. Additional properties are not allowed")
        if server.vm_state not in EVACUABLE:
            raise Refused(409, f"Cannot 'evacuate' instance {uuid} while it is in vm_state {server.vm_state}")
        if self.hosts[server.host].up():
            raise Refused(400, f"Compute service of {server.host} is still in use.")
        server.task_state = "rebuilding"
        record = Record(next(self._count), str(uuids.uuid4()), uuid, server.host, user)
        self.records.append(record)
        if server.moving:
            # Nova does not look at the task state: it takes a second one, which spoils the first (seen with nova 34)
            server.spoiled = True
            return
        server.moving = True
        verdict = self._verdict(uuid)
        stopped = (version >= (2, 95) and server.vm_state != "error") or server.vm_state == "stopped"
        self._after(self.schedule_seconds, lambda: self._schedule(server, record, verdict, stopped, body.get("host")))

    def _verdict(self, uuid: str) -> dict[str, Any]:
        for verdict in self._verdicts:
            if verdict["uuid"] in ("", uuid):
                verdict["count"] -= 1
                if verdict["count"] <= 0:
                    self._verdicts.remove(verdict)
                return dict(verdict)
        return {"outcome": "done", "target": ""}

    def _schedule(
        self, server: Server, record: Record, verdict: dict[str, Any], stopped: bool, asked: str | None
    ) -> None:
        target = asked or verdict["target"] or self._choose(record.source)
        if verdict["outcome"] == "no_valid_host" or not target:
            record.status = "error"
            server.vm_state, server.task_state, server.moving = "error", None, False
            return
        record.target, record.status = target, "pre-migrating"
        server.task_state, server.power_state = "rebuild_spawning", 0
        end = self._fail if verdict["outcome"] == "conflict" else self._arrive
        self._after(self.rebuild_seconds, lambda: self._on_target(target, lambda: end(server, record, stopped)))

    def _on_target(self, target: str, rebuild: Callable[[], None]) -> None:
        if self.hosts[target].alive:
            rebuild()
        else:
            self.hosts[target].parked.append(rebuild)

    def _choose(self, source: str) -> str:
        fit = [
            host.name
            for host in self.hosts.values()
            if host.up() and host.alive and not host.disabled and host.name != source
        ]
        return min(fit, key=lambda name: sum(s.host == name for s in self.servers.values()), default="")

    def _arrive(self, server: Server, record: Record, stopped: bool) -> None:
        assert record.target is not None
        server.host, server.task_state = record.target, None
        server.vm_state, server.power_state = ("stopped", 4) if stopped else ("active", 1)
        server.arrivals.append(record.target)
        record.status, server.moving = "done", False
        if server.spoiled:
            self._after(self.schedule_seconds, lambda: self._spoil(server, record))

    def _spoil(self, server: Server, record: Record) -> None:
        """The second order fails on the target: it marks the first one's record, its own stays accepted for good."""
        record.status, server.spoiled = "failed", False
        server.vm_state, server.task_state = "error", "rebuild_block_device_mapping"

    def _fail(self, server: Server, record: Record, stopped: bool) -> None:
        record.status = "failed"
        server.vm_state, server.task_state, server.moving = "error", None, False

    def start(self, uuid: str) -> None:
        server = self.server(uuid)
        if server.vm_state != "stopped" or server.task_state is not None:
            what = f"task_state {server.task_state}" if server.task_state else f"vm_state {server.vm_state}"
            raise Refused(409, f"Cannot 'start' instance {uuid} while it is in {what}")
        server.task_state = "powering-on"
        self._after(self.rebuild_seconds, lambda: self._on_target(server.host, lambda: self._started(server)))

    def _started(self, server: Server) -> None:
        server.vm_state, server.task_state, server.power_state = "active", None, 1

    def reset_state(self, uuid: str, state: str) -> None:
        server = self.server(uuid)
        if state not in ("active", "error"):
            raise Refused(400, f"Invalid input for field/attribute state. Value: {state}.")
        server.vm_state, server.task_state = state, None

    def update_service(self, service: str, body: dict[str, Any]) -> float:
        """Apply a PUT of os-services; returns the seconds that Nova would wait for the host's RPC."""
        host = next((host for host in self.hosts.values() if host.service == service), None)
        if host is None:
            raise Refused(404, f"Service {service} not found.")
        wait = self.rpc_timeout if "status" in body and host.up() and not host.alive else 0.0
        if body.get("status") == "enabled":
            if body.get("disabled_reason"):
                raise Refused(400, "Specifying 'disabled_reason' with status 'enabled' is invalid.")
            host.disabled, host.disabled_reason = False, None
        elif body.get("status") == "disabled":
            host.disabled, host.disabled_reason = True, body.get("disabled_reason")
        if "forced_down" in body:
            self._force(host, bool(body["forced_down"]))
        return wait

    def _force(self, host: Host, down: bool) -> None:
        if not down and any(r.source == host.name and r.status == "done" for r in self.records):
            raise Refused(
                400,
                f"Unable to force up host {host.name} as `done` evacuation migration records remain associated with the host.",
            )
        host.forced_down = down
