"""The leader's side of ``fence_runner``: starts the runners, hands them runs, reads what came of them."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmha.adapters.fence_devices import Device
from vmha.ports import Clock

LOG = logging.getLogger(__name__)

GRACE = 0.5  # seconds the kernel is given to end a run at its deadline
START_LIMIT = 10.0  # seconds a runner may take to import the agents' library
OUTPUT_LIMIT = 1 << 16
_SCRIPT = Path(__file__).with_name("fence_runner.py")


@dataclass(frozen=True, slots=True)
class Run:
    """How one run of an agent ended.  ``started`` False: the agent surely never ran.  ``exit`` None: it did not end by itself."""

    started: bool
    exit: int | None
    end: str  # in words
    out: str = ""
    err: str = ""


class Runners:
    """One runner for each interpreter."""

    def __init__(self, interpreters: Iterable[str], clock: Clock) -> None:
        self._clock, self._warned = clock, False
        self._runners = {interpreter: Runner(interpreter) for interpreter in interpreters}
        for runner in self._runners.values():
            runner.start()

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()

    def run(self, device: Device, action: str, deadline: float) -> Run:
        """Run an agent until clock time ``deadline`` at the latest."""
        job = {"path": device.path, "warm": device.warm, "deadline": deadline, "input": device.input(action)}
        left = deadline - self._clock.now()
        if left <= 0:
            return Run(False, None, "was not started: its time was over")
        pipes = [os.pipe() for _ in range(3)]
        try:
            handed = self._runners[device.interpreter].hand(job, [write for _, write in pipes], left)
        finally:
            for _, write in pipes:
                os.close(write)
        try:
            if not handed:
                return Run(False, None, "was not started: the fence runner was not ready in time")
            texts = read_all([read for read, _ in pipes], deadline + GRACE, self._clock)
        finally:
            for read, _ in pipes:
                os.close(read)
        out, err, answer = texts
        facts = json.loads(answer) if answer.endswith("\n") else {}
        self._warn(facts)
        return _run_of(out, err, facts, in_time=self._clock.now() < deadline)

    def _warn(self, facts: Mapping[str, Any]) -> None:
        if facts.get("contained") is False and not self._warned:
            self._warned = True
            LOG.warning(
                "fence agents run without a PID namespace: what one of them leaves in a session of its own could outlive"
                " its limit or the leader; give the controller CAP_SYS_ADMIN or allow user namespaces"
            )


def _run_of(out: str, err: str, facts: Mapping[str, Any], in_time: bool) -> Run:
    """What the runner's answer means."""
    if facts.get("late"):
        return Run(False, None, "was not started: its time was over")
    if "exit" not in facts:
        return Run(True, None, "ended with the fence runner" if in_time else "was ended at its limit", out, err)
    code = int(facts["exit"])
    return Run(True, code, f"exit {code}" if code >= 0 else f"killed by signal {-code}", out, err)


def read_all(fds: list[int], until: float, clock: Clock) -> list[str]:
    """The texts (each bounded) of pipes until all have ended, or clock time ``until``."""
    texts = dict.fromkeys(fds, b"")
    poll, open_fds = select.poll(), set(fds)
    for fd in fds:
        poll.register(fd, select.POLLIN)
    while open_fds:
        ready = poll.poll(max(0.0, until - clock.now()) * 1000)
        if not ready:
            break
        for fd, _ in ready:
            chunk = os.read(fd, 4096)
            if not chunk:
                open_fds.discard(fd)
                poll.unregister(fd)
            texts[fd] += chunk[: OUTPUT_LIMIT - len(texts[fd])]
    return [texts[fd].decode("utf-8", "replace") for fd in fds]


class Runner(threading.Thread):
    """One runner process, started again when it ends.  This thread lasts: the kernel ends the runner with it."""

    def __init__(self, interpreter: str) -> None:
        super().__init__(name="fence-runner", daemon=True)
        self._interpreter = interpreter
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._closed = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def hand(self, job: dict[str, Any], fds: list[int], timeout: float) -> bool:
        """Give the runner a job; False when it surely did not get it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._control is not None, timeout):
                return False
            assert self._control is not None
            try:
                socket.send_fds(self._control, [json.dumps(job).encode()], fds)
            except OSError as error:
                LOG.warning("fence runner %d took no job: %s", self.pid, error)
                return False
        return True

    def close(self) -> None:
        with self._changed:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        self.join(START_LIMIT)

    def run(self) -> None:
        while not self._closed:
            try:
                self._serve_one()
            except Exception:
                LOG.exception("the fence runner could not be started, trying again")
                threading.Event().wait(1.0)

    def _serve_one(self) -> None:
        """Start a runner and stay until it has ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs, self._changed:
                if self._closed:
                    return
                process = self._process = self._start(theirs.fileno())
            ours.settimeout(START_LIMIT)
            try:
                ready = ours.recv(16) == b"ready"
            except OSError:
                ready = False
            if not ready:
                process.kill()
            ours.settimeout(1.0)
            with self._changed:
                self._control = ours
                self._changed.notify_all()
            process.wait()
            with self._changed:
                self._control = None
        if not self._closed:
            LOG.warning("fence runner %d ended (%s); it is started again", process.pid, process.returncode)

    def _start(self, control: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._interpreter, "-I", str(_SCRIPT), str(control), str(os.getpid())],
            pass_fds=[control],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
