"""The pool of worker processes that make Nova calls, and what their facts amount to.

A worker (``nova_worker``) is a process of its own so that the kernel can end it, and nothing else, at a call's
``start_limit``.  It dies with this process.  Workers are started by one long-lived thread (the kernel ties
PR_SET_PDEATHSIG to the thread that forked) and by ``exec`` of a fresh interpreter, never by a bare fork.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmha.core.model import Outcome
from vmha.ports import Clock

LOG = logging.getLogger(__name__)

GRACE = 0.5  # seconds a worker's own end is waited for before it is killed
START_LIMIT = 10.0  # seconds a worker may take to start
_WORKER = Path(__file__).with_name("nova_worker.py")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one request: whether a first byte may have left, and how it ended.

    ``end``: answer, unreachable, broken, or "" for a worker that ended or hung without saying.
    """

    sending: bool
    end: str
    status: int = 0
    request_id: str = ""
    text: str = ""


def judge(facts: Facts) -> tuple[Outcome, str]:
    """The outcome of one call by what is known of its request.

    ======================================  ===========
    2xx                                     DONE, detail is Nova's request id
    3xx, 4xx                                FAILED: nothing happened, detail is Nova's own message
    5xx, or no usable answer after sending  UNKNOWN
    no byte of the request was sent         NOT_STARTED
    ======================================  ===========
    """
    if facts.end == "answer":
        return _judge_answer(facts)
    if not facts.sending:
        reason = facts.text or "the time to start ran out before the request could be sent"
        return Outcome.NOT_STARTED, f"never sent to Nova: {reason}"
    reason = facts.text or "the worker process ended while the request was under way"
    return Outcome.UNKNOWN, f"sent to Nova, no answer: {reason}"


def _judge_answer(facts: Facts) -> tuple[Outcome, str]:
    status, message = facts.status, message_of(facts.text)
    if 200 <= status < 300:
        return Outcome.DONE, facts.request_id
    if status == 401:
        return Outcome.FAILED, f"Nova refused our token (HTTP 401: {message}): the next call takes a fresh one"
    if 300 <= status < 400:
        return Outcome.FAILED, f"the compute endpoint answered with a redirect (HTTP {status}): correct the catalog"
    if 400 <= status < 500:
        return Outcome.FAILED, f"Nova refused (HTTP {status}): {message}"
    return Outcome.UNKNOWN, f"HTTP {status} from Nova ({facts.request_id or 'no request id'}): {message}"


def message_of(text: str) -> str:
    """Nova's own words in an error body ({"badRequest": {"message": ...}}), else the start of the text."""
    try:
        body = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:200] or "no text"
    if isinstance(body, dict):
        for value in body.values():
            if isinstance(value, dict) and isinstance(value.get("message"), str):
                return str(value["message"])
    return " ".join(text.split())[:200]


class Worker:
    """One worker process; used by one thread at a time."""

    def __init__(self, tls: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WORKER), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._rest = b""
        self._write(tls)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_ready(self, clock: Clock) -> bool:
        """Wait until it is bound to our life and can take a job; otherwise it is dead."""
        return self._next_fact(clock.now() + START_LIMIT, clock) == {"event": "ready"}

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill and reap; SIGKILL also ends a stopped process."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def run(self, job: Mapping[str, Any], call_limit: float, clock: Clock) -> Facts:
        """Carry out one job.  Returns at ``deadline + call_limit`` plus a moment at the latest; then the worker is dead."""
        if not self._write(job):
            return Facts(sending=False, end="", text="the worker process was dead")
        sending, deadline = False, float(job["deadline"])
        while True:
            fact = self._next_fact(deadline + (call_limit if sending else 0.0) + GRACE, clock)
            if fact is None:
                return Facts(sending, "")
            match fact["event"]:
                case "sending":
                    sending = True
                case "answer":
                    return Facts(sending, "answer", fact["status"], fact["request_id"], fact["text"])
                case "unreachable" | "broken" as end:
                    return Facts(sending, end, text=fact["text"])
                case _:
                    pass

    def _write(self, message: Mapping[str, Any]) -> bool:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def _next_fact(self, until: float, clock: Clock) -> dict[str, Any] | None:
        """The next line, or None once the worker is dead (killed here when ``until`` passed) and all it said was read."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self._rest:
            if not poll.poll(max(0.0, until - clock.now()) * 1000):
                self.end()  # its pipe then reads to the end, and tells whether sending had begun
                until = clock.now() + GRACE
                continue
            chunk = os.read(fd, 65536)
            if not chunk:
                self.end()
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))


class Pool:
    """A fixed number of ready workers; ``tend`` starts and replaces them and must be called from one lasting thread."""

    def __init__(self, size: int, tls: Callable[[], Mapping[str, Any]], wake: threading.Event, clock: Clock) -> None:
        self._size, self._tls, self._wake, self._clock = size, tls, wake, clock
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._all: set[Worker] = set()
        self._lock = threading.Lock()

    def tend(self) -> None:
        """Start workers until the pool is full."""
        with self._lock:
            missing = self._size - len(self._all)
        for worker in [Worker(self._tls()) for _ in range(missing)]:
            if not worker.is_ready(self._clock):
                LOG.warning("Nova worker process %d did not start; it is being replaced", worker.pid)
                worker.close()
                continue
            with self._lock:
                self._all.add(worker)
            self._idle.put(worker)

    def take(self, until: float) -> Worker | None:
        """An idle worker, waiting for one until clock time ``until``; None when there was none."""
        while True:
            try:
                worker = self._idle.get(timeout=max(0.0, until - self._clock.now()))
            except queue.Empty:
                return None
            if worker.alive():
                return worker
            self.give_back(worker)

    def give_back(self, worker: Worker) -> None:
        """Return a worker; a dead one is replaced."""
        if worker.alive():
            self._idle.put(worker)
            return
        LOG.warning("Nova worker process %d ended; it is being replaced", worker.pid)
        with self._lock:
            self._all.discard(worker)
        worker.close()
        self._wake.set()

    def pids(self) -> tuple[int, ...]:
        with self._lock:
            return tuple(worker.pid for worker in self._all)

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            workers, self._all = list(self._all), set()
        for worker in workers:
            worker.close()
