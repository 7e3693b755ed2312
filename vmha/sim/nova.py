"""A Nova: its database of instances, services and evacuation records, its scheduler, and its answers over the API.

Rules as in Nova's sources: an evacuation needs a service that is down or forced down, a vm_state of active, stopped or error and no task;
its record goes accepted -> pre-migrating (the target claims it and is named only then) -> done, then completed when the source's
nova-compute has come back and destroyed what it still has; no valid host makes the record and the instance ``error``; the
instance's host changes only after the spawn.  A rebuild that was sent to a host stays in its queue until nova-compute there consumes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from vmha.core.model import Call, CallKind, Instance, Migration, Outcome, Service
from vmha.sim.clock import WALL, Clock
from vmha.sim.hosts import Host
from vmha.sim.physics import Physics

STATUS = {"active": "ACTIVE", "stopped": "SHUTOFF", "error": "ERROR", "paused": "PAUSED", "rescued": "RESCUE"}
EVACUABLE = frozenset({"active", "stopped", "error"})
SERVICE_DOWN = 60.0  # Nova's service_down_time
REPORT = 10.0  # Nova's report_interval
RUNNING, SHUTDOWN = 1, 4


@dataclass(slots=True)
class Server:
    """One instance as Nova knows it, and what the scenario says of it."""

    name: str
    host: str
    vm_state: str = "active"
    task: str | None = None
    protect: str | None = None
    priority: int | None = None
    group: str = ""
    ready_after: float | str | None = None
    memory_gib: float = 1.0
    vcpus: int = 1
    locked: bool = False
    anti_affinity: str = ""
    affinity: str = ""
    allowed_hosts: tuple[str, ...] = ()
    local_disk: bool = False
    nova_refuses: str = ""
    service: bool = False
    tenant_protect: str = ""
    local_start_fails: bool = False
    own_error: bool = False  # in error, and not by an evacuation
    _view: Instance | None = None

    def set(self, **fields: object) -> None:
        for name, value in fields.items():
            setattr(self, name, value)
        self._view = None

    def view(self, key: str) -> Instance:
        """As the API tells it; ``key`` is the metadata key of protection."""
        if self._view is None:
            self._view = Instance(
                uuid=self.name,
                name=self.name,
                host=self.host,
                status=STATUS.get(self.vm_state, self.vm_state.upper()),
                vm_state=self.vm_state,
                task_state=self.task,
                power_state=RUNNING if self.vm_state == "active" else SHUTDOWN,
                locked=self.locked,
                metadata={key: self.tenant_protect} if self.tenant_protect else {},
                project="service" if self.service else "tenant",
                memory_mib=int(self.memory_gib * 1024),
                vcpus=self.vcpus,
                image="image" if self.local_disk else "",
                affinity=self.affinity,
                anti_affinity=self.anti_affinity,
            )
        return self._view


@dataclass(slots=True)
class ComputeService:
    """A host's nova-compute and its record.  ``from_`` is when the present run began to report, None while it does not."""

    name: str
    process: bool = True
    from_: float | None = 0.0
    last: float = 0.0
    forced_down: bool = False
    disabled: bool = False
    reason: str = ""
    life: int = 0
    building: int = 0
    queue: list[tuple[str, Callable[[], None]]] = field(default_factory=list)  # messages not consumed yet
    waiting: list[Callable[[], None]] = field(default_factory=list)  # builds that wait for their turn

    def reported(self, now: float) -> float:
        """When it last reported."""
        if self.from_ is None:
            return self.last
        return self.from_ + int((now - self.from_) / REPORT + 1e-9) * REPORT

    def up(self, now: float) -> bool:
        return not self.forced_down and now - self.reported(now) <= SERVICE_DOWN


@dataclass(slots=True)
class Trouble:
    """What is wrong with the API.  ``error``: 503, nothing happened; ``lost``: it happens, no answer; ``late``: so, at ``seconds``."""

    mode: str = ""
    seconds: float = 0.0


