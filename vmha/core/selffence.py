"""When a host may feed its watchdog: safety.md section 1, the same pure rules for the agent that asks and the voter that answers.

A host is *valid* until ``q + T``, where ``q`` is its own clock when it sent a question with a fresh nonce that was answered well:

1. by a linearizable read, begun after the question (by itself, a peer or a controller for it), that found no condemnation of it; or
2. by a majority of all voters, itself counted if it is one, who know of no condemnation of it (``vouches``).

Nobody vouches from what others told: a voter answers from the condemned list that it loaded by a linearizable read in this boot, and
only a host that has the same list of voters.  ``may_feed`` is the whole rule of the thread that feeds; closing the watchdog's
descriptor counts as a feed.  ``vmha.core.word`` keeps the gate, whose ``valid_until`` both kinds of answers move.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vmha.core.model import Voters
from vmha.core.voters import agreed
from vmha.core.word import Answered, Found, Gate, GateState


def may_feed(gate: Gate, now: float) -> bool:
    """Whether the watchdog may be fed (or its descriptor opened or closed, which feeds it) now.

    Freely only while the gate is shut, nothing is being asked in order to open it, and nothing protected runs behind it.
    """
    freely = gate.state is GateState.SHUT and gate.clear
    return freely or (not gate.condemned and now < gate.valid_until)


def may_start(gate: Gate, now: float) -> bool:
    """Whether the agent may start a protected domain by itself now."""
    return gate.open and (not gate.fences or now < gate.valid_until)


# --- what a voter knows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """The condemned list as it was loaded by a linearizable read in this boot and followed since.

    It is written to /run before its ``revision`` goes out on beats, so that a restarted agent never knows less than it
    has acknowledged.
    """

    revision: int
    condemned: frozenset[str]


def loaded(known: Known | None, revision: int, condemned: Iterable[str]) -> Known:
    """A linearizable listing; an older one than what is known changes nothing."""
    if known is not None and revision < known.revision:
        return known
    return Known(revision, frozenset(condemned))


def followed(known: Known | None, changes: Iterable[tuple[int, str, bool]]) -> Known | None:
    """Changes (revision, host, condemned now) that a watch told together, in order, all of each revision among them.

    Those that are older than what is known change nothing; without a listing in this boot nothing is known.
    """
    if known is None:
        return None
    revision, hosts = known.revision, known.condemned
    for at, host, condemned in changes:
        if at > known.revision:
            revision, hosts = max(revision, at), hosts | {host} if condemned else hosts - {host}
    return Known(revision, hosts)


def vouches(known: Known | None, mine: int, host: str, theirs: int) -> bool:
    """Whether a voter may answer ``host`` that it knows of no condemnation of it.

    ``mine`` and ``theirs`` are revisions of the voters' lists that the two hold; 0 is none.
    """
    return known is not None and mine == theirs != 0 and host not in known.condemned


# --- the question --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vote:
    """One voter's signed answer to the question of ``nonce``."""

    nonce: str
    voter: str
    voters_revision: int
    innocent: bool


@dataclass(frozen=True, slots=True)
class Question:
    """A question of ``host`` sent at ``asked`` of its own clock; ``innocent``: voters that answered well so far."""

    host: str
    nonce: str
    asked: float
    voters: Voters | None = None
    innocent: frozenset[str] = frozenset()


def ask(host: str, nonce: str, asked: float, voters: Voters | None, known: Known | None) -> Question:
    """A new question; the host's own vote counts at once where it is a voter."""
    question = Question(host, nonce, asked, voters)
    revision = voters.revision if voters is not None else 0
    return voted(question, Vote(nonce, host, revision, vouches(known, revision, host, revision)))


def voted(question: Question, vote: Vote) -> Question:
    """Count one answer: to this very question, from a voter of the same list; any other changes nothing."""
    v = question.voters
    counts = v is not None and v.revision != 0 and vote.nonce == question.nonce and vote.voters_revision == v.revision
    if not counts or not vote.innocent:
        return question
    return replace(question, innocent=question.innocent | {vote.voter})


def answered(question: Question, at: float) -> Answered | None:
    """Answer 2, as soon as a majority of every list in force has answered well."""
    if question.voters is None or not agreed(question.voters, question.innocent):
        return None
    return Answered(question.asked, at, Found.ABSENT)
