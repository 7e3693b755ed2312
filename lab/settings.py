"""What one lab is: its folder, its machines and their addresses.

``lab up`` writes the settings into the state folder; every later command, the machines' pid 1 and the IPMI devices
read them there, so that nothing has to be said twice.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.errors import LabError

HOME = Path(__file__).resolve().parent
REPO = HOME.parent
PYTHON = "/usr/bin/python3"
PASSWORD = "lab"
MAX_HOSTS = 10

#: name given by a person -> (short name of bridge and cable, third octet of the addresses)
NETWORKS = {"management": ("mgmt", 0), "storage": ("stor", 1), "oob": ("oob", 2)}


def base_state() -> Path:
    """The folder of everything generated; VMHA_LAB_STATE overrides ``lab/state``."""
    return Path(os.environ.get("VMHA_LAB_STATE") or HOME / "state").resolve()


@dataclass(frozen=True)
class Settings:
    """One lab. ``base`` holds what labs share (venv, guest image); ``state`` is this lab's own folder."""

    base: Path
    light: bool = False
    hosts: int = 3
    local_disks: bool = False
    vmha: bool = True
    prefix: str = field(default_factory=lambda: os.environ.get("VMHA_LAB_PREFIX", "lab-"))

    @property
    def state(self) -> Path:
        return self.base / "light" if self.light else self.base

    @property
    def venv(self) -> Path:
        """The venv with OpenStack; vmha has its own, ``vmha_venv``."""
        return self.base / "venv"

    @property
    def vmha_venv(self) -> Path:
        return REPO / ".venv"

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def witness_file(self) -> Path:
        return self.state / "witness.jsonl"

    @property
    def events_file(self) -> Path:
        return self.state / "events.jsonl"

    @property
    def computes(self) -> list[str]:
        return [f"compute{n}" for n in range(1, self.hosts + 1)]

    @property
    def controllers(self) -> list[str]:
        return ["con1", "con2"]

    @property
    def machines(self) -> list[str]:
        return ["ctl", *self.controllers, *self.computes]

    @property
    def etcd_endpoints(self) -> list[str]:
        return [f"http://{self.address(m, 'management')}:2379" for m in ("ctl", *self.controllers)]

    def run(self, machine: str) -> Path:
        """What is true of a machine now (pids, boot state); gone with the lab."""
        return self.state / "run" / machine

    def log(self, machine: str) -> Path:
        return self.state / "log" / machine

    def disk(self, machine: str) -> Path:
        """What a machine keeps when its power is cut."""
        return self.state / "hosts" / machine

    def namespace(self, machine: str) -> str:
        """Name of the machine's network namespace (``light`` labs have names of their own)."""
        return f"{self.prefix}{'l-' if self.light else ''}{machine}"

    def octet(self, machine: str) -> int:
        """Last octet of all the machine's addresses; an IPMI device has its host's."""
        fixed = {"ctl": 1, "con1": 2, "con2": 3}
        if machine in fixed:
            return fixed[machine]
        number = machine.removeprefix("compute").removeprefix("bmc")
        if not number.isdigit() or not 1 <= int(number) <= self.hosts:
            raise LabError(f"there is no machine {machine!r} in this lab; it has {', '.join(self.machines)}")
        return 10 + int(number)

    def address(self, machine: str, network: str) -> str:
        return f"10.77.{NETWORKS[network][1]}.{self.octet(machine)}"

    def networks(self, machine: str) -> list[str]:
        """The networks a machine is on: compute hosts are not on the out-of-band one, their IPMI devices only there."""
        if machine.startswith("compute"):
            return ["management", "storage"]
        return ["oob"] if machine.startswith("bmc") else list(NETWORKS)

    def bmc(self, host: str) -> str:
        """Name of a compute host's IPMI device."""
        if not host.startswith("compute"):
            raise LabError(f"{host} has no IPMI device; only compute hosts have one")
        self.octet(host)
        return host.replace("compute", "bmc")

    def known(self, machine: str) -> str:
        """The name itself, if the lab has such a machine; LabError otherwise."""
        self.octet(machine)
        return machine

    def save(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**asdict(self), "base": str(self.base)}, indent=1)
        (self.state / "settings.json").write_text(text)


def load(state: Path) -> Settings:
    """The settings that ``lab up`` wrote into a state folder; LabError when there are none."""
    try:
        values = json.loads((state / "settings.json").read_text())
    except FileNotFoundError:
        raise LabError(f"no lab was ever started in {state}; run 'lab/lab up' first") from None
    return Settings(**{**values, "base": Path(values["base"])})


def for_command(light: bool, state: Path | None = None) -> Settings:
    """The settings of the lab a command is about: those it was started with, or the defaults before any start."""
    base = state.resolve() if state else base_state()
    fresh = Settings(base=base, light=light)
    return load(fresh.state) if (fresh.state / "settings.json").exists() else fresh
