"""Operators' orders: each once, each with an answer, each refused with its reason.  Virtual time, no mocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.core.harness import World
from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.commands import CLOUD
from vmha.core.model import (
    Answer,
    CallKind,
    Command,
    Condemnation,
    HostSettings,
    Outcome,
    PowerState,
    Recovery,
    Stage,
    StepState,
    Verb,
    Word,
)
from vmha.core.settings import Settings


def record(w: World) -> Recovery:
    (found,) = w.of(Recovery).values()
    assert isinstance(found, Recovery)
    return found


def silent(w: World, host: str = "h1") -> None:
    w.beating[host], w.icmp[host] = False, False
    w.lease_ends(host)


def condemned(**settings: object) -> World:
    """h1 is condemned and nothing proves its death."""
    w = World(settings=Settings(**settings))  # type: ignore[arg-type]
    w.add_instance("a", "h1")
    w.add_instance("b", "h1")
    w.run(4)
    w.bmc["h1"] = "unreachable"
    silent(w)
    w.run(4)
    assert w.state("h1") == "condemned"
    return w


def refuted() -> World:
    w = condemned()
    w.nova_down, w.bmc["h1"] = True, "fine"
    w.run(12)
    assert record(w).proof == "P1"
    w.beating["h1"] = True
    w.run(1)
    w.beating["h1"] = False
    w.nova_down = False
    w.run(5)
    assert record(w).refuted and "evacuate a" not in w.did()
    return w


# --- every order ---------------------------------------------------------------------------------------------------


def test_an_order_is_answered_and_deleted_in_one_transaction() -> None:
    w = World()
    w.run(4)
    w.order(Verb.MAINTAIN, "h1")
    commits = [a for a in w.log if getattr(a, "commands", ())]
    assert len(commits) == 1 and {type(p) for p in commits[0].puts} == {HostSettings, Answer}  # type: ignore[attr-defined]
    assert w.of(Command) == {} and w.answer_about("h1").done


def test_an_order_is_carried_out_once_though_it_is_told_again() -> None:
    w = World()
    w.run(4)
    w.order(Verb.CONDEMN, "h1")
    command = Command("c9", Verb.MAINTAIN, "h2", "ann", "x", 0, w.now)
    for _ in range(3):
        w.engine.step(ev.StoreChanged(Command, ("h2", "c9"), command), w.now)
    told = [a for a in w.engine.brakes.answered if a == ("h2", "c9")]
    assert told == [("h2", "c9")]
    listed = ev.StoreSnapshot(replace(w.world(), commands={("h2", "c9"): command}, revision=9999))
    assert not [a for a in w.engine.step(listed, w.now) if getattr(a, "commands", ())]


def test_an_order_that_waits_for_a_leader_is_taken_up_by_the_next() -> None:
    w = condemned()
    w.put(Command("c1", Verb.ABORT, "h1", "ann", "look first", 0, w.now))
    w.start_controller()
    w.run(1)
    assert record(w).aborted.startswith("ann") and w.answer_about("h1").done


def test_an_order_given_to_an_earlier_leader_is_refused() -> None:
    w = condemned()
    w.order(Verb.ABORT, "h1", epoch=w.epoch)
    w.run(1)
    assert w.answer_about("h1").done
    w.order(Verb.RETRY, "h1", epoch=w.epoch - 1)
    w.run(1)
    assert "earlier leader" in w.answer_about("h1").text and record(w).aborted


@pytest.mark.parametrize("verb", [v for v in Verb if v not in (Verb.DISARM, Verb.ARM)])
def test_an_order_about_nobody_is_refused(verb: Verb) -> None:
    w = World()
    w.run(4)
    w.order(verb, "h99")
    w.run(1)
    assert w.answer_about("h99").text == "vmha knows no host h99"


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        (Verb.APPROVE, "nothing waits for an approval: it is online"),
        (Verb.RETRY, "no open recovery"),
        (Verb.ABORT, "no open recovery"),
        (Verb.RESOLVE, "no recovery"),
        (Verb.CONFIRM_DEAD, "no proof of its death is sought: it is online"),
        (Verb.RELEASE, "neither in maintenance nor condemned"),
    ],
)
def test_orders_that_make_no_sense_say_why(verb: Verb, says: str) -> None:
    w = World()
    w.run(4)
    w.order(verb, "h1")
    w.run(1)
    assert says in w.answer_about("h1").text and not w.answer_about("h1").done and w.calls == []


@pytest.mark.parametrize("verb", [Verb.CONDEMN, Verb.RESOLVE, Verb.CONFIRM_DEAD])
@pytest.mark.parametrize("lacks", ["by", "reason"])
def test_the_heavy_orders_need_a_name_and_a_reason(verb: Verb, lacks: str) -> None:
    w = World() if verb is Verb.CONDEMN else condemned()
    w.run(4)
    w.order(verb, "h1", **{lacks: ""})
    w.run(4)
    assert "name and a reason" in w.answer_about("h1").text


# --- condemn -------------------------------------------------------------------------------------------------------


def test_a_condemned_host_that_was_well_is_fenced_and_recovered() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.run(4)
    w.order(Verb.CONDEMN, "h1", by="ann", reason="smoke")
    w.run(6)
    assert w.did()[:3] == ["power_off h1", "force_down h1", "evacuate a"]
    assert record(w).reason == "ordered by ann: smoke" and w.answer_about("h1").text == "it is condemned"
    assert w.of(Command) == {}


@pytest.mark.parametrize(
    ("settings", "says"),
    [(Settings(dry_run=True), "dry run"), (Settings(max_down_percent=20), "storm"), (Settings(), "")],
)
def test_the_caps_hold_an_ordered_condemnation(settings: Settings, says: str) -> None:
    w = World(hosts=5, settings=settings)
    w.run(4)
    w.cut_power("h2")
    w.run(8)
    w.order(Verb.CONDEMN, "h1")
    w.run(3)
    assert (says in w.answer_about("h1").text and not w.answer_about("h1").done) if says else w.answer_about("h1").done


def test_disarmed_means_no_ordered_condemnation_either() -> None:
    w = World()
    w.run(4)
    w.order(Verb.DISARM, CLOUD)
    w.order(Verb.CONDEMN, "h1")
    w.run(3)
    assert "disarmed" in w.answer_about("h1").text and w.calls == []


def test_what_is_condemned_or_in_maintenance_is_not_condemned() -> None:
    w = condemned()
    w.order(Verb.CONDEMN, "h1")
    w.order(Verb.MAINTAIN, "h2")
    w.order(Verb.CONDEMN, "h2")
    w.run(2)
    assert "condemned already" in w.answer_about("h1").text and "in maintenance" in w.answer_about("h2").text


def test_an_order_whose_commit_was_not_written_is_tried_again() -> None:
    w = World()
    w.run(4)
    w.put(Command("c1", Verb.CONDEMN, "h1", "ann", "smoke", 0, w.now))
    actions = w.engine.step(
        ev.StoreChanged(Command, ("h1", "c1"), w.store[Command, "h1/c1"]),  # type: ignore[arg-type]
        w.now,
    )
    assert any(getattr(a, "fresh", "") == "h1" for a in actions)
    again = w.engine.step(ev.NotCommitted("condemn/h1", False, "time-out"), w.now)
    again += w.engine.step(ev.Tick(), w.now)
    assert not any(isinstance(a, act.Commit) for a in again), "after a pause, not in a circle"
    w.run(5)
    assert "force_down h1" in w.did() and w.of(Command) == {}


# --- confirm_dead --------------------------------------------------------------------------------------------------


def test_a_person_proves_when_nothing_speaks_against_it() -> None:
    w = condemned()
    w.order(Verb.CONFIRM_DEAD, "h1", by="ann", reason="pulled the plug")
    w.run(8)
    assert record(w).proof == "P4" and "ann says so (pulled the plug)" in record(w).evidence
    assert w.answer_about("h1").done and all(i.host != "h1" for i in w.instances.values())


@pytest.mark.parametrize("sign", ["beats", "kernel", "power", "lease"])
def test_a_person_is_refused_while_anything_speaks_against_it(sign: str) -> None:
    w = condemned()
    if sign == "beats":
        w.beating["h1"] = True
    elif sign == "kernel":
        w.icmp["h1"] = True
    elif sign == "lease":
        w.change(w.alive("h1"))
    w.refuse[CallKind.POWER_OFF] = (Outcome.DONE, "taken")
    w.run(1)
    if sign == "power":
        w.bmc["h1"] = "fine"
    w.order(Verb.CONFIRM_DEAD, "h1")
    w.run(5)
    says = {"beats": "beats come", "kernel": "kernel answers", "power": "reads on", "lease": "lease"}[sign]
    assert says in w.answer_about("h1").text and record(w).proof is None


def test_what_was_seen_before_the_order_does_not_count() -> None:
    """The kernel answers only when it is asked after the order."""
    w = condemned()
    w.icmp["h1"] = True
    probed = len([a for a in w.log if type(a).__name__ == "Probe"])
    w.order(Verb.CONFIRM_DEAD, "h1")
    w.run(5)
    assert len([a for a in w.log if type(a).__name__ == "Probe"]) > probed
    assert "kernel answers" in w.answer_about("h1").text


def test_a_persons_word_waits_until_the_power_was_read_anew() -> None:
    w = condemned()
    w.bmc["h1"] = "hangs"
    w.order(Verb.CONFIRM_DEAD, "h1")
    w.run(20)
    assert record(w).proof is None and w.of(Command) != {}


def test_a_kernel_without_an_address_is_not_asked() -> None:
    w = condemned()
    w.store[HostSettings, "h1"] = HostSettings("h1", "h1-boot1")
    w.start_controller()
    w.engine.views["h1"].alive = None
    w.log.clear()
    w.order(Verb.CONFIRM_DEAD, "h1")
    w.run(8)
    assert record(w).proof == "P4" and not [a for a in w.log if isinstance(a, act.Probe)]


def test_a_persons_word_comes_before_anything_was_looked_at() -> None:
    w = World()
    w.run(4)
    w.bmc["h1"] = "unreachable"
    w.order(Verb.CONDEMN, "h1")
    w.run(0.05)
    w.order(Verb.CONFIRM_DEAD, "h1")
    w.run(8)
    assert "beats come" in w.answer_about("h1").text and record(w).proof is None


def test_a_beat_after_a_persons_word_refutes_it() -> None:
    w = condemned()
    w.nova_down = True
    w.order(Verb.CONFIRM_DEAD, "h1")
    w.run(4)
    assert record(w).proof == "P4"
    w.beating["h1"] = True
    w.run(2)
    w.nova_down = False
    w.run(20)
    assert "evacuate a" not in w.did() and record(w).refuted


# --- approve -------------------------------------------------------------------------------------------------------


def test_an_approval_stands_in_for_the_caps_until_the_host_is_condemned() -> None:
    w = World(hosts=5)
    w.run(4)
    for host in ("h1", "h2", "h3"):
        silent(w, host)
    w.run(5)
    assert w.of(Condemnation) == {}
    w.order(Verb.APPROVE, "h1")
    w.run(3)
    assert set(w.of(Condemnation)) == {"h1"} and w.of(Command) == {} and not w.engine.brakes.approved


def test_an_approval_that_was_used_is_answered_so_whatever_comes_first() -> None:
    """The watch may show the condemnation before the commit is answered."""
    w = World(settings=Settings(approval=True))
    w.run(4)
    silent(w)
    w.run(4)
    w.put(Command("c1", Verb.APPROVE, "h1", "ann", "dead", 0, w.now))
    told = ev.StoreChanged(Command, ("h1", "c1"), w.store[Command, "h1/c1"])  # type: ignore[arg-type]
    (commit,) = [a for a in w.engine.step(told, w.now) if getattr(a, "fresh", "")]
    condemnation = replace(commit.puts[0], revision=99)  # type: ignore[attr-defined]
    seen = w.engine.step(ev.StoreChanged(Condemnation, ("h1",), condemnation), w.now)
    assert not [a for a in seen if getattr(a, "commands", ())]
    after = w.engine.step(ev.Committed("condemn/h1", 99), w.now)
    (answer,) = [p for a in after for p in getattr(a, "puts", ()) if isinstance(p, Answer)]
    assert answer.done and answer.text == "it is condemned"


def test_an_approval_is_there_for_the_next_leader_too() -> None:
    w = World(settings=Settings(approval=True))
    w.run(4)
    w.beating["h1"], w.icmp["h1"] = False, False
    w.run(3)
    w.order(Verb.APPROVE, "h1")
    w.run(5)
    assert w.of(Condemnation) == {}
    w.start_controller()
    w.run(5)
    w.lease_ends("h1")
    w.run(5)
    assert set(w.of(Condemnation)) == {"h1"}


def test_an_approval_is_for_a_host_that_is_held_only() -> None:
    w = condemned()
    w.order(Verb.APPROVE, "h1")
    w.order(Verb.MAINTAIN, "h2")
    w.beating["h2"], w.icmp["h2"] = False, False
    w.run(3)
    w.order(Verb.APPROVE, "h2")
    w.run(1)
    assert w.answer_about("h1").text == "nothing waits for an approval: it is condemned"
    assert w.answer_about("h2").text == "nothing waits for an approval: it is maintenance"
    assert not w.engine.brakes.approved


def test_who_does_not_say_who_or_why_is_told_so() -> None:
    w = condemned()
    w.order(Verb.ABORT, "h1", by="", reason="")
    w.run(1)
    assert record(w).aborted == "nobody: no reason given"


def test_an_approval_ends_when_the_host_is_heard_again() -> None:
    w = World(settings=Settings(approval=True))
    w.run(4)
    w.beating["h1"], w.icmp["h1"] = False, False
    w.run(3)
    w.order(Verb.APPROVE, "h1")
    w.beating["h1"] = True
    w.run(3)
    assert "nothing waits" in w.answer_about("h1").text and not w.engine.brakes.approved
    w.beating["h1"] = False
    w.lease_ends("h1")
    w.run(30)
    assert w.of(Condemnation) == {}


# --- retry, abort, resolve -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.APPROVE])
def test_a_refuted_proof_is_sought_anew_after_a_person_looked(verb: Verb) -> None:
    w = refuted()
    w.run(300, tick=0.5)
    assert "evacuate a" not in w.did()
    before = len(w.calls)
    w.order(verb, "h1")
    w.run(8)
    assert w.answer_about("h1").done and not record(w).refuted
    assert "evacuate a" in w.did()[before:] and record(w).proof == "P1"


def test_after_a_retry_an_old_reading_proves_nothing() -> None:
    w = refuted()
    w.bmc["h1"] = "unreachable"
    w.order(Verb.RETRY, "h1")
    w.run(30)
    assert record(w).proof is None and "evacuate a" not in w.did()


def test_a_reading_that_began_before_the_retry_proves_nothing() -> None:
    w = refuted()
    w.bmc["h1"] = "unreachable"
    began = w.now
    w.run(1)
    w.order(Verb.RETRY, "h1")
    w.give(ev.PowerRead("h1", PowerState.OFF, began, w.now))
    assert next(iter(w.engine.cases.values())).record.proof is None


def test_a_persons_word_given_with_the_retry_waits_for_a_new_look() -> None:
    w = refuted()
    w.bmc["h1"] = "unreachable"
    w.order(Verb.RETRY, "h1")
    w.order(Verb.CONFIRM_DEAD, "h1")
    assert record(w).proof is None
    w.beating["h1"], w.icmp["h1"] = False, False
    w.run(8)
    assert not w.answer_about("h1").done or record(w).proof == "P4"


def test_a_retry_tries_at_once_what_failed() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.refuse["a"] = (Outcome.FAILED, "no valid host")
    w.run(4)
    w.cut_power("h1")
    w.run(100, tick=0.2)
    tries = w.did().count("evacuate a")
    del w.refuse["a"]
    w.order(Verb.RETRY, "h1")
    w.run(2)
    assert w.did().count("evacuate a") == tries + 1 and w.instances["a"].host != "h1"


def test_a_closed_recovery_has_nothing_to_retry_or_resolve() -> None:
    w = World()
    w.run(4)
    w.cut_power("h1")
    w.run(6)
    for verb in (Verb.RETRY, Verb.RESOLVE):
        w.order(verb, "h1")
        w.run(1)
        assert not w.answer_about("h1").done


def test_an_aborted_recovery_makes_no_new_call_until_it_is_retried() -> None:
    w = condemned()
    w.order(Verb.ABORT, "h1", reason="wrong host")
    w.run(1)
    calls = len(w.calls)
    w.bmc["h1"] = "fine"
    w.cut_power("h1")
    w.run(200, tick=0.5)
    assert len(w.calls) == calls and any("aborted by ann: wrong host" in p for p in w.pages)
    assert w.state("h1") == "condemned"
    w.order(Verb.ABORT, "h1")
    w.run(1)
    assert "aborted already" in w.answer_about("h1").text
    w.start_controller()
    w.run(20)
    assert len(w.calls) == calls
    w.order(Verb.RETRY, "h1")
    w.run(8)
    assert all(i.host != "h1" for i in w.instances.values()) and record(w).stage is Stage.CLOSED


def test_an_abort_lets_running_calls_finish() -> None:
    w = World(settings=Settings(evacuate_first=1))
    w.add_instance("a", "h1")
    w.add_instance("b", "h1")
    w.refuse["a"] = (Outcome.UNKNOWN, "time-out")
    w.run(4)
    w.cut_power("h1")
    w.run(4)
    assert "evacuate a" in w.did()
    w.order(Verb.ABORT, "h1")
    w.evacuate(next(c for c in w.calls if c.instance == "a"))
    w.run(20)
    states = {s.instance: s.state for s in record(w).steps}
    assert states["a"] is StepState.DONE and "evacuate b" not in w.did()


def test_an_aborted_recovery_does_not_put_its_host_back_in_service() -> None:
    w = World()
    w.run(4)
    w.cut_power("h1")
    w.run(6)
    w.order(Verb.ABORT, "h1")
    w.boot("h1")
    w.run(60)
    assert "unforce h1" not in w.did() and (Condemnation, "h1") in w.store
    w.order(Verb.RETRY, "h1")
    w.run(40)
    assert w.did()[-2:] == ["unforce h1", "enable h1"]


def test_a_resolved_recovery_does_nothing_more_and_its_host_comes_back_like_any_fenced_one() -> None:
    w = condemned()
    w.order(Verb.RESOLVE, "h1", reason="moved by hand")
    w.run(1)
    assert record(w).stage is Stage.CLOSED and "moved by hand" in record(w).resolved
    w.run(100, tick=0.5)
    assert not {"force_down h1", "evacuate a"} & set(w.did())
    w.boot("h1")
    w.run(100)
    assert record(w).stage is Stage.ENDED and w.state("h1") == "online"
    assert "evacuate a" not in w.did()


def test_a_resolved_host_that_never_stopped_comes_back_on_its_own_word() -> None:
    w = condemned()
    w.order(Verb.RESOLVE, "h1", reason="it is well")
    w.beating["h1"] = True
    w.change(w.alive("h1", gate="open"))
    w.run(100)
    assert (Condemnation, "h1") in w.store
    revision = w.engine.views["h1"].condemnation.revision  # type: ignore[union-attr]
    w.change(w.alive("h1", gate="shut", word=Word(revision)))
    w.run(100)
    assert record(w).stage is Stage.ENDED and w.state("h1") == "online"


def test_nothing_is_resolved_while_a_call_is_open() -> None:
    w = condemned()
    w.bmc["h1"] = "fine"
    w.refuse[CallKind.FORCE_DOWN] = (Outcome.UNKNOWN, "time-out")
    w.run(12)
    assert "force_down h1" in w.did()
    w.order(Verb.RESOLVE, "h1")
    w.run(0.5)
    assert "not settled yet" in w.answer_about("h1").text and record(w).stage is not Stage.CLOSED


# --- maintenance, release, disarm ----------------------------------------------------------------------------------


def test_maintenance_begins_and_ends() -> None:
    w = World()
    w.run(4)
    w.order(Verb.MAINTAIN, "h1")
    w.order(Verb.MAINTAIN, "h1")
    w.run(1)
    assert w.state("h1") == "maintenance" and "already" in w.answer_about("h1").text
    w.cut_power("h1")
    w.run(20)
    assert w.calls == []
    w.order(Verb.RELEASE, "h1")
    w.run(10)
    assert "force_down h1" in w.did()


def test_a_host_that_waits_for_an_operator_is_released() -> None:
    w = World(settings=Settings(return_to_service=False))
    w.run(4)
    w.cut_power("h1")
    w.run(6)
    w.boot("h1")
    w.run(40)
    assert (Condemnation, "h1") in w.store
    w.order(Verb.RELEASE, "h1")
    w.run(40)
    assert w.state("h1") == "online"


def test_disarm_stops_new_fences_at_once_and_is_done_when_the_running_ones_are() -> None:
    w = World(hosts=6)
    w.run(4)
    w.refuse[CallKind.POWER_OFF] = (Outcome.DONE, "taken")
    silent(w)
    w.run(0.1)
    for _ in range(100):
        if "power_off h1" in w.did():
            break
        w.now += 0.05
        w.give(ev.Tick())
        w.events = [e for e in w.events if not isinstance(e, ev.CallEnded)] if w.calls else w.events
        while w.events and not w.calls:
            w.give(w.events.pop(0))
        for edge in w.fold.silent(w.now):
            w.give(edge)
    assert "power_off h1" in w.did()
    w.events = [e for e in w.events if not isinstance(e, ev.CallEnded)]
    w.order(Verb.DISARM, CLOUD)
    silent(w, "h2")
    w.run(30)
    assert w.disarmed and w.of(Answer) == {} and set(w.of(Condemnation)) == {"h1"}
    w.power["h1"] = PowerState.OFF
    w.give(ev.CallEnded(w.calls[0], Outcome.DONE, ""))
    w.run(2)
    assert w.answer_about(CLOUD).done and set(w.of(Condemnation)) == {"h1"}
    w.order(Verb.ARM, CLOUD)
    w.run(5)
    assert not w.disarmed and "h2" in w.of(Condemnation)


def test_an_arm_ends_a_disarm_that_still_waits() -> None:
    w = World(hosts=6)
    w.run(4)
    w.order(Verb.CONDEMN, "h1")
    while "power_off h1" not in w.did():
        w.now += 0.05
        w.give(ev.Tick())
        while w.events and "power_off h1" not in w.did():
            w.give(w.events.pop(0))
    w.events = [e for e in w.events if not isinstance(e, ev.CallEnded)]  # the fence agent still runs
    w.order(Verb.DISARM, CLOUD)
    w.run(2)
    assert w.disarmed and [k for k in w.store if k[0] is Command]
    w.order(Verb.ARM, CLOUD)
    w.run(5)
    assert w.answer_about(CLOUD).verb is Verb.ARM and not w.disarmed and not w.of(Command)
    assert w.said("is refused: armed again by ann before the running fences had ended")
