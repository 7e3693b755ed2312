"""What runs on this host as /proc tells it, without libvirt: QEMU processes, and whether libvirtd calls our hook."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
QEMU = ("qemu-system-", "qemu-kvm")
LIBVIRT_DAEMONS = ("libvirtd", "virtqemud")


class ProcProcesses:
    """Implements ``vmha.ports.Processes``.

    A QEMU is told by its program's name and its instance by ``-uuid``, which libvirt always gives (else by a uuid in
    ``-name``).  A QEMU whose command line is gone because it is being torn down still counts, as ``unknown-<pid>``: it may
    still write.  QEMUs that run no machine of anybody (libvirt asking for capabilities) have neither and do not count.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def running(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for pid in _pids(self._proc):
            instance = self._instance(pid)
            if instance:
                found[instance] = pid
        return found

    def _instance(self, pid: int) -> str:
        try:
            with open(f"{self._proc}/{pid}/cmdline", "rb") as f:
                words = [os.fsdecode(w) for w in f.read().split(b"\0")]
            if words == [""]:
                return self._ending(pid)
        except OSError:  # it has just ended
            return ""
        if not os.path.basename(words[0]).startswith(QEMU):
            return ""
        return _after(words, "-uuid") or _after(words, "-name")

    def _ending(self, pid: int) -> str:
        """A process without a command line: a kernel thread, a zombie, or a QEMU in the middle of its end."""
        with open(f"{self._proc}/{pid}/comm") as f:
            if not f.read().startswith(QEMU):
                return ""
        state, tasks = _state(self._proc, pid), len(os.listdir(f"{self._proc}/{pid}/task"))
        return "" if state in "ZX" and tasks <= 1 else f"unknown-{pid}"


def _after(words: list[str], option: str) -> str:
    for name, value in zip(words, words[1:], strict=False):
        if name == option and (match := UUID.search(value)):
            return match.group().lower()
    return ""


# A start is told in clock ticks (10 ms), a file's time in jiffies; libvirtd looks for hooks later than this after its start.
START_GRAIN = 0.03


def _pids(proc: str) -> Iterator[int]:
    return (int(name) for name in os.listdir(proc) if name.isdigit())


def _stat(proc: str, pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (proc(5)); the second may hold spaces and brackets."""
    with open(f"{proc}/{pid}/stat") as f:
        return f.read().rpartition(")")[2].split()


def _state(proc: str, pid: int) -> str:
    return _stat(proc, pid)[0]


def hook_fault(hook: str, run_dir: str, proc: str = "/proc") -> str:
    """Why the gate's hook may not be in effect, or "".

    libvirt looks for hooks when its daemon starts: one installed later is not called.  The hook leaves the time of
    its last call in ``run_dir/hook``, which shows that it is called even where it was replaced (upgraded) since.
    """
    try:
        installed = os.stat(hook).st_ctime
    except OSError as e:
        return f"the libvirt hook {hook} is missing ({e.strerror}): install it and restart libvirtd"
    if not os.access(hook, os.X_OK):
        return f"the libvirt hook {hook} is not executable: chmod 755 {hook} and restart libvirtd"
    try:
        called = os.stat(os.path.join(run_dir, "hook")).st_mtime
    except OSError:
        called = 0.0
    started = _daemon_start(proc)
    if started is not None and started + START_GRAIN < installed and called < started:
        return f"libvirtd was started before the hook {hook} was installed and does not call it: restart libvirtd"
    return ""


def _daemon_start(proc: str) -> float | None:
    """Wall time at which the oldest libvirt daemon started; None when there is none."""
    starts = []
    for pid in _pids(proc):
        try:
            with open(f"{proc}/{pid}/comm") as f:
                if f.read().strip() in LIBVIRT_DAEMONS:
                    starts.append(int(_stat(proc, pid)[19]) / os.sysconf("SC_CLK_TCK"))
        except OSError:
            continue
    if not starts:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + min(starts)
