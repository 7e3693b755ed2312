"""mount(2) as a function: pid 1 makes a dozen mounts at each boot, and a process for each would double its time."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from lab.errors import LabError

_libc = ctypes.CDLL(None, use_errno=True)
_BIND, _RECURSIVE, _PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        raise LabError(f"cannot mount {source or kind} on {target}: {os.strerror(ctypes.get_errno())}")


def make_private() -> None:
    """What is mounted from here on is seen in this machine only."""
    _mount("none", "/", "", _RECURSIVE | _PRIVATE)


def fresh(kind: str, target: str, options: str = "") -> None:
    """A new file system of a kind (proc, sysfs, tmpfs) over what is there."""
    _mount(kind, target, kind, 0, options)


def detach(target: str) -> None:
    _libc.umount2(target.encode(), _DETACH)


def bind(source: Path, target: str) -> None:
    """Show ``source`` at ``target``; a missing folder is made, a missing file is left alone."""
    if source.is_dir():
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        return
    _mount(str(source), target, "", _BIND)
