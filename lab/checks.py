"""What must be true before a lab can start, each said with what to do about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.errors import LabError
from lab.settings import Settings

FREE_MEMORY = 6 << 30
PROGRAMS = ["ip", "nft", "unshare", "nsenter", "etcd", "ipmi_sim", "ipmitool", "fence_ipmilan"]
PROGRAMS_FULL = ["libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "mariadbd", "sshd", "ssh-keygen", "genisoimage"]


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces and needs root; run it as root or with sudo")


def missing_programs(light: bool) -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS + ([] if light else PROGRAMS_FULL) if not shutil.which(name, path=path)]


def free_memory() -> int:
    """Bytes that can be had without swapping (MemAvailable)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def require_ready(settings: Settings) -> None:
    """LabError unless this machine can start the lab."""
    require_root()
    missing = missing_programs(settings.light)
    if missing:
        raise LabError(
            f"not installed: {', '.join(missing)}; run 'lab/lab install{' --light' if settings.light else ''}'"
        )
    if settings.light:
        return
    for path in (
        settings.venv / "bin/nova-compute",
        settings.base / "img/lab-guest.qcow2",
        settings.base / "fakenfs.so",
    ):
        if not path.exists():
            raise LabError(f"{path} is missing; run 'lab/lab install'")
    if free_memory() < FREE_MEMORY:
        free, need = free_memory() >> 20, FREE_MEMORY >> 20
        raise LabError(f"only {free} MiB of memory are free and the lab needs {need} MiB; end something or use --light")
