"""Reading the witness's records: which QEMU processes ran when, and whether any instance ran twice at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, groupby

from lab.settings import Settings


@dataclass(frozen=True)
class Run:
    """One QEMU process. Times are CLOCK_BOOTTIME seconds; ``end`` is infinite while it runs."""

    uuid: str
    host: str
    pid: int
    start: float
    end: float

    def __str__(self) -> str:
        until = "still running" if math.isinf(self.end) else f"to {self.end:.3f}"
        return f"{self.uuid} on {self.host} (pid {self.pid}) from {self.start:.3f} {until}"


@dataclass(frozen=True)
class Exempt:
    """A live migration that a test ordered: this instance may run twice within the interval."""

    uuid: str
    start: float
    end: float = math.inf

    def covers(self, uuid: str, start: float, end: float) -> bool:
        return uuid == self.uuid and self.start <= start and end <= self.end


@dataclass(frozen=True)
class Overlap:
    """Two processes of one instance that existed at the same time for ``seconds``."""

    first: Run
    second: Run
    seconds: float

    def __str__(self) -> str:
        return f"DOUBLE RUN for {self.seconds:.3f} s: {self.first}; {self.second}"


def runs(settings: Settings) -> list[Run]:
    """Every QEMU process recorded since the lab came up, by start."""
    found: dict[tuple[int, float], Run] = {}
    for line in _lines(settings):
        if line["event"] in ("start", "end"):
            run = Run(line["uuid"], line["host"], line["pid"], line["start"], line.get("end", math.inf))
            found[run.pid, run.start] = run
    return sorted(found.values(), key=lambda run: run.start)


def _lines(settings: Settings) -> Iterator[dict]:
    try:
        text = settings.witness_file.read_text()
    except FileNotFoundError:
        return
    for line in text.splitlines():
        yield json.loads(line)


def overlaps(all_runs: Iterable[Run], since: float | None = None, exempt: Iterable[Exempt] = ()) -> list[Overlap]:
    """Pairs of processes of one instance whose lives overlap, on two hosts or on one.

    ``since`` (CLOCK_BOOTTIME) leaves out overlaps that were over before. A pair is left out if an exemption covers all
    of its overlap.
    """
    exempt = list(exempt)
    found = []
    by_uuid = sorted(all_runs, key=lambda run: (run.uuid, run.start))
    for uuid, group in groupby(by_uuid, key=lambda run: run.uuid):
        for first, second in combinations(group, 2):
            start, end = second.start, min(first.end, second.end)
            past = since is not None and end < since
            if start < end and not past and not any(one.covers(uuid, start, end) for one in exempt):
                found.append(Overlap(first, second, end - start))
    return found
