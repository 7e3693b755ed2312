"""Beats folded into edges: no network's silence is told before its time or much later, however many there are."""

import random

from vmha.core.events import Heard, Silent
from vmha.core.suspicion import AHEAD, BeatFold

SILENCE = 1.2
PERIOD = 0.2


def world(hosts, seed=1):
    """A fold, and the beats of many hosts: each of them goes on from a time of its own."""
    rng = random.Random(seed)
    return BeatFold(SILENCE), {f"h{n}": rng.uniform(0, PERIOD) for n in range(hosts)}


def heard(fold, beats, until, muted=()):
    """Every beat before ``until``, in the order of time."""
    for at, host in sorted((at, host) for host, at in beats.items() if host not in muted):
        while at < until:
            fold.heard(host, "net", "boot", at)
            at += PERIOD
        beats[host] = at


def test_the_deadline_of_one_network_is_exact_when_it_is_near():
    fold = BeatFold(SILENCE)
    assert fold.deadline() is None
    assert fold.heard("h", "net", "boot", 10.0) == Heard("h", "net", "boot", 10.0)
    assert fold.heard("h", "net", "boot", 10.5) is None
    assert fold.deadline() <= 10.5 + SILENCE  # when it was put in: a time before
    assert fold.silent(10.0 + SILENCE) == []
    assert fold.deadline() == 10.5 + SILENCE
    assert fold.silent(10.5 + SILENCE - 0.001) == []
    assert fold.silent(10.5 + SILENCE) == [Silent("h", "net", 10.5)]
    assert fold.deadline() is None


def test_whoever_sleeps_until_the_deadline_tells_each_silence_at_its_time():
    fold, beats = world(300)
    heard(fold, beats, 1.0)
    last = {}
    now, told, looks = 1.0, {}, 0
    muted = {f"h{n}": 2.0 + n / 100 for n in range(50)}  # host to when its beats end
    while now < 6.0:
        gone = {host for host, end in muted.items() if end <= now}
        for host in gone:
            last.setdefault(host, beats[host] - PERIOD)
        heard(fold, beats, now, gone)
        for edge in fold.silent(now):
            told[edge.host] = now
            assert edge.last == last[edge.host]
        due = fold.deadline()
        assert due is not None and due > now
        now, looks = due, looks + 1
    assert set(told) == set(muted)
    assert all(told[host] == last[host] + SILENCE for host in muted)
    assert looks < 5.0 / AHEAD + 4 * len(muted) + 50


def test_no_look_puts_many_networks_right_at_once():
    fold, beats = world(2000)
    heard(fold, beats, 1.0)
    sizes, now = [], 1.0
    while now < 8.0:
        heard(fold, beats, now)
        before = set(fold._due)
        assert fold.silent(now) == []
        fold.deadline()
        sizes.append(len(set(fold._due) - before))
        now += 0.01
    assert max(sizes) < 2000 * (AHEAD + 0.02) / PERIOD
