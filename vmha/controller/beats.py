"""Between the ear and the engine: beats folded into edges, thousands of them into few.

The receiver's threads put beats in; the loop takes edges out.  Silence is judged only once nothing is left unread in the sockets, and
not over a time in which this process itself stood still.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from vmha.core import events as ev
from vmha.core.suspicion import BeatFold
from vmha.wire.sessions import Heard

STUCK_AFTER = 6.0  # seconds without progress of an agent whose beat process goes on
STOOD_STILL = 0.5  # seconds that the loop may be late before silence stops counting
Says = tuple[
    bool, int, int
]  # of a host: its agent is stuck; revisions of the voters' and the condemned list that it has applied
NOTHING: Says = (False, 0, 0)


class Ear:
    """Folds beats; ``edge`` is called from the receiver's threads with each edge, ``silent`` by the loop."""

    def __init__(self, silence: float, edge: Callable[[ev.Event], None]) -> None:
        self._fold = BeatFold(silence)
        self._lock = threading.Lock()
        self._edge = edge
        self._said: dict[str, Says] = {}

    def heard(self, beats: Sequence[Heard], at: float) -> None:
        """Accepted beats.  The lock is taken once for many: the loop would hardly ever get one that is taken for each."""
        edges: list[ev.Event] = []
        fold, said = self._fold, self._said
        with self._lock:
            for host, network, boot, _, _, _, age, voters, condemned in beats:
                if (edge := fold.heard(host, network, boot, at)) is not None:
                    edges.append(edge)
                says = age is not None and age > STUCK_AFTER, voters, condemned
                before = said.get(host, NOTHING)
                if says != before:
                    said[host] = says
                    edges += _news(host, boot, at, age, before, says)
        for event in edges:
            self._edge(event)

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


def _news(host: str, boot: str, at: float, age: float | None, before: Says, says: Says) -> Iterator[ev.Event]:
    """What a host says that it did not say before."""
    stuck = says[0]
    if stuck != before[0]:
        yield ev.AgentStuck(host, age or 0.0 if stuck else 0.0)
    if says[1:] != before[1:]:
        yield ev.Acked(host, boot, *says[1:], at)
