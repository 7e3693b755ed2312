"""Writes down every step of the engine on the controller's own disk, for ``vmha-replay``.

The loop never waits for the disk: lines are made and written by a thread of their own, each at once.  Every file begins with a
checkpoint of the engine, so each can be replayed by itself; where lines were lost (the disk was full, or slower than the engine), the
journal goes on with a checkpoint too.  Ticks that could not change anything are left out.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vmha.controller.memory import give_back
from vmha.core import checkpoint
from vmha.core import events as ev
from vmha.core.actions import Action
from vmha.core.engine import Engine
from vmha.wire import trace

LOG = logging.getLogger(__name__)
MOST_WAITING = 10_000  # lines
LARGE = 1 << 18  # bytes of a line whose making took so much memory that it is given back at once
AGAIN = 10.0  # seconds until a file that could not be written is tried again


class Recorder:
    """One for each engine.  ``size`` in bytes, of both files together."""

    def __init__(self, path: str, size: int, controller: str) -> None:
        self._path, self._part, self._controller = Path(path), size // 2, controller
        self._queue: queue.Queue[trace.Line | None] = queue.Queue(MOST_WAITING)
        self._why = "start"  # why the next line must be a checkpoint; empty: it need not
        self._file = -1
        self._size = self._since = 0  # bytes of the file, and of it after the last checkpoint
        self._again = 0.0
        self._told = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    # --- the loop's side -----------------------------------------------------------------------------------------------

    def step(self, engine: Engine, event: ev.Event, now: float, wall: float) -> list[Action]:
        """Step the engine and remember it.  The engine must be stepped by nobody else."""
        if self._why:
            self._start(engine)
        idle = isinstance(event, ev.Tick) and nothing_due(engine, now)
        kept = _kept(event)
        actions = engine.step(event, now, wall)
        if actions or not idle:
            self._put(trace.Step(now, wall, kept, tuple(actions)))
        return actions

    def _start(self, engine: Engine) -> None:
        if self._why == "lost" and (self._queue.qsize() > MOST_WAITING // 2 or time.monotonic() < self._again):
            return
        why, self._why = self._why, ""
        self._put(trace.Start(self._controller, _version(), why, engine.settings, checkpoint.take(engine)))

    def _put(self, line: trace.Line) -> None:
        if self._why == "lost":
            return
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._why = "lost"

    def close(self) -> None:
        """Write what is waiting, for a few seconds at the most."""
        try:
            self._queue.put(None, timeout=1.0)
        except queue.Full:
            return
        self._thread.join(timeout=5.0)

    # --- the writer's side -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                if self._write(line) >= LARGE:
                    del line
                    give_back()
            except OSError as e:
                self._failed(e)
            except Exception:
                LOG.exception("the engine's journal %s ends here: an error inside vmha", self._path)
                self._lose()
        self._shut()

    def _write(self, line: trace.Line) -> int:
        """The bytes that were written.  OSError."""
        start = isinstance(line, trace.Start)
        if not start and self._file < 0:
            return 0  # lost before; a checkpoint will come
        if start:
            self._begin()
        told = trace.encode(line)
        written = os.write(self._file, told)
        if written != len(told):
            raise OSError(f"only {written} of {len(told)} bytes were written")
        self._size += len(told)
        self._since = 0 if start else self._since + len(told)
        if self._told:
            LOG.info("the engine's journal %s is written again", self._path)
            self._told = False
        if self._since >= self._part and not self._why:
            self._why, self._since = "full", 0
        return written

    def _begin(self) -> None:
        """The file to which a checkpoint goes: the one that is there, or a new one where that is full."""
        if self._file < 0:
            self._path.parent.mkdir(exist_ok=True)
            self._file, self._size = _open(self._path)
        if self._size >= self._part:
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            self._shut()
            self._file, self._size = _open(self._path)

    def _failed(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            LOG.error(
                "the engine's journal %s cannot be written (%s): vmha goes on without; make room or correct journal_file",
                self._path,
                error.strerror or error,
            )
        self._lose()

    def _lose(self) -> None:
        self._shut()
        self._again = time.monotonic() + AGAIN
        self._why = "lost"

    def _shut(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def nothing_due(engine: Engine, now: float) -> bool:
    """Whether a Tick at that time changes nothing in the engine, unless it returns actions."""
    due = engine.next_deadline()
    return not engine.epoch or ((due is None or due > now) and not engine.world.commands)


def _kept(event: ev.Event) -> ev.Event:
    """The event as it is now: a world's tables may change after it was handed over."""
    if isinstance(event, (ev.StoreSnapshot, ev.Elected)):
        return replace(event, world=checkpoint.copied(event.world))
    return event


def _open(path: Path) -> tuple[int, int]:
    """The file for appending, ours alone, and its size; a line that a crash cut short is taken off."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(file).st_size
        if size:
            with mmap.mmap(file, size, access=mmap.ACCESS_READ) as told:
                whole = told.rfind(b"\n") + 1
            if whole != size:
                os.ftruncate(file, whole)
                size = whole
    except OSError:
        os.close(file)
        raise
    return file, size


def _version() -> str:
    try:
        return version("vmha")
    except PackageNotFoundError:
        return "unknown"


def paths(path: str) -> Sequence[Path]:
    """The files of a journal, the older first."""
    return Path(path + ".1"), Path(path)
