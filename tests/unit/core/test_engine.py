"""A host dies: what the engine does, from silence to the host's return.  Virtual time, no mocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.core.harness import World
from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core import moving
from vmha.core.model import (
    FENCED,
    CallKind,
    Condemnation,
    HostSettings,
    InstanceSeen,
    Migration,
    Outcome,
    PowerState,
    Proof,
    Recovery,
    Stage,
    Step,
    StepState,
)
from vmha.core.settings import Settings
from vmha.core.table import own
from vmha.core.view import Brakes, Case, HostView, Turn


def only_recovery(w: World) -> Recovery:
    (record,) = w.of(Recovery).values()
    assert isinstance(record, Recovery)
    return record


def died(w: World, seconds: float = 5.0) -> World:
    w.run(4)
    w.cut_power("h1")
    w.run(seconds)
    return w


def test_power_cut_is_proven_by_a_reading_after_the_commit_then_forced_down_then_evacuated() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.add_instance("b", "h1", vm_state="stopped", status="SHUTOFF", power_state=4)
    w.add_instance("elsewhere", "h2")
    died(w)
    assert w.did() == ["force_down h1", "evacuate a", "evacuate b", "disable h1"]
    record = only_recovery(w)
    assert record.stage is Stage.CLOSED and record.proof == "P1"
    assert {s.instance: s.state for s in record.steps} == {"a": StepState.DONE, "b": StepState.DONE}
    assert w.instances["elsewhere"].host == "h2"
    assert w.state("h1") == "recovered"


def test_nothing_is_asked_of_nova_within_the_silence() -> None:
    w = died(World(), seconds=1.0)
    assert w.calls == [] and w.state("h1") == "online"


def test_a_host_that_is_heard_on_one_network_is_left_alone() -> None:
    w = World()
    w.run(4)
    w.fold.heard("h1", "storage", "h1-boot1", w.now + 1000)
    w.beating["h1"] = False
    w.lease_ends("h1")
    w.run(30)
    assert w.calls == [] and w.state("h1") == "suspect"
    assert any("lease in etcd is gone" in p for p in w.pages)


def test_a_kernel_that_answers_is_held_and_paged_not_condemned() -> None:
    w = World()
    w.run(4)
    w.beating["h1"], w.icmp["h1"] = False, True
    w.run(2)
    w.lease_ends("h1")
    w.run(60)
    assert w.calls == []
    assert any("kernel answers ICMP" in p for p in w.pages)


def test_a_silent_host_with_power_on_waits_for_its_lease_then_is_fenced() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.run(4)
    w.beating["h1"], w.icmp["h1"] = False, False
    w.run(8)
    assert w.calls == []
    w.lease_ends("h1")
    w.run(5)
    assert w.did()[:3] == ["power_off h1", "force_down h1", "evacuate a"]


def test_an_unreachable_device_holds_loudly_and_goes_on_when_it_answers() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.run(4)
    w.bmc["h1"] = "unreachable"
    w.cut_power("h1")
    w.run(9)
    w.lease_ends("h1")
    w.run(30)
    assert "force_down h1" not in w.did() and any("unknown" in p for p in w.pages)
    w.bmc["h1"] = "fine"
    w.run(6)
    assert only_recovery(w).stage is Stage.CLOSED


def test_a_beat_of_that_boot_after_the_off_reading_stops_everything() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.nova_down = True
    died(w, 2.5)
    assert only_recovery(w).proof == "P1"
    w.beating["h1"] = True
    w.run(0.1)
    w.nova_down = False
    w.run(60)
    assert "evacuate a" not in w.did()
    assert any("fencing device is wrong" in p for p in w.pages)


def test_many_silent_hosts_with_power_on_are_a_storm() -> None:
    w = World(hosts=5)
    w.run(4)
    for h in ("h1", "h2", "h3"):
        w.beating[h], w.icmp[h] = False, False
    w.run(5)
    for h in ("h1", "h2", "h3"):
        w.lease_ends(h)
        w.run(0.5)
    w.run(30)
    assert w.calls == [] and any("storm: 3 of 5" in p for p in w.pages)


def test_the_observer_suspects_itself_when_nobody_is_heard() -> None:
    w = World(hosts=2, settings=Settings(max_down_percent=100))
    w.run(4)
    for h in ("h1", "h2"):
        w.beating[h], w.icmp[h] = False, False
        w.lease_ends(h)
    w.run(30)
    assert w.calls == [] and any("observer" in p for p in w.pages)


def test_failed_evacuations_are_retried_until_they_succeed() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.refuse["a"] = (Outcome.FAILED, "no valid host")
    died(w, 20)
    assert w.did().count("evacuate a") >= 3 and only_recovery(w).stage is Stage.MOVING
    del w.refuse["a"]
    w.run(70)
    assert only_recovery(w).stage is Stage.CLOSED


def test_an_unanswered_evacuate_is_never_repeated_within_its_limit() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.refuse["a"] = (Outcome.UNKNOWN, "time-out")
    died(w, 9)
    assert w.did().count("evacuate a") == 1
    del w.refuse["a"]
    w.run(12)
    assert w.did().count("evacuate a") == 2 and only_recovery(w).stage is Stage.CLOSED


def test_an_unanswered_evacuate_that_happened_is_found_by_its_own_migration() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.refuse["a"] = (Outcome.UNKNOWN, "time-out")
    died(w, 2.6)
    assert "evacuate a" in w.did()
    w.evacuate(w.calls[-1])
    w.run(4)
    assert w.did().count("evacuate a") == 1 and only_recovery(w).stage is Stage.CLOSED


def test_an_older_migration_is_no_trace_of_an_unanswered_evacuation() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.migrations.append(Migration(1, "a", "error", "h1", "h2"))
    w.refuse["a"] = (Outcome.UNKNOWN, "time-out")
    died(w, 9)
    assert w.did().count("evacuate a") == 1
    w.run(3)
    assert w.did().count("evacuate a") == 2


def test_an_open_record_of_a_predecessor_holds_the_instance_though_no_step_tells_of_it() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.refuse["a"] = (Outcome.UNKNOWN, "time-out")
    died(w, 3)
    (call,) = [c for c in w.calls if c.instance == "a"]
    w.put(replace(call, outcome=None))
    w.put(replace(only_recovery(w), steps=()))
    w.start_controller()
    w.run(8)
    assert w.did().count("evacuate a") == 1
    del w.refuse["a"]
    w.run(10)
    assert w.did().count("evacuate a") == 2 and only_recovery(w).stage is Stage.CLOSED


def test_unprotected_and_error_instances_are_left_alone_with_their_reason() -> None:
    w = World()
    w.add_instance("none", "h1", metadata={"vmha:protect": "none"})
    w.add_instance("err", "h1", vm_state="error", status="ERROR")
    w.add_instance("paused", "h1", vm_state="paused", status="PAUSED")
    died(w)
    assert w.did() == ["force_down h1", "disable h1"]
    reasons = {s.instance: s.reason for s in only_recovery(w).steps}
    assert "metadata" in reasons["none"] and "error before" in reasons["err"] and "paused" in reasons["paused"]


def test_an_instance_with_a_task_in_flight_waits_for_it() -> None:
    w = World()
    w.add_instance("a", "h1", task_state="rebooting")
    died(w, 10)
    assert "evacuate a" not in w.did()
    w.instances["a"] = replace(w.instances["a"], task_state=None)
    w.run(6)
    assert w.instances["a"].host != "h1"


def test_a_deleted_instance_closes_its_step() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.refuse["a"] = (Outcome.FAILED, "not now")
    died(w)
    del w.instances["a"]
    w.run(10)
    assert only_recovery(w).steps[0].state is StepState.GONE


def test_a_host_dead_before_the_controller_started_is_found() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.cut_power("h1")
    del w.store[type(w.alive("h1")), "h1"]
    w.start_controller()
    w.run(8)
    assert only_recovery(w).stage is Stage.CLOSED and only_recovery(w).boot == "h1-boot1"


def test_a_returned_host_is_put_back_in_order() -> None:
    w = World()
    w.add_instance("a", "h1")
    died(w)
    w.boot("h1")
    w.run(40)
    assert w.did()[-2:] == ["unforce h1", "enable h1"]
    assert only_recovery(w).stage is Stage.ENDED and w.state("h1") == "online"
    assert (Condemnation, "h1") not in w.store


def test_a_service_that_an_admin_disabled_stays_disabled() -> None:
    w = World()
    w.services["h1"] = replace(w.services["h1"], disabled=True, disabled_reason="memory fault")
    died(w)
    w.boot("h1")
    w.run(40)
    assert "enable h1" not in w.did() and w.services["h1"].disabled
    assert only_recovery(w).stage is Stage.ENDED


def test_a_host_that_dies_again_while_returning_starts_nothing_new() -> None:
    w = died(World())
    w.boot("h1")
    w.run(3)
    w.cut_power("h1")
    w.run(20)
    assert w.state("h1") == "recovered" and len(w.of(Recovery)) == 1
    w.boot("h1", 3)
    w.run(40)
    assert only_recovery(w).stage is Stage.ENDED


def test_a_host_that_dies_again_after_its_return_is_recovered_again() -> None:
    w = World()
    w.add_instance("a", "h1")
    died(w)
    w.boot("h1")
    w.run(40)
    w.instances["a"] = replace(w.instances["a"], host="h1")
    w.cut_power("h1")
    w.run(8)
    assert w.instances["a"].host != "h1"
    stages = sorted(r.stage for r in w.of(Recovery).values())  # type: ignore[attr-defined]
    assert stages == [Stage.CLOSED, Stage.ENDED]


def test_power_stuck_on_is_ordered_off_again_and_paged_for_nothing_else() -> None:
    w = World()
    w.run(4)
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.refuse[CallKind.POWER_OFF] = (Outcome.DONE, "taken")
    w.run(25)
    assert w.did().count("power_off h1") >= 3 and "force_down h1" not in w.did()
    assert w.power["h1"] is PowerState.ON


def test_maintenance_is_not_judged() -> None:
    w = World()
    w.run(4)
    settings = replace(w.engine.views["h1"].settings, maintenance=True)
    w.put(settings)
    w.give(ev.StoreChanged(type(settings), ("h1",), settings))
    w.cut_power("h1")
    w.run(30)
    assert w.calls == [] and w.state("h1") == "maintenance"


def test_a_follower_sees_everything_and_does_nothing() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.run(4)
    w.give(ev.Deposed())
    before = len(w.log)
    w.cut_power("h1")
    w.lease_ends("h1")
    w.run(20)
    assert w.log[before:] == [] and w.engine.views["h1"].silent()


def test_an_inventory_of_before_the_proof_plans_nothing() -> None:
    """An instance that arrived between an older reading and the death must not be forgotten."""
    w = World()
    w.add_instance("a", "h1")
    w.nova_down = True
    died(w, 3)
    assert only_recovery(w).proof == "P1"
    old = ev.InventoryRead("h1", True, (), (), 1001.0)
    w.give(old)
    assert next(iter(w.engine.cases.values())).inventory is None
    w.nova_down = False
    w.run(10)
    assert {s.instance for s in only_recovery(w).steps} == {"a"}


def test_same_input_same_actions() -> None:
    logs = []
    for _ in range(2):
        w = World()
        for n in range(5):
            w.add_instance(f"i{n}", "h1", memory_mib=64 * n)
        died(w, 10)
        logs.append(w.log)
    assert logs[0] == logs[1]


def test_an_answer_that_comes_after_its_record_was_closed_changes_nothing() -> None:
    w = World()
    w.add_instance("a", "h1")
    died(w)
    call = next(c for c in w.calls if c.kind is CallKind.EVACUATE)
    before = len(w.log)
    w.give(ev.CallEnded(call, Outcome.FAILED, "late"))
    w.run(30)
    assert w.did().count("evacuate a") == 1 and not any("late" in str(a) for a in w.log[before:])


def test_an_order_to_power_off_whose_agent_was_ended_is_given_again_without_a_wait() -> None:
    """Its process is surely over, as the shell ends it: a reading tells what it did (safety.md section 4)."""
    w = World(settings=Settings(fence_limit=60.0))
    w.add_instance("a", "h1")
    w.run(4)
    w.refuse[CallKind.POWER_OFF] = (Outcome.UNKNOWN, "ended after its time")
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.run(4)
    del w.refuse[CallKind.POWER_OFF]
    w.run(30)
    assert w.did().count("power_off h1") == 2 and only_recovery(w).stage is Stage.CLOSED


def test_a_kernels_silence_from_before_the_suspicion_is_no_evidence() -> None:
    w = World()
    w.run(4)
    w.icmp["h1"] = None  # cannot be asked
    w.beating["h1"] = False
    w.lease_ends("h1")
    w.run(4)
    assert w.state("h1") == "suspect"
    w.give(ev.Probed("h1", {"management": False}, w.now - 10))
    w.give(ev.Tick())
    assert w.of(Condemnation) == {}


@pytest.mark.parametrize(("boot", "runs"), [("h1-boot1", True), ("h1-boot0", False)])
def test_what_its_agent_destroyed_in_this_boot_is_started_again_what_it_did_in_an_earlier_one_is_not(
    boot: str, runs: bool
) -> None:
    w = World()
    w.add_instance("a", "h1", vm_state="stopped", power_state=4)
    seen = InstanceSeen("h1", "a", boot, "shutoff", FENCED)
    w.put(seen)
    w.give(ev.StoreChanged(InstanceSeen, ("h1", "a"), seen))
    w.run(4)
    w.cut_power("h1")
    w.run(20)
    assert ("start a" in w.did()) is runs and only_recovery(w).stage is Stage.CLOSED


def test_a_hold_grows_old_over_leaders() -> None:
    w = World(settings=Settings(hold_max=100.0, hold_page_every=40.0))
    w.add_instance("a", "h1")
    w.run(4)
    w.bmc["h1"] = "unreachable"
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.run(70, tick=0.2)
    assert only_recovery(w).hold_age >= 30 and not any("overdue" in p for p in w.pages)
    w.start_controller()
    w.run(60, tick=0.2)
    assert any("overdue, for 2 min: the power of h1 is unknown" in p for p in w.pages)


@pytest.mark.parametrize("refuted", [False, True])
def test_an_attempt_is_given_up_on_a_proof_that_stands_only(refuted: bool) -> None:
    case = Case(Recovery("r1", "h1", "b1", Stage.MOVING, "", 7), 0.0)
    case.steps["a"] = step = Step("a", state=StepState.MOVING, target="h2", migration=3)
    target = Case(Recovery("r2", "h2", "b2", Stage.CLOSED, "", 5, proof=Proof.POWER, refuted=refuted), 0.0)
    views = {h: HostView(h, HostSettings(h), known_since=0.0) for h in ("h1", "h2")}
    cases = {c.record.id: c for c in (case, target)}
    turn = Turn(100.0, 0.0, Settings(), 1, views, cases, own(ev.World()), Brakes())
    moving._watch_target(case, step, turn)
    asked = [a.call.kind for a in turn.out if isinstance(a, act.StartCall)]
    assert asked == ([] if refuted else [CallKind.RESET_STATE])
    assert target.record.restart_needed == (0 if refuted else 1)
