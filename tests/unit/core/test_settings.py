"""Unsafe settings are refused with the sentence that says what to change; the defaults are safe."""

from __future__ import annotations

from typing import Any

import pytest

from vmha.core.model import Protect
from vmha.core.settings import POSITIVE, Settings, check


def test_the_defaults_are_safe() -> None:
    assert list(check(Settings())) == []


@pytest.mark.parametrize("name", POSITIVE)
def test_spans_of_time_are_positive(name: str) -> None:
    assert any(f"{name} is 0 s: set it above 0" in text for text in check(Settings(**{name: 0.0})))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"silence": 0.5}, "set silence to at least 0.6"),
        ({"host_lease": 8.0}, "set host_renew to at most 2.66667"),
        ({"leader_lease": 1.2, "leader_renew": 0.3}, "etcd grants no lease below 2 s"),
        ({"drift": 0.5}, "largest relative clock drift"),
        ({"power_timeout": 61.0}, "exceeds fence_limit"),
        ({"read_fresh": 0.1}, "no call could ever follow a read"),
        ({"max_down": 0}, "disarm vmha to stop all fencing"),
        ({"max_down_percent": 0.0}, "give a percentage above 0"),
        ({"max_down_percent": 101.0}, "give a percentage above 0"),
        ({"max_down_per_domain": -1}, "negative cap"),
        ({"max_down_per_domain": {"rack": -1}}, "negative cap"),
        ({"max_fences_per_window": 0}, "disarm vmha to stop all fencing"),
        ({"evacuate_first": 0}, "must be between 1 and evacuate_most"),
        ({"evacuate_first": 65}, "must be between 1 and evacuate_most"),
        ({"retry_most": 1.0}, "is shorter than retry_first"),
        ({"instances_path_shared": "maybe"}, "say yes, no or unknown"),
        ({"protect_default": Protect.FT}, "cannot be ft"),
        ({"start_limit_per_host": -1}, "0 for no limit"),
        ({"ready_timeout": 0.0}, "ready_timeout"),
        ({"start_limit_window": 0.0}, "start_limit_window"),
        ({"groups": ("db", "web", "db")}, "groups"),
    ],
)
def test_each_relation(wrong: dict[str, Any], says: str) -> None:
    found = list(check(Settings(**wrong)))
    assert any(says in text for text in found), found
