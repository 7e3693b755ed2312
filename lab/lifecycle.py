"""Bringing a lab up and down."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lab import bmc, checks, configure, events, network, services
from lab import machine as machines
from lab.errors import LabError
from lab.processes import run, wait_until
from lab.settings import PYTHON, REPO, Settings

Say = Callable[[str], None]
FORGOTTEN_WHEN_FRESH = ["db", "rabbit", "hosts", "instances", "glance", "etc", "neutron", "log"]
BOOT_LIMIT = 420.0


def is_up(settings: Settings) -> bool:
    return (settings.state / "run" / "up").exists() and machines.running(settings, "ctl")


def up(settings: Settings, fresh: bool, say: Say) -> None:
    """Start the lab; returns when it is ready for use. LabError if it is up already or cannot come up."""
    checks.require_ready(settings)
    if network.exists(network.switch(settings)):
        raise LabError(f"a lab with the prefix {settings.namespace('')!r} is up already; run 'lab/lab down' first")
    begin = time.monotonic()
    _prepare(settings, fresh)
    network.make_switch(settings)
    _start_witness(settings)
    for host in settings.computes:
        bmc.start(settings, host)
    for name in settings.machines:
        machines.power_on(settings, name)
    for name in settings.machines:
        _await_boot(settings, name, say)
    if not settings.light:
        _open_cloud(settings, say)
    (settings.state / "run" / "up").touch()
    events.record(settings, "up", "lab", by=events.asked_by())
    say(f"the lab is up ({time.monotonic() - begin:.1f} s)")


def _prepare(settings: Settings, fresh: bool) -> None:
    for name in FORGOTTEN_WHEN_FRESH if fresh else []:
        shutil.rmtree(settings.state / name, ignore_errors=True)
    shutil.rmtree(settings.state / "run", ignore_errors=True)
    for name in ("run/lock", "log", "instances", "glance", "glance-staging", "glance-tasks"):
        (settings.state / name).mkdir(parents=True, exist_ok=True)
    for host in settings.computes:
        for name in ("nova", "instances"):
            (settings.disk(host) / name).mkdir(parents=True, exist_ok=True)
    for old in (settings.events_file, settings.witness_file):
        old.unlink(missing_ok=True)
    settings.save()
    configure.configure(settings)


def _start_witness(settings: Settings) -> None:
    env = {**services.current_environment(), "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [PYTHON, "-S", "-m", "lab.witness", str(settings.state)]
    services.launch(settings, "root", "witness", argv, env)
    wait_until(settings.witness_file.exists, 10, f"the witness to start (see {settings.log('root') / 'witness.log'})")


def boot_state(settings: Settings, machine: str) -> dict[str, str]:
    """How far a machine's boot is: ``state`` booting, ready or failed, and a ``detail``."""
    try:
        state: dict[str, str] = json.loads((settings.run(machine) / "boot.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        state = {"state": "booting", "detail": ""}
    return state if machines.running(settings, machine) else {"state": "off", "detail": ""}


def _await_boot(settings: Settings, machine: str, say: Say) -> None:
    """Wait for one machine and pass on what it says; LabError when its boot fails."""
    said: list[str] = []

    def settled() -> bool:
        state = boot_state(settings, machine)
        if state["detail"] and state["detail"] not in said and state["state"] == "booting":
            said.append(state["detail"])
            say(f"{machine}: {state['detail']}")
        return state["state"] != "booting"

    wait_until(settled, BOOT_LIMIT, f"{machine} to boot (see {settings.log(machine)})")
    state = boot_state(settings, machine)
    if state["state"] != "ready":
        raise LabError(f"{machine} did not boot: {state['state']}: {state['detail']} (logs: {settings.log(machine)})")


def _open_cloud(settings: Settings, say: Say) -> None:
    """Wait for the compute services, undo what the last run left of them, then start vmha's controllers."""
    say("waiting for the compute services")
    program = [PYTHON, "-S", "-m", "lab.inside.open_cloud", str(settings.state)]
    env = {**machines.shell_environment(settings), "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}
    run(machines.enter(settings, "ctl", program, env))
    (settings.state / "run" / "cloud-is-up").touch()
    for name in settings.controllers:
        program = [PYTHON, "-S", "-m", "lab.inside.start_controller", str(settings.state), name]
        text = run(machines.enter(settings, name, program, {"PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}))
        for line in text.splitlines():
            say(f"{name}: {line}")


def down(settings: Settings, say: Say) -> None:
    """Stop everything of the lab. Returns when no namespace, process or mount of it is left; works on half a lab too."""
    checks.require_root()
    begin = time.monotonic()
    _stop_databases(settings)
    for name in reversed(settings.machines):
        machines.power_off(settings, name)
    for host in settings.computes:
        bmc.stop(settings, host)
    if "witness" in services.names(settings, "root"):
        witness = services.find(settings, "root", "witness")
        if witness:
            witness.end()
    network.delete_namespace(network.switch(settings))
    _remove_netns_mount(settings)
    shutil.rmtree(settings.state / "run", ignore_errors=True)
    rest = leftovers(settings)
    if rest:
        raise LabError(f"the lab is down, but this is left: {'; '.join(rest)}")
    say(f"the lab is down ({time.monotonic() - begin:.1f} s)")


def _stop_databases(settings: Settings) -> None:
    """etcd and MariaDB end cleanly; all else just loses power."""
    for machine, name in (("ctl", "mariadb"), *((m, "etcd") for m in ("ctl", *settings.controllers))):
        if name in services.names(settings, machine) and machines.running(settings, machine):
            process = services.find(settings, machine, name)
            if process:
                process.end(20)


def _remove_netns_mount(settings: Settings) -> None:
    """``ip netns add`` mounts /run/netns on itself; undo that if this lab caused it and nobody else uses it."""
    mark = settings.state / "made-netns-mount"
    if mark.exists() and not any(network.NETNS.iterdir()):
        run(["umount", str(network.NETNS)])
        network.NETNS.rmdir()
    mark.unlink(missing_ok=True)


def leftovers(settings: Settings) -> list[str]:
    """What of the lab is still there although it should not be: namespaces, mounts, processes."""
    prefix = settings.namespace("")
    names = [entry.name for entry in network.NETNS.iterdir()] if network.NETNS.exists() else []
    rest = [f"network namespace {name}" for name in names if name in {settings.namespace(m) for m in _all(settings)}]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    rest += [
        f"mount {line.split()[1]}" for line in mounts if f"/{prefix}" in line or str(settings.state) in line.split()[1]
    ]
    return rest + [f"process {pid}" for pid in _processes(settings)]


def _all(settings: Settings) -> list[str]:
    return ["sw", *settings.machines, *(settings.bmc(host) for host in settings.computes)]


def _processes(settings: Settings) -> list[int]:
    """Processes whose command line names the lab's state folder (only read, to report them; never to end them)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "lab.inside.init" in words and str(settings.state) in words:
                    found.append(int(entry.name))
    return found
