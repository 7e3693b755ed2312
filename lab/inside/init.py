"""pid 1 of a machine: python3 -m lab.inside.init STATE MACHINE

Makes the machine's view of the world (mounts, names, boot id), starts its boot as a child, then only reaps. What a real
machine keeps on disk is kept under ``hosts/MACHINE``; /run is lost with the power.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
import uuid
from pathlib import Path

from lab import settings as settings_
from lab.errors import LabError
from lab.inside import mounts
from lab.processes import write_atomically
from lab.settings import Settings

KEPT = {"vmha-lib": "/var/lib/vmha", "vmha-etc": "/etc/vmha"}
KEPT_COMPUTE = {
    "libvirt-etc": "/etc/libvirt",
    "libvirt-lib": "/var/lib/libvirt",
    "libvirt-log": "/var/log/libvirt",
    "libvirt-cache": "/var/cache/libvirt",
}


def make_world(settings: Settings, machine: str) -> None:
    """Everything that makes this a machine of its own; every power-on is a boot with a boot id of its own."""
    socket.sethostname(machine)
    mounts.make_private()
    mounts.fresh("proc", "/proc")
    mounts.detach("/sys")
    mounts.fresh("sysfs", "/sys")
    mounts.fresh("tmpfs", "/run", "mode=755")
    for name in ("lock", "libvirt", "sshd", "vmha"):
        os.makedirs(f"/run/{name}")
    disk = settings.disk(machine)
    kept = KEPT | (KEPT_COMPUTE if machine.startswith("compute") and not settings.light else {})
    for name, target in kept.items():
        (disk / name).mkdir(parents=True, exist_ok=True)
        mounts.bind(disk / name, target)
    _bind_text("/run/boot_id", str(uuid.uuid4()) + "\n", "/proc/sys/kernel/random/boot_id")
    _bind_text("/run/hosts", _hosts(settings), "/etc/hosts")
    machine_id = disk / "machine-id"
    if not machine_id.exists():
        machine_id.write_text(uuid.uuid4().hex + "\n")
    mounts.bind(machine_id, "/etc/machine-id")


def _bind_text(path: str, text: str, target: str) -> None:
    Path(path).write_text(text)
    mounts.bind(Path(path), target)


def _hosts(settings: Settings) -> str:
    lines = [f"{settings.address(name, 'management')} {name}" for name in settings.machines]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


def say(settings: Settings, machine: str, state: str, detail: str = "") -> None:
    """Tell the outside how far the boot is: booting, ready or failed."""
    write_atomically(settings.run(machine) / "boot.json", json.dumps({"state": state, "detail": detail}))


def boot(settings: Settings, machine: str) -> None:
    """Start the machine's services; the outcome stands in boot.json, a failed boot leaves the machine up to look at."""
    from lab.inside import boot_compute, boot_controller, boot_ctl

    kind = {"ctl": boot_ctl, "con1": boot_controller, "con2": boot_controller}.get(machine, boot_compute)
    try:
        kind.boot(settings, machine, lambda detail: say(settings, machine, "booting", detail))
        say(settings, machine, "ready")
    except LabError as error:
        say(settings, machine, "failed", str(error))
    except Exception:  # noqa: BLE001  the last place where an error of the boot can be seen
        traceback.print_exc()
        say(settings, machine, "failed", f"error in the lab's own code, see {settings.log(machine) / 'init.log'}")


def reap_forever() -> None:
    """What is left of pid 1's work: orphans of the machine must not stay zombies."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})


def main() -> None:
    settings = settings_.load(Path(sys.argv[1]))
    machine = sys.argv[2]
    try:
        make_world(settings, machine)
    except LabError as error:
        say(settings, machine, "failed", str(error))
        raise SystemExit(str(error)) from None
    say(settings, machine, "booting")
    if os.fork() == 0:
        boot(settings, machine)
        os._exit(0)
    reap_forever()


if __name__ == "__main__":
    main()
