"""P2 against everything that a host, its voters and its agent may do."""

from __future__ import annotations

import os

import pytest

from tests.models.explore import explore
from tests.models.self_fence import Model

FAST = [(1, 1, 2, True), (1, 1, 2, False)]  # word and watchdog in ticks, voters beside the host, descriptor held
SLOW = [(2, 1, 2, True), (1, 2, 2, True), (2, 2, 2, False), (1, 1, 3, True), (1, 1, 4, True)]
CASES = FAST + (SLOW if os.environ.get("VMHA_MODELS") == "all" else [])


@pytest.mark.parametrize(("word", "dog", "others", "held"), CASES)
def test_a_proof_by_self_fence_is_never_given_while_a_guest_runs(word: int, dog: int, others: int, held: bool) -> None:
    model = Model(word, dog, others, held=held)
    found = explore(model.starts(), model.successors, model.bad)
    assert found.trace is None, found
    for step in ("has a majority", "hears the store", "gate opens", "watch: condemned", "looks", "agent starts"):
        assert step in found.labels


@pytest.mark.parametrize("held", [True, False])
def test_less_would_not_be_enough(held: bool) -> None:
    """The model is sharp (but for the tick that each of two strict comparisons takes): it finds the host that stands still."""
    model = Model(1, 1, 2, held=held, short=2)
    found = explore(model.starts(), model.successors, model.bad)
    assert found.trace is not None and "may feed" in found.trace
