"""What the facts of a request amount to, which request a record makes, and what Nova's JSON says."""

from __future__ import annotations

from typing import Any

import pytest

from vmha.adapters import nova_views
from vmha.adapters.nova import Nova, request_of
from vmha.adapters.nova_access import choose_microversion, password_plugin
from vmha.adapters.nova_calls import Facts, judge, message_of
from vmha.core.model import Call, CallKind, Outcome
from vmha.errors import BadConfig, BadRecord, ComputeError, ComputeUnknown


@pytest.mark.parametrize(
    ("facts", "outcome", "words"),
    [
        (Facts(True, "answer", 200, "req-1"), Outcome.DONE, "req-1"),
        (Facts(True, "answer", 202, "req-2"), Outcome.DONE, "req-2"),
        (Facts(True, "answer", 301), Outcome.FAILED, "redirect"),
        (
            Facts(True, "answer", 400, text='{"badRequest": {"message": "still in use."}}'),
            Outcome.FAILED,
            "still in use.",
        ),
        (Facts(True, "answer", 401, text=""), Outcome.FAILED, "fresh"),
        (Facts(True, "answer", 409, text='{"conflictingRequest": {"message": "m"}}'), Outcome.FAILED, "409"),
        (Facts(True, "answer", 500, "req-3", "oops"), Outcome.UNKNOWN, "req-3"),
        (Facts(True, "answer", 503, text="<html>no server</html>"), Outcome.UNKNOWN, "503"),
        (Facts(True, "broken", text="timed out"), Outcome.UNKNOWN, "timed out"),
        (Facts(True, ""), Outcome.UNKNOWN, "worker process ended"),
        (Facts(False, "unreachable", text="refused"), Outcome.NOT_STARTED, "refused"),
        (Facts(False, ""), Outcome.NOT_STARTED, "ran out"),
    ],
)
def test_outcomes(facts: Facts, outcome: Outcome, words: str) -> None:
    judged, detail = judge(facts)
    assert judged is outcome and words in detail


def test_nova_s_own_words() -> None:
    assert message_of('{"computeFault": {"code": 500, "message": "Unexpected"}}') == "Unexpected"
    assert message_of('{"error": "x"}') == '{"error": "x"}'
    assert message_of("[1]") == "[1]"
    assert message_of("<html>\n  Bad   Gateway") == "<html> Bad Gateway"
    assert message_of("") == "no text"


def call(kind: CallKind, **fields: Any) -> Call:
    return Call(id="c1", recovery="r1", kind=kind, host="compute1", epoch=1, **fields)


@pytest.mark.parametrize(
    ("one", "request_"),
    [
        (call(CallKind.FORCE_DOWN, service="s"), ("PUT", "/os-services/s", {"forced_down": True})),
        (call(CallKind.UNFORCE, service="s"), ("PUT", "/os-services/s", {"forced_down": False})),
        (call(CallKind.ENABLE, service="s"), ("PUT", "/os-services/s", {"status": "enabled"})),
        (
            call(CallKind.DISABLE, service="s", reason="x" * 300),
            ("PUT", "/os-services/s", {"status": "disabled", "disabled_reason": "x" * 255}),
        ),
        (call(CallKind.EVACUATE, instance="i/../j"), ("POST", "/servers/i%2F..%2Fj/action", {"evacuate": {}})),
        (
            call(CallKind.EVACUATE, instance="i", target="h9"),
            ("POST", "/servers/i/action", {"evacuate": {"host": "h9"}}),
        ),
        (call(CallKind.START, instance="i"), ("POST", "/servers/i/action", {"os-start": None})),
        (
            call(CallKind.RESET_STATE, instance="i"),
            ("POST", "/servers/i/action", {"os-resetState": {"state": "error"}}),
        ),
        (
            call(CallKind.RESET_STATE, instance="i", state="active"),
            ("POST", "/servers/i/action", {"os-resetState": {"state": "active"}}),
        ),
    ],
)
def test_requests(one: Call, request_: tuple[str, str, dict[str, Any]]) -> None:
    assert request_of(one) == request_


@pytest.mark.parametrize("kind", list(CallKind))
def test_a_record_that_does_not_say_enough(kind: CallKind) -> None:
    with pytest.raises(BadRecord, match="c1"):
        request_of(call(kind))


def test_microversions() -> None:
    assert choose_microversion((2, 1), (2, 100)) == "2.94"
    assert choose_microversion((2, 1), (2, 80)) == "2.80"
    with pytest.raises(BadConfig, match="upgrade Nova"):
        choose_microversion((2, 1), (2, 79))
    with pytest.raises(BadConfig, match="no longer"):
        choose_microversion((2, 95), (2, 110))


def test_accounts() -> None:
    with pytest.raises(BadConfig, match="auth_url"):
        password_plugin({"username": "u", "password": "p"})
    with pytest.raises(BadConfig, match="incomplete or has an unknown setting"):
        password_plugin({"auth_url": "http://k/v3", "password": "p", "projekt": "x"})
    with pytest.raises(BadConfig, match="either"):
        Nova()


SERVER = {
    "id": "u1",
    "name": "n",
    "status": "ACTIVE",
    "tenant_id": "p",
    "metadata": {"a": "b"},
    "image": "",
    "flavor": {"ram": 96, "vcpus": 2},
    "locked": True,
    "OS-EXT-SRV-ATTR:host": None,
    "OS-EXT-STS:vm_state": "active",
    "OS-EXT-STS:task_state": None,
    "OS-EXT-STS:power_state": 1,
}


def test_servers() -> None:
    one = nova_views.instance(SERVER)
    assert (one.host, one.image, one.locked, one.memory_mib, one.vcpus, one.metadata) == (
        "",
        "",
        True,
        96,
        2,
        {"a": "b"},
    )
    assert nova_views.instance({**SERVER, "image": {"id": "img"}}).image == "img"
    with pytest.raises(ComputeUnknown, match="cell is down"):
        nova_views.instance({"id": "u1", "status": "UNKNOWN"})
    with pytest.raises(ComputeError, match="admin"):
        nova_views.instance({name: value for name, value in SERVER.items() if name != "OS-EXT-SRV-ATTR:host"})


def test_services() -> None:
    raw = {
        "id": "s",
        "host": "h",
        "status": "enabled",
        "state": "up",
        "forced_down": False,
        "updated_at": "2026-11-21T12:00:00.000000",
    }
    one = nova_views.service(raw)
    assert one.up and not one.disabled and one.disabled_reason == "" and one.updated_wall == 1795262400.0
    assert nova_views.service({**raw, "updated_at": None}).updated_wall == 0.0
    with pytest.raises(ComputeUnknown):
        nova_views.service({"host": "h", "status": "UNKNOWN"})
