"""How long may the guests of a condemned host still run?  The agent's gate and feeding rule against the leader's clock of P2.

H is condemned; it asks the store (answer 1) and the voters (answer 2), feeds a watchdog, opens and shuts its gate, is restarted and
stopped between any two steps.  The leader grants P2 by ``vmha.core.proof``.  Bad: granted while a guest of H runs.

The core's functions decide: ``word.advance``, ``selffence`` (may_feed, ask, voted, answered, vouches, loaded), ``proof.acknowledged``,
``proof.by_self_fence``, ``voters.acknowledging``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from vmha.core import selffence, word
from vmha.core.model import Voters
from vmha.core.proof import Watchdog, acknowledged, by_self_fence
from vmha.core.settings import Settings
from vmha.core.voters import acknowledging
from vmha.core.word import Found, Gate, GateAction, GateState

REVISION = 7  # of the condemnation; lists before it are of revision 1
NEVER = -1


class Voter(NamedTuple):
    """Another voter: what it knows, and what the leader has heard of it."""

    known: int = 1  # revision of its condemned list, 0: not loaded since it booted
    acked: int = 1


class S(NamedTuple):
    """All times are relative to now."""

    gate: Gate
    asked: float | None = None  # when the question on its way was sent
    innocent: frozenset[str] = frozenset()  # voters that answered it well
    read: Found | None = None  # what the store's answer to it found, on its way
    file: bool = True  # the gate's file: a guest can start
    todo: tuple[GateAction, ...] = ()  # what the agent has decided and not done yet
    runs: bool = True
    dog: int = 0  # ticks until the watchdog resets the host; NEVER: it has
    feeding: bool = False  # the check has passed, the feed has not landed
    up: bool = True
    open: bool = True  # this agent's process holds the device open: it has fed it
    condemned: bool = False
    clock: int = NEVER  # ticks since the leader saw the majority's acknowledgement
    voters: tuple[Voter, ...] = ()


class Model:
    """``word`` and ``dog`` in ticks; ``others``: voters beside H; ``short``: the leader waits so many ticks less than the rule says."""

    def __init__(self, word_ticks: int, dog: int, others: int, *, held: bool = True, short: int = 0) -> None:
        names = ("H", *(f"v{n}" for n in range(others)))
        self.voters = Voters(names, revision=3)
        self.settings = Settings(word=word_ticks, drift=0.0, settle=0.0)
        self.word, self.dog, self.others, self.short = word_ticks, dog, others, short
        self.watchdog = Watchdog("b", "iTCO", float(dog), held)

    def starts(self) -> list[S]:
        """In service and valid; or just booted, gate shut, nothing looked at yet."""
        armed = word.advance(Gate(float(self.word)), word.Armed(True))[0]
        peers = (Voter(),) * self.others
        opened = replace(armed, state=GateState.OPEN, valid_until=float(self.word))
        booted = word.advance(armed, word.Started(False))[0]
        return [
            S(opened, dog=self.dog, voters=peers),
            S(booted, dog=self.dog, voters=peers, file=False, runs=False, open=False),
        ]

    def bad(self, s: S) -> str:
        late = s.clock != NEVER and by_self_fence(0.0, self.watchdog, self.settings, float(s.clock + self.short))
        return f"a guest runs {s.clock} ticks after the clock began" if late and s.runs and s.dog != NEVER else ""

    def successors(self, s: S) -> Iterator[tuple[str, S]]:
        for label, following in self._successors(s):
            yield label, self._alike(following)

    def _successors(self, s: S) -> Iterator[tuple[str, S]]:
        if s.dog == NEVER or self._granted(s):
            return
        yield "tick", self._tick(s)
        if not s.condemned:
            yield "condemned", s._replace(condemned=True)
        yield from self._voters(s)
        yield from self._guests(s)
        if s.up:
            yield from self._agent(s)
            closed = self.dog if s.open and not self.watchdog.held else s.dog
            yield (
                "agent killed",
                S(s.gate, file=s.file, runs=s.runs, dog=closed, up=False, open=False, **self._others(s)),
            )
        else:
            yield "agent starts", self._step(s._replace(up=True), word.Started(s.file))

    def _others(self, s: S) -> dict[str, Any]:
        return {"condemned": s.condemned, "clock": s.clock, "voters": s.voters}

    def _alike(self, s: S) -> S:
        """Which voter is which does not matter."""
        pairs = sorted((v, f"v{n}" in s.innocent) for n, v in enumerate(s.voters))
        named = frozenset(f"v{n}" for n, (_, innocent) in enumerate(pairs) if innocent)
        return s._replace(voters=tuple(v for v, _ in pairs), innocent=named | (s.innocent & {"H"}))

    def _granted(self, s: S) -> bool:
        return s.clock != NEVER and by_self_fence(0.0, self.watchdog, self.settings, float(s.clock + self.short))

    # --- time ------------------------------------------------------------------------------------------------------

    def _tick(self, s: S) -> S:
        asked = s.gate.asked if s.gate.asked is None else max(s.gate.asked - 1, -self.word - 1.0)
        gate = replace(s.gate, asked=asked, valid_until=max(s.gate.valid_until - 1, -1.0))
        sent = s.asked if s.asked is None else max(s.asked - 1, -self.word - 1.0)
        return s._replace(gate=gate, asked=sent, dog=s.dog - 1, clock=s.clock + 1 if s.clock != NEVER else NEVER)

    # --- H ---------------------------------------------------------------------------------------------------------

    def _step(self, s: S, event: word.GateEvent) -> S:
        gate, actions = word.advance(s.gate, event)
        done = (GateAction.OPEN, GateAction.SHUT, GateAction.DESTROY, GateAction.CLEAR)
        return s._replace(gate=gate, todo=s.todo + tuple(a for a in actions if a in done))

    def _agent(self, s: S) -> Iterator[tuple[str, S]]:
        """The thread that feeds goes on whatever the engine does; the engine does what it has decided first."""
        if s.feeding:
            yield "feed", s._replace(feeding=False, dog=self.dog, open=True)
        elif selffence.may_feed(s.gate, 0.0):
            yield "may feed", s._replace(feeding=True)
        if s.todo:
            yield from self._do(s)
            return
        yield from self._asks(s)
        if s.condemned and not s.gate.condemned:
            yield "watch: condemned", self._step(s, word.SeenCondemned(REVISION))
        if not s.gate.open:
            yield "looks", self._step(s, word.Looked(not s.runs))
        yield "notices the time", self._step(s, word.Lapsed(0.0))

    def _do(self, s: S) -> Iterator[tuple[str, S]]:
        rest = s._replace(todo=s.todo[1:])
        match s.todo[0]:
            case GateAction.OPEN:
                yield "gate opens", rest._replace(file=True)
            case GateAction.SHUT:
                yield "gate shuts", rest._replace(file=False)
            case _:
                yield "destroys what runs", rest._replace(runs=False)

    def _asks(self, s: S) -> Iterator[tuple[str, S]]:
        if s.asked is None:
            question = selffence.ask("H", "n", 0.0, self.voters, selffence.loaded(None, 1, ()))
            yield "asks", self._step(s, word.Asked(0.0))._replace(asked=0.0, innocent=question.innocent)
            return
        question = selffence.Question("H", "n", s.asked, self.voters, s.innocent)
        no = s._replace(asked=None, read=None, innocent=frozenset())
        if s.read is None:
            yield "store answers", s._replace(read=Found.CONDEMNED if s.condemned else Found.ABSENT)
        else:
            yield "hears the store", self._step(no, word.Answered(s.asked, 0.0, s.read, REVISION))
        answer = selffence.answered(question, 0.0)
        if answer is not None:
            yield "has a majority", self._step(no, answer)
        yield "no answer", self._step(no, word.Answered(s.asked, 0.0, Found.UNKNOWN))
        for n, voter in enumerate(s.voters):
            known = selffence.Known(voter.known, frozenset({"H"} if voter.known >= REVISION else ()))
            says = selffence.vouches(known if voter.known else None, 3, "H", 3)
            vote = selffence.Vote("n", f"v{n}", 3, says)
            yield "a voter answers", s._replace(innocent=selffence.voted(question, vote).innocent)

    def _guests(self, s: S) -> Iterator[tuple[str, S]]:
        if s.file and not s.runs:
            yield "a guest starts", s._replace(runs=True)
        elif s.runs:
            yield "the guests end", s._replace(runs=False)

    # --- the other voters, and the leader ------------------------------------------------------------------------------

    def _voters(self, s: S) -> Iterator[tuple[str, S]]:
        now = REVISION if s.condemned else 1
        for n, v in enumerate(s.voters):
            if v.known != now:
                yield "a voter loads the list", self._put(s, n, v._replace(known=now))
            if v.known:
                yield "a voter boots", self._put(s, n, v._replace(known=0))
            if v.known > v.acked:
                yield "the leader hears a voter", self._heard(self._put(s, n, v._replace(acked=v.known)))

    def _put(self, s: S, n: int, v: Voter) -> S:
        return s._replace(voters=(*s.voters[:n], v, *s.voters[n + 1 :]))

    def _heard(self, s: S) -> S:
        applied = {f"v{n}": v.acked for n, v in enumerate(s.voters)}
        by = acknowledging(self.voters, "H", applied, REVISION)
        began = s.clock == NEVER and s.condemned and acknowledged(self.voters, "H", by)
        return s._replace(clock=0) if began else s
