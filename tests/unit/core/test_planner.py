"""The plan of a dead host: every state of Nova by the table of vmha.core.planner, and the order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmha.core.model import Instance, InstanceSettings, StepState
from vmha.core.planner import plan
from vmha.core.settings import Settings


def instance(uuid: str, vm_state: str = "active", task: str | None = None, memory: int = 64, **more: str) -> Instance:
    return Instance(uuid, uuid, "h1", vm_state.upper(), vm_state, task, memory_mib=memory, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vm_state", "task", "state", "words"),
    [
        ("active", None, StepState.WAITING, "protect full"),
        ("stopped", None, StepState.WAITING, "protect full"),
        ("active", "rebooting", StepState.WAITING, "protect full"),
        ("active", "deleting", StepState.SKIPPED, "deleting it"),
        ("active", "soft-deleting", StepState.SKIPPED, "deleting it"),
        ("error", None, StepState.SKIPPED, "in error before"),
        ("paused", None, StepState.SKIPPED, "an operator must decide"),
        ("suspended", None, StepState.SKIPPED, "an operator must decide"),
        ("rescued", None, StepState.SKIPPED, "an operator must decide"),
        ("resized", None, StepState.SKIPPED, "an operator must decide"),
        ("shelved", None, StepState.SKIPPED, "shelved it"),
        ("shelved_offloaded", None, StepState.SKIPPED, "shelved it"),
        ("building", "spawning", StepState.SKIPPED, "never run"),
        ("deleted", None, StepState.SKIPPED, "deleted"),
        ("soft-delete", None, StepState.SKIPPED, "deleted"),
        ("never-heard-of", None, StepState.SKIPPED, "an operator must decide"),
    ],
)
def test_each_state_has_its_rule(vm_state: str, task: str | None, state: StepState, words: str) -> None:
    (step,) = plan([instance("a", vm_state, task)], None, {}, Settings())
    assert step.state is state and words in step.reason


def test_a_users_lock_keeps_nobody_from_recovering_it() -> None:
    (step,) = plan([replace(instance("a"), locked=True)], None, {}, Settings())
    assert step.state is StepState.WAITING


def test_order_is_running_first_then_priority_then_group_then_size() -> None:
    words = {
        "urgent": InstanceSettings("urgent", priority=5),
        "web": InstanceSettings("web", group="web"),
        "db": InstanceSettings("db", group="db"),
    }
    found = [
        instance("off", "stopped", memory=999),
        instance("small"),
        instance("large", memory=512),
        instance("web"),
        instance("db"),
        instance("urgent"),
    ]
    settings = Settings(groups=("db", "web"))
    steps = plan(found, None, words, settings)
    assert [s.instance for s in steps] == ["urgent", "db", "web", "large", "small", "off"]
    assert plan(reversed(found), None, words, settings) == steps
    assert [s.ordered for s in steps] == [True, True, True, True, True, False]


def test_instances_arrive_running_when_no_order_is_asked_for() -> None:
    words = {"a": InstanceSettings("a", group="db", priority=3)}
    (step,) = plan([instance("a")], None, words, Settings())
    assert not step.ordered and step.group == ""
    (other,) = plan([instance("b")], None, words, Settings(groups=("db",)))
    assert not other.ordered
    (limited,) = plan([instance("b")], None, {}, Settings(start_limit_per_host=2))
    assert limited.ordered


def test_an_instance_whose_start_is_owed_is_no_stopped_one() -> None:
    (step,) = plan([instance("a", "stopped")], None, {}, Settings(), frozenset({"a"}))
    assert step.ordered and not step.stopped and step.owed


def test_members_of_a_hard_group_know_each_other() -> None:
    steps = plan([instance("a", anti_affinity="g"), instance("b", affinity="k")], None, {}, Settings())
    assert [s.together for s in steps] == ["g", "k"]
