"""``lab status``: what runs, what is dead, what is cut, on one screen."""

from __future__ import annotations

from collections.abc import Iterator

from lab import bmc, lifecycle, network, overlaps, services
from lab import machine as machines
from lab.settings import Settings


def lines(settings: Settings) -> Iterator[str]:
    """The page, line by line. Trouble is in capitals, so that the eye finds it."""
    kind = "light lab" if settings.light else "lab"
    if not network.exists(network.switch(settings)):
        yield f"the {kind} is down ({settings.state})"
        return
    up = lifecycle.is_up(settings)
    disks = "" if settings.light else f", {'local' if settings.local_disks else 'shared'} disks"
    yield f"{kind} in {settings.state}: {'up' if up else 'NOT COMPLETELY UP'}, {settings.hosts} hosts{disks}"
    for name in settings.machines:
        yield _machine(settings, name)
    for host in settings.computes:
        yield _device(settings, host)
    yield f"networks cut: {', '.join(network.cuts(settings)).upper() or 'none'}"
    yield _witness(settings)


def _machine(settings: Settings, name: str) -> str:
    process = machines.init(settings, name)
    address = settings.address(name, "management")
    if process is None:
        return f"{name:10} {address:12} POWER OFF"
    state = lifecycle.boot_state(settings, name)
    parts = [f"{name:10} {address:12} on, pid {process.pid}"]
    if state["state"] != "ready":
        parts.append(f"{state['state'].upper()}: {state['detail']}")
    return "  ".join([*parts, _services(settings, name)])


def _services(settings: Settings, machine: str) -> str:
    alive = {name: services.find(settings, machine, name) is not None for name in services.names(settings, machine)}
    return " ".join(name if live else f"{name}:DEAD" for name, live in alive.items())


def _device(settings: Settings, host: str) -> str:
    name = settings.bmc(host)
    path = bmc.delay_file(settings, host)
    delay = f", acts after {path.read_text().strip()} s" if path.exists() else ""
    return f"{name:10} {settings.address(name, 'oob'):12} IPMI device of {host}: {_services(settings, name)}{delay}"


def _witness(settings: Settings) -> str:
    alive = "witness" in services.names(settings, "root") and services.find(settings, "root", "witness")
    found = overlaps.overlaps(overlaps.runs(settings))
    count = len(overlaps.runs(settings))
    word = f"{len(found)} DOUBLE RUNS" if found else "no double run"
    return f"witness: {'alive' if alive else 'DEAD'}, {count} QEMU processes seen, {word}"
