"""Files of the gate, read by the libvirt hook: ``run_dir/gate`` (of this boot) and ``state_dir/unprotected`` (outlives boots)."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable

from vmha.errors import BadConfig

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """This boot's id, as the kernel writes it."""
    with open(BOOT_ID) as f:
        return f.read().strip()


def write(path: str, text: str, mode: int = 0o644) -> None:
    """``path`` holds ``text``, durably, or what it held before; never a part of either."""
    new = path + ".new"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(new, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class GateFile:
    """The gate: open when the file is there and holds this boot's id."""

    def __init__(self, run_dir: str, boot: str) -> None:
        self._path = os.path.join(run_dir, "gate")
        self._boot = boot

    def is_open(self) -> bool:
        try:
            with open(self._path) as f:
                return f.read().strip() == self._boot
        except (FileNotFoundError, UnicodeDecodeError):
            return False

    def open(self) -> None:
        write(self._path, self._boot + "\n")

    def shut(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


class UnprotectedList:
    """Uuids of instances that policy surely leaves alone; every other one counts as protected."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, "unprotected")
        self.uuids = self._load()

    def _load(self) -> frozenset[str]:
        try:
            with open(self._path) as f:
                return frozenset(f.read().split())
        except (FileNotFoundError, UnicodeDecodeError):
            return frozenset()

    def save(self, uuids: Iterable[str]) -> None:
        """Keep a new list; the hook reads it from now on."""
        wanted = frozenset(uuids)
        if wanted != self.uuids or not os.path.exists(self._path):
            write(self._path, "".join(f"{u}\n" for u in sorted(wanted)))
            self.uuids = wanted


class AgentLock:
    """One agent for each host and boot, told by a lock that ends with the process."""

    def __init__(self, run_dir: str) -> None:
        path = os.path.join(run_dir, "agent.lock")
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.file)
            raise BadConfig(f"another vmha-agent runs on this host (it holds {path}): end it first") from None
