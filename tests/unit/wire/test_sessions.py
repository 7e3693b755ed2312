"""Which beats count: nothing recorded at any earlier time ever does."""

import pytest

from vmha.wire import beat as wire
from vmha.wire import sessions
from vmha.wire.sessions import Heard, Refused, Sessions, Unproven

KEY = b"k" * 32
NET = "management"


class Sender:
    """A beat process as the wire sees it."""

    def __init__(self, host="compute1", boot=b"B" * 16, start=1, key=KEY, network=NET, offset=0.0):
        self.same = wire.identity(wire.BEAT, wire.deployment_id(key), boot, start, host, network)
        self.key = wire.Key(wire.host_key(key, host))
        self.sequence = 0
        self.nonce = wire.NO_NONCE
        self.offset = offset

    def beat(self, now, **fields):
        self.sequence += 1
        sent = int((now + self.offset) * 1000)
        values = {"sequence": self.sequence, "progress": 1, "progress_age_ms": 100} | fields
        return wire.beat(self.same, self.key, sent_ms=sent, nonce=self.nonce, **values)

    def answer(self, unproven):
        self.nonce = wire.challenged(unproven.challenge, self.same, self.key)
        assert self.nonce is not None


def receiver(secret=b"s" * 32):
    return Sessions(KEY, secret)


def proven(s, sender, now=100.0, network=NET):
    result = s.take(sender.beat(now), network, now)
    assert isinstance(result, Unproven), result
    sender.answer(result)
    result = s.take(sender.beat(now), network, now)
    assert isinstance(result, Heard), result
    return result


def test_a_new_session_counts_only_after_it_echoed_a_nonce():
    s, sender = receiver(), Sender()
    first = s.take(sender.beat(100), NET, 100)
    assert isinstance(first, Unproven) and first.reason == "new session" and first.host == "compute1"
    assert isinstance(s.take(sender.beat(100.2), NET, 100.2), Unproven)
    sender.answer(first)
    heard = s.take(sender.beat(100.4, progress=7, progress_age_ms=1500), NET, 100.4)
    assert heard == Heard("compute1", NET, "42424242-4242-4242-4242-424242424242", 1, 4 - 1, 7, 1.5, 0, 0)
    assert isinstance(s.take(sender.beat(100.6), NET, 100.6), Heard)


def test_progress_that_never_was_is_none():
    s, sender = receiver(), Sender()
    proven(s, sender)
    assert s.take(sender.beat(100.2, progress=0, progress_age_ms=wire.NEVER_MS), NET, 100.2).progress_age is None


def test_a_replayed_or_overtaken_beat_is_refused():
    s, sender = receiver(), Sender()
    proven(s, sender)
    early, late = sender.beat(100.2), sender.beat(100.4)
    assert isinstance(s.take(late, NET, 100.4), Heard)
    assert s.take(late, NET, 100.5) == Refused(sessions.REPLAYED, "compute1")
    assert s.take(early, NET, 100.5) == Refused(sessions.REPLAYED, "compute1")


def test_a_recording_is_refused_by_a_restarted_receiver():
    old, sender = receiver(b"1" * 32), Sender()
    first = old.take(sender.beat(100), NET, 100)
    sender.answer(first)
    recording = [sender.beat(100 + i / 5) for i in range(50)]
    assert all(isinstance(old.take(b, NET, 100 + i / 5), Heard) for i, b in enumerate(recording))
    restarted = receiver(b"2" * 32)
    assert all(isinstance(restarted.take(b, NET, 100 + i / 5), Unproven) for i, b in enumerate(recording))


def test_a_recorded_answer_is_refused_when_another_session_came_between():
    s, one, two = receiver(), Sender(start=1), Sender(boot=b"C" * 16)
    one.answer(s.take(one.beat(100), NET, 100))
    recording = one.beat(100)
    assert isinstance(s.take(recording, NET, 100), Heard)
    proven(s, two, 100.1)
    assert isinstance(s.take(recording, NET, 100.2), Unproven)


