"""Breadth first: every reachable state, and the shortest way to a bad one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

S = TypeVar("S", bound=Hashable)
LIMIT = 1_500_000


class Explored:
    """``trace`` leads to the first bad state, None where there is none; ``labels`` are all steps that were ever taken."""

    def __init__(self, trace: list[str] | None, states: int, labels: set[str]) -> None:
        self.trace, self.states, self.labels = trace, states, labels

    def __str__(self) -> str:
        return f"{self.states} states" + (f": {'; '.join(squeezed(self.trace))}" if self.trace else ", none bad")


def explore(
    starts: Iterable[S], successors: Callable[[S], Iterator[tuple[str, S]]], bad: Callable[[S], str]
) -> Explored:
    """All states reachable from ``starts``; AssertionError when they are more than LIMIT: the model has no bound."""
    parent: dict[S, tuple[S, str] | None] = dict.fromkeys(starts)
    queue, labels = deque(parent), set()
    while queue:
        state = queue.popleft()
        wrong = bad(state)
        if wrong:
            return Explored([*_way(parent, state), f"!! {wrong}"], len(parent), labels)
        for label, following in successors(state):
            labels.add(label)
            if following not in parent:
                parent[following] = (state, label)
                queue.append(following)
        assert len(parent) <= LIMIT, "the model has no bound"
    return Explored(None, len(parent), labels)


def _way(parent: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    labels = []
    while (step := parent[state]) is not None:
        state, label = step
        labels.append(label)
    return labels[::-1]


def squeezed(trace: list[str]) -> list[str]:
    """Runs of ticks as "+n"."""
    out: list[str] = []
    for label in trace:
        if label == "tick" and out and out[-1].startswith("+"):
            out[-1] = f"+{int(out[-1][1:]) + 1}"
        else:
            out.append("+1" if label == "tick" else label)
    return out
