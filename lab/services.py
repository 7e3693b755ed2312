"""Services of a machine: how they are started inside it, and how they are seen and stopped from outside.

A service is a process in a session of its own, recorded in ``run/MACHINE/services/NAME.json`` with its command, its
environment and its pid as the machine sees it. The IPMI devices and the witness are recorded alike; they run in the
root PID namespace.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import events, network
from lab import machine as machines
from lab.errors import LabError
from lab.processes import Process, run, spawn, write_atomically
from lab.settings import PYTHON, REPO, Settings


def outside(machine: str) -> bool:
    """Whether the machine's processes are the root PID namespace's (IPMI devices, the witness)."""
    return machine.startswith("bmc") or machine == "root"


def _record(settings: Settings, machine: str, name: str) -> Path:
    return settings.run(machine) / "services" / f"{name}.json"


def launch(settings: Settings, machine: str, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Process:
    """Start a service from within its machine and record it."""
    process = spawn(argv, settings.log(machine) / f"{name}.log", env)
    record = {"argv": list(argv), "env": dict(env), "pid": process.pid, "started": process.started}
    write_atomically(_record(settings, machine, name), json.dumps(record))
    return process


def relaunch(settings: Settings, machine: str, name: str) -> None:
    """Start a recorded service again, as it was started at boot; from within its machine."""
    record = json.loads(_record(settings, machine, name).read_text())
    launch(settings, machine, name, record["argv"], record["env"])


def names(settings: Settings, machine: str) -> list[str]:
    folder = settings.run(machine) / "services"
    return sorted(path.stem for path in folder.glob("*.json")) if folder.exists() else []


def find(settings: Settings, machine: str, name: str) -> Process | None:
    """The running service as a process of the root namespace; None when it is dead. LabError if never started."""
    path = _record(settings, machine, name)
    recorded = Process.read(path)
    if recorded is None:
        known = ", ".join(names(settings, machine)) or "none"
        raise LabError(f"{machine} has no service {name!r}; it has: {known}")
    if outside(machine):
        return recorded if recorded.alive() else None
    pid = machines.root_pid(settings, machine, recorded.pid)
    return Process(pid, recorded.started) if pid and Process(pid, recorded.started).alive() else None


def act(settings: Settings, machine: str, name: str, action: str) -> None:
    """start, stop (SIGTERM, after 15 s SIGKILL), kill (SIGKILL) or restart; returns when it has happened."""
    process = find(settings, machine, name)
    stamp = events.now()
    match action:
        case "stop" | "kill" | "restart":
            if process:
                _end(process, action)
            if action == "restart":
                _start(settings, machine, name)
        case "start":
            if not process:
                _start(settings, machine, name)
        case _:
            raise LabError(f"unknown action {action!r}; use start, stop, kill or restart")
    events.record(settings, f"service-{action}", machine, stamp, service=name, by=events.asked_by())


def _end(process: Process, action: str) -> None:
    if action == "kill":
        process.signal_group(signal.SIGKILL)
    process.end()


def send(settings: Settings, machine: str, name: str, number: int) -> None:
    """Signal a service's process group; LabError when the service is dead."""
    process = find(settings, machine, name)
    if process is None:
        raise LabError(f"{name} on {machine} is dead, no signal was sent; 'lab/lab service {machine} start {name}'")
    stamp = events.now()
    process.signal_group(number)
    word = signal.Signals(number).name
    events.record(settings, "service-signal", machine, stamp, service=name, signal=word, by=events.asked_by())


def _start(settings: Settings, machine: str, name: str) -> None:
    if outside(machine):
        relaunch(settings, machine, name)
        return
    env = {"PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}
    run(
        machines.enter(
            settings, machine, [PYTHON, "-S", "-m", "lab.inside.start", str(settings.state), machine, name], env
        )
    )


def in_namespace(settings: Settings, machine: str, argv: Sequence[str]) -> list[str]:
    """A command line in a machine's network namespace only: its mounts and its pids stay the root's."""
    return ["nsenter", f"--net={network.NETNS / settings.namespace(machine)}", *argv]


def current_environment() -> dict[str, str]:
    """The environment of a service: the machine's own, less what only Python code of the lab needs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
