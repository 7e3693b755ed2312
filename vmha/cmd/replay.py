"""The ``vmha-replay`` command: a controller's journal decided once more, to the same bytes or with other settings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from vmha.cmd import otherwise
from vmha.cmd.decisions import Decision, decisions
from vmha.core import checkpoint
from vmha.core.actions import Action
from vmha.core.engine import Engine
from vmha.errors import BadConfig, BadRecord
from vmha.wire import trace

SAME, DIFFERS, REFUSED = 0, 1, 2


class Unreadable(Exception):
    """The journal cannot be read; the text says why."""


def main(arguments: list[str] | None = None) -> int:
    """Replay a journal.  Status 0: the same decisions (or ``--settings``); 1: others; 2: journal or settings refused."""
    parser = argparse.ArgumentParser(
        prog="vmha-replay", description="Decide once more what a controller's journal tells, and compare."
    )
    parser.add_argument("journal", type=Path, metavar="JOURNAL", help="[controller] journal_file, or its FILE.1")
    parser.add_argument(
        "--explain", metavar="ID", help="only lines about this recovery, host or instance, with the facts"
    )
    parser.add_argument(
        "--settings", metavar="FILE", help="show what these settings would have decided (as in vmha.conf)"
    )
    args = parser.parse_args(arguments)
    try:
        if args.settings:
            return _other_settings(args.journal, args.settings)
        return _again(args.journal, args.explain)
    except (BadRecord, BadConfig, Unreadable) as e:
        sys.stdout.flush()
        print(f"vmha-replay: {e}", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SAME


def lines(path: Path) -> Iterator[tuple[str, trace.Line]]:
    """Each line with its place.  A last line without its end is still being written: it is told and left out.

    BadRecord, Unreadable.
    """
    try:
        with path.open("rb") as f:
            for number, text in enumerate(f, 1):
                where = f"{path} line {number}"
                if not text.endswith(b"\n"):
                    print(f"vmha-replay: {where} is cut short: the replay ends before it", file=sys.stderr)
                    return
                line = trace.decode(where, text)
                if number == 1 and not isinstance(line, trace.Start):
                    raise BadRecord(
                        f"{where}: a journal begins with its settings: this is not one, or its begin is missing"
                    )
                yield where, line
    except OSError as e:
        raise Unreadable(f"{path} cannot be read ({e.strerror}): name a controller's journal_file") from None


def _again(path: Path, about: str | None) -> int:
    """Every step decided anew; the first that differs ends it."""
    engine, hosts = None, set[str]()
    steps = decided = 0
    for where, line in lines(path):
        if isinstance(line, trace.Start):
            engine = _begun(line)
            _tell_start(line, where, about)
            continue
        assert engine is not None
        found = engine.step(line.event, line.now, line.wall)
        steps, decided = steps + 1, decided + len(found)
        if trace.actions(found) != trace.actions(line.actions):
            _tell_difference(where, line, found)
            return DIFFERS
        told = list(decisions(line.wall, found))
        if about is not None:
            hosts.update(d.host for d in told if about == d.recovery)
            told = [d for d in told if d.about(about, hosts)]
        _tell(told, line if about is not None else None)
    if engine is None:
        raise Unreadable(f"{path} is empty: nothing was recorded there")
    print(f"{steps} steps, {decided} actions: decided the same again")
    return SAME


def _begun(line: trace.Start) -> Engine:
    engine = Engine(line.settings)
    checkpoint.restore(engine, line.engine)
    return engine


def _tell_start(line: trace.Start, where: str, about: str | None) -> None:
    if about is None:
        why = {
            "start": "the controller started",
            "full": "the file before was full",
            "lost": "lines before are missing",
        }
        print(f"# {where}: controller {line.controller}, vmha {line.version}: {why.get(line.why, line.why)}")


def _tell(told: list[Decision], evidence: trace.Step | None) -> None:
    for decision in told:
        print(decision.text)
    if told and evidence is not None:
        print(f"    told then: {trace.words(evidence.event)}")


def _tell_difference(where: str, line: trace.Step, found: list[Action]) -> None:
    """The first action that is another one, and the fact that it answered."""
    before = [trace.actions([a]) for a in line.actions]
    now = [trace.actions([a]) for a in found]
    at = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    print(f"{where}: decided otherwise, at action {at + 1} of the answer to: {trace.words(line.event)}")
    print(f"  recorded: {before[at] if at < len(before) else 'nothing more'}")
    print(f"  replayed: {now[at] if at < len(now) else 'nothing more'}")


def _other_settings(path: Path, settings: str) -> int:
    """The decisions that fall away (-) and those that come (+)."""
    comparison: otherwise.Comparison | None = None
    for _, line in lines(path):
        if isinstance(line, trace.Start):
            if comparison is None:
                comparison = otherwise.Comparison(otherwise.settings(line.settings, settings), line)
            else:
                comparison.restart(line)
        elif comparison is not None:
            comparison.step(line)
    if comparison is None:
        raise Unreadable(f"{path} is empty: nothing was recorded there")
    for text in comparison.told():
        print(text)
    return SAME


if __name__ == "__main__":
    sys.exit(main())
