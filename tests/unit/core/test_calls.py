"""Call rules, one by one."""

from __future__ import annotations

import pytest

from vmha.core.calls import OpenCall, conflicts, landed_by, settles, waited_out
from vmha.core.model import Call, CallKind, Outcome
from vmha.core.settings import Settings, wait_out

S = Settings()


def open_call(kind: CallKind, host: str = "h1", instance: str = "", since: float = 100.0) -> OpenCall:
    return OpenCall(Call("c1", "r1", kind, host, 1, instance), since, ended=True)


@pytest.mark.parametrize(
    ("known", "kind", "host", "instance", "forbidden"),
    [
        (open_call(CallKind.FORCE_DOWN), CallKind.FORCE_DOWN, "h1", "", True),
        (open_call(CallKind.FORCE_DOWN), CallKind.POWER_OFF, "h1", "", True),
        (open_call(CallKind.FORCE_DOWN), CallKind.FORCE_DOWN, "h2", "", False),
        (open_call(CallKind.FORCE_DOWN), CallKind.EVACUATE, "h1", "a", True),
        (open_call(CallKind.FORCE_DOWN), CallKind.EVACUATE, "h2", "a", False),
        (open_call(CallKind.EVACUATE, "h1", "a"), CallKind.EVACUATE, "h1", "a", True),
        (open_call(CallKind.EVACUATE, "h1", "a"), CallKind.EVACUATE, "h2", "a", True),
        (open_call(CallKind.EVACUATE, "h1", "a"), CallKind.RESET_STATE, "h1", "a", True),
        (open_call(CallKind.EVACUATE, "h1", "a"), CallKind.EVACUATE, "h1", "b", False),
        (open_call(CallKind.EVACUATE, "h1", "a"), CallKind.ENABLE, "h1", "", True),
        (open_call(CallKind.EVACUATE, "h1", "a"), CallKind.ENABLE, "h2", "", False),
        (open_call(CallKind.RESET_STATE, "h1", "a"), CallKind.FORCE_DOWN, "h1", "", True),
    ],
)
def test_one_call_at_a_time_per_host_and_per_instance(
    known: OpenCall, kind: CallKind, host: str, instance: str, forbidden: bool
) -> None:
    assert (conflicts([known], kind, host, instance) is known) is forbidden
    assert conflicts([], kind, host, instance) is None


def test_a_call_has_landed_after_its_start_window_and_its_limit_on_drifting_clocks() -> None:
    assert wait_out(S) == pytest.approx((2 + 8) * 1.002)
    assert landed_by(open_call(CallKind.EVACUATE), S) == pytest.approx(110.02)
    assert landed_by(open_call(CallKind.POWER_OFF), S) == pytest.approx(100 + 60 * 1.002)


def test_the_wait_is_strictly_longer() -> None:
    at = landed_by(open_call(CallKind.EVACUATE), S)
    assert not waited_out(open_call(CallKind.EVACUATE), S, at)
    assert waited_out(open_call(CallKind.EVACUATE), S, at + 0.001)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_an_unknown_outcome_keeps_a_record_open(outcome: Outcome) -> None:
    assert settles(outcome) is (outcome is not Outcome.UNKNOWN)
