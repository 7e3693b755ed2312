"""Detection arithmetic: beats folded into edges, heard or silent.

Rule: a network of a host is *silent* when ``silence`` seconds passed since its last accepted beat, and *heard* again with the
next one.  Edges alone reach the engine; the fold is a pure function of the beats, their times and the times it is asked.

When this process itself stood still (a stopped or starved controller), silence says nothing about the hosts: ``excuse`` gives each of
them a fresh period.
"""

from __future__ import annotations

from collections import OrderedDict

from vmha.core.events import Heard, Silent


class BeatFold:
    """Last beat of each (host, network), ordered by time, so that each beat and each question costs O(1)."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._last: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._boots: dict[tuple[str, str], str] = {}

    def heard(self, host: str, network: str, boot: str, at: float) -> Heard | None:
        """Take one accepted beat; the edge it makes, if any (heard after silence, or a new boot)."""
        key = (host, network)
        edge = key not in self._last or self._boots.get(key) != boot
        self._last[key] = at
        self._last.move_to_end(key)
        if not edge:
            return None
        self._boots[key] = boot
        return Heard(host, network, boot, at)

    def silent(self, now: float) -> list[Silent]:
        """The edges that ``now`` makes: every network whose last beat is ``silence`` old."""
        edges = []
        while self._last:
            key, at = next(iter(self._last.items()))
            if now - at < self._silence:
                break
            del self._last[key]
            edges.append(Silent(*key, at))
        return edges

    def deadline(self) -> float | None:
        """When the next network can become silent."""
        if not self._last:
            return None
        return next(iter(self._last.values())) + self._silence

    def excuse(self, now: float) -> None:
        """We stood still until ``now``: what was heard before counts as heard now."""
        for key in self._last:
            self._last[key] = now