class Nova:
    """``hosts`` are the physical hosts; ``changed`` is told of every change of a server's host or state."""

    def __init__(self, clock: Clock, physics: Physics, hosts: Mapping[str, Host], key: str) -> None:
        self._clock, self._physics, self._hosts, self.key = clock, physics, hosts, key
        self.servers: dict[str, Server] = {}
        self.on: dict[str, set[str]] = {h: set() for h in hosts}
        self.services = {h: ComputeService(h) for h in hosts}
        self.migrations: list[Migration] = []
        self._of: dict[str, list[int]] = {h: [] for h in hosts}  # host -> indexes of migrations
        self.trouble = Trouble()
        self.refusing: dict[str, str] = {}  # instance -> mode of trouble
        self._by_name = sorted(hosts)
        self._free = {h: host.spec.memory_gib for h, host in hosts.items()}
        self._memory = dict.fromkeys(hosts, 0.0)
        self._vcpus = dict.fromkeys(hosts, 0.0)
        self.orders: list[
            Callable[[Migration, str], None]
        ] = []  # told of each accepted evacuation: migration, vm_state

    # --- the database --------------------------------------------------------------------------------------------------

    def add(self, server: Server) -> None:
        self.servers[server.name] = server
        self.on[server.host].add(server.name)
        self.claim(server, server.host, 1)

    def claim(self, server: Server, host: str, sign: int) -> None:
        """Placement's allocation of the server on the host, taken (1) or given back (-1)."""
        self._memory[host] += sign * server.memory_gib
        self._free[host] = self._hosts[host].spec.memory_gib - self._memory[host]
        self._vcpus[host] += sign * server.vcpus

    def move(self, server: Server, host: str) -> None:
        self.on[server.host].discard(server.name)
        self.on[host].add(server.name)
        server.set(host=host)

    def remove(self, server: Server) -> None:
        self.on[server.host].discard(server.name)
        self.claim(server, server.host, -1)
        del self.servers[server.name]

    def set_migration(self, number: int, **fields: object) -> Migration:
        old = self.migrations[number - 1]
        new = replace(old, **fields)  # type: ignore[arg-type]
        self.migrations[number - 1] = new
        if new.target and new.target != old.target:
            self._of[new.target].append(number - 1)
        return new

    def migrations_of(self, host: str) -> Iterator[Migration]:
        """Evacuation records whose source or target is the host."""
        for index in self._of[host]:
            migration = self.migrations[index]
            if host in (migration.source, migration.target):
                yield migration

    # --- reads ---------------------------------------------------------------------------------------------------------

    def service(self, host: str) -> Service:
        s, now = self.services[host], self._clock.now
        return Service(f"service-{host}", host, s.up(now), s.forced_down, s.disabled, s.reason, WALL + s.reported(now))

    def instances(self, host: str) -> tuple[Instance, ...]:
        return tuple(self.servers[n].view(self.key) for n in sorted(self.on[host]))

    # --- calls ---------------------------------------------------------------------------------------------------------

    def land(self, call: Call) -> tuple[Outcome, str]:
        """The request is carried out now."""
        if call.kind in (CallKind.EVACUATE, CallKind.START, CallKind.RESET_STATE):
            server = self.servers.get(call.instance)
            if server is None:
                return Outcome.FAILED, f"Nova refused (HTTP 404): instance {call.instance} could not be found"
            if call.kind is CallKind.EVACUATE:
                return self._evacuate(server, call.arrive_stopped, call.target)
            if call.kind is CallKind.START:
                return self._start(server)
            server.set(vm_state=call.state, task=None)
            return Outcome.DONE, ""
        service = self.services[call.host]
        match call.kind:
            case CallKind.FORCE_DOWN:
                service.forced_down = True
            case CallKind.UNFORCE:
                if any(m.source == call.host and m.status == "done" for m in self.migrations_of(call.host)):
                    return Outcome.FAILED, "Nova refused (HTTP 400): `done` evacuation migration records remain"
                service.forced_down = False
            case CallKind.DISABLE:
                service.disabled, service.reason = True, call.reason
            case CallKind.ENABLE:
                service.disabled, service.reason = False, ""
            case _:
                return Outcome.FAILED, f"Nova refused (HTTP 400): {call.kind} is not one of its actions"
        return Outcome.DONE, ""

    def _start(self, server: Server) -> tuple[Outcome, str]:
        """os-start: from stopped only, carried out by the nova-compute where the instance is."""
        if server.vm_state != "stopped" or server.task is not None:
            what = f"task_state {server.task}" if server.task else f"vm_state {server.vm_state}"
            return Outcome.FAILED, f"Nova refused (HTTP 409): cannot start while it is in {what}"
        server.set(task="powering-on")
        home, life = server.host, self.services[server.host].life
        self.send(home, f"start {server.name}", lambda: self._clock.after(1.0, self._started, server, home, life))
        return Outcome.DONE, "req-start"

    def _started(self, server: Server, home: str, life: int) -> None:
        if self.services[home].life == life and self.servers.get(server.name) is server and server.host == home:
            server.set(task=None, vm_state="active" if self._hosts[home].start(server.name) else "stopped")

    def _evacuate(self, server: Server, arrive_stopped: bool, asked: str) -> tuple[Outcome, str]:
        """``arrive_stopped``: with a microversion of 2.95 or later; ``asked``: the host that the call names, if any."""
        if self.services[server.host].up(self._clock.now):
            return Outcome.FAILED, f"Nova refused (HTTP 400): compute service of {server.host} is still in use"
        if server.nova_refuses:
            return Outcome.FAILED, f"Nova refused (HTTP 409): {server.nova_refuses}"
        if server.vm_state not in EVACUABLE:
            return Outcome.FAILED, f"Nova refused (HTTP 409): cannot evacuate while it is in vm_state {server.vm_state}"
        if server.task is not None:
            return Outcome.FAILED, f"Nova refused (HTTP 409): cannot evacuate while it is in task_state {server.task}"
        number = len(self.migrations) + 1
        self.migrations.append(Migration(number, server.name, "accepted", server.host))
        self._of[server.host].append(number - 1)
        for told in self.orders:
            told(self.migrations[-1], server.vm_state)
        server.set(task="rebuilding")
        stopped = server.vm_state == "stopped" or (arrive_stopped and server.vm_state != "error")  # as Nova 2.95 does
        self._clock.after(self._physics.schedule, self._schedule, number, stopped, asked)
        return Outcome.DONE, f"req-{number}"

    # --- scheduling ----------------------------------------------------------------------------------------------------

    def _schedule(self, number: int, stopped: bool, asked: str) -> None:
        server = self.servers.get(self.migrations[number - 1].instance)
        if server is None:
            self.set_migration(number, status="error")
            return
        target = self._choose(server, asked)
        if target is None:
            self.set_migration(number, status="error")
            server.set(vm_state="error", task=None)
            return
        self.claim(server, target, 1)
        self.send(target, f"rebuild {server.name}", lambda: self._build(number, target, stopped))

    def _choose(self, server: Server, asked: str) -> str | None:
        """The host with the most free memory that may take it; None is "no valid host"."""
        ordered = [asked] if asked else sorted(self._by_name, key=self._free.__getitem__, reverse=True)
        return next((h for h in ordered if self._fits(server, h)), None)

    def _fits(self, server: Server, host: str) -> bool:
        service, spec = self.services[host], self._hosts[host].spec
        return (
            not service.disabled
            and host != server.host
            and self._memory[host] + server.memory_gib <= spec.memory_gib * self._physics.memory_ratio
            and self._vcpus[host] + server.vcpus <= spec.vcpus * self._physics.cpu_ratio
            and service.up(self._clock.now)
            and (not server.allowed_hosts or host in server.allowed_hosts)
            and self._groups_allow(server, host)
        )

    def _groups_allow(self, server: Server, host: str) -> bool:
        if server.anti_affinity and any(
            self.servers[n].anti_affinity == server.anti_affinity for n in self.on[host] if n != server.name
        ):
            return False
        if not server.affinity:
            return True
        members = [s for s in self.servers.values() if s.affinity == server.affinity and s is not server]
        return not members or any(m.host == host for m in members)

    # --- messages to nova-compute ------------------------------------------------------------------------------------------

    def consuming(self, host: str) -> bool:
        return self.services[host].from_ is not None

    def send(self, host: str, what: str, consume: Callable[[], None]) -> None:
        """A message in the host's queue: consumed now, or when its nova-compute comes back."""
        if self.consuming(host):
            self._clock.after(0.01, self._deliver, host, what, consume)
        else:
            self.services[host].queue.append((what, consume))

    def _deliver(self, host: str, what: str, consume: Callable[[], None]) -> None:
        if self.consuming(host):
            consume()
        else:
            self.services[host].queue.append((what, consume))

    def _build(self, number: int, target: str, stopped: bool) -> None:
        """nova-compute of the target takes the rebuild; it is named in the record from now on."""
        migration, service = self.migrations[number - 1], self.services[target]
        server = self.servers.get(migration.instance)
        if server is None:
            self.set_migration(number, status="failed", target=target)
            return
        self.set_migration(number, status="pre-migrating", target=target)
        life = service.life

        def spawn() -> None:
            service.building += 1
            self._clock.after(self._physics.spawn, self._spawned, number, target, stopped, life)

        if service.building < self._physics.builds_at_once:
            spawn()
        else:
            service.waiting.append(spawn)

    def _spawned(self, number: int, target: str, stopped: bool, life: int) -> None:
        service, host = self.services[target], self._hosts[target]
        if service.life != life:
            return  # its nova-compute died in between: the record stays as it was
        service.building -= 1
        if service.waiting:
            service.waiting.pop(0)()
        server = self.servers.get(self.migrations[number - 1].instance)
        if server is None or server.name in host.defined or not host.start(server.name):
            self._failed(number, server, target)
            return
        source = server.host
        self.move(server, target)
        server.set(vm_state="stopped" if stopped else "active", task=None)
        if stopped:
            host.destroy(server.name)
        self.set_migration(number, status="done")
        if source == target:
            self.claim(server, target, -1)

    def _failed(self, number: int, server: Server | None, target: str) -> None:
        """The rebuild failed on its target: Nova puts the instance in error, wherever it is."""
        self.set_migration(number, status="failed")
        if server is not None:
            self.claim(server, target, -1)
            self._hosts[target].defined.discard(server.name)
            server.set(vm_state="error", task=None)
