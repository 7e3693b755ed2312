"""The scenarios cover what the design names: every kind of event, order, proof, state and gate, and safety.md's own list."""

from __future__ import annotations

import ast
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from vmha.core import gates
from vmha.core.model import HostState, Proof, Verb

HERE = Path(__file__).parent
FILES = [p for p in sorted(HERE.glob("*.yaml")) if p.stem != "everything_is_accepted"]
LOGS = "\n".join(p.with_suffix(".log").read_text() for p in FILES)

SECTION_8 = [
    "regrant_after_condemn",
    "late_word",
    "vouch_ring",
    "stall_between_check_and_feed",
    "agent_crash_loop",
    "beat_dead_kernel_answers",
    "hosts_lose_store_controller_keeps_it",
    "stale_voters_list",
    "late_ack",
    "mass_silence_staggered_leases",
    "store_down_all_agents_restart",
    "two_hosts_arbiter",
    "rack_uplink_cut",
    "leader_change_mid_wait",
    "blip_then_boot",
    "boot_stall_before_gate",
    "boot_store_down",
    "autostart_mid_recovery",
    "ladder_start_outlives_condemnation",
    "start_passed_hook_then_move",
    "leader_sigstop_before_call",
    "leader_sigstop_after_send",
    "leader_sigstop_before_fence",
    "leader_sigstop_before_force_down",
    "client_timeout_retry_lands_twice",
    "open_record_blocks_return",
    "fitting_state_is_no_trace",
    "read_before_the_wait",
    "nova_flaps_target",
    "slow_target_then_second_target",
    "target_dies_with_rebuild_queued_and_returns",
]  # those about pairs come with pairs

STATES = {
    HostState.UNKNOWN: "leading, epoch",  # of every host that a new leader has not judged yet
    HostState.ONLINE: "online",
    HostState.SUSPECT: "suspect:",
    HostState.CONDEMNED: "condemned (boot",
    HostState.FENCED: "proven dead by",
    HostState.RECOVERING: "forced down in Nova",
    HostState.RECOVERED: "closed:",
    HostState.RETURNING: "being reconciled",
    HostState.MAINTENANCE: "in maintenance: not judged",
}


def kinds() -> list[str]:
    """Every ``do`` of the schema."""
    schema = json.loads(resources.files("vmha.sim").joinpath("scenario.schema.json").read_text())

    def enums(part: Any) -> list[list[str]]:
        if isinstance(part, dict):
            own = [part["enum"]] if isinstance(part.get("enum"), list) else []
            return own + [e for v in part.values() for e in enums(v)]
        return [e for v in part for e in enums(v)] if isinstance(part, list) else []

    return next(e for e in enums(schema) if "net_cut" in e and "arm" in e)


USED = {event["do"] for p in FILES for event in yaml.safe_load(p.read_text()).get("events", ())}


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_event_happens(kind: str) -> None:
    assert kind in USED


@pytest.mark.parametrize("verb", Verb)
def test_every_order_is_given(verb: Verb) -> None:
    assert verb.value in USED


@pytest.mark.parametrize("proof", Proof)
def test_every_proof_is_held(proof: Proof) -> None:
    assert f"proven dead by {proof}" in LOGS


@pytest.mark.parametrize("state", HostState)
def test_every_state_is_reached(state: HostState) -> None:
    assert STATES[state] in LOGS


def holds() -> list[str]:
    """The longest fixed part of every reason for which a gate may hold."""
    tree = ast.parse(Path(gates.__file__).read_text())
    parts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Hold" or isinstance(node, ast.Yield):
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            parts.append(max(texts, key=len, default=""))
    return [p for p in parts if len(p) > 8]


@pytest.mark.parametrize("reason", holds())
def test_every_gate_holds_somewhere(reason: str) -> None:
    assert reason in LOGS


@pytest.mark.parametrize("name", SECTION_8)
def test_what_safety_names_is_there(name: str) -> None:
    assert HERE.joinpath(f"{name}.yaml").exists() and HERE.joinpath(f"{name}.log").exists()


def test_there_are_enough() -> None:
    assert len(FILES) >= 80
