"""What each host's nova-compute does by itself: it reports, cleans up after evacuations when it starts, and notices stopped domains.

``users`` act through it as well: stop, start, delete, live migration.
"""

from __future__ import annotations

from vmha.core.model import Migration
from vmha.sim.clock import Clock
from vmha.sim.hosts import Host
from vmha.sim.net import STORE, Net
from vmha.sim.nova import ComputeService, Nova, Server
from vmha.sim.physics import Physics

SOURCE_OPEN = ("accepted", "pre-migrating", "done")
REBUILDING = "rebuilding"


class NovaComputes:
    """Follows power, processes and networks of the hosts: ``refresh`` after each change."""

    def __init__(self, clock: Clock, physics: Physics, net: Net, nova: Nova, hosts: dict[str, Host]) -> None:
        self._clock, self._physics, self._net, self._nova, self._hosts = clock, physics, net, nova, hosts
        for host in hosts.values():
            host.on_boot.append(lambda h: self._clock.after(physics.nova_compute_start, self._after_boot, h, h.life))
            host.on_loss.append(self._lost)

    def begin(self, host: Host, phase: float) -> None:
        """It has been running for long when the world begins."""
        service = self._nova.services[host.name]
        service.from_ = phase - 10.0 if host.up else None
        service.last = -3600.0
        service.process = host.up

    def _after_boot(self, host: Host, life: int) -> None:
        if host.life == life:
            self.start(host)

    def _lost(self, host: Host) -> None:
        self.kill(host)

    def kill(self, host: Host) -> None:
        service = self._nova.services[host.name]
        if service.process:
            service.process, service.life = False, service.life + 1
            service.building, service.waiting = 0, []
        self.refresh(host)

    def start(self, host: Host) -> None:
        service = self._nova.services[host.name]
        if not service.process and host.up:
            service.process, service.life = True, service.life + 1
            self._begins(host, service, service.life)

    def _begins(self, host: Host, service: ComputeService, life: int) -> None:
        """It reaches Nova's database and queue: cleans up, then reports and consumes."""
        if not service.process or service.life != life:
            return
        if not self._net.talks(host.name, STORE, ("management",)) or not host.libvirt:
            self._clock.after(5.0, self._begins, host, service, life)
            return
        self._clean_up(host)
        self.refresh(host)
        self._clock.after(self._physics.power_sync, self._sync, host, service, life)

    def refresh(self, host: Host) -> None:
        """Whether it reports and consumes now."""
        service, now = self._nova.services[host.name], self._clock.now
        works = service.process and host.up and self._net.talks(host.name, STORE, ("management",))
        if works and service.from_ is None:
            service.from_ = now
            messages, service.queue = service.queue, []
            for what, consume in messages:
                self._nova.send(host.name, what, consume)
        elif not works and service.from_ is not None:
            service.last, service.from_ = service.reported(now), None

    # --- at its start ----------------------------------------------------------------------------------------------------

    def _clean_up(self, host: Host) -> None:
        """Destroy and forget what was evacuated from here; put in error what was being rebuilt here."""
        nova = self._nova
        left = {m.instance: m for m in nova.migrations_of(host.name) if _left(m, host.name)}
        for uuid, migration in sorted(left.items()):
            nova.set_migration(migration.id, status="completed")  # also where nothing of it is left here
            if uuid in host.defined and host.undefine(uuid):
                server = nova.servers.get(uuid)
                if server is not None and server.host != host.name:
                    nova.claim(server, host.name, -1)
        for uuid in sorted(nova.on[host.name]):
            server = nova.servers[uuid]
            if server.task == REBUILDING and server.vm_state in ("active", "stopped"):
                server.set(vm_state="error", task=None)
        for uuid in sorted(host.defined):
            if uuid not in nova.servers:
                host.undefine(uuid)  # deleted in the meantime

    # --- stopped domains -------------------------------------------------------------------------------------------------

    def domain_stopped(self, host: Host, uuid: str) -> None:
        """libvirt told it of a domain that stopped; Nova believes it after a while."""
        self._clock.after(self._physics.lifecycle, self._lifecycle, host, uuid)

    def _lifecycle(self, host: Host, uuid: str) -> None:
        server = self._nova.servers.get(uuid)
        if server is not None and self._nova.consuming(host.name) and host.libvirt:
            self._stop_if_stopped(host, server)

    def _sync(self, host: Host, service: ComputeService, life: int) -> None:
        """Nova's periodic sync, once after a start: that is when there is something to find."""
        if service.life == life and self._nova.consuming(host.name) and host.libvirt:
            for uuid in sorted(self._nova.on[host.name]):
                self._stop_if_stopped(host, self._nova.servers[uuid])

    def _stop_if_stopped(self, host: Host, server: Server) -> None:
        runs = server.host != host.name or server.name in host.active()
        if not runs and server.vm_state == "active" and server.task is None:
            server.set(vm_state="stopped")

    # --- users -----------------------------------------------------------------------------------------------------------

    def user(self, verb: str, server: Server, to: str = "") -> str:
        """A user's or admin's order; empty, or why Nova refuses it."""
        if verb == "delete":
            return self._delete(server)
        if server.task is not None:
            return f"a task is in flight ({server.task})"
        wanted = {"stop": "active", "start": "stopped", "migrate": "active"}[verb]
        if server.vm_state != wanted:
            return f"it is {server.vm_state}"
        task = {"stop": "powering-off", "start": "powering-on", "migrate": "migrating"}[verb]
        server.set(task=task)
        home = server.host
        self._nova.send(home, f"{verb} {server.name}", lambda: self._do(verb, server, home, to))
        return ""

    def _do(self, verb: str, server: Server, home: str, to: str) -> None:
        if self._nova.servers.get(server.name) is not server or server.host != home:
            return
        takes = 5.0 if verb == "migrate" else 1.0
        self._clock.after(takes, self._done, verb, server, home, to, self._nova.services[home].life)

    def _done(self, verb: str, server: Server, home: str, to: str, life: int) -> None:
        host = self._hosts[home]
        if self._nova.services[home].life != life or self._nova.servers.get(server.name) is not server:
            return
        if verb == "stop":
            server.set(task=None, vm_state="stopped" if host.destroy(server.name) else "active")
        elif verb == "start":
            server.set(task=None, vm_state="active" if host.start(server.name) else "stopped")
        else:
            self._migrated(server, host, self._hosts[to])

    def _migrated(self, server: Server, host: Host, target: Host) -> None:
        server.set(task=None)
        able = host.libvirt and target.up and target.libvirt and server.name in host.qemu
        if not able or server.name in target.defined or not target.allows(server.name):
            return
        host.undefine(server.name)
        target.start(server.name)
        self._nova.claim(server, host.name, -1)
        self._nova.claim(server, target.name, 1)
        self._nova.move(server, target.name)

    def _delete(self, server: Server) -> str:
        """Where the host is down Nova deletes its own records only; its nova-compute removes the domain later."""
        host = self._hosts[server.host]
        self._nova.remove(server)
        if self._nova.consuming(host.name):
            host.undefine(server.name)
        return ""


def _left(migration: Migration, host: str) -> bool:
    return migration.source == host and migration.status in SOURCE_OPEN
