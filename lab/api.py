"""The lab as tests and benchmarks use it. Every method raises LabError with a sentence for a person when it cannot."""

from __future__ import annotations

import signal as signals
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import bmc, events, lifecycle, network, overlaps, services
from lab import machine as machines
from lab.errors import LabError
from lab.processes import wait_until
from lab.settings import Settings, for_command


class Lab:
    """One lab, full or light; both can run at once.

    ``state`` is the folder the CLI calls VMHA_LAB_STATE. ``prefix`` of its namespaces is given to run a third one.
    """

    def __init__(self, state: str | Path | None = None, light: bool = False, prefix: str | None = None) -> None:
        self.settings: Settings = for_command(light, Path(state) if state else None)
        if prefix is not None:
            self.settings = replace(self.settings, prefix=prefix)

    # ---- the lab as a whole

    def up(
        self,
        fresh: bool = False,
        hosts: int = 3,
        vmha: bool = True,
        local_disks: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start the lab and return when it is ready; ``fresh`` forgets all data of earlier starts."""
        if not 1 <= hosts <= 10:
            raise LabError(f"{hosts} hosts are not possible; ask for 1 to 10")
        if self.is_up():
            raise LabError("the lab is up already; run 'lab/lab down' first")
        wanted = replace(self.settings, hosts=hosts, vmha=vmha, local_disks=local_disks)
        lifecycle.up(wanted, fresh, say)
        self.settings = wanted

    def down(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Stop the lab; on return no process, namespace or mount of it is left."""
        lifecycle.down(self.settings, say)

    def leftovers(self) -> list[str]:
        """What is still there of the lab's namespaces, mounts and processes; empty after ``down``."""
        return lifecycle.leftovers(self.settings)

    def is_up(self) -> bool:
        """Whether ``up`` finished and ctl has power."""
        return lifecycle.is_up(self.settings)

    @property
    def hosts(self) -> list[str]:
        """Names of the compute hosts."""
        return self.settings.computes

    @property
    def machines(self) -> list[str]:
        return self.settings.machines

    # ---- power and networks

    def power(self, host: str, way: str) -> None:
        """Power ``on`` or ``off``. Off returns when no process of the host is left; on when its boot has begun."""
        if way not in ("on", "off"):
            raise LabError(f"power {way!r} is not possible; use on or off")
        (machines.power_on if way == "on" else machines.power_off)(self.settings, host)

    def has_power(self, host: str) -> bool:
        """Whether the host's pid 1 runs: what its IPMI device answers."""
        return machines.running(self.settings, self.settings.known(host))

    def await_boot(self, host: str, seconds: float = 120) -> None:
        """Wait until the host's own boot is done (its services are started, not yet that they answer)."""
        lab = self.settings
        wait_until(
            lambda: lifecycle.boot_state(lab, host)["state"] not in ("booting", "off"), seconds, f"{host} to boot"
        )
        state = lifecycle.boot_state(lab, host)
        if state["state"] != "ready":
            raise LabError(f"{host} did not boot: {state['detail']}")

    def cut(self, host: str, net: str, link: bool = False) -> None:
        """Cut a machine off ``management``, ``storage`` or ``oob`` (a compute host's IPMI device). Silent unless link."""
        network.cut(self.settings, host, net, link)

    def heal(self, host: str, net: str) -> None:
        """Undo all cuts of that cable."""
        network.heal(self.settings, host, net)

    def bmc_delay(self, host: str, seconds: float) -> None:
        """The host's IPMI device acknowledges power commands at once but acts ``seconds`` later; 0 undoes it."""
        bmc.set_delay(self.settings, host, seconds)

    def bmc(self, host: str) -> str:
        """Machine name of the host's IPMI device, for ``service(lab.bmc('compute1'), 'ipmi', 'kill')``."""
        return self.settings.bmc(host)

    def fencing(self, host: str) -> dict[str, Any]:
        """``{"agent": ..., "options": {...}}`` of the host's fencing device, as in ``etc/fencing.json``."""
        from lab.configure import fencing

        return dict(fencing(self.settings)[host])

    # ---- inside the machines

    def exec(self, machine: str, argv: Sequence[str], **kw: Any) -> subprocess.CompletedProcess[Any]:
        """subprocess.run inside a machine (all of its namespaces, both venvs in PATH, the cloud's address set)."""
        return subprocess.run(self._enter(machine, argv), check=kw.pop("check", False), **kw)

    def popen(self, machine: str, argv: Sequence[str], **kw: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen inside a machine. The Popen is nsenter's parent process; it ends as the command does."""
        return subprocess.Popen(self._enter(machine, argv), **kw)

    def _enter(self, machine: str, argv: Sequence[str]) -> list[str]:
        return machines.enter(self.settings, machine, argv, machines.shell_environment(self.settings))

    def services(self, machine: str) -> dict[str, bool]:
        """Name -> alive, of every service started in the machine since its boot."""
        lab = self.settings
        return {name: services.find(lab, machine, name) is not None for name in services.names(lab, machine)}

    def service(self, machine: str, name: str, action: str) -> None:
        """start, stop (SIGTERM, after 15 s SIGKILL), kill (SIGKILL) or restart; returns when it has happened."""
        services.act(self.settings, machine, name, action)

    def signal(self, machine: str, name: str, number: int | str) -> None:
        """Send a signal ("SIGSTOP" or a number) to a service's process group."""
        try:
            value = signals.Signals[number] if isinstance(number, str) else signals.Signals(number)
        except (KeyError, ValueError):
            raise LabError(f"{number!r} is no signal; use a name like SIGSTOP") from None
        services.send(self.settings, machine, name, value)

    def pid(self, machine: str, service: str) -> int | None:
        """The service's pid in the root namespace; None when it is dead."""
        process = services.find(self.settings, machine, service)
        return process.pid if process else None

    # ---- the record

    def witness_runs(self) -> list[overlaps.Run]:
        """Every QEMU process in any host since ``up``; times in CLOCK_BOOTTIME seconds."""
        return overlaps.runs(self.settings)

    def witness_overlaps(
        self, since: float | None = None, exempt: Iterable[overlaps.Exempt] = ()
    ) -> list[overlaps.Overlap]:
        """Instances that ran twice at once (since that CLOCK_BOOTTIME). LabError if the witness itself is dead."""
        if services.find(self.settings, "root", "witness") is None:
            raise LabError("the witness is dead, so nothing can be said about double runs; see log/root/witness.log")
        return overlaps.overlaps(self.witness_runs(), since, exempt)

    def events(self) -> list[dict[str, Any]]:
        """What was done to the lab since ``up``: power, cuts, services; with mono, boot and wall seconds."""
        return events.read(self.settings)
