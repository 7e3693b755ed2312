"""A host that dies, is proven dead, boots again at any moment, and everything on it that may start domain X.

Untimed: what matters is the order of things.  A start is decided, then passes the libvirt hook (gate open), then the process appears;
each may be late.  Bad: X runs here and elsewhere.

The core's functions decide: ``word.advance`` (the gate over boots), ``proof.by_power``, ``proof.by_word``,
``proof.self_fence_off`` (a watchdog counts for the boot that armed it), ``proof.spoke``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from vmha.core import word
from vmha.core.events import PowerRead
from vmha.core.model import HostAlive, PowerState, Voters, Word
from vmha.core.proof import Watchdog, by_power, by_word, self_fence_off
from vmha.core.settings import Settings
from vmha.core.word import Found, Gate, GateAction

REVISION = 7
COMMITTED = 1.0  # a reading begins before (0) or after (2) the commit
VOTERS = Voters(("H", "a", "b"), revision=3)
BOOTS = 3


class S(NamedTuple):
    boot: int = 0
    on: bool = True
    gate: Gate = Gate(1.0, word.GateState.OPEN, valid_until=1.0, fences=True, hardware=True)
    file: bool = True
    todo: tuple[GateAction, ...] = ()
    read: Found | None = None  # the store's answer, on its way
    asked: bool = False
    x: bool = True  # X runs here
    defined: bool = True
    start: bool = False  # somebody (libvirt autostart, Nova, an admin, our ladder) has decided to start X here
    hook: bool = False  # that start has passed the hook, its process is not there yet
    word: Word | None = None
    condemned: int = 0  # boot that is condemned + 1, 0: none
    off: float | None = None  # begin of the last reading "off"
    proof: str = ""
    elsewhere: int = 0  # 1 ordered, 2 runs there
    released: bool = False


GONE = {"on": False, "x": False, "file": False, "todo": (), "read": None, "asked": False, "start": False, "hook": False}


def bad(s: S) -> str:
    return "X runs here and elsewhere" if s.x and s.on and s.elsewhere == 2 else ""


def successors(s: S) -> Iterator[tuple[str, S]]:
    if s.on:
        yield "loses power", s._replace(**GONE, word=None)
        yield from _starts(s)
        yield from _agent(s)
    elif s.boot < BOOTS:
        booted = s._replace(on=True, boot=s.boot + 1)
        yield "boots", _step(booted, word.Started(False))
    yield from _leader(s)


def _starts(s: S) -> Iterator[tuple[str, S]]:
    """Whatever may start X: each of the three steps can be late."""
    if s.x:
        yield "X crashes", s._replace(x=False)
    if not s.start:
        yield "a start is decided", s._replace(start=True)
    else:
        passes = s.defined and not s.x and s.file
        yield "a start meets the hook", s._replace(start=False, hook=s.hook or passes)
    if s.hook:
        yield "X starts", s._replace(hook=False, x=True)


def _step(s: S, event: word.GateEvent) -> S:
    gate, actions = word.advance(s.gate, event)
    asked = s.asked and gate.asked is not None
    todo = s.todo + tuple(a for a in actions if a not in (GateAction.ASK, GateAction.ASK_LATER))
    return s._replace(gate=gate, todo=todo, asked=asked, read=s.read if asked else None)


def _agent(s: S) -> Iterator[tuple[str, S]]:
    """The engine does what it has decided, in order, before anything else."""
    if s.todo:
        yield from _do(s)
        return
    if not s.asked:
        yield "asks", _step(s, word.Asked(0.0))._replace(asked=True, read=None)
    elif s.read is None:
        yield "store answers", s._replace(read=Found.CONDEMNED if s.condemned else Found.ABSENT)
    else:
        yield "hears the store", _step(s, word.Answered(0.0, 0.0, s.read, REVISION))._replace(asked=False, read=None)
    if s.condemned and not s.gate.condemned:
        yield "watch: condemned", _step(s, word.SeenCondemned(REVISION))
    if s.gate.condemned and not s.condemned:
        yield "watch: released", _step(s, word.SeenReleased())


def _do(s: S) -> Iterator[tuple[str, S]]:
    rest = s._replace(todo=s.todo[1:])
    match s.todo[0]:
        case GateAction.OPEN:
            yield "gate opens", rest._replace(file=True)
        case GateAction.SHUT:
            yield "gate shuts", rest._replace(file=False)
        case GateAction.WITHDRAW:
            yield "word withdrawn", rest._replace(word=None)
        case _:  # CLEAR: looks, destroys, looks again; libvirt's list has starts that passed the hook
            active = ("X",) if s.x or s.hook else ()
            said = Word(s.gate.condemned, active=active, defined=("X",) if s.defined else ())
            yield "looks and says", s._replace(word=said, todo=s.todo if active else s.todo[1:])
            if s.x:
                yield "destroys X", s._replace(x=False)
            elif not s.hook and s.defined and s.elsewhere == 2:
                yield "undefines X", s._replace(defined=False, word=None)


def _leader(s: S) -> Iterator[tuple[str, S]]:
    if not s.on:
        yield "power reads off", s._replace(off=2.0 if s.condemned else 0.0)
    if not s.condemned and not s.released:
        yield "condemned", s._replace(condemned=s.boot + 1)
    if s.condemned and not s.proof:
        yield from _proofs(s)
    if s.proof and not s.elsewhere:
        yield "X is evacuated", s._replace(elsewhere=1)
    if s.elsewhere == 1:
        yield "X runs elsewhere", s._replace(elsewhere=2)
    if (
        s.condemned
        and s.elsewhere == 2
        and s.on
        and by_word(_registered(s), REVISION)
        and not _registered(s).word.defined
    ):  # type: ignore[union-attr]
        yield "released", s._replace(condemned=0, proof="", released=True, off=None)


def _registered(s: S) -> HostAlive:
    gate = "open" if s.file else "shut"
    return HostAlive("H", f"b{s.boot}", "a", {}, gate=gate, hook=True, word=s.word)


def _proofs(s: S) -> Iterator[tuple[str, S]]:
    reading = None if s.off is None else PowerRead("H", PowerState.OFF, s.off, s.off)
    if by_power(reading, COMMITTED):
        yield "proven by P1", s._replace(proof="P1")
    if by_word(_registered(s), REVISION):
        yield "proven by P5", s._replace(proof="P5")
    dog = Watchdog(f"b{s.boot}", "iTCO", 30.0, True)
    if s.on and not self_fence_off(VOTERS, "H", f"b{s.condemned - 1}", dog, Settings()):
        yield "proven by P2: its watchdog has fired", s._replace(proof="P2", **GONE, word=None)
    elif s.on and s.boot != s.condemned - 1:
        yield "proven by P2: that boot is gone", s._replace(proof="P2")


def starts() -> list[S]:
    """In service; the agent has just restarted over an open gate; just booted."""
    restarted = _step(S(), word.Started(True))
    booted = _step(S(x=False, file=False), word.Started(False))
    return [S(), restarted, booted, S(gate=replace(S().gate, fences=False))]
