"""A whole cloud in virtual time: hosts, networks, etcd, Nova and fencing devices as physics, and the real core in its controllers."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vmha.core import invariants, planner
from vmha.core.invariants import Landing
from vmha.core.model import (
    Call,
    CallKind,
    Command,
    Condemnation,
    HostSettings,
    InstanceSeen,
    InstanceSettings,
    Migration,
    Protect,
    SegmentSettings,
    Verb,
    Voters,
)
from vmha.core.voters import lists, seats
from vmha.sim.agents import WATCHDOG, Agent, filled
from vmha.sim.answers import Answers
from vmha.sim.beats import Beats
from vmha.sim.clock import Clock
from vmha.sim.controllers import Controller, State
from vmha.sim.cuts import Cuts
from vmha.sim.hosts import Host, HostSpec, Power
from vmha.sim.net import Net
from vmha.sim.nova import Nova, Server
from vmha.sim.nova_compute import NovaComputes
from vmha.sim.output import Output, Word
from vmha.sim.power import Devices
from vmha.sim.scenario import RUNNING_STATES, Scenario
from vmha.sim.store import Key, Lease, Store

ADMIN = "disabled by an admin"


class World:
    """One run of a scenario.  ``run`` lets it happen; ``output`` and ``violations`` tell how it went."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.physics, self.settings = scenario, scenario.physics, scenario.settings
        self.clock = Clock()
        self.rng = random.Random(scenario.physics.seed)
        self.output = Output(self.clock)
        self.violations: dict[str, float] = {}
        self.net = Net({n: s.networks for n, s in scenario.hosts.items()})
        self.store = Store(self.clock)
        self.copies: dict[str, set[str]] = {}
        self._touched: set[str] = set()
        self._landings: list[Landing] = []
        self._fenced: set[str] = set()
        self._jumped: dict[str, float] = {}
        self._orders = 0
        self.hosts: dict[str, Host] = {}
        self.agents: dict[str, Agent] = {}
        self.controllers: dict[str, Controller] = {}
        self._build_hosts(scenario.hosts)
        self.devices = Devices(self.clock, self.physics, self.hosts)
        self.nova = Nova(self.clock, self.physics, self.hosts, self.settings.metadata_key)
        self.nova.orders.append(self._evacuation_lands)
        self.computes = NovaComputes(self.clock, self.physics, self.net, self.nova, self.hosts)
        self._build_controllers(scenario.controllers)
        self.cuts = Cuts(self.clock, self.net, self.controllers, self.net_changed)
        self._build_agents()
        self.answers = Answers(self.net, self.store, self.agents, self.controllers, self.physics.word)
        self._begin()
        self.store.watchers.append(self._store_changed)
        self.store.expired.append(self._lease_expired)

    # --- building --------------------------------------------------------------------------------------------------------

    def _build_hosts(self, specs: Mapping[str, HostSpec]) -> None:
        for name, spec in specs.items():
            self.hosts[name] = Host(
                spec, self.clock, self.physics, self.host_changed, self._domain_changed, self.copies
            )

    def _build_controllers(self, names: Sequence[str]) -> None:
        for number, name in enumerate(names):
            self.controllers[name] = Controller(name, self, 4096.0 * (number + 1))

    def _build_agents(self) -> None:
        s = self.settings
        self.beats = Beats(self.clock, self.net, s.beat_period, s.silence, self.rng)
        for controller in self.controllers.values():
            self.beats.add_ear(controller)
        for number, (name, host) in enumerate(self.hosts.items()):
            self.beats.add_host(name, (number * 0.0137) % s.beat_period - 1.0)
            self.agents[name] = Agent(host, self, number)
            if not host.spec.powered:
                host.power = Power.OFF

    def _make_voters(self) -> None:
        """An operator has made the list of voters, before the world begins."""
        if self.scenario.voters:
            domains = {n: h.spec.failure_domain for n, h in self.hosts.items() if not h.spec.maintenance}
            arbiter = next(iter(self.controllers))
            self.store.voters = Voters(seats(domains, arbiter), arbiter, revision=self.store.revision)

    def _begin(self) -> None:
        """Everything has been running for long."""
        for number, (name, host) in enumerate(self.hosts.items()):
            self._begin_host(name, host)
            self.computes.begin(host, -((number * 0.73) % 10.0))
        for server in self.scenario.servers():
            self.add_server(server)
        for name, host in self.hosts.items():
            unprotected = tuple(sorted(u for u in self.nova.on[name] if self.protection(u) is Protect.NONE))
            host.unprotected = frozenset(unprotected)
            if unprotected:
                self.store.unprotected[name] = unprotected
        self.store.put(
            SegmentSettings(
                "default", self.settings.protect_default, enabled=self.scenario.extra.get("segment_enabled", True)
            )
        )
        self._make_voters()
        for agent in self.agents.values():
            if agent.host.up:
                agent.begin()
        for name, host in self.hosts.items():
            self.beats.set(name, host.up, host.boot)
        first = next(iter(self.controllers.values()))
        first.elect()
        for controller in self.controllers.values():
            if controller is not first:
                controller.give_world()
        self.clock.at(0.2, first.begin_reign)

    def _begin_host(self, name: str, host: Host) -> None:
        spec = host.spec
        service = self.nova.services[name]
        if spec.service == "disabled":
            service.disabled, service.reason = True, ADMIN
        elif spec.reserved:
            service.disabled, service.reason = True, self.settings.reserved_reason
        self.store.put(self.host_settings(name, spec))

    def host_settings(self, name: str, spec: HostSpec) -> HostSettings:
        """What an operator has set for the host, and what a leader remembers of it."""
        return filled(
            HostSettings,
            host=name,
            last_boot=self.hosts[name].boot,
            addresses=self.agents[name].addresses(),
            segment=spec.segment,
            failure_domain=spec.failure_domain,
            maintenance=spec.maintenance,
            reserved=spec.reserved,
            watchdog=WATCHDOG if spec.watchdog is not None else None,
            watchdog_timeout=spec.watchdog,
            watchdog_held=spec.watchdog is not None,
        )

    def add_server(self, server: Server) -> None:
        """An instance with its settings, running where its state says so."""
        host = self.hosts[server.host]
        self.nova.add(server)
        self.write_settings(server)
        if server.vm_state != "shelved":
            host.defined.add(server.name)
        if host.up and server.vm_state in RUNNING_STATES:
            host.adopt(server.name)
            self.store.put(InstanceSeen(host.name, server.name, host.boot, "running"))

    def write_settings(self, server: Server) -> None:
        """The admin's word about the instance, where there is one."""
        values = {
            "protect": Protect(server.protect) if server.protect else None,
            "priority": server.priority,
            "group": server.group or None,
            "ready": None if server.ready_after is None else True,
        }
        if any(v is not None for v in values.values()):
            known = {n: v for n, v in values.items() if v is not None}
            self.store.put(filled(InstanceSettings, uuid=server.name, **known))

    def protection(self, uuid: str) -> Protect:
        """What is asked for the instance, by the core's own rule of nearness."""
        server = self.nova.servers[uuid]
        if not server.protect and not server.tenant_protect and not self.settings.exclude_services:
            return self.settings.protect_default
        asked = self.store.get(InstanceSettings, uuid)
        segment = self.store.get(SegmentSettings, "default")
        return planner.protection(server.view(self.nova.key), segment, asked, self.settings)[0]

    # --- running ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the start to ``until``."""
        self.clock.run(self.scenario.until, self._check)

    def _check(self) -> None:
        if self._touched or self._landings:
            for text in invariants.check(self):
                self.violations.setdefault(text, self.clock.now)
            self._touched.clear()
            self._landings.clear()

    def touched(self) -> Mapping[str, Collection[str]]:
        return {u: self.copies.get(u, ()) for u in sorted(self._touched)}

    def landings(self) -> Sequence[Landing]:
        return self._landings

    # --- what follows from what --------------------------------------------------------------------------------------------

    def host_changed(self, host: Host) -> None:
        """Its power or one of its processes has changed."""
        if host.up:
            self._fenced.discard(host.name)
        self.beats.set(host.name, host.up and host.beat, host.boot)
        self.computes.refresh(host)
        self.agents[host.name].refresh()
        self._refresh_doubtful()

    def net_changed(self) -> None:
        """Some way between two ends has changed."""
        self.beats.refresh()
        for controller in self.controllers.values():
            controller.refresh()
        for host in self.hosts.values():
            self.computes.refresh(host)
        for agent in self.agents.values():
            agent.refresh()

    def controllers_changed(self) -> None:
        self._refresh_doubtful()

    def _refresh_doubtful(self) -> None:
        """Agents that rely on the answers of others."""
        for agent in self.agents.values():
            if not agent.watching:
                agent.refresh()

    def _domain_changed(self, host: Host, uuid: str, how: str) -> None:
        self._touched.add(uuid)
        if how == "running":
            self._comes_up(host, uuid)
        self.agents[host.name].domain(uuid, how)
        if how in ("crashed", "shutoff"):
            self.computes.domain_stopped(host, uuid)

    def _comes_up(self, host: Host, uuid: str) -> None:
        """A guest that is asked for readiness answers a while after its start."""
        server, qemu = self.nova.servers.get(uuid), host.qemu.get(uuid)
        if server is not None and isinstance(server.ready_after, int | float) and qemu and not qemu.answers:
            self.clock.at(qemu.since + server.ready_after, host.answers, uuid, qemu.since)

    def _store_changed(self, kind: type, key: Key, value: Any) -> None:
        for controller in self.controllers.values():
            controller.changed(kind, key, value)
        if kind in (Condemnation, tuple):
            self.agents[key[0]].told()
        if kind in (Condemnation, Voters):
            self._lists_changed(kind is Voters)

    def _lists_changed(self, everywhere: bool) -> None:
        voters = self.store.voters
        names = {n for one in lists(voters) for n in one} if voters is not None else set()
        for name in self.agents if everywhere else sorted(names & set(self.agents)):
            self.agents[name].lists_changed()

    def acknowledge(self, controller: str, revision: int) -> None:
        """The arbiter has applied the lists: every controller that it can reach hears of it."""
        own = self.controllers[controller]
        if own.voters is None or own.voters.arbiter != controller or not own.working:
            return
        for other in self.controllers.values():
            if other is own or self.net.talks(controller, other.name):
                other.carried(controller, "Acked", ("", own.voters.revision, revision))

    def _lease_expired(self, lease: Lease) -> None:
        if lease is self.store.leader_lease:
            self.store.leader = ""
            self.controllers[lease.owner].lease_lost(lease)
            for controller in self.controllers.values():
                controller.campaign()
        elif lease.owner.startswith("host:"):
            self.agents[lease.owner.removeprefix("host:")].lease_lost(lease)

    # --- what agents and controllers ask ------------------------------------------------------------------------------------

    def answered(self, host: str) -> str:
        return self.answers.to(host)

    def record(self, do: str, host: str, instance: str = "", to: str = "", reason: str = "") -> None:
        """An agent acts."""
        word = Word(do, host, instance, to, reason)
        self.output.before(word)
        self.output.line(host, f"{do} {instance}".strip() + (f": {reason}" if reason else ""), "warning")
        self.output.done(word)

    def line(self, who: str, text: str) -> None:
        self.output.event(f"{who}: {text}")

    def restart_compute(self, host: str) -> None:
        """As the agent's command does it."""
        self.computes.kill(self.hosts[host])
        self.clock.after(self.physics.nova_compute_start, self.computes.start, self.hosts[host])

    def carry(self, host: str, fact: str, value: Any) -> None:
        self.beats.carry(host, fact, value)

    def probe(self, controller: str, host: str, network: str) -> bool | None:
        """Its kernel answers ICMP; None: it cannot be asked, the controller's own link is down."""
        if not self.net.attached(controller, network):
            return None
        return (
            self.hosts[host].up
            and self.net.path(controller, host, network)
            and self.net.path(host, controller, network)
        )

    def draw(self) -> float:
        spread = self.physics.call_spread
        return self.rng.uniform(0.0, spread) if spread else 0.0

    def forget(self, controller: str) -> None:
        self.beats.forget(controller)

    def excuse(self, controller: str) -> None:
        self.beats.excuse(controller)

    def order(self, verb: str, host: str, by: str, reason: str) -> None:
        """An operator's order, through the API: to the leader, or where the core keeps it, to the store."""
        if verb == "release" and host in self.store.tables[Condemnation]:
            old = self.store.get(HostSettings, host)
            self.store.put(replace(old, release=self.store.get(Condemnation, host).revision))
            return
        if verb == "release":
            return  # nothing waits for it
        if not self.store.up:
            self.output.event(f"nobody takes the order to {verb} {host}: etcd is down")
            return
        self._orders += 1
        command = Command(f"o{self._orders}", Verb(verb), host, by, reason, self.store.epoch, self.clock.now)
        self.store.put(command)

    # --- judging -----------------------------------------------------------------------------------------------------------

    def landing(self, call: Call) -> None:
        """An order takes effect now: note what is true at this moment."""
        if call.kind in (CallKind.EVACUATE, CallKind.RESET_STATE):
            return  # judged when Nova accepts it
        host, service = self.hosts[call.host], self.nova.services[call.host]
        condemnation = self.store.get(Condemnation, host.name)
        if call.kind is CallKind.POWER_OFF and host.power is not Power.OFF:
            self._fenced.add(host.name)
        self._landings.append(
            Landing(
                call.kind,
                host.name,
                running=() if host.mute else tuple(host.protected()),
                powered=host.up,
                later_boot=condemnation is not None and condemnation.boot != host.boot,
                dead_for=0.0 if host.up else self.clock.now - host.lost_at,
                noticed_after=self.settings.silence + self.settings.start_limit + self.settings.call_limit,
                fenced=tuple(sorted(self._fenced)),
                cap=self._cap(),
                disabled_by=service.reason if service.disabled else "",
                our_reason=self.settings.reserved_reason if host.spec.reserved else self.settings.disabled_reason,
                stale=self._stale(host),
                open_targets=self._open_targets(host.name),
            )
        )

    def _evacuation_lands(self, migration: Migration, vm_state: str) -> None:
        server = self.nova.servers[migration.instance]
        self._landings.append(
            Landing(
                CallKind.EVACUATE,
                migration.source,
                server.name,
                running=tuple(sorted(self.copies.get(server.name, ()))),
                protect=self.protection(server.name),
                own_error=server.own_error and not self.settings.recover_errors,
            )
        )

    def _cap(self) -> int:
        total = sum(
            not h.spec.maintenance or self.store.get(Condemnation, n) is not None for n, h in self.hosts.items()
        )
        return max(1, min(self.settings.max_down, int(total * self.settings.max_down_percent / 100)))

    def _stale(self, host: Host) -> tuple[str, ...]:
        servers = self.nova.servers
        return tuple(sorted(u for u in host.defined if u in servers and servers[u].host != host.name))

    def _open_targets(self, host: str) -> tuple[int, ...]:
        final = ("done", "completed", "failed", "error", "cancelled")
        return tuple(m.id for m in self.nova.migrations_of(host) if m.target == host and m.status not in final)

    def leader(self) -> Controller | None:
        """Who acts now, if anybody does."""
        return next((c for c in self.controllers.values() if c.engine.epoch and c.state is State.UP), None)
