"""The witness: a process outside of all hosts that records every QEMU process of the lab's hosts, start and end.

python3 -m lab.witness STATE. It writes ``witness.jsonl``, flushed line by line: a ``start`` line when a QEMU with a uuid
starts in a host, an ``end`` line when it is gone. Starts come from the kernel's process connector, or from polling
/proc every 20 ms where the kernel does not offer it (the first line says which); ends are proven by a pidfd and stamped
by the kernel's exit event where there is one. Times are seconds of CLOCK_BOOTTIME (``start``, ``end``) and
CLOCK_MONOTONIC (``start_mono``, ``end_mono``).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import settings as settings_
from lab.errors import LabError
from lab.proc_events import EXEC, ProcEvents
from lab.processes import start_time
from lab.settings import Settings

POLL = 0.02
SCAN = 5.0


@dataclass
class Qemu:
    """A QEMU process that is running now."""

    pid: int
    ticks: int
    facts: dict[str, Any]
    exit_at: float | None = None


@dataclass
class Witness:
    settings: Settings
    running: dict[int, Qemu] = field(default_factory=dict)  # pidfd -> process
    pids: dict[int, int] = field(default_factory=dict)  # pid -> pidfd
    poller: select.poll = field(default_factory=select.poll)

    def write(self, line: dict[str, Any]) -> None:
        with self.settings.witness_file.open("ab", buffering=0) as out:
            out.write((json.dumps(line) + "\n").encode())

    def consider(self, pid: int, at: float | None = None) -> None:
        """Record a process if it is a QEMU with a uuid in one of the lab's hosts and not recorded yet."""
        if pid in self.pids or not (instance := instance_of(pid)):
            return
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            host, ticks = self.host_of(pid), start_time(pid)
            if host is None or ticks is None:
                os.close(descriptor)
                return
            mono = at if at is not None else time.monotonic()
            facts = {
                "uuid": instance["uuid"],
                "host": host,
                "pid": pid,
                "start": mono + suspended(),
                "start_mono": mono,
            }
            self.running[descriptor] = Qemu(pid, ticks, facts)
            self.pids[pid] = descriptor
            self.poller.register(descriptor, select.POLLIN)
            self.write({"event": "start", **facts, **instance})

    def host_of(self, pid: int) -> str | None:
        """The lab's machine in whose PID namespace a process lives."""
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
        for machine in self.settings.machines:
            with contextlib.suppress(OSError, ValueError):
                record = json.loads((self.settings.run(machine) / "init.json").read_text())
                if record["pid_namespace"] == namespace:
                    return machine
        return None

    def gone(self, descriptor: int) -> None:
        """A process ended: its pidfd says so."""
        qemu = self.running.pop(descriptor)
        del self.pids[qemu.pid]
        self.poller.unregister(descriptor)
        os.close(descriptor)
        mono = qemu.exit_at if qemu.exit_at is not None else time.monotonic()
        self.write({"event": "end", **qemu.facts, "end": mono + suspended(), "end_mono": mono})

    def scan(self) -> None:
        """Look at every process: at the start, where events are not to be had, and as a check on those that are."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                self.consider(int(entry))

    def hear(self, events: ProcEvents) -> None:
        try:
            for event in events.pending():
                if event.what == EXEC:
                    self.consider(event.pid, event.at)
                elif event.pid in self.pids:
                    self.running[self.pids[event.pid]].exit_at = event.at  # the last thread's exit wins
        except OSError:  # the kernel dropped events
            self.scan()

    def watch(self) -> None:
        """Never returns; ``lab down`` ends the process."""
        events = subscribe()
        source = "process connector" if events else f"polling /proc every {POLL} s"
        self.write({"event": "witness", "source": source, "start": time.clock_gettime(time.CLOCK_BOOTTIME)})
        if events:
            self.poller.register(events.fileno(), select.POLLIN)
        next_scan = 0.0
        while True:
            if time.monotonic() >= next_scan:
                self.scan()
                next_scan = time.monotonic() + (SCAN if events else POLL)
            ready = [number for number, _ in self.poller.poll((SCAN if events else POLL) * 1000)]
            if events:
                self.hear(events)
            for descriptor in ready:
                if descriptor in self.running:
                    self.gone(descriptor)


def subscribe() -> ProcEvents | None:
    try:
        return ProcEvents()
    except LabError:
        return None


def suspended() -> float:
    """What to add to a CLOCK_MONOTONIC time to have CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def instance_of(pid: int) -> dict[str, Any] | None:
    """uuid and name of the instance a process runs, from a QEMU's command line; None for any other process."""
    try:
        if not os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("qemu-system-"):
            return None
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    options = dict(zip(argv, argv[1:], strict=False))
    if "-uuid" not in options:
        return None
    return {"uuid": options["-uuid"], "name": options.get("-name", ""), "incoming": "-incoming" in options}


if __name__ == "__main__":
    Witness(settings_.load(Path(sys.argv[1]))).watch()
