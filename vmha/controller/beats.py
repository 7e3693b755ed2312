"""Between the ear and the engine: beats folded into edges, thousands of them into few.

The receiver's threads put beats in; the loop takes edges out.  Silence is judged only once nothing is left unread in the sockets, and
not over a time in which this process itself stood still.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vmha.core import events as ev
from vmha.core.suspicion import BeatFold

STUCK_AFTER = 6.0  # seconds without progress of an agent whose beat process goes on
STOOD_STILL = 0.5  # seconds that the loop may be late before silence stops counting
NOTHING = (False, (0, 0))  # what a host has said before its first beat


class Ear:
    """Folds beats; ``edge`` is called from the receiver's threads with each edge, ``silent`` by the loop."""

    def __init__(self, silence: float, edge: Callable[[ev.Event], None]) -> None:
        self._fold = BeatFold(silence)
        self._lock = threading.Lock()
        self._edge = edge
        self._said: dict[str, tuple[bool, tuple[int, int]]] = {}  # by host: stuck, lists

    def heard(
        self,
        host: str,
        network: str,
        boot: str,
        progress: int,
        progress_age: float | None,
        at: float,
        lists: tuple[int, int] = (0, 0),
    ) -> None:
        """One accepted beat; ``lists``: revisions of the voters' and the condemned list that its sender has applied."""
        says = progress_age is not None and progress_age > STUCK_AFTER, lists
        with self._lock:
            edge = self._fold.heard(host, network, boot, at)
            said = self._said.get(host, NOTHING)
            if says != said:
                self._said[host] = says
        if edge is not None:
            self._edge(edge)
        if says != said:
            stuck = says[0]
            if stuck != said[0]:
                self._edge(ev.AgentStuck(host, progress_age or 0.0 if stuck else 0.0))
            if lists != said[1]:
                self._edge(ev.Acked(host, boot, *lists, at))

    def silent(self, now: float, heard_until: float, planned: float) -> list[ev.Silent]:
        """Edges of silence up to ``heard_until``; ``planned`` is when the loop meant to look at the latest."""
        with self._lock:
            if now - planned > STOOD_STILL:
                self._fold.excuse(now)
                return []
            return self._fold.silent(heard_until)

    def deadline(self) -> float | None:
        with self._lock:
            return self._fold.deadline()
