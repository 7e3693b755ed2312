"""Runs fence agents so that none outlives its limit or its leader; keeps the way to Python agents warm.

A process of its own (standard library only, run as a script by ``fence_agents`` with the agents' own interpreter),
that has the agents' library imported, forks for every run and so saves the interpreter's start (0.1 s).

A run is two processes.  The *monitor* holds a POSIX timer on CLOCK_BOOTTIME with the run's absolute deadline, whose signal
SIGALRM has the default action; it is killed when this process dies, which is killed when the leader dies.  The *agent* is the
first process of a PID namespace of its own and is killed when the monitor dies; with it the kernel ends everything it
started, sessions and daemons of its own included.  So a stopped leader, a stopped runner or a dead one changes nothing.

Where namespaces are not permitted (no CAP_SYS_ADMIN, no user namespaces) the agent gets a process group that the monitor
kills; what left the group then escapes, and "contained" is false in the answer.

One message a job on the socket given as argument: JSON {path, warm, deadline, input} with three descriptors: standard output,
standard error, and one for the answer, a JSON line: {"exit": n} (negative: signal), or {"late": true}, or {"error": text}.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from typing import Any, NoReturn

CLOCK_BOOTTIME = 7
TIMER_ABSTIME = 1
PR_SET_PDEATHSIG = 1
CLONE_NEWPID = 0x20000000
CLONE_NEWUSER = 0x10000000
LIBRARY = "/usr/share/fence"
JOB_LIMIT = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


def now() -> float:
    return time.clock_gettime(CLOCK_BOOTTIME)


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel for ``signum`` when the parent (thread) ends; the caller checks that it still lives."""
    if _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def arm(at: float) -> None:
    """SIGALRM at clock time ``at`` (now, if that is past)."""
    timer, whole = ctypes.c_void_p(), max(0, int(at))
    spec = (ctypes.c_long * 4)(0, 0, whole, max(1, int((at - whole) * 1e9)))
    if _libc.timer_create(CLOCK_BOOTTIME, None, ctypes.byref(timer)) != 0:
        raise OSError(ctypes.get_errno(), "timer_create")
    if _libc.timer_settime(timer, TIMER_ABSTIME, spec, None) != 0:
        raise OSError(ctypes.get_errno(), "timer_settime")


def contain() -> bool:
    """The next child will be the first process of a new PID namespace; False when that is not permitted."""
    return any(_libc.unshare(flags) == 0 for flags in (CLONE_NEWPID, CLONE_NEWUSER | CLONE_NEWPID))


def kill_group_at_end() -> None:
    """Without a namespace: at the deadline and at the runner's death this process kills its group, itself included."""

    def end(*_: object) -> None:
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end)
    die_with_parent(signal.SIGTERM)


def monitor(job: dict[str, Any], out: int, err: int, answer: int, runner: int) -> NoReturn:
    """Run one agent and answer how it ended; ends with everything of the run at the deadline."""
    for signum in (signal.SIGCHLD, signal.SIGALRM, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    die_with_parent()
    os.setpgid(0, 0)
    if os.getppid() != runner:
        os._exit(1)
    if now() >= job["deadline"]:
        tell(answer, late=True)
        os._exit(0)
    contained = contain()
    if not contained:
        kill_group_at_end()
    arm(job["deadline"])
    ready_r, ready_w = os.pipe()
    input_r, input_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(input_w)
        agent(job, (input_r, out, err), ready_w, contained)
    for fd in (ready_w, input_r, out, err):
        os.close(fd)
    if os.read(ready_r, 1):  # the agent is bound to our life before it learns what to do
        with suppress(BrokenPipeError):
            os.write(input_w, job["input"].encode())
    os.close(input_w)
    _, status = os.waitpid(pid, 0)
    tell(answer, exit=os.waitstatus_to_exitcode(status), contained=contained)
    os._exit(0)


def agent(job: dict[str, Any], streams: tuple[int, int, int], ready: int, contained: bool) -> NoReturn:
    """Become the agent, bound to the monitor's life."""
    die_with_parent()
    if contained:
        os.setsid()
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
    ready = os.dup2(ready, 3, inheritable=False)
    os.closerange(4, 1 << 10)
    os.write(ready, b"r")
    os.close(ready)
    if job["warm"]:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as a fresh Python has it
        sys.argv = [job["path"]]
        runpy.run_path(job["path"], run_name="__main__")
        sys.exit(0)
    try:
        os.execv(job["path"], [job["path"]])
    except OSError as error:
        os.write(2, f"cannot run {job['path']}: {error}\n".encode())
    os._exit(127)


def tell(answer: int, **facts: Any) -> None:
    with suppress(OSError):
        os.write(answer, json.dumps(facts).encode() + b"\n")


def preload() -> None:
    """Import what Python fence agents import; an agent without it works as well, only later."""
    warnings.simplefilter("ignore")
    sys.path.append(LIBRARY)
    with suppress(ImportError):
        import fencing  # type: ignore[import-not-found]  # noqa: F401


def refresh_library() -> None:
    """Agents count their ``delay`` from the library's import; it counts from the run's start."""
    library = sys.modules.get("fencing")
    if library is not None and hasattr(library, "run_delay"):
        library.run_delay.time_start = time.time()


def serve(control: socket.socket) -> None:
    """Fork a monitor for every job until the leader closes the socket."""
    runner = os.getpid()
    while True:
        message, fds, _, _ = socket.recv_fds(control, JOB_LIMIT, 3)
        if not message:
            return
        job = json.loads(message)
        if os.fork() == 0:
            control.close()
            refresh_library()
            out, err, answer = fds
            monitor(job, out, err, answer, runner)
        for fd in fds:
            os.close(fd)


def main() -> int:
    control_fd, leader = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent()
    if os.getppid() != leader:
        return 0
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the monitors
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload()
    control = socket.socket(fileno=control_fd)
    control.send(b"ready")
    serve(control)
    return 0


if __name__ == "__main__":
    sys.exit(main())
