"""The events of a scenario file, each a method by its word: what the world does to itself, and what people order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from vmha.core.model import HostSettings
from vmha.sim.controllers import Controller, State
from vmha.sim.hosts import Host
from vmha.sim.net import NETWORKS
from vmha.sim.nova import Server, Trouble
from vmha.sim.scenario import Happening, host_spec, product_settings, server
from vmha.sim.world import ADMIN, World

HOST_FIELDS = {
    "failure_domain",
    "maintenance",
    "reserved",
    "segment",
}  # what stands in the operator's settings of a host


class Happenings:
    """Lets the events of a file happen in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hooks: dict[tuple[str, str], dict[int, list[Happening]]] = {}
        for happening in world.scenario.events:
            if happening.when is None:
                world.clock.at(happening.at, self.happen, happening)
            else:
                moment, do, number = happening.when
                self._hooks.setdefault((moment, do), {}).setdefault(number, []).append(happening)
        for key, numbers in self._hooks.items():
            world.output.hooks[key] = self._hook(numbers)

    def _hook(self, numbers: Mapping[int, list[Happening]]) -> Any:
        def act(number: int) -> None:
            for happening in numbers.get(number, ()):
                self.happen(happening)

        return act

    def happen(self, happening: Happening) -> None:
        args = dict(happening.args)
        told = " ".join(f"{k}={_plain(v)}" for k, v in args.items())
        self._world.output.event(f"{happening.do} {told}".rstrip())
        getattr(self, "_" + happening.do)(**{("source" if k == "from" else k): v for k, v in args.items()})

    def _host(self, name: str) -> Host:
        return self._world.hosts[name]

    def _server(self, name: str) -> Server | None:
        server = self._world.nova.servers.get(name)
        if server is None:
            self._world.output.event(f"{name} does not exist: nothing happens")
        return server

    # --- power, networks ---------------------------------------------------------------------------------------------------

    def _power_off(self, host: str) -> None:
        self._host(host).lose_power()

    def _power_on(self, host: str) -> None:
        self._host(host).switch_on()

    def _net_cut(self, host: str, networks: Iterable[str] = NETWORKS) -> None:
        self._world.net.cut(host, networks)
        self._world.net_changed()

    def _net_heal(self, host: str, networks: Iterable[str] = NETWORKS) -> None:
        self._world.net.heal(host, networks)
        self._world.net_changed()

    def _links(self, source: Any, to: Any) -> list[tuple[str, str]]:
        several = [[x] if isinstance(x, str) else list(x) for x in (source, to)]
        return [(a, b) for a in several[0] for b in several[1] if a != b]

    def _link_cut(self, source: Any, to: Any, networks: Iterable[str] = NETWORKS) -> None:
        for a, b in self._links(source, to):
            self._world.net.cut_link(a, b, networks)
        self._world.net_changed()

    def _link_heal(self, source: Any, to: Any, networks: Iterable[str] = NETWORKS) -> None:
        for a, b in self._links(source, to):
            self._world.net.heal_link(a, b, networks)
        self._world.net_changed()

    def _delay(self, source: Any, to: Any, seconds: float, networks: Iterable[str] = NETWORKS) -> None:
        for a, b in self._links(source, to):
            self._world.net.set_delay(a, b, networks, seconds)
        self._world.net_changed()

    def _loss(self, source: Any, to: Any, fraction: float, networks: Iterable[str] = NETWORKS) -> None:
        for a, b in self._links(source, to):
            self._world.net.set_loss(a, b, networks, fraction)
        self._world.net_changed()

    # --- processes of hosts --------------------------------------------------------------------------------------------------

    def _agent_kill(self, host: str) -> None:
        self._world.agents[host].kill()

    def _agent_start(self, host: str) -> None:
        self._world.agents[host].start()

    def _agent_hang(self, host: str) -> None:
        self._world.agents[host].hang()

    def _agent_resume(self, host: str) -> None:
        self._world.agents[host].resume()

    def _beat_kill(self, host: str) -> None:
        self._host(host).beat = False
        self._world.host_changed(self._host(host))

    def _beat_start(self, host: str) -> None:
        self._host(host).beat = True
        self._world.host_changed(self._host(host))

    def _libvirt_kill(self, host: str) -> None:
        self._host(host).libvirt = False
        self._world.host_changed(self._host(host))

    def _libvirt_start(self, host: str) -> None:
        self._host(host).libvirt = self._host(host).up
        self._world.host_changed(self._host(host))

    def _nova_compute_kill(self, host: str) -> None:
        self._world.computes.kill(self._host(host))

    def _nova_compute_start(self, host: str) -> None:
        self._world.computes.start(self._host(host))

    def _storage_fail(self, host: str, store: str = "all") -> None:
        self._host(host).fail_store(store)

    def _storage_ok(self, host: str, store: str = "all") -> None:
        self._host(host).heal_store(store)

    def _shut_out(self, host: str, storage: bool = True, networks: bool = True) -> None:
        self._world.cuts.shut_out(self._host(host), storage, networks)

    def _let_in(self, host: str) -> None:
        self._world.cuts.let_in(self._host(host))

    def _bmc_fail(self, host: str, mode: str = "unreachable", seconds: float = 30.0) -> None:
        self._world.devices.fail(host, mode, seconds)

    def _bmc_ok(self, host: str) -> None:
        self._world.devices.heal(host)

    def _clock_jump(self, host: str, seconds: float) -> None:
        """Nothing that decides reads a wall clock."""

    # --- the store, controllers, Nova ------------------------------------------------------------------------------------------

    def _store_down(self) -> None:
        self._world.store.down()
        self._world.net_changed()

    def _store_up(self) -> None:
        self._world.store.recover()
        self._world.net_changed()

    def _leases_expire(self) -> None:
        self._world.store.expire_all()

    def _which(self, which: str) -> list[Controller]:
        controllers = self._world.controllers
        if which == "all":
            return list(controllers.values())
        if which == "leader":
            leader = controllers.get(self._world.store.leader)
            return [leader] if leader is not None else []
        return [controllers[which]]

    def _watch_lost(self, which: str = "all") -> None:
        for controller in self._which(which):
            controller.lose_watch()

    def _controller_kill(self, which: str = "leader") -> None:
        for controller in self._which(which):
            controller.kill()
        self._world.controllers_changed()

    def _controller_start(self, which: str = "all") -> None:
        for controller in self._which(which):
            controller.start()
        self._world.controllers_changed()

    def _controller_hang(self, which: str = "leader") -> None:
        for controller in self._which(which):
            controller.hang()
        self._world.controllers_changed()

    def _controller_resume(self, which: str = "all") -> None:
        for controller in self._which("all" if which == "leader" else which):
            if controller.state is State.HUNG:
                controller.resume()
        self._world.controllers_changed()

    def _nova_fail(self, instance: str = "", mode: str = "error", seconds: float = 0.0) -> None:
        if instance:
            self._world.nova.refusing[instance] = mode
        else:
            self._world.nova.trouble = Trouble(mode, seconds)

    def _nova_ok(self, instance: str = "") -> None:
        if instance:
            self._world.nova.refusing.pop(instance, None)
        else:
            self._world.nova.trouble = Trouble()

    # --- guests ----------------------------------------------------------------------------------------------------------------

    def _guest(self, instance: str, state: str) -> None:
        server = self._server(instance)
        if server is not None:
            self._host(server.host).guest(instance, state)

    def _vm_crash(self, instance: str, local_start_fails: bool = False) -> None:
        server = self._server(instance)
        if server is not None:
            server.local_start_fails = local_start_fails
            self._host(server.host).crash(instance)

    def _vm_poweroff(self, instance: str) -> None:
        server = self._server(instance)
        if server is not None:
            self._host(server.host).crash(instance, "shutoff")

    def _vm_local_start(self, instance: str) -> None:
        """A call to start the domain reaches libvirt on the instance's host: an agent's that was under way, or ``virsh start``."""
        server = self._server(instance)
        if server is not None and not self._host(server.host).start(instance):
            self._world.output.event(f"{server.host} does not start {instance}: its gate is shut")

    def _vm_panic(self, instance: str) -> None:
        self._guest(instance, "panicked")

    def _vm_hang(self, instance: str) -> None:
        self._guest(instance, "hung")

    def _vm_io_error(self, instance: str) -> None:
        self._guest(instance, "io_error")

    def _vm_io_ok(self, instance: str) -> None:
        self._guest(instance, "io_ok")

    def _vm_agent_silent(self, instance: str) -> None:
        self._guest(instance, "silent")

    # --- users -----------------------------------------------------------------------------------------------------------------

    def _user(self, verb: str, instance: str, to: str = "") -> None:
        server = self._server(instance)
        refusal = self._world.computes.user(verb, server, to) if server is not None else ""
        if refusal:
            self._world.output.event(f"Nova refuses to {verb} {instance}: {refusal}")

    def _stop(self, instance: str) -> None:
        self._user("stop", instance)

    def _start(self, instance: str) -> None:
        self._user("start", instance)

    def _delete(self, instance: str) -> None:
        self._user("delete", instance)

    def _migrate(self, instance: str, to: str) -> None:
        self._user("migrate", instance, to)

    def _create(self, instance: str, host: str, **given: Any) -> None:
        if instance in self._world.nova.servers:
            self._world.output.event(f"{instance} exists already: nothing happens")
            return
        self._world.add_server(server(instance, {"host": host, **given}))

    # --- operators ---------------------------------------------------------------------------------------------------------------

    def _settings_of(self, host: str, **changed: Any) -> None:
        """What the API writes: the operator's settings of a host."""
        spec = replace(self._host(host).spec, **changed)
        self._host(host).spec = spec
        old = self._world.store.get(HostSettings, host)
        known = {f.name for f in fields(HostSettings)} & HOST_FIELDS
        values = {n: getattr(spec, n) for n in known}
        self._world.store.put(replace(old, **values) if old else self._world.host_settings(host, spec))

    def _maintain(self, host: str) -> None:
        self._settings_of(host, maintenance=True)

    def _release(self, host: str) -> None:
        """Ends a maintenance; lets a fenced host that waits for it back in service."""
        if self._host(host).spec.maintenance:
            self._settings_of(host, maintenance=False)
        self._order("release", host)

    def _order(self, verb: str, host: str, by: str = "operator", reason: str = "") -> None:
        self._world.order(verb, host, by, reason)

    def _condemn(self, host: str, by: str = "operator", reason: str = "ordered") -> None:
        self._order("condemn", host, by, reason)

    def _confirm_dead(self, host: str, by: str = "operator", reason: str = "") -> None:
        self._order("confirm_dead", host, by, reason)

    def _approve(self, host: str, by: str = "operator", reason: str = "") -> None:
        self._order("approve", host, by, reason)

    def _retry(self, host: str, by: str = "operator", reason: str = "") -> None:
        self._order("retry", host, by, reason)

    def _abort(self, host: str, by: str = "operator", reason: str = "") -> None:
        self._order("abort", host, by, reason)

    def _resolve(self, host: str, by: str = "operator", reason: str = "") -> None:
        self._order("resolve", host, by, reason)

    def _disarm(self) -> None:
        self._world.store.switch(True)

    def _arm(self) -> None:
        self._world.store.switch(False)

    def _set(self, host: str = "", instance: str = "", settings: Mapping[str, Any] | None = None, **given: Any) -> None:
        if settings is not None:
            self._set_settings(settings)
        elif instance:
            self._set_instance(instance, given)
        else:
            self._set_host(host, given)

    def _set_settings(self, changed: Mapping[str, Any]) -> None:
        """Every controller's configuration is changed and the controllers take it up."""
        old = self._world.scenario.data.get("settings") or {}
        self._world.settings, _ = product_settings({**old, **changed})
        for controller in self._world.controllers.values():
            controller.configure(self._world.settings)

    def _set_instance(self, instance: str, given: Mapping[str, Any]) -> None:
        server = self._server(instance)
        if server is None:
            return
        values = {("vm_state" if k == "state" else k): tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        server.set(**values)
        if "vm_state" in values:
            server.own_error = server.vm_state == "error"
        self._world.write_settings(server)

    def _set_host(self, host: str, given: Mapping[str, Any]) -> None:
        spec = host_spec(host, {**given, "failure_domain": given.get("failure_domain", host)})
        changed = {k: getattr(spec, k) for k in given}
        service = self._world.nova.services[host]
        if "service" in changed:
            service.disabled = changed["service"] == "disabled"
            service.reason = ADMIN if service.disabled else ""
        if "powered" in changed:
            (self._host(host).switch_on if changed["powered"] else self._host(host).lose_power)()
        if "networks" in changed:
            self._world.net.networks[host] = changed["networks"]
        self._settings_of(host, **changed)
        self._world.net_changed()


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return ",".join(f"{k}:{v}" for k, v in value.items())
    return str(value)
