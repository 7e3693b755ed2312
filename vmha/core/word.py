"""When a host's gate may stand open: safety.md section 3, the agent's side.

A proof about one boot must not be undone by the next, so after each boot the gate is shut until a fresh answer says that the host is not
condemned.  An answer is one to a question of *this* run of the agent, asked at ``q`` of its own clock, read linearizably after
``q``; it holds until ``q + T``.  A watch is no answer, but what it shows of a condemnation counts at once.

==========  ==========================  ===================================================================
state       event                       then
==========  ==========================  ===================================================================
any         Started                     OPEN if the gate of this boot was found open, else SHUT; ask
SHUT        Asked(q)                    ASKING
ASKING      Answered(q, absent)         OPEN, if before q + T and nothing condemned was seen since q; else SHUT, ask
ASKING      Answered(q, unknown)        SHUT, ask later
OPEN        Answered(q, unknown)        OPEN: losing the store changes nothing by itself; ask later
any         Answered(q, condemned)      SHUT, condemned: destroy what runs, give the word
any         SeenCondemned(revision)     the same
condemned   SeenReleased                SHUT, ask: only an answer opens
any         Answered to an older q      nothing
OPEN        Lapsed(at), not valid       SHUT: no start is let through; without a hardware watchdog destroy what runs; ask
SHUT        Looked(clear)               SHUT, and from now on the watchdog may be fed freely where nothing protected runs
==========  ==========================  ===================================================================

Condemned, the gate stays shut until a release was seen *and* an answer found the condemnation absent.
The order to open is "stop feeding freely (ASKING), then ask, then open while valid"; ``vmha.core.selffence`` says when the
watchdog may be fed.  ``fences`` False: this host's self-fencing is not in force, and nobody relies on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never


class GateState(StrEnum):
    """State of the gate; ASKING is shut with a question on its way."""

    SHUT = "shut"
    ASKING = "asking"
    OPEN = "open"


class Found(StrEnum):
    """What a linearizable read of the host's condemnation found."""

    ABSENT = "absent"
    CONDEMNED = "condemned"
    UNKNOWN = "unknown"  # no answer, or one that cannot be read


@dataclass(frozen=True, slots=True)
class Gate:
    """``asked`` is the time of the question whose answer still counts; ``condemned`` the revision, 0 for none known."""

    word: float
    state: GateState = GateState.SHUT
    asked: float | None = None
    condemned: int = 0
    valid_until: float = 0.0
    fences: bool = False  # self-fencing is in force: a voters list is known, so proof P2 may rely on it
    hardware: bool = False  # a hardware watchdog is armed
    clear: bool = False  # since the gate was last shut, nothing protected was seen active and no process of it

    @property
    def open(self) -> bool:
        return self.state is GateState.OPEN


@dataclass(frozen=True, slots=True)
class Started:
    """The agent starts; ``found_open``: the gate of this very boot stands open from an earlier run."""

    found_open: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A question leaves at ``at``."""

    at: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to the question of time ``asked`` came at ``at``."""

    asked: float
    at: float
    found: Found
    revision: int = 0


@dataclass(frozen=True, slots=True)
class SeenCondemned:
    """A fresh watch shows the condemnation of ``revision``."""

    revision: int


@dataclass(frozen=True, slots=True)
class SeenReleased:
    """A fresh watch shows no condemnation."""


@dataclass(frozen=True, slots=True)
class Armed:
    """Self-fencing is in force from now on in this boot; ``hardware``: by a hardware watchdog, not by the agent alone."""

    hardware: bool


@dataclass(frozen=True, slots=True)
class Lapsed:
    """It is ``at``, and ``valid_until`` may have come."""

    at: float


@dataclass(frozen=True, slots=True)
class Looked:
    """A look begun after the gate was shut; ``clear``: no protected domain is active (or starting), no process of one is there."""

    clear: bool


GateEvent = Started | Asked | Answered | SeenCondemned | SeenReleased | Armed | Lapsed | Looked


class GateAction(StrEnum):
    """What the shell must do, in the order given."""

    ASK = "ask"  # ask now
    ASK_LATER = "ask later"  # ask again after a pause
    OPEN = "open"  # open the gate's file
    SHUT = "shut"  # shut it, before anything that follows
    CLEAR = "clear"  # destroy protected domains, then give the word, until nothing is left
    WITHDRAW = "withdraw"  # the word no longer stands
    DESTROY = "destroy"  # soft self-fence: destroy protected domains, nothing else would stop them


def advance(gate: Gate, event: GateEvent) -> tuple[Gate, tuple[GateAction, ...]]:
    """The gate after ``event``, and what to do."""
    match event:
        case Started(found_open):
            state = GateState.OPEN if found_open else GateState.SHUT
            first = () if found_open else (GateAction.SHUT,)
            fresh = Gate(gate.word, state, fences=gate.fences, hardware=gate.hardware)
            return fresh, (*first, GateAction.ASK)
        case Asked(at):
            state = GateState.OPEN if gate.open else GateState.ASKING
            return replace(gate, state=state, asked=at), ()
        case Answered():
            return _answered(gate, event)
        case SeenCondemned(revision):
            return _condemned(gate, revision)
        case SeenReleased():
            if not gate.condemned:
                return gate, ()
            return replace(gate, condemned=0, asked=None), (GateAction.WITHDRAW, GateAction.ASK)
        case Armed(hardware):
            return replace(gate, fences=True, hardware=gate.hardware or hardware), ()
        case Lapsed(at):
            return _lapsed(gate, at)
        case Looked(clear):
            return replace(gate, clear=clear and not gate.open), ()
        case _:
            assert_never(event)


def _lapsed(gate: Gate, at: float) -> tuple[Gate, tuple[GateAction, ...]]:
    """No answer holds any more: nothing may start here, and what runs must end by a watchdog that is not fed, or by us."""
    if not gate.fences or not gate.open or at < gate.valid_until:
        return gate, ()
    soft = () if gate.hardware else (GateAction.DESTROY,)
    return replace(gate, state=GateState.SHUT, asked=None), (GateAction.SHUT, *soft, GateAction.ASK)


def _answered(gate: Gate, answer: Answered) -> tuple[Gate, tuple[GateAction, ...]]:
    if answer.asked != gate.asked:
        return gate, ()
    if answer.found is Found.CONDEMNED:
        return _condemned(gate, answer.revision)
    shut = gate if gate.open else replace(gate, state=GateState.SHUT)
    if answer.found is Found.UNKNOWN:
        return replace(shut, asked=None), (GateAction.ASK_LATER,)
    until = answer.asked + gate.word
    if gate.condemned:  # the watch has not shown the release yet
        return replace(shut, asked=None), (GateAction.ASK_LATER,)
    if answer.at >= until:
        return replace(shut, asked=None), (GateAction.ASK,)
    actions = () if gate.open else (GateAction.OPEN,)
    until = max(until, gate.valid_until)
    return replace(gate, state=GateState.OPEN, asked=None, valid_until=until, clear=False), actions


def _condemned(gate: Gate, revision: int) -> tuple[Gate, tuple[GateAction, ...]]:
    """An answer on its way is void: it may have been read before the condemnation."""
    if gate.condemned == revision:
        return replace(gate, asked=None), ()
    return (
        replace(gate, state=GateState.SHUT, asked=None, condemned=revision, valid_until=0.0),
        (GateAction.SHUT, GateAction.WITHDRAW, GateAction.CLEAR),
    )
