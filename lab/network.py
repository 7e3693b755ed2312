"""Cables and switches: one bridge per network in a switch namespace, one veth pair per machine and network.

A cut drops packets silently in the switch (both ways, link stays up); ``--link`` takes the carrier away instead.
Cuts are kept by cable, so they survive a power cycle of the machine, as a broken switch port would.
"""

from __future__ import annotations

import os
from pathlib import Path

from lab import events
from lab.errors import LabError
from lab.processes import run
from lab.settings import NETWORKS, Settings

NETNS = Path("/run/netns")


def switch(settings: Settings) -> str:
    return settings.namespace("sw")


def port(machine: str, network: str) -> str:
    """Name of a machine's cable at the switch."""
    return f"{NETWORKS[network][0]}-{machine}"


def exists(namespace: str) -> bool:
    return (NETNS / namespace).exists()


def add_namespace(settings: Settings, namespace: str) -> None:
    if not os.path.ismount(NETNS):
        (settings.state / "made-netns-mount").touch()
    run(["ip", "netns", "add", namespace])


def delete_namespace(namespace: str) -> None:
    if exists(namespace):
        run(["ip", "netns", "del", namespace])


def make_switch(settings: Settings) -> None:
    name = switch(settings)
    add_namespace(settings, name)
    lines = ["link set lo up"]
    for short, _ in NETWORKS.values():
        lines += [f"link add br-{short} type bridge", f"link set br-{short} up"]
    run(["ip", "-n", name, "-batch", "-"], "\n".join(lines))


def plug(settings: Settings, machine: str) -> None:
    """Make the machine's network namespace and plug its cables in. A cable that was cut by link stays dead."""
    name, side = settings.namespace(machine), switch(settings)
    add_namespace(settings, name)
    outer, inner = [], ["link set lo up"]
    for network in settings.networks(machine):
        short, third = NETWORKS[network]
        cable, octet = port(machine, network), settings.octet(machine)
        mac = f"52:54:77:{third:02x}:00:{octet:02x}"
        outer.append(f"link add {cable} type veth peer name {short} address {mac} netns {name}")
        outer.append(f"link set {cable} master br-{short} {'down' if _dead_link(settings, cable).exists() else 'up'}")
        inner += [f"addr add {settings.address(machine, network)}/24 dev {short}", f"link set {short} up"]
    run(["ip", "-n", side, "-batch", "-"], "\n".join(outer))
    run(["ip", "-n", name, "-batch", "-"], "\n".join(inner))


def pull(settings: Settings, machine: str) -> None:
    """All cables of a machine lose carrier: nothing it says from now on, FIN and RST included, is heard."""
    lines = [f"link set {port(machine, network)} down" for network in settings.networks(machine)]
    run(["ip", "-n", switch(settings), "-force", "-batch", "-"], "\n".join(lines), check=False)


def unplug(settings: Settings, machine: str) -> None:
    """Remove the machine's cables and its namespace."""
    lines = [f"link del {port(machine, network)}" for network in settings.networks(machine)]
    run(["ip", "-n", switch(settings), "-force", "-batch", "-"], "\n".join(lines), check=False)
    delete_namespace(settings.namespace(machine))


def _dead_link(settings: Settings, cable: str) -> Path:
    return settings.state / "run" / "cuts" / f"{cable}.link"


def _dropped(settings: Settings, cable: str) -> Path:
    return settings.state / "run" / "cuts" / f"{cable}.drop"


def _cable(settings: Settings, machine: str, network: str) -> str:
    if network not in NETWORKS:
        raise LabError(f"there is no network {network!r}; networks are {', '.join(NETWORKS)}")
    if network == "oob" and machine.startswith("compute"):
        machine = settings.bmc(machine)
    settings.known(machine)
    return port(machine, network)


def cut(settings: Settings, machine: str, network: str, link: bool = False) -> None:
    """Cut a machine off one network; for ``oob`` and a compute host that is its IPMI device. Twice is once."""
    cable, side = _cable(settings, machine, network), switch(settings)
    mark = (_dead_link if link else _dropped)(settings, cable)
    if mark.exists():
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    stamp = events.now()
    if link:
        run(["ip", "-n", side, "link", "set", cable, "down"], check=False)
    else:
        chain = f'chain f {{ type filter hook forward priority 0; iifname "{cable}" drop; oifname "{cable}" drop; }}'
        rules = f"table bridge cut_{cable.replace('-', '_')} {{ {chain}; }}"
        run(["ip", "netns", "exec", side, "nft", "-f", "-"], rules)
    events.record(settings, "net-cut", machine, stamp, network=network, link=link, by=events.asked_by())


def heal(settings: Settings, machine: str, network: str) -> None:
    """Undo every cut of a machine's cable; nothing happens if there is none."""
    cable, side = _cable(settings, machine, network), switch(settings)
    dropped, dead = _dropped(settings, cable), _dead_link(settings, cable)
    if not dropped.exists() and not dead.exists():
        return
    if dropped.exists():
        run(["ip", "netns", "exec", side, "nft", "delete", "table", "bridge", f"cut_{cable.replace('-', '_')}"])
    if dead.exists():
        run(["ip", "-n", side, "link", "set", cable, "up"], check=False)
    dropped.unlink(missing_ok=True)
    dead.unlink(missing_ok=True)
    events.record(settings, "net-heal", machine, network=network, by=events.asked_by())


def cuts(settings: Settings) -> list[str]:
    """The cables that are cut now, as ``mgmt-compute1 (drop)``."""
    folder = settings.state / "run" / "cuts"
    marks = sorted(folder.iterdir()) if folder.exists() else []
    return [f"{mark.stem} ({mark.suffix[1:]})" for mark in marks]
