"""Proofs race: the first that holds wins, and what speaks afterwards stops everything.  Virtual time, no mocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.core.harness import World
from vmha.core import events as ev
from vmha.core.model import HostSettings, Outcome, PowerState, Recovery, Stage, Verb, Voters, Word
from vmha.core.settings import Settings, self_fence_wait
from vmha.core.voters import lists

WAIT = self_fence_wait(Settings(), 30.0, True)


def dying(hosts: int = 3, held: bool = True, kind: str | None = "iTCO_wdt") -> World:
    """h1 falls silent and is condemned; its fencing device does not answer; every host had an armed watchdog."""
    w = World(hosts=hosts)
    w.add_instance("a", "h1")
    w.vote(*w.power)
    for host in w.power:
        w.change(w.alive(host, watchdog=kind, watchdog_timeout=30.0, watchdog_held=held))
    w.run(4)
    w.bmc["h1"] = "unreachable"
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.run(3)
    assert w.state("h1") == "condemned"
    return w


def record(w: World) -> Recovery:
    (found,) = w.of(Recovery).values()
    assert isinstance(found, Recovery)
    return found


def proven(w: World) -> str:
    return str(next(iter(w.engine.cases.values())).record.proof or "")


# --- P2 ------------------------------------------------------------------------------------------------------------


def test_self_fence_proves_after_its_wait_from_the_majoritys_acknowledgement() -> None:
    w = dying()
    w.run(20)
    w.ack("h2")
    w.run(200, tick=0.5)
    assert proven(w) == "", "one of three is no majority"
    w.ack("h3")
    w.run(WAIT - 1, tick=0.5)
    assert proven(w) == "" and not w.services["h1"].forced_down
    w.run(3)
    assert proven(w) == "P2" and w.instances["a"].host != "h1"
    assert "2 of 3 voters" in record(w).evidence


def test_the_condemned_hosts_own_acknowledgement_does_not_count() -> None:
    w = dying()
    w.ack("h1", "h2")
    w.run(200, tick=0.5)
    assert proven(w) == ""


def test_an_acknowledgement_of_an_older_list_is_none() -> None:
    w = dying()
    revision = w.engine.views["h1"].condemnation.revision  # type: ignore[union-attr]
    w.ack("h2", "h3", applied=revision - 1)
    w.run(200, tick=0.5)
    assert proven(w) == ""
    w.ack("h2", "h3", applied=revision)
    w.run(WAIT + 2, tick=0.5)
    assert proven(w) == "P2"


def test_a_new_leader_starts_the_clock_again() -> None:
    w = dying()
    w.ack("h2", "h3")
    w.run(WAIT - 5, tick=0.5)
    w.start_controller()
    w.ack("h2", "h3")
    w.run(10)
    assert proven(w) == ""
    w.run(WAIT - 5, tick=0.5)
    assert proven(w) == "P2"


def test_a_voter_never_knows_less_than_it_once_did() -> None:
    """It boots and has loaded nothing yet; what it loads will hold the condemnation."""
    w = dying()
    w.ack("h2", "h3")
    w.run(1)
    w.ack("h2", applied=0)
    w.start_controller()
    w.ack("h2", "h3")
    w.ack("h2", applied=0)
    w.run(WAIT + 2, tick=0.5)
    assert proven(w) == "P2"


def test_a_leader_that_is_elected_again_reads_the_power_anew() -> None:
    w = World()
    w.run(4)
    w.cut_power("h1")
    w.run(1.3)
    assert w.engine.views["h1"].power is not None
    w.give(ev.Deposed())
    w.give(ev.Elected(w.epoch + 1, w.world()))
    assert w.engine.views["h1"].power is None and w.engine.views["h1"].suspect_since is None


def test_a_new_leader_that_hears_no_acknowledgement_proves_nothing() -> None:
    w = dying()
    w.ack("h2", "h3")
    w.run(WAIT - 5, tick=0.5)
    w.start_controller()
    w.run(200, tick=0.5)
    assert proven(w) == ""


def test_a_changed_list_of_voters_starts_the_clock_again() -> None:
    w = dying(hosts=5)
    w.ack("h2", "h3", "h4")
    w.run(WAIT - 5, tick=0.5)
    w.vote("h1", "h2", "h3", previous=("h1", "h2", "h3", "h4", "h5"))
    w.run(4)
    assert proven(w) == ""
    w.run(10)
    assert proven(w) == ""
    w.run(WAIT, tick=0.5)
    assert proven(w) == "P2"


def test_a_descriptor_that_is_not_held_costs_one_more_watchdog() -> None:
    w = dying(held=False)
    w.ack("h2", "h3")
    w.run(WAIT + 20, tick=0.5)
    assert proven(w) == ""
    w.run(15, tick=0.5)
    assert proven(w) == "P2"


def test_a_watchdog_that_is_no_hardware_proves_nothing_and_a_person_hears_why() -> None:
    w = dying(kind="softdog")
    w.ack("h2", "h3")
    w.run(300, tick=0.5)
    assert proven(w) == "" and any("softdog" in p and "not hardware" in p for p in w.pages)


def test_without_voters_self_fence_is_off_loudly() -> None:
    w = World()
    assert w.said("no list of voters")
    w = dying()
    del w.store[Voters, "voters"]
    w.give(ev.StoreChanged(Voters, (), None))
    w.ack("h2", "h3")
    w.run(200, tick=0.5)
    assert proven(w) == "" and any("no list of voters" in p for p in w.pages)


def test_a_leader_that_never_saw_the_host_alive_knows_its_watchdog() -> None:
    w = dying()
    w.start_controller()
    w.ack("h2", "h3")
    w.run(WAIT + 2, tick=0.5)
    assert w.store[HostSettings, "h1"].watchdog_timeout == 30.0  # type: ignore[attr-defined]
    assert proven(w) == "P2"


def test_the_watchdog_is_what_that_boot_registered_last() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.vote(*w.power)
    w.run(4)
    w.bmc["h1"] = "unreachable"
    w.beating["h1"], w.icmp["h1"] = False, False
    w.lease_ends("h1")
    w.run(3)
    w.ack("h2", "h3")
    w.run(200, tick=0.5)
    assert proven(w) == "", "none was armed"
    w.change(w.alive("h1", watchdog="iTCO_wdt", watchdog_timeout=30.0, watchdog_held=True))
    w.run(WAIT - 2, tick=0.5)
    assert proven(w) == ""
    w.run(5)
    assert proven(w) == "P2"


def test_a_later_boot_without_a_watchdog_says_nothing_about_the_condemned_one() -> None:
    w = dying()
    w.boots["h1"] = "h1-boot2"
    w.change(w.alive("h1", gate="shut", watchdog=None))
    w.ack("h2", "h3")
    w.run(WAIT + 3, tick=0.5)
    assert proven(w) == "P2"


def test_while_the_watch_is_in_doubt_no_self_fence_is_taken_for_proven() -> None:
    w = dying()
    w.ack("h2", "h3")
    w.give(ev.StoreDoubt("silent"))
    w.run(WAIT + 50, tick=0.5)
    assert proven(w) == ""
    w.give(ev.StoreSnapshot(replace(w.world(), revision=10_000)))
    w.run(2)
    assert proven(w) == "P2"


def test_a_host_that_outlives_its_watchdog_is_paged_and_not_proven() -> None:
    w = dying()
    w.ack("h2", "h3")
    w.beating["h1"] = True
    w.run(WAIT + 10, tick=0.1)
    assert proven(w) == "" and any("watchdog does not work" in p for p in w.pages)
    w.beating["h1"] = False
    w.run(30)
    assert proven(w) == ""
    w.vote(*w.power)  # which starts the clock again: a watchdog that did not work is not believed then either
    w.ack("h2", "h3")
    w.run(WAIT + 10, tick=0.5)
    assert proven(w) == ""


def test_a_host_that_stops_just_before_the_end_is_proven_a_moment_later() -> None:
    w = dying()
    w.ack("h2", "h3")
    w.beating["h1"] = True
    w.run(WAIT - 0.3, tick=0.1)
    w.beating["h1"] = False
    w.run(4)
    assert proven(w) == "P2"


@pytest.mark.parametrize("boot", ["h1-boot1", "h1-boot2"])
def test_a_beat_of_that_boot_after_the_end_refutes_one_of_a_later_boot_does_not(boot: str) -> None:
    w = dying()
    w.nova_down = True
    w.ack("h2", "h3")
    w.run(WAIT + 3, tick=0.5)
    assert proven(w) == "P2"
    w.boots["h1"], w.beating["h1"] = boot, True
    w.run(1)
    w.nova_down = False
    w.run(30)
    assert ("evacuate a" not in w.did()) == (boot == "h1-boot1")
    assert any("heard in that boot" in p for p in w.pages) == (boot == "h1-boot1")


# --- P1 ------------------------------------------------------------------------------------------------------------


def test_power_off_is_no_proof_while_beats_of_that_boot_come() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.run(4)
    w.bmc["h1"] = "lies"
    w.order(Verb.CONDEMN, "h1")
    w.run(30)
    assert "evacuate a" not in w.did() and not w.services["h1"].forced_down
    assert any("signed beats still come" in p for p in w.pages)


def test_the_first_proof_wins_and_power_needs_no_wait() -> None:
    w = dying()
    w.ack("h2", "h3")
    w.bmc["h1"] = "fine"
    w.run(20)
    assert proven(w) == "P1"


def test_a_registration_of_that_boot_after_the_proof_refutes_it() -> None:
    w = dying()
    w.nova_down, w.bmc["h1"] = True, "fine"
    w.run(20)
    assert proven(w) == "P1"
    w.change(w.alive("h1"))
    w.nova_down = False
    w.run(20)
    assert "evacuate a" not in w.did() and any("fencing device is wrong" in p for p in w.pages)


# --- P3, P5 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "networks"), [(True, None), (True, False), (None, True), (False, True)])
def test_storage_alone_or_networks_alone_prove_nothing(storage: bool | None, networks: bool | None) -> None:
    w = dying()
    w.give(ev.CutRead("h1", storage, networks, w.now, w.now))
    w.run(5)
    assert proven(w) == ""


def test_storage_and_networks_cut_after_the_commit_prove_it() -> None:
    w = dying()
    w.give(ev.CutRead("h1", True, True, w.now - 30, w.now))
    w.run(5)
    assert proven(w) == ""
    w.give(ev.CutRead("h1", True, True, w.now, w.now + 0.1, "blocklisted"))
    w.run(5)
    assert proven(w) == "P3" and w.instances["a"].host != "h1"


def test_storage_is_no_proof_while_it_beats() -> None:
    w = dying()
    w.beating["h1"] = True
    w.run(1)
    w.give(ev.CutRead("h1", True, True, w.now, w.now + 0.1))
    w.run(10)
    assert proven(w) == ""


@pytest.mark.parametrize("boot", ["h1-boot1", "h1-boot2"])
def test_the_word_of_this_or_a_later_boot_proves(boot: str) -> None:
    w = dying()
    revision = w.engine.views["h1"].condemnation.revision  # type: ignore[union-attr]
    w.beating["h1"], w.boots["h1"] = True, boot
    w.change(w.alive("h1", gate="shut", word=Word(revision, active=("a",))))
    w.run(2)
    assert proven(w) == ""
    w.change(w.alive("h1", gate="shut", word=Word(revision)))
    w.run(5)
    assert proven(w) == "P5" and w.instances["a"].host != "h1"


def test_a_word_taken_back_stops_everything() -> None:
    w = dying()
    w.nova_down = True
    revision = w.engine.views["h1"].condemnation.revision  # type: ignore[union-attr]
    w.change(w.alive("h1", gate="shut", word=Word(revision)))
    w.run(1)
    assert proven(w) == "P5"
    w.change(w.alive("h1", gate="shut", word=Word(revision, processes=("a",))))
    w.nova_down = False
    w.run(20)
    assert "evacuate a" not in w.did() and any("took back its word" in p for p in w.pages)


def test_a_word_about_another_condemnation_takes_nothing_back() -> None:
    w = dying()
    revision = w.engine.views["h1"].condemnation.revision  # type: ignore[union-attr]
    w.change(w.alive("h1", gate="shut", word=Word(revision)))
    w.run(1)
    assert proven(w) == "P5"
    w.change(w.alive("h1", gate="shut", word=Word(revision - 1, active=("a",))))
    w.run(5)
    assert not record(w).refuted and w.instances["a"].host != "h1"


def test_a_host_whose_boot_was_never_known_comes_back_like_any_other() -> None:
    w = World()
    w.add_instance("a", "h1")
    w.cut_power("h1")
    w.put(HostSettings("h1", "", {"management": "10.0.0.1"}))
    del w.store[type(w.alive("h1")), "h1"]
    w.start_controller()
    w.run(10)
    assert record(w).boot == "" and record(w).stage is Stage.CLOSED
    w.boot("h1")
    w.run(60)
    assert record(w).stage is Stage.ENDED and w.state("h1") == "online"


def test_a_host_proven_by_its_word_that_never_stopped_waits_for_a_boot_or_a_release() -> None:
    w = dying()
    revision = w.engine.views["h1"].condemnation.revision  # type: ignore[union-attr]
    w.beating["h1"] = True
    w.change(w.alive("h1", gate="shut", word=Word(revision)))
    w.run(80)
    assert record(w).stage is Stage.CLOSED and any("condemned but alive" in p for p in w.pages)
    settings = w.engine.views["h1"].settings
    w.change(replace(settings, release=revision))
    w.services["h1"] = replace(w.services["h1"], updated_wall=w.services["h1"].updated_wall + 100)
    w.migrations = [replace(m, status="completed") for m in w.migrations]
    w.run(120)
    assert record(w).stage is Stage.ENDED and w.state("h1") == "online"


# --- the list of voters --------------------------------------------------------------------------------------------


def test_the_list_follows_the_hosts_through_both_lists() -> None:
    w = World(hosts=3)
    w.vote("h1", "h2", arbiter="c1")
    w.run(6)
    joint = w.store[Voters, "voters"]
    assert isinstance(joint, Voters) and len(lists(joint)) == 2 and joint.names == ("h1", "h2", "h3")
    w.run(20)
    assert w.store[Voters, "voters"] == joint, "nobody of the old list knows of it yet"
    w.ack("h1", "h2")
    w.run(6)
    alone = w.store[Voters, "voters"]
    assert isinstance(alone, Voters) and alone.names == joint.names and alone.previous == ()


def test_a_condemned_host_stays_a_voter_and_one_in_maintenance_does_not() -> None:
    w = dying()
    w.run(20)
    assert w.store[Voters, "voters"].names == ("h1", "h2", "h3")  # type: ignore[attr-defined]
    w.change(replace(w.engine.views["h3"].settings, maintenance=True))
    w.run(6)
    assert w.store[Voters, "voters"].names == ("h1", "h2")  # type: ignore[attr-defined]


def test_the_power_is_still_read_while_the_clock_runs() -> None:
    w = dying()
    w.ack("h2", "h3")
    w.run(20)
    w.refuse["power_off"] = (Outcome.FAILED, "no")
    w.power["h1"], w.bmc["h1"] = PowerState.OFF, "fine"
    w.run(5)
    assert proven(w) == "P1"
