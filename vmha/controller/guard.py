"""The small parent of the controller: gives the leader's lease back once the leader and all its children are gone.

So a follower takes over at once when the leader's process dies, instead of after its lease; and never while a fence agent or
a Nova worker of the dead leader still runs (safety.md section 4, rule 4).  The parent is the subreaper of everything below it:
orphans become its children, are killed, and are waited for before the lease is given back.

Forked before any thread exists; the child dies with the parent (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

LOG = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LEASE_BYTES = 8


def watch_over(lead: Callable[[Callable[[int], None]], int], give_back: Callable[[int], None]) -> int:
    """Run ``lead(tell_lease)`` in a child; afterwards end all that it left and ``give_back(lease id)``.  The exit status.

    ``tell_lease`` is called in the child with the id of each lease that it takes.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    told, tells = os.pipe()
    os.set_blocking(told, False)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(told)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os._exit(_child(lead, tells))
    os.close(tells)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: _signal(child, n))
    status = _wait(child)
    _end_descendants()
    lease = _last_lease(told)
    if lease:
        give_back(lease)
    return status


def _child(lead: Callable[[Callable[[int], None]], int], tells: int) -> int:
    try:
        return lead(lambda lease: _tell(tells, lease))
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1
    except BaseException:
        LOG.exception("the controller ended with an error")
        return 1


def _tell(tells: int, lease: int) -> None:
    os.write(tells, lease.to_bytes(LEASE_BYTES, "big"))


def _last_lease(told: int) -> int:
    """The last lease that the child told, 0 for none."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(told, 4096):
            data += piece
    return int.from_bytes(data[-LEASE_BYTES:], "big") if data else 0


def _wait(child: int) -> int:
    """Until the child itself has ended; orphans that end before it are reaped on the way."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _signal(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _end_descendants() -> None:
    """Kill what the child left, generation by generation (orphans come to us), until nothing is left."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.001)  # they are dying: the kernel tells by waitpid


def _children() -> list[int]:
    me = os.getpid()
    return [int(p) for task in Path(f"/proc/{me}/task").iterdir() for p in (task / "children").read_text().split()]


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
