"""The self-fencing rule: what makes a host valid, who may say so, and when its watchdog may be fed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmha.core.model import Voters
from vmha.core.selffence import (
    Known,
    Vote,
    answered,
    ask,
    followed,
    loaded,
    may_feed,
    may_start,
    voted,
    vouches,
)
from vmha.core.word import (
    Answered,
    Armed,
    Asked,
    Found,
    Gate,
    GateAction,
    GateState,
    Lapsed,
    Looked,
    SeenCondemned,
    Started,
    advance,
)

T = 9.0
VOTERS = Voters(("h1", "h2", "h3"), revision=5)
FREE = Known(20, frozenset())


def after(*events: object, gate: Gate | None = None) -> tuple[Gate, tuple[GateAction, ...]]:
    gate, actions = gate or Gate(T), ()
    for event in events:
        gate, actions = advance(gate, event)  # type: ignore[arg-type]
    return gate, actions


def opened(hardware: bool = True) -> Gate:
    return after(Armed(hardware), Started(False), Looked(True), Asked(10), Answered(10, 10.1, Found.ABSENT))[0]


# --- feeding -------------------------------------------------------------------------------------------------------


def test_an_open_gate_is_fed_only_while_the_answer_holds() -> None:
    gate = opened()
    assert may_feed(gate, 10 + T - 0.01) and not may_feed(gate, 10 + T)
    renewed, _ = after(Asked(13), Answered(13, 13.1, Found.ABSENT), gate=gate)
    assert may_feed(renewed, 13 + T - 0.01)


def test_an_unknown_answer_does_not_prolong() -> None:
    gate, _ = after(Asked(13), Answered(13, 15, Found.UNKNOWN), gate=opened())
    assert gate.open and not may_feed(gate, 10 + T)


def test_after_no_answer_in_time_the_late_one_opens_nothing() -> None:
    gate, _ = after(Started(False), Asked(10), Answered(10, 12, Found.UNKNOWN), Answered(10, 12.1, Found.ABSENT))
    assert not gate.open


def test_an_answer_counts_from_its_question() -> None:
    gate, _ = after(Asked(13), Answered(13, 13 + T - 1, Found.ABSENT), gate=opened())
    assert may_feed(gate, 13 + T - 0.01) and not may_feed(gate, 13 + T)


def test_a_shut_gate_is_fed_freely_where_nothing_protected_runs() -> None:
    gate, _ = after(Started(False))
    assert not may_feed(gate, 5)
    gate, _ = after(Looked(False), gate=gate)
    assert not may_feed(gate, 5)
    gate, _ = after(Looked(True), gate=gate)
    assert may_feed(gate, 5) and may_feed(gate, 5000)


def test_feeding_freely_stops_before_the_question_that_may_open() -> None:
    gate, _ = after(Started(False), Looked(True), Asked(10))
    assert gate.state is GateState.ASKING and not may_feed(gate, 10.5)
    back, _ = after(Answered(10, 12, Found.UNKNOWN), gate=gate)
    assert may_feed(back, 12)
    open_gate, _ = after(Answered(10, 10.5, Found.ABSENT), gate=gate)
    assert may_feed(open_gate, 18.9) and not may_feed(open_gate, 19)


def test_behind_a_gate_that_was_shut_all_along_nothing_runs_after_a_condemnation_either() -> None:
    gate, _ = after(Armed(True), Started(False), Looked(True), SeenCondemned(7))
    assert may_feed(gate, 5)


def test_a_gate_that_was_open_needs_a_new_look_before_it_is_fed_freely() -> None:
    gate, _ = after(SeenCondemned(7), gate=opened())
    assert not may_feed(gate, 11)
    gate, _ = after(Looked(True), gate=gate)
    assert may_feed(gate, 11)
    assert not opened().clear and not after(Looked(True), gate=opened())[0].clear


def test_a_condemned_host_is_not_fed_on_its_old_answer() -> None:
    gate, _ = after(SeenCondemned(7), gate=opened())
    assert gate.valid_until == 0.0 and not may_feed(replace(gate, valid_until=99.0), 11)


def test_a_restarted_agent_feeds_only_once_it_is_valid() -> None:
    gate, _ = after(Started(True), gate=opened())
    assert gate.open and gate.fences and gate.hardware and not may_feed(gate, 11)
    gate, _ = after(Asked(11), Answered(11, 11.1, Found.ABSENT), gate=gate)
    assert may_feed(gate, 11.2)


# --- the word ends -------------------------------------------------------------------------------------------------


def test_when_the_word_ends_nothing_may_start_and_the_watchdog_does_the_rest() -> None:
    gate, actions = after(Lapsed(10 + T), gate=opened())
    assert gate.state is GateState.SHUT and actions == (GateAction.SHUT, GateAction.ASK)
    assert not may_feed(gate, 10 + T) and not may_start(gate, 10 + T)


def test_without_a_hardware_watchdog_the_agent_destroys_what_runs() -> None:
    _, actions = after(Lapsed(10 + T), gate=opened(hardware=False))
    assert actions == (GateAction.SHUT, GateAction.DESTROY, GateAction.ASK)


def test_a_word_that_was_renewed_has_not_ended() -> None:
    gate, _ = after(Asked(13), Answered(13, 13.1, Found.ABSENT), gate=opened())
    assert after(Lapsed(10 + T), gate=gate) == (gate, ())


def test_an_earlier_question_never_shortens_the_word() -> None:
    gate = replace(opened(), valid_until=99.0)
    assert after(Asked(13), Answered(13, 13.1, Found.ABSENT), gate=gate)[0].valid_until == 99.0


def test_a_shut_gate_has_nothing_to_lose() -> None:
    for gate in (after(Armed(True), Started(False))[0], after(Armed(True), Started(False), Asked(10))[0]):
        assert after(Lapsed(1000), gate=gate) == (gate, ())


def test_nothing_lapses_where_self_fencing_is_not_in_force() -> None:
    gate, _ = after(Started(False), Asked(10), Answered(10, 10.1, Found.ABSENT))
    assert after(Lapsed(1000), gate=gate) == (gate, ()) and may_start(gate, 1000)


def test_local_starts_are_denied_once_the_word_has_ended() -> None:
    assert may_start(opened(), 18.9) and not may_start(opened(), 19.0)
    assert not may_start(after(Started(False))[0], 1.0)


def test_hardware_once_armed_stays_armed() -> None:
    gate, _ = after(Armed(True), Armed(False))
    assert gate.hardware


# --- the voter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "mine", "theirs", "says"),
    [
        (FREE, 5, 5, True),
        (None, 5, 5, False),
        (Known(20, frozenset({"h1"})), 5, 5, False),
        (Known(20, frozenset({"h2"})), 5, 5, True),
        (FREE, 5, 4, False),
        (FREE, 4, 5, False),
        (FREE, 0, 0, False),
    ],
)
def test_who_may_be_answered(known: Known | None, mine: int, theirs: int, says: bool) -> None:
    assert vouches(known, mine, "h1", theirs) is says


def test_the_condemned_list_is_loaded_in_this_boot_and_then_followed() -> None:
    assert followed(None, [(9, "h1", True)]) is None
    known = loaded(None, 10, ["h2"])
    assert known == Known(10, frozenset({"h2"}))
    assert followed(known, [(10, "h1", True)]) == known, "listed already"
    known = followed(known, [(11, "h1", True)])
    assert known == Known(11, frozenset({"h1", "h2"}))
    assert followed(known, [(12, "h2", False)]) == Known(12, frozenset({"h1"}))
    both = followed(known, [(12, "h3", True), (12, "h4", True), (13, "h3", False)])
    assert both is not None and both == Known(13, known.condemned | {"h4"}), "one transaction can condemn two"
    assert loaded(known, 9, []) == known, "an older listing"
    assert loaded(known, 13, ["h4"]) == Known(13, frozenset({"h4"}))


# --- the question --------------------------------------------------------------------------------------------------


def vote(by: str, **fields: object) -> Vote:
    return replace(Vote("n1", by, 5, True), **fields)  # type: ignore[arg-type]


def test_a_majority_with_itself_is_an_answer_that_counts_from_the_question() -> None:
    question = ask("h1", "n1", 100.0, VOTERS, FREE)
    assert answered(question, 101) is None
    question = voted(question, vote("h3"))
    assert answered(question, 101) == Answered(100.0, 101, Found.ABSENT)


@pytest.mark.parametrize(
    "wrong", [{"nonce": "n0"}, {"voters_revision": 4}, {"voters_revision": 6}, {"innocent": False}, {"voter": "h9"}]
)
def test_what_does_not_count(wrong: dict[str, object]) -> None:
    question = ask("h1", "n1", 100.0, VOTERS, FREE)
    assert answered(voted(question, vote("h2", **wrong)), 101) is None


def test_one_voter_counts_once() -> None:
    question = ask("h9", "n1", 100.0, VOTERS, FREE)
    for _ in range(3):
        question = voted(question, vote("h2"))
    assert answered(question, 101) is None


def test_its_own_vote_needs_its_own_knowledge() -> None:
    for known in (None, Known(20, frozenset({"h1"}))):
        question = ask("h1", "n1", 100.0, VOTERS, known)
        assert answered(voted(question, vote("h2")), 101) is None
    question = ask("h1", "n1", 100.0, VOTERS, None)
    assert answered(voted(voted(question, vote("h2")), vote("h3")), 101) is not None


def test_a_host_that_is_no_voter_needs_a_majority_of_others() -> None:
    question = ask("h9", "n1", 100.0, VOTERS, FREE)
    assert answered(voted(question, vote("h2")), 101) is None
    assert answered(voted(voted(question, vote("h2")), vote("h1")), 101) is not None


def test_without_a_list_nobody_answers() -> None:
    question = ask("h1", "n1", 100.0, None, FREE)
    assert answered(voted(question, vote("h2", voters_revision=0)), 101) is None
    written = ask("h1", "n1", 100.0, replace(VOTERS, revision=0), FREE)
    assert answered(voted(voted(written, vote("h2", voters_revision=0)), vote("h3", voters_revision=0)), 101) is None


def test_both_lists_must_answer_while_a_change_is_not_settled() -> None:
    joint = Voters(("h1", "h2", "h3"), previous=("h1", "h4", "h5"), revision=5)
    question = voted(ask("h1", "n1", 100.0, joint, FREE), vote("h2"))
    assert answered(question, 101) is None
    assert answered(voted(question, vote("h4")), 101) is not None
