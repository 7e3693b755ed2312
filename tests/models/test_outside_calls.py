"""Calls that nobody takes back, under two leaders."""

from __future__ import annotations

import os

from tests.models.explore import explore
from tests.models.outside_calls import LAND, Model, S, bad

CALLS = 4 if os.environ.get("VMHA_MODELS") == "all" else 3


def test_two_leaders_start_no_second_copy_and_hurt_no_healthy_host() -> None:
    model = Model(CALLS)
    found = explore([S()], model.successors, bad)
    assert found.trace is None, found
    assert any("closes evacuate" in step for step in found.labels) and any("returns" in step for step in found.labels)


def test_a_shorter_wait_would_not_be_enough() -> None:
    model = Model(3, gap=float(LAND))
    found = explore([S()], model.successors, bad)
    assert found.trace is not None and any("closes" in step for step in found.trace)
