"""A fenced host is put back in service only when nothing speaks against it (I9): each condition alone holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.core.harness import World
from vmha.core import events as ev
from vmha.core.calls import OpenCall
from vmha.core.model import Call, CallKind, Condemnation, Migration, Outcome, PowerState, Recovery, Stage, Verb, Word
from vmha.core.settings import Settings


def closed(**settings: object) -> World:
    """h1 died, its instance was moved, the recovery is closed."""
    w = World(settings=Settings(**settings))  # type: ignore[arg-type]
    w.add_instance("a", "h1")
    w.run(4)
    w.cut_power("h1")
    w.run(8)
    assert record(w).stage is Stage.CLOSED
    return w


def record(w: World) -> Recovery:
    (found,) = w.of(Recovery).values()
    assert isinstance(found, Recovery)
    return found


def revision(w: World) -> int:
    condemnation = w.store[Condemnation, "h1"]
    assert isinstance(condemnation, Condemnation)
    return condemnation.revision


def says(w: World, **fields: object) -> None:
    """The returned host registers with these fields."""
    word = Word(revision(w))
    w.change(w.alive("h1", **{"gate": "shut", "word": word, **fields}))


HOLDS: dict[str, tuple[Callable[[World], None], Callable[[World], None], str]] = {
    "its hook is missing": (lambda w: says(w, hook=False), says, "hook is missing"),
    "it has not given its word": (lambda w: says(w, word=None), says, "not yet told what runs"),
    "its word is about another condemnation": (
        lambda w: says(w, word=Word(revision(w) - 1)),
        says,
        "not yet told what runs",
    ),
    "a domain is active": (lambda w: says(w, word=Word(revision(w), active=("a",))), says, "still running there: a"),
    "a process is there": (lambda w: says(w, word=Word(revision(w), processes=("a",))), says, "still running there: a"),
    "a stale domain is defined": (
        lambda w: says(w, word=Word(revision(w), defined=("a",))),
        says,
        "stale domains are still defined there: a",
    ),
    "nova-compute has not reported": (
        lambda w: w.mute_computes.add("h1"),
        lambda w: w.mute_computes.discard("h1"),
        "nova-compute has not reported",
    ),
    "nova-compute has not cleaned up": (
        lambda w: w.migrations.append(Migration(90, "b", "accepted", "h1", "h2")),
        lambda w: w.migrations.pop() and None,
        "not yet cleaned up after evacuation 90 of b",
    ),
    "an evacuation to it is open": (
        lambda w: w.migrations.append(Migration(91, "b", "running", "h2", "h1")),
        lambda w: w.migrations.pop() and None,
        "evacuation 91 of b names it as its open target",
    ),
    "an operator must let it": (
        lambda w: w.order(Verb.ABORT, "h1") and None,
        lambda w: w.order(Verb.RETRY, "h1") and None,
        "aborted by ann",
    ),
}


@pytest.mark.parametrize("why", HOLDS)
def test_each_condition_alone_keeps_it_out(why: str) -> None:
    hold, end, text = HOLDS[why]
    w = closed()
    w.boot("h1")
    hold(w)
    w.run(60)
    assert (Condemnation, "h1") in w.store and "unforce h1" not in w.did() and "enable h1" not in w.did()
    assert text in record(w).hold or any(text in p for p in w.pages) or w.said(text)
    end(w)
    w.run(60)
    assert record(w).stage is Stage.ENDED and w.state("h1") == "online"


def test_it_must_be_stable_for_a_while() -> None:
    w = closed(stability_delay=30.0, fence_limit=12.0)
    w.boot("h1")
    w.run(29)
    assert (Condemnation, "h1") in w.store
    w.run(12)
    assert record(w).stage is Stage.ENDED


def test_an_order_to_power_it_off_may_still_act() -> None:
    w = World(settings=Settings(fence_limit=40.0))
    w.run(4)
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.run(8)
    assert "power_off h1" in w.did() and record(w).stage is Stage.CLOSED
    w.boot("h1")
    w.run(25)
    assert (Condemnation, "h1") in w.store
    w.run(40)
    assert record(w).stage is Stage.ENDED


def test_a_registration_without_beats_or_beats_without_a_lease_are_no_return() -> None:
    w = closed()
    w.boot("h1")
    w.beating["h1"] = False
    w.run(40)
    assert w.state("h1") == "recovered" and (Condemnation, "h1") in w.store
    w.beating["h1"] = True
    w.lease_ends("h1")
    w.run(40)
    assert w.state("h1") == "recovered" and (Condemnation, "h1") in w.store


def test_nothing_about_it_may_be_open() -> None:
    """An evacuation from it that another leader asked for may still land."""
    w = closed(stability_delay=2.0)
    call = next(c for c in w.calls if c.kind is CallKind.EVACUATE)
    w.put(replace(call, id="9-00001", outcome=None))
    w.start_controller()
    w.boot("h1")
    w.run(9)
    assert (Condemnation, "h1") in w.store
    while not w.said("can no longer take effect"):
        w.run(0.05)
    waited = w.now
    while (Condemnation, "h1") in w.store:
        w.run(0.05)
    case = next(iter(w.engine.cases.values()))
    assert case.inventory_began > waited, "what the call did is read after its end, before the host is let back"
    w.run(60)
    assert record(w).stage is Stage.ENDED


def test_a_released_host_is_unforced_only_behind_its_open_gate() -> None:
    w = closed()
    w.boot("h1")
    w.slow_gates.add("h1")
    w.run(40)
    assert (Condemnation, "h1") not in w.store and "unforce h1" not in w.did()
    w.change(w.alive("h1", gate="open"))
    w.run(10)
    assert w.did()[-2:] == ["unforce h1", "enable h1"]


def test_what_nova_refuses_is_tried_again() -> None:
    w = closed()
    w.refuse[CallKind.ENABLE] = (Outcome.FAILED, "no")
    w.boot("h1")
    w.run(40)
    assert record(w).stage is Stage.RELEASED
    del w.refuse[CallKind.ENABLE]
    w.run(60)
    assert record(w).stage is Stage.ENDED and not w.services["h1"].disabled


@pytest.mark.parametrize("new_leader", [False, True])
def test_a_condemnation_deleted_by_hand_is_written_again(new_leader: bool) -> None:
    """Without it the host could open its gate; what was read before the new one proves nothing."""
    w = World()
    w.add_instance("a", "h1")
    w.run(4)
    w.bmc["h1"] = "unreachable"
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.run(6)
    old = revision(w)
    delete_condemnation(w, new_leader)
    w.give(ev.PowerRead("h1", PowerState.OFF, w.now - 0.01, w.now))
    w.run(0.2)
    assert any("deleted by hand" in p for p in w.pages) and revision(w) > old
    assert record(w).proof is None and "force_down h1" not in w.did()
    w.cut_power("h1")
    w.bmc["h1"] = "fine"
    w.run(200, tick=0.2)
    assert record(w).stage is Stage.CLOSED and record(w).condemned_revision == revision(w)
    w.boot("h1")
    w.run(200, tick=0.2)
    assert record(w).stage is Stage.ENDED


def delete_condemnation(w: World, new_leader: bool) -> None:
    del w.store[Condemnation, "h1"]
    if new_leader:
        w.start_controller()
    else:
        w.give(ev.StoreChanged(Condemnation, ("h1",), None))


@pytest.mark.parametrize("new_leader", [False, True])
def test_a_condemnation_of_a_returning_host_deleted_by_hand_is_written_again(new_leader: bool) -> None:
    w = closed()
    w.boot("h1")
    w.run(1)
    delete_condemnation(w, new_leader)
    w.change(w.alive("h1", gate="open"))  # for a moment
    w.run(20)
    assert (Condemnation, "h1") in w.store
    says(w)
    w.run(60)
    assert record(w).stage is Stage.ENDED and w.state("h1") == "online"


def test_a_registration_of_the_condemned_boot_is_no_return_though_its_next_boot_beats() -> None:
    """The host is quickly back: its new beats are heard before its old lease has run out.  A release does not change that."""
    w = closed()
    w.order(Verb.RELEASE, "h1")
    w.power["h1"], w.beating["h1"], w.boots["h1"] = PowerState.ON, True, "h1-boot2"
    w.run(3)
    assert w.state("h1") == "recovered" and not w.said("in the same boot")
    w.boot("h1")
    w.run(60)
    assert record(w).stage is Stage.ENDED


def test_a_service_that_nova_has_forgotten_keeps_it_out() -> None:
    w = closed()
    w.boot("h1")
    w.run(1)
    given = w.services
    w.services = {h: s for h, s in given.items() if h != "h1"}
    w.give(ev.ServiceRead("h1", True, None, w.now))
    w.give(ev.Tick())
    assert (Condemnation, "h1") in w.store and not w.said("condemnation deleted")
    w.services = given
    w.run(60)
    assert record(w).stage is Stage.ENDED


def test_a_call_of_another_recovery_about_it_keeps_it_out() -> None:
    """Such as one that enables it as a reserved host."""
    w = closed()
    case = next(iter(w.engine.cases.values()))
    call = Call("1-00001", "h2-1", CallKind.ENABLE, "h1", 1, 1)
    case.open_calls[call.id] = OpenCall(call, w.now + 20)
    w.boot("h1")
    w.run(24)
    assert (Condemnation, "h1") in w.store
    case.open_calls.clear()
    w.run(60)
    assert record(w).stage is Stage.ENDED


def given_up() -> World:
    """h1 died, and an evacuation to it was given up; it is back and otherwise in order."""
    w = closed()
    case = next(iter(w.engine.cases.values()))
    case.change(restart_needed=1)
    w.boot("h1")
    w.run(30)
    assert (Condemnation, "h1") in w.store and "was given up" in record(w).hold
    return w


def test_after_an_attempt_to_it_was_given_up_its_nova_compute_is_restarted_before_it_returns() -> None:
    w = given_up()
    assert w.store[Condemnation, "h1"].restart_compute == 1  # type: ignore[attr-defined]
    says(w, compute_restarts=1)
    w.run(60)
    assert record(w).stage is Stage.ENDED


def test_a_boot_that_began_later_needs_no_such_restart() -> None:
    w = given_up()
    w.boots["h1"] = "h1-boot3"
    says(w)
    w.run(60)
    assert record(w).stage is Stage.ENDED


def test_a_new_leader_knows_of_the_restart_that_is_needed() -> None:
    w = given_up()
    w.start_controller()
    w.boots["h1"] = "h1-boot2"
    w.run(60)
    assert (Condemnation, "h1") in w.store
