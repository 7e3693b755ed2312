"""A machine: network, mount, UTS and PID namespaces around a pid 1 of its own.

Killing that pid 1 is the loss of its power: the kernel ends every process of the PID namespace, QEMU included, before
pid 1 itself is gone. The cables are pulled first, so that no FIN or RST of a dying process gets out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab import events, network
from lab.errors import LabError
from lab.processes import Process, spawn, start_time, wait_until, write_atomically
from lab.settings import HOME, PYTHON, REPO, Settings


def init(settings: Settings, machine: str) -> Process | None:
    """The machine's pid 1, as the root namespace sees it; None when its power is off."""
    process = Process.read(settings.run(machine) / "init.json")
    return process if process and process.alive() else None


def running(settings: Settings, machine: str) -> bool:
    return init(settings, machine) is not None


@contextlib.contextmanager
def _locked(settings: Settings, machine: str) -> Iterator[None]:
    """One power action at a time for a machine, whoever asks (a person, a test, the IPMI device)."""
    path = settings.state / "run" / f"{machine}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def power_on(settings: Settings, machine: str) -> None:
    """Start the machine; returns once its world is made (it boots by itself after that). Nothing happens if it is on."""
    settings.known(machine)
    with _locked(settings, machine):
        if running(settings, machine):
            return
        stamp = events.now()
        _forget(settings, machine)
        network.unplug(settings, machine)
        network.plug(settings, machine)
        _start_init(settings, machine)
        _await_world(settings, machine)
        events.record(settings, "power-on", machine, stamp, by=events.asked_by())


def power_off(settings: Settings, machine: str) -> None:
    """Cut the power. Returns when no process of the machine is left. Nothing happens if it is off."""
    settings.known(machine)
    with _locked(settings, machine):
        process = init(settings, machine)
        if process is not None:
            stamp = events.now()
            network.pull(settings, machine)
            os.kill(process.pid, signal.SIGKILL)
            wait_until(lambda: not process.alive(), 30, f"{machine} to lose power (pid {process.pid})")
            events.record(settings, "power-off", machine, stamp, by=events.asked_by())
        network.unplug(settings, machine)
        (settings.run(machine) / "init.json").unlink(missing_ok=True)


def _forget(settings: Settings, machine: str) -> None:
    """Remove what was only true of the last boot."""
    run = settings.run(machine)
    for old in (*run.glob("services/*"), run / "boot.json", run / "conductor-listens"):
        old.unlink(missing_ok=True)


def _start_init(settings: Settings, machine: str) -> None:
    settings.run(machine).mkdir(parents=True, exist_ok=True)
    unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
    inside = [PYTHON, "-S", "-m", "lab.inside.init", str(settings.state), machine]
    namespace = f"--net={network.NETNS / settings.namespace(machine)}"
    parent = spawn(["nsenter", namespace, *unshare, *inside], settings.log(machine) / "init.log", _environment())
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")

    def child() -> Process | None:
        if not parent.alive():
            raise LabError(f"{machine} did not start; see {settings.log(machine) / 'init.log'}")
        pids = children.read_text().split()
        return Process.of(int(pids[0])) if pids else None

    wait_until(child, 10, f"pid 1 of {machine}")
    process = child()
    assert process is not None
    record = {
        "pid": process.pid,
        "started": process.started,
        "pid_namespace": os.readlink(f"/proc/{process.pid}/ns/pid"),
    }
    write_atomically(settings.run(machine) / "init.json", json.dumps(record))


def _await_world(settings: Settings, machine: str) -> None:
    """Wait until pid 1 has made its mounts: whoever enters before would see, and write to, the root's files."""
    made = settings.run(machine) / "boot.json"
    wait_until(made.exists, 10, f"{machine} to begin its boot (see {settings.log(machine) / 'init.log'})")


def _environment() -> dict[str, str]:
    """What a machine's pid 1 gets of the caller's environment: next to nothing, as after a boot."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}


def enter(settings: Settings, machine: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
    """The command line that runs ``argv`` inside a machine, in the caller's folder. LabError when it is off."""
    settings.known(machine)
    process = init(settings, machine)
    if process is None:
        raise LabError(f"{machine} has no power; run 'lab/lab power on {machine}' first")
    _await_world(settings, machine)
    pairs = [f"{name}={value}" for name, value in (env or {}).items()]
    namespaces = ["-t", str(process.pid), "--mount", "--uts", "--net", "--pid"]
    return ["nsenter", *namespaces, "--", "env", "-C", os.getcwd(), *pairs, *argv]


def shell_environment(settings: Settings) -> dict[str, str]:
    """What commands of ``lab exec`` get: both venvs first in PATH, and the cloud's address."""
    path = [settings.venv / "bin", settings.vmha_venv / "bin", HOME / "inside" / "shim"]
    return {
        "PATH": ":".join([*map(str, path), _environment()["PATH"]]),
        "OS_CLIENT_CONFIG_FILE": str(settings.etc / "clouds.yaml"),
        "OS_CLOUD": "lab",
        "ETCDCTL_API": "3",
    }


def root_pid(settings: Settings, machine: str, pid: int) -> int | None:
    """The root namespace's pid of a process that its machine knows as ``pid``; None if it is not there."""
    process = init(settings, machine)
    if process is None:
        return None
    namespace = os.readlink(f"/proc/{process.pid}/ns/pid")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.readlink(entry / "ns/pid") == namespace and _innermost_pid(entry) == pid:
                return int(entry.name) if start_time(int(entry.name)) is not None else None
    return None


def _innermost_pid(entry: Path) -> int:
    line = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])
