"""A list of voters changes while a host is condemned and holds any list that it ever had.

Bad: the clock of P2 runs, and H can still get a majority of its own list to say that they know of no condemnation of it.
The core's functions decide: ``voters.following``, ``voters.agreed``, ``voters.acknowledging``, ``proof.acknowledged``,
``selffence.vouches``.  The clock starts again with each record, as ``vmha.core.seek`` has it (tests/unit/core/test_seek.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vmha.core.model import Voters
from vmha.core.proof import acknowledged
from vmha.core.selffence import Known, vouches
from vmha.core.voters import acknowledging, agreed, following

CONDEMNED = 50


class Peer(NamedTuple):
    """One host beside H: the record of voters that it holds, whether it knows of the condemnation, and what the leader knows of both."""

    holds: int = 1  # 0: none, it has just booted
    knows: bool = False
    told_list: int = 1
    told_condemned: bool = False


class S(NamedTuple):
    records: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # (names, previous) of revision 1, 2, ...
    mine: int = 1  # revision of the record that H holds
    condemned: bool = False
    running: bool = False  # the clock, for the newest record
    peers: tuple[Peer, ...] = ()


class Model:
    """``old`` and ``new``: hosts that vote, H among them or not; ``every``: all hosts beside H."""

    def __init__(self, old: str, new: str) -> None:
        self.every = sorted(set(old + new) - {"H"})
        self.old, self.new = tuple(sorted(old)), dict.fromkeys(new, "rack")

    def starts(self) -> list[S]:
        return [S(((self.old, ()),), peers=(Peer(),) * len(self.every))]

    def record(self, s: S, revision: int) -> Voters:
        names, previous = s.records[revision - 1]
        return Voters(names, "", previous, revision=revision)

    def bad(self, s: S) -> str:
        if not s.running:
            return ""
        mine = self.record(s, s.mine)
        innocent = {n for n, p in zip(self.every, s.peers, strict=True) if self._says(p, s.mine)} | {"H"}
        return f"H lives on by record {s.mine}: {sorted(innocent)}" if agreed(mine, innocent) else ""

    def _says(self, p: Peer, theirs: int) -> bool:
        return bool(p.holds) and vouches(Known(1, frozenset({"H"} if p.knows else ())), p.holds, "H", theirs)

    def successors(self, s: S) -> Iterator[tuple[str, S]]:
        newest = len(s.records)
        seen = {n: p.told_list for n, p in zip(self.every, s.peers, strict=True)}
        change = following(self.record(s, newest), self.new, seen)
        if change is not None:
            records = (*s.records, (change.names, change.previous))
            yield "the leader changes the list", self._count(s._replace(records=records, running=False))
        if s.mine < newest:
            yield "H reads the list", s._replace(mine=s.mine + 1)
        if not s.condemned:
            yield "condemned", s._replace(condemned=True)
        for n, p in enumerate(s.peers):
            for label, after in self._peer(p, s.condemned, newest):
                peers = (*s.peers[:n], after, *s.peers[n + 1 :])
                yield f"{self.every[n]} {label}", self._count(s._replace(peers=peers))

    def _peer(self, p: Peer, condemned: bool, newest: int) -> Iterator[tuple[str, Peer]]:
        if p.holds and p.holds < newest:
            yield "reads the list", p._replace(holds=p.holds + 1)
        if p.holds and condemned and not p.knows:
            yield "hears of the condemnation", p._replace(knows=True)
        if p.holds > p.told_list:
            yield "is heard: list", p._replace(told_list=p.holds)
        if p.knows and not p.told_condemned:
            yield "is heard: condemnation", p._replace(told_condemned=True)
        if p.holds:
            yield "boots", p._replace(holds=0, knows=False)
        else:
            yield "loads both lists", p._replace(holds=newest, knows=condemned)

    def _count(self, s: S) -> S:
        """Whether the leader's clock runs now."""
        voters = self.record(s, len(s.records))
        applied = {n: CONDEMNED * p.told_condemned for n, p in zip(self.every, s.peers, strict=True)}
        by = acknowledging(voters, "H", applied, CONDEMNED)
        return s._replace(running=s.running or (s.condemned and acknowledged(voters, "H", by)))
