"""Detection arithmetic: beats folded into edges, heard or silent.

Rule: a network of a host is *silent* when ``silence`` seconds passed since its last accepted beat, and *heard* again with the
next one.  Edges alone reach the engine; the fold is a pure function of the beats, their times and the times it is asked.

When this process itself stood still (a stopped or starved controller), silence says nothing about the hosts: ``excuse`` gives each of
them a fresh period.
"""

from __future__ import annotations

import heapq

from vmha.core.events import Heard, Silent

Key = tuple[str, str]
AHEAD = 0.05  # seconds


class BeatFold:
    """Last beat and boot of each (host, network).

    A beat costs one look-up.  When a network could be silent at the earliest is kept in a heap with one entry for each, put right only
    when that time is less than ``AHEAD`` away: about once in ``silence`` for each network, and never many thousands at one time.
    """

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._last: dict[Key, tuple[float, str]] = {}
        self._due: list[tuple[float, Key]] = []
        self._looked = 0.0

    def heard(self, host: str, network: str, boot: str, at: float) -> Heard | None:
        """Take one accepted beat; the edge it makes, if any (heard after silence, or a new boot)."""
        key = (host, network)
        before = self._last.get(key)
        self._last[key] = (at, boot)
        if before is not None and before[1] == boot:
            return None
        if before is None:
            heapq.heappush(self._due, (at + self._silence, key))
        return Heard(host, network, boot, at)

    def silent(self, now: float) -> list[Silent]:
        """The edges that ``now`` makes: every network whose last beat is ``silence`` old."""
        edges = []
        self._looked = now
        while (due := self.deadline()) is not None and due <= now:
            _, key = heapq.heappop(self._due)
            edges.append(Silent(*key, self._last.pop(key)[0]))
        return edges

    def deadline(self) -> float | None:
        """When the next network can become silent: exact where that is near, a time before it where it is not."""
        near = self._looked + AHEAD
        while self._due:
            due, key = self._due[0]
            if due > near:
                return due
            true = self._last[key][0] + self._silence
            if true <= due:
                return due
            heapq.heapreplace(self._due, (true, key))
        return None

    def excuse(self, now: float) -> None:
        """We stood still until ``now``: what was heard before counts as heard now."""
        for key, (_, boot) in self._last.items():
            self._last[key] = (now, boot)
