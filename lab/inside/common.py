"""What the boots of all machines share: etcd, vmha's services, and waiting for a port."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

from lab import services
from lab.errors import LabError
from lab.processes import run, wait_until
from lab.settings import HOME, PASSWORD, Settings

Say = Callable[[str], None]


def environment(settings: Settings, machine: str) -> dict[str, str]:
    """The environment of OpenStack's services: their venv first in PATH, a ``sudo`` that needs no password."""
    base = services.current_environment()
    path = f"{settings.venv / 'bin'}:{HOME / 'inside' / 'shim'}:{base['PATH']}"
    return {**base, "PATH": path, "HOME": str(settings.disk(machine)), "PYTHONUNBUFFERED": "1"}


def port_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for_port(what: str, address: str, port: int, seconds: float) -> None:
    wait_until(lambda: port_open(address, port), seconds, f"{what} to listen on {address}:{port}")


def conductor_mark(settings: Settings) -> Path:
    """There once nova-conductor of this boot of ctl listens."""
    return settings.run("ctl") / "conductor-listens"


def start_etcd(settings: Settings, machine: str) -> None:
    """This machine's member of the three; its data is on the machine's disk."""
    address = settings.address(machine, "management")
    members = [(name, settings.address(name, "management")) for name in ("ctl", *settings.controllers)]
    options = {
        "name": machine,
        "data-dir": str(settings.disk(machine) / "etcd"),
        "listen-client-urls": f"http://{address}:2379,http://127.0.0.1:2379",
        "advertise-client-urls": f"http://{address}:2379",
        "listen-peer-urls": f"http://{address}:2380",
        "initial-advertise-peer-urls": f"http://{address}:2380",
        "initial-cluster": ",".join(f"{name}=http://{ip}:2380" for name, ip in members),
        "initial-cluster-token": "vmha-lab",
        "experimental-watch-progress-notify-interval": "1s",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "logger": "zap",
        "log-outputs": "stderr",
    }
    argv = ["/usr/bin/etcd", *(f"--{name}={value}" for name, value in options.items())]
    services.launch(settings, machine, "etcd", argv, services.current_environment())


def await_etcd(settings: Settings, machine: str, say: Say) -> None:
    """Wait until this machine's member sees a leader and a quorum."""
    say("waiting for etcd's quorum")
    where = settings.log(machine) / "etcd.log"
    wait_until(_etcd_is_healthy, 60, f"etcd of {machine} to have a quorum (see {where}; are two of three members on?)")


def _etcd_is_healthy() -> bool:
    try:
        with urllib.request.urlopen("http://127.0.0.1:2379/health", timeout=2) as answer:
            return bool(json.load(answer)["health"] == "true")
    except (OSError, ValueError):
        return False


def await_consumer(settings: Settings, queue: str, seconds: float, what: str) -> None:
    """Wait until a service takes messages from its RabbitMQ queue: until then it can be asked nothing."""
    python, script = str(settings.venv / "bin" / "python"), str(HOME / "inside" / "await_consumer.py")
    try:
        run([python, "-P", script, settings.address("ctl", "management"), PASSWORD, queue, f"{seconds:g}"])
    except LabError as error:
        raise LabError(f"{what} does not listen: {error}") from None


def start_vmha(settings: Settings, machine: str, program: str, say: Say) -> None:
    """Start one of vmha's programs, unless the lab runs without vmha or it is not installed."""
    path, config = settings.vmha_venv / "bin" / program, settings.etc / machine / "vmha.conf"
    if not settings.vmha:
        return
    if not path.exists() or not config.exists():
        missing = path if not path.exists() else config
        say(f"{program} not started: {missing} does not exist")
        return
    env = {**services.current_environment(), "PYTHONUNBUFFERED": "1", "HOME": str(settings.disk(machine))}
    services.launch(settings, machine, program, [str(path), "--config-file", str(config)], env)
