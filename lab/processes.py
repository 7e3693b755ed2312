"""Processes named by pid *and* start time, so that a recycled pid is never taken for the lab's; and waiting for facts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which a running process started; None if it is gone or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


#: started by this process; kept so that those that ended are reaped at the next start
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Process:
    """A process of the pid namespace that asks."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        started = start_time(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def read(cls, path: Path) -> Process | None:
        """The process recorded in a file, running or not; None if there is no record."""
        try:
            record = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return cls(record["pid"], record["started"])

    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def signal_group(self, number: int) -> None:
        """Signal the process's whole group if it is still the one recorded."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def end(self, grace: float = 15.0) -> None:
        """SIGTERM to the group; SIGKILL after ``grace`` seconds. Returns when the process is gone."""
        self.signal_group(signal.SIGTERM)
        try:
            wait_until(lambda: not self.alive(), grace, f"process {self.pid} to end")
        except LabError:
            self.signal_group(signal.SIGKILL)
            wait_until(lambda: not self.alive(), 10, f"process {self.pid} to end after SIGKILL")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.rename(path)


def spawn(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
    """Start a process in a session of its own, writing to ``log``; it outlives the caller."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
        )
    started = start_time(child.pid)
    if started is None:
        raise LabError(f"{argv[0]} ended at once with {child.wait()}; see {log}")
    _children[:] = [one for one in (*_children, child) if one.poll() is None]
    return Process(child.pid, started)


def run(argv: Sequence[str], stdin: str | None = None, check: bool = True) -> str:
    """Output of a short command; LabError with its own words when it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise LabError(f"'{' '.join(argv)}' failed with {done.returncode}: {' / '.join(words) or 'no message'}")
    return done.stdout


def wait_until(fact: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as ``fact()`` is true; LabError after ``seconds``."""
    end = time.monotonic() + seconds
    pause = 0.005
    while not fact():
        if time.monotonic() >= end:
            raise LabError(f"waited {seconds:g} s for {what}, in vain")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
