"""``lab install``: what the lab needs from Debian and PyPI, and the guest image. Nothing is started.

Each part is skipped when its stamp says that it was made from the same inputs. Package names are Debian 12's; those of
Ubuntu 24.04 stand beside them where they differ (written down from its package lists, not run there).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.settings import HOME, PYTHON, Settings

Say = Callable[[str], None]

LIGHT = ["iproute2", "nftables", "iputils-ping", "etcd-server", "etcd-client", "fence-agents", "ipmitool", "openipmi"]
FULL = [
    "rabbitmq-server",
    "mariadb-server",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "libvirt-dev",
    "pkg-config",
    "gcc",
    "libc6-dev",
    "python3-dev",
    "python3-venv",
    "busybox-static",
    "openssh-server",
    "openssh-client",
    "kmod",
    "cpio",
    "syslinux",
    "mtools",
    "dosfstools",
    "genisoimage",
]
UBUNTU = {"fence-agents": "fence-agents-base"}
POLICY = Path("/usr/sbin/policy-rc.d")


def install(settings: Settings, say: Say) -> None:
    """Install everything, or only what a light lab needs; quick when it is there already."""
    log = settings.state / "log" / "install.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    _packages(LIGHT + ([] if settings.light else FULL), log, say)
    if not settings.light:
        for name, inputs, make in _parts(settings):
            _part(settings, name, inputs, make, log, say)
    say(f"installed ({time.monotonic() - begin:.1f} s)")


def _parts(settings: Settings) -> list[tuple[str, list[Path], list[list[str]]]]:
    """Name, inputs and commands of each part that is not a package."""
    base, venv = settings.base, settings.venv
    pins, ml2, image = HOME / "conf/openstack-pins.txt", base / "ml2", base / "img/lab-guest.qcow2"
    python, uv = str(venv / "bin/python"), str(venv / "bin/uv")
    pip = [uv, "pip", "install", "--python", python]
    fakenfs = HOME / "native/fakenfs.c"
    return [
        ("venv", [], [[PYTHON, "-m", "venv", str(venv)], [str(venv / "bin/pip"), "install", "-q", "uv"]]),
        ("OpenStack from PyPI", [pins], [[*pip, "-r", str(pins)]]),
        (
            "Neutron driver",
            [HOME / "ml2/lab_ml2.py", HOME / "ml2/pyproject.toml"],
            [
                ["rm", "-rf", str(ml2)],
                ["cp", "-r", str(HOME / "ml2"), str(ml2)],
                [*pip, "--no-deps", str(ml2)],
                ["rm", "-r", str(ml2)],
            ],
        ),
        (
            "fakenfs",
            [fakenfs],
            [["gcc", "-shared", "-fPIC", "-O2", "-o", str(base / "fakenfs.so"), str(fakenfs), "-ldl"]],
        ),
        (
            "guest image",
            [HOME / "guest/mkimage", HOME / "guest/init"],
            [["bash", str(HOME / "guest/mkimage"), str(image)]],
        ),
    ]


def _part(settings: Settings, name: str, inputs: list[Path], make: list[list[str]], log: Path, say: Say) -> None:
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs) + repr(make).encode()).hexdigest()
    stamp = settings.base / "stamps" / name.replace(" ", "-").lower()
    if stamp.exists() and stamp.read_text() == digest:
        say(f"{name}: there already")
        return
    begin = time.monotonic()
    say(f"{name} ...")
    for argv in make:
        _logged(argv, log)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)
    say(f"{name}: done ({time.monotonic() - begin:.1f} s)")


def _packages(wanted: Sequence[str], log: Path, say: Say) -> None:
    names = [UBUNTU.get(name, name) for name in wanted] if _distribution() == "ubuntu" else list(wanted)
    missing = [name for name in names if not _installed(name)]
    if missing:
        if not shutil.which("apt-get"):
            raise LabError(f"this machine has no apt-get; install these by hand: {' '.join(missing)}")
        say(f"Debian packages: {' '.join(missing)} ...")
        begin = time.monotonic()
        _forbid_starts(say)
        apt = ["apt-get", "-o", "DPkg::Lock::Timeout=600"]
        if any(not _known(name) for name in missing):
            say("apt's lists are empty or old: apt-get update ...")
            _logged([*apt, "update"], log)
        _logged([*apt, "install", "-y", "--no-install-recommends", *missing], log)
        say(f"Debian packages: done ({time.monotonic() - begin:.1f} s)")
    else:
        say("Debian packages: there already")
    if "libvirt-daemon" in names:
        _make_qemu_user(log)


def _distribution() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.partition("=")[2].strip('"') for line in lines if line.startswith("ID=")), "")


def _installed(name: str) -> bool:
    status = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", name], capture_output=True, text=True, check=False)
    return status.stdout == "install ok installed"


def _known(name: str) -> bool:
    return "Version:" in subprocess.run(["apt-cache", "show", name], capture_output=True, text=True, check=False).stdout


def _forbid_starts(say: Say) -> None:
    """Packages must not start their services: the lab starts its own copies. Someone's own policy is respected."""
    if not POLICY.exists():
        POLICY.write_text("#!/bin/sh\n# made by vmha's lab: packages start no services on this machine\nexit 101\n")
        POLICY.chmod(0o755)
        say(f"made {POLICY}, so that no package starts a service; remove it if services shall start again")


def _make_qemu_user(log: Path) -> None:
    """libvirtd ends at start without this user and group, which only the package with the systemd units makes."""
    for group in ("kvm", "libvirt-qemu"):
        if subprocess.run(["getent", "group", group], capture_output=True, check=False).returncode:
            _logged(["groupadd", "--system", group], log)
    if subprocess.run(["getent", "passwd", "libvirt-qemu"], capture_output=True, check=False).returncode:
        home = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        _logged(["useradd", "--system", *home, "-g", "kvm", "libvirt-qemu"], log)


def _logged(argv: Sequence[str], log: Path) -> None:
    """Run a command with its output in the log; LabError with the last lines when it fails."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "UV_HTTP_TIMEOUT": "180"}
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(argv)}\n".encode())
        out.flush()
        code = subprocess.run(argv, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        last = log.read_text(errors="replace").strip().splitlines()[-4:]
        raise LabError(f"'{' '.join(argv[:4])} ...' failed with {code}; {log} ends: {' / '.join(last)}")