def test_an_answer_held_back_is_too_old():
    s, sender = receiver(), Sender()
    sender.answer(s.take(sender.beat(100), NET, 100))
    held = sender.beat(100)
    result = s.take(held, NET, 100 + 2 * sessions.FRESH + 0.1)
    assert isinstance(result, Unproven) and sessions.WRONG_NONCE in result.reason


def test_beats_held_back_in_order_are_late_until_proven():
    s, sender = receiver(), Sender()
    proven(s, sender)
    held = [sender.beat(101 + i / 5) for i in range(20)]
    assert all(isinstance(s.take(b, NET, 160 + i), Unproven) for i, b in enumerate(held))
    live = s.take(sender.beat(181), NET, 181)
    assert isinstance(live, Heard)  # the host itself was never away: its next true beat counts


def test_a_path_that_became_slow_proves_itself_again():
    s, sender = receiver(), Sender()
    proven(s, sender)
    slow = s.take(sender.beat(110), NET, 114)
    assert isinstance(slow, Unproven) and slow.reason.startswith("late")
    sender.answer(slow)
    assert isinstance(s.take(sender.beat(110.2), NET, 114.2), Heard)
    assert isinstance(s.take(sender.beat(110.4), NET, 114.4), Heard)


@pytest.mark.parametrize("offset", [-50.0, 0.0, 1e9])
def test_clocks_may_differ_and_drift(offset):
    offset += 1000
    s, sender = receiver(), Sender(offset=offset)
    proven(s, sender)
    for day in range(1, 30):
        now = 100 + day * 86400.0
        sender.offset = offset - day * 86400 * 0.0005
        assert isinstance(s.take(sender.beat(now), NET, now), Heard)


def test_a_newer_start_of_the_same_boot_ends_the_older_for_good():
    s, old, new = receiver(), Sender(start=1), Sender(start=2)
    proven(s, old)
    proven(s, new, 101)
    assert s.take(old.beat(101.2), NET, 101.2) == Refused(sessions.SUPERSEDED, "compute1")
    assert isinstance(s.take(new.beat(101.4), NET, 101.4), Heard)


def test_a_new_boot_takes_over_on_all_networks():
    s = receiver()
    proven(s, Sender())
    storage = Sender(network="storage")
    proven(s, storage, network="storage")
    proven(s, Sender(boot=b"C" * 16), 200)
    assert isinstance(s.take(storage.beat(200.1), "storage", 200.1), Unproven)


def test_networks_of_one_session_live_side_by_side():
    s, one, two = receiver(), Sender(), Sender(network="storage")
    proven(s, one)
    proven(s, two, network="storage")
    assert isinstance(s.take(one.beat(100.2), NET, 100.2), Heard)
    assert isinstance(s.take(two.beat(100.2), "storage", 100.2), Heard)


def test_a_beat_carried_to_another_network_is_refused():
    s, sender = receiver(), Sender()
    proven(s, sender)
    assert s.take(sender.beat(100.2), "storage", 100.2) == Refused(sessions.WRONG_NETWORK, "compute1")


def test_forged_and_foreign_datagrams_are_refused_and_leave_no_trace():
    s = receiver()
    assert s.take(Sender(key=b"x" * 32).beat(1), NET, 1) == Refused(wire.OTHER_DEPLOYMENT)
    forger = Sender()
    forger.key = wire.Key(b"guess")
    assert s.take(forger.beat(1), NET, 1) == Refused(wire.BAD_MAC)
    stolen = Sender(host="compute2")  # the key of compute2 does not speak for compute1
    stolen.same = Sender(host="compute1").same
    assert s.take(stolen.beat(1), NET, 1) == Refused(wire.BAD_MAC)
    assert s.take(b"", NET, 1) == Refused(wire.TRUNCATED)
    assert not s._hosts and not s._flows


def test_an_identity_with_wrong_lengths_is_refused():
    sender = Sender()
    wrong = bytearray(sender.beat(1))
    wrong[40] += 1
    assert receiver().take(bytes(wrong), NET, 1) == Refused(wire.BAD_IDENTITY)
