"""python -m tests.property.many: random worlds by the million, on all cores, from a seed on.

A worker process for each core takes chunk after chunk of seeds until all are done, the time is up or somebody interrupts it (Ctrl-C, SIGTERM);
what was done by then is one range of seeds, written to ``--table`` with the seed to go on from.  Where there is a C compiler the
workers run a compiled copy of the core, after its first worlds were found equal to those of plain Python in every word.
A seed that fails is run again in plain Python and shrunken to a scenario file.  Exit status: 1 when a world was wrong, 130 when
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.property import compiled
from tests.property.random_worlds import drawn, fails, told

CHUNK = 100
COMPARED = 100  # worlds
TOLD = 3  # violations that are shrunken
EVERY = 60.0  # seconds between lines of progress


class Run:
    """Hands out chunks of seeds, and adds up."""

    def __init__(self, first: int, worlds: int, seconds: float) -> None:
        self.first, self.end, self.next = first, first + worlds, first
        self.began, self.seconds = time.monotonic(), seconds
        self.counted: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.wrong: dict[int, list[str]] = {}
        self.cpu = 0.0
        self.stopped = self.broken = ""
        self._lock = threading.Lock()

    def chunk(self) -> tuple[int, int] | None:
        """The next seeds, or None when it is over."""
        with self._lock:
            if time.monotonic() - self.began >= self.seconds:
                self.stopped = self.stopped or "the time was up"
            if self.stopped or self.broken or self.next >= self.end:
                return None
            first, self.next = self.next, min(self.next + CHUNK, self.end)
            return first, self.next - first

    def add(self, answer: dict[str, Any]) -> None:
        with self._lock:
            self.counted.update(answer["counted"])
            self.faults.update(answer["faults"])
            self.cpu += answer["cpu"]
            for seed, found in answer["wrong"].items():
                self.wrong[int(seed)] = found
                print(f"VIOLATION in seed {seed}: {found[0]}", flush=True)

    def serve(self, worker: subprocess.Popen[str]) -> None:
        """Keep one worker busy to the end."""
        assert worker.stdin is not None and worker.stdout is not None
        while (seeds := self.chunk()) is not None:
            try:
                worker.stdin.write(f"{seeds[0]} {seeds[1]}\n")
                worker.stdin.flush()
                line = worker.stdout.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                self.broken = f"a worker ended at seeds {seeds[0]} to {sum(seeds) - 1}"
                return
            self.add(json.loads(line))
        worker.stdin.close()

    def progress(self) -> str:
        took, worlds = time.monotonic() - self.began, self.counted["worlds"]
        rate = worlds / took if took else 0.0
        return f"{took / 60:6.1f} min  {worlds:>10,} worlds  {rate:6.0f}/s  {len(self.wrong)} violations"

    def table(self, way: str) -> str:
        """For people, and for the next run."""
        done = max(1, self.counted["worlds"])
        rows = [
            ("random worlds, each judged after every step", f"{self.counted['worlds']:,}"),
            ("their seeds", f"{self.first} to {self.next - 1}" + (f" ({self.stopped})" if self.stopped else "")),
            ("to go on from there", f"tools/nightly --first {self.next}"),
            ("steps judged", f"{self.counted['steps']:,}"),
            ("worlds that were wrong", f"{len(self.wrong)}" + (f": {sorted(self.wrong)[:20]}" if self.wrong else "")),
            ("recoveries closed", f"{self.counted['closed']:,}"),
            ("recoveries held, a person told", f"{self.counted['held']:,}"),
            ("faults and orders of people", f"{sum(self.faults.values()):,}"),
            *((f"    {kind}", f"{count:,}") for kind, count in sorted(self.faults.items())),
            ("run as", way),
            ("CPU of one world", f"{1000 * self.cpu / done:.1f} ms"),
            ("time of the worlds", f"{time.monotonic() - self.began:.0f} s"),
        ]
        rows += [("BROKEN", self.broken)] if self.broken else []
        return "".join(f"{name:<44} {value}\n" for name, value in rows)


def started(tree: Path, *args: str) -> subprocess.Popen[str]:
    """A worker that runs the code of ``tree``, untouched by a Ctrl-C for us."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.property.worker", *args],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def prepared(scratch: Path, first: int, plain: bool) -> tuple[Path, str]:
    """The tree to run from, a copy that nobody changes under a long run; and in words how it is run."""
    source, tree = scratch / "source", scratch / "tree"
    compiled.copied(source)
    if plain:
        return source, "plain Python"
    compiled.copied(tree)
    print("compiling the core and the simulator: some minutes", flush=True)
    way = compiled.made(tree, scratch / "log")
    if way.startswith("plain"):
        return source, way
    both = [started(where, "--print") for where in (source, tree)]
    for each in both:
        assert each.stdin is not None
        each.stdin.write(f"{first} {COMPARED}\n")
        each.stdin.close()
    ours, theirs = (each.stdout.read() if each.stdout else "" for each in both)
    if any(each.wait() for each in both) or ours != theirs or ours.count("\n") != COMPARED:
        print("the compiled core did not behave like the source: running plain Python", flush=True)
        return source, "plain Python: the compiled core behaved otherwise"
    return tree, f"{way}; {COMPARED} worlds equal to those of plain Python in every word"


def watch(run: Run, workers: list[threading.Thread]) -> None:
    """A line a minute until all are done."""
    due = time.monotonic() + EVERY
    while any(w.is_alive() for w in workers):
        time.sleep(0.2)
        if time.monotonic() >= due:
            due += EVERY
            print(run.progress(), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Random worlds by the million.")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--worlds", type=int, default=1_000_000, help="how many at most")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after this time")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plain", action="store_true", help="do not compile anything")
    parser.add_argument("--table", type=Path, help="append what was done to this file")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="vmha-worlds-") as scratch:
        tree, way = prepared(Path(scratch), args.first, args.plain)
        run = Run(args.first, args.worlds, args.minutes * 60)

        def stop(number: int, frame: object) -> None:
            run.stopped = "interrupted"

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        print(f"{args.worlds:,} worlds from seed {args.first} in {args.processes} processes: {way}", flush=True)
        processes = [started(tree) for _ in range(args.processes)]
        threads = [threading.Thread(target=run.serve, args=(p,)) for p in processes]
        for thread in threads:
            thread.start()
        watch(run, threads)
        for process in processes:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
            process.wait()
    table = run.table(way)
    print(table, end="", flush=True)
    if args.table:
        with args.table.open("a") as out:
            out.write(table)
    for seed in sorted(run.wrong)[:TOLD]:
        wrong = fails(drawn(seed))
        print(f"\nseed {seed}\n{told(drawn(seed), wrong) if wrong else 'is not wrong in plain Python'}")
    if run.wrong or run.broken:
        return 1
    return 130 if run.stopped == "interrupted" else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # before the first world
