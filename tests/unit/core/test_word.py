"""The gate's table, row by row."""

import itertools

import pytest

from vmha.core.word import (
    Answered,
    Asked,
    Found,
    Gate,
    GateAction,
    GateState,
    SeenCondemned,
    SeenReleased,
    Started,
    advance,
)

T = 9.0


def after(*events, gate=None):
    gate, actions = gate or Gate(T), ()
    for event in events:
        gate, actions = advance(gate, event)
    return gate, actions


def opened():
    gate, actions = after(Started(False), Asked(10), Answered(10, 10.1, Found.ABSENT))
    assert gate.open and actions == (GateAction.OPEN,)
    return gate


def test_a_boot_starts_shut_and_asks():
    gate, actions = after(Started(False))
    assert gate.state is GateState.SHUT and actions == (GateAction.SHUT, GateAction.ASK)


def test_an_answer_in_time_opens():
    gate = opened()
    assert gate.valid_until == 10 + T


@pytest.mark.parametrize("late", [T, 60.0])
def test_a_late_word_does_not_open(late):
    gate, actions = after(Started(False), Asked(10), Answered(10, 10 + late, Found.ABSENT))
    assert not gate.open and actions == (GateAction.ASK,)


def test_an_answer_to_no_question_of_this_run_does_not_open():
    assert after(Started(False), Answered(10, 10.1, Found.ABSENT)) == (Gate(T), ())
    gate, actions = after(Started(False), Asked(10), Asked(20), Answered(10, 20.1, Found.ABSENT))
    assert gate.state is GateState.ASKING and actions == ()
    assert after(Answered(20, 20.2, Found.ABSENT), gate=gate)[0].open


def test_unknown_keeps_what_is():
    gate, actions = after(Started(False), Asked(10), Answered(10, 12, Found.UNKNOWN))
    assert gate.state is GateState.SHUT and actions == (GateAction.ASK_LATER,)
    gate, actions = after(Asked(20), Answered(20, 22, Found.UNKNOWN), gate=opened())
    assert gate.open and actions == (GateAction.ASK_LATER,)


def test_an_agent_started_again_keeps_an_open_gate_and_asks():
    gate, actions = after(Started(True))
    assert gate.open and actions == (GateAction.ASK,)
    gate, actions = after(Asked(10), Answered(10, 10.1, Found.ABSENT), gate=gate)
    assert gate.open and actions == ()
    gate, actions = after(Started(True), Asked(10), Answered(10, 10.1, Found.CONDEMNED, 7))
    assert not gate.open and actions == (GateAction.SHUT, GateAction.WITHDRAW, GateAction.CLEAR)


@pytest.mark.parametrize("events", [(SeenCondemned(7),), (Asked(20), Answered(20, 20.1, Found.CONDEMNED, 7))])
def test_condemned_shuts_first_then_clears(events):
    gate, actions = after(*events, gate=opened())
    assert gate.state is GateState.SHUT and gate.condemned == 7
    assert actions == (GateAction.SHUT, GateAction.WITHDRAW, GateAction.CLEAR)


def test_the_same_condemnation_again_is_nothing_new_and_another_one_is():
    gate, _ = after(SeenCondemned(7), gate=opened())
    assert after(SeenCondemned(7), gate=gate) == (gate, ())
    assert after(SeenCondemned(9), gate=gate)[1] == (GateAction.SHUT, GateAction.WITHDRAW, GateAction.CLEAR)


def test_an_answer_read_before_the_condemnation_does_not_open():
    gate, actions = after(Started(False), Asked(10), SeenCondemned(7), Answered(10, 10.1, Found.ABSENT))
    assert not gate.open and gate.condemned == 7 and actions == ()


def test_a_release_opens_only_by_an_answer():
    gate, actions = after(SeenCondemned(7), SeenReleased(), gate=opened())
    assert not gate.open and actions == (GateAction.WITHDRAW, GateAction.ASK)
    gate, actions = after(Asked(30), Answered(30, 30.1, Found.ABSENT), gate=gate)
    assert gate.open and actions == (GateAction.OPEN,)


def test_absent_while_condemned_is_known_waits_for_the_release():
    gate, _ = after(SeenCondemned(7), Asked(30), gate=opened())
    gate, actions = after(Answered(30, 30.1, Found.ABSENT), gate=gate)
    assert not gate.open and actions == (GateAction.ASK_LATER,)


def test_a_release_of_nothing_is_nothing():
    gate = opened()
    assert after(SeenReleased(), gate=gate) == (gate, ())


def test_no_sequence_opens_without_an_answer_after_the_last_condemnation():
    """All sequences of five events: OPEN is entered only by an absent answer to a question asked after all condemnations."""
    events = [Asked(1), Asked(2), SeenCondemned(7), SeenReleased()] + [
        Answered(q, q + 0.5, found, 7) for q in (1, 2) for found in Found
    ]
    for sequence in itertools.product(events, repeat=5):
        gate, asked = after(Started(False))[0], set()
        for event in sequence:
            before, (gate, _) = gate, advance(gate, event)
            if isinstance(event, Asked):
                asked.add(event.at)
            if isinstance(event, SeenCondemned) or (isinstance(event, Answered) and gate.condemned):
                asked.clear()
            if gate.open and not before.open:
                assert isinstance(event, Answered) and event.found is Found.ABSENT and event.asked in asked, sequence
