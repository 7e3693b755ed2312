"""Nova forgets, refuses or does not answer in the middle of a recovery.  Virtual time, no mocks."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.core.harness import World
from vmha.core.model import CallKind, Outcome, Recovery, Stage
from vmha.core.settings import Settings

FAILED = (Outcome.FAILED, "no")
SILENT = "Nova does not answer: its recovery waits until it does"


def left_in_error() -> World:
    """A stopped instance of a dead host whose first evacuation has failed."""
    w = World()
    w.add_instance("b", "h1", vm_state="stopped", status="SHUTOFF", power_state=4)
    w.refuse["b"] = FAILED
    w.run(4)
    w.cut_power("h1")
    while "evacuate b" not in w.did():
        w.run(0.1)
    w.instances["b"] = replace(w.instances["b"], vm_state="error", status="ERROR")
    del w.refuse["b"]
    return w


def test_a_stopped_instance_that_a_failed_attempt_left_in_error_arrives_stopped() -> None:
    w = left_in_error()
    w.run(20)
    assert w.did() == ["force_down h1", "evacuate b", "reset_state b", "evacuate b", "disable h1"]
    assert w.calls[2].state == "active" and w.calls[3].arrive_stopped
    assert w.instances["b"].vm_state == "stopped" and w.instances["b"].host != "h1" and w.pages == []


def test_while_its_error_cannot_be_cleared_it_is_not_evacuated_and_a_person_hears_of_it() -> None:
    w = left_in_error()
    w.refuse[CallKind.RESET_STATE] = FAILED
    w.run(120)
    assert w.did().count("evacuate b") == 1 and 4 <= w.did().count("reset_state b") <= 8
    assert any(
        "b could not be evacuated 5 times, still trying: its error could not be cleared: no" in p for p in w.pages
    )
    del w.refuse[CallKind.RESET_STATE]
    w.run(120)
    assert w.instances["b"].vm_state == "stopped" and w.instances["b"].host != "h1"


def test_an_unknown_reset_is_waited_out_before_anything_else_is_asked() -> None:
    w = left_in_error()
    w.refuse[CallKind.RESET_STATE] = (Outcome.UNKNOWN, "no answer")
    while "reset_state b" not in w.did():
        w.run(0.1)
    del w.refuse[CallKind.RESET_STATE]
    w.run(9.5)
    assert w.did()[-1] == "reset_state b" and w.did().count("reset_state b") == 1
    w.run(5)
    assert w.did()[2:5] == ["reset_state b", "reset_state b", "evacuate b"] and w.instances["b"].vm_state == "stopped"


def test_an_instance_that_was_stopped_and_runs_is_told_once_nova_is_done_with_it() -> None:
    w = left_in_error()
    while w.did().count("evacuate b") < 2:
        w.run(0.05)
    w.instances["b"] = replace(w.instances["b"], vm_state="active", power_state=1, task_state="powering-off")
    w.run(20)
    assert w.pages == [] and w.state("h1") == "recovering"
    w.instances["b"] = replace(w.instances["b"], task_state=None)
    w.run(20)
    assert ["b was stopped before and runs at" in p for p in w.pages] == [True] and w.state("h1") == "recovered"


def silent(w: World) -> Recovery:
    """Nova is down from the death of h1 on."""
    w.add_instance("a", "h1")
    w.run(4)
    w.nova_down = True
    w.cut_power("h1")
    w.run(50)
    (record,) = w.of(Recovery).values()
    assert isinstance(record, Recovery)
    return record


def test_nova_that_does_not_answer_is_told_at_once_and_paged_when_it_lasts() -> None:
    w = World()
    assert silent(w).stage is Stage.PROVEN and w.said("Nova did not answer, asking again") and w.pages == []
    w.run(20)
    assert w.pages == [f"h1: {SILENT}"] and w.of(Recovery).popitem()[1].hold == SILENT  # type: ignore[attr-defined]
    w.run(600)
    assert w.pages == [f"h1: {SILENT}"] * 2
    w.nova_down = False
    w.run(20)
    record = w.of(Recovery).popitem()[1]
    assert w.said("Nova answers again") and record.stage is Stage.CLOSED and record.hold == ""  # type: ignore[attr-defined]


def test_a_short_silence_pages_nobody() -> None:
    w = World()
    silent(w)
    w.nova_down = False
    w.run(5)
    w.nova_down = True
    w.run(50)
    assert w.pages == []


def test_the_patience_is_a_setting() -> None:
    w = World(settings=Settings(nova_patience=5.0))
    silent(w)
    assert w.pages == [f"h1: {SILENT}"]


def test_an_aborted_recovery_asks_nothing_of_nova_and_a_retried_one_is_told_of_its_silence() -> None:
    w = World()
    silent(w)
    w.order("abort", "h1")  # type: ignore[arg-type]
    w.run(300)
    assert f"h1: {SILENT}" not in w.pages  # nothing is asked of Nova
    w.order("retry", "h1")  # type: ignore[arg-type]
    w.run(90)
    assert w.pages.count(f"h1: {SILENT}") == 1
