"""Stale lists of voters: none lets a condemned host outlive the acknowledgements."""

from __future__ import annotations

import os

import pytest

from tests.models.explore import explore
from tests.models.voters_change import Model

FAST = [("Hab", "Habc"), ("Habc", "Hab"), ("Hab", "abc"), ("abc", "Hab")]
SLOW = [("Hab", "Hcd"), ("Habc", "Habcd"), ("Habcd", "Hab")]


@pytest.mark.parametrize(("old", "new"), FAST + (SLOW if os.environ.get("VMHA_MODELS") == "all" else []))
def test_no_list_that_a_host_holds_lets_it_live_on(old: str, new: str) -> None:
    model = Model(old, new)
    found = explore(model.starts(), model.successors, model.bad)
    assert found.trace is None, found
    assert "the leader changes the list" in found.labels and found.states > 1000
