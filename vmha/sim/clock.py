"""Virtual time: a heap of timed events.  Nothing happens between two of them, so a world advances from fact to fact."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

WALL = 1_700_000_000.0  # wall time at second 0 of every world


class Clock:
    """``now`` is seconds from the start.  Events of the same instant happen in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    @property
    def happened(self) -> int:
        """Events until now."""
        return self._asked - len(self._heap)

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        """Let ``do(*args)`` happen at ``when``, or now when that is past."""
        self._asked += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._asked, do, args))

    def after(self, delay: float, do: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay, do, *args)

    def run(self, until: float, each: Callable[[], None]) -> None:
        """Let everything up to ``until`` happen; ``each`` is called after every event."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, do, args = heapq.heappop(heap)
            do(*args)
            each()
        self.now = until
