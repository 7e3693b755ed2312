"""The agent's small parts that need no libvirt and no etcd: files, what watches tell, the word."""

import os

import pytest

from vmha.agent.gate import AgentLock, GateFile, UnprotectedList
from vmha.agent.lists import CondemnedChanged, CondemnedListed, CondemnedSink, Lists, VotersSeen, voters_seen
from vmha.agent.look import Look, word
from vmha.agent.main import tell_systemd
from vmha.agent.watched import CondemnedSeen, KeySink, UnprotectedSeen, condemned_seen, unprotected_seen
from vmha.core.model import Voters, Word
from vmha.errors import BadConfig
from vmha.ports import Change, Domain, Item, Snapshot

A, B, C = (f"{n}0000000-0000-4000-8000-000000000000" for n in "abc")


def test_the_gate_is_open_for_its_boot_only(tmp_path):
    gate = GateFile(str(tmp_path), "boot-1")
    assert not gate.is_open()
    gate.open()
    assert gate.is_open() and (tmp_path / "gate").read_text() == "boot-1\n"
    assert not GateFile(str(tmp_path), "boot-2").is_open()
    gate.shut()
    gate.shut()
    assert not gate.is_open() and os.listdir(tmp_path) == []


def test_the_unprotected_list_outlives_the_agent(tmp_path):
    UnprotectedList(str(tmp_path)).save([B, A])
    assert (tmp_path / "unprotected").read_text() == f"{A}\n{B}\n"
    again = UnprotectedList(str(tmp_path))
    assert again.uuids == {A, B}
    again.save([])
    assert UnprotectedList(str(tmp_path)).uuids == frozenset() and os.listdir(tmp_path) == ["unprotected"]


def test_one_agent_for_each_host(tmp_path):
    lock = AgentLock(str(tmp_path))
    with pytest.raises(BadConfig, match="end it first"):
        AgentLock(str(tmp_path))
    os.close(lock.file)
    os.close(AgentLock(str(tmp_path)).file)


def item(key, value=b"", created=7):
    return Item(key, value, created, created)


def test_the_key_alone_condemns():
    assert condemned_seen(item("k", b"not a record")) == CondemnedSeen(7)
    assert condemned_seen(None) == CondemnedSeen(0)


def test_unprotected_lists():
    assert unprotected_seen(None) == UnprotectedSeen(frozenset())
    good = b'{"v": 1, "uuids": ["%s", "%s"]}' % (A.upper().encode(), B.encode())
    assert unprotected_seen(item("k", good)) == UnprotectedSeen(frozenset({A, B}))
    for wrong in (
        b"",
        b"[]",
        b'{"v": 1}',
        b'{"v": 2, "uuids": []}',
        b'{"v": 1, "uuids": ["*"]}',
        b'{"v": 1, "uuids": [1]}',
    ):
        assert unprotected_seen(item("k", wrong)) is None, wrong


def test_a_sink_hears_its_own_key_only():
    posted = []
    sink = KeySink("condemned/compute1", condemned_seen, posted.append)
    sink.snapshot(Snapshot(5, {"condemned/compute10": item("condemned/compute10")}))
    sink.changes([
        Change("condemned/compute10", None, 6),
        Change("condemned/compute1", item("condemned/compute1", created=8), 8),
        Change("condemned/compute1", None, 9),
    ])  # fmt: skip
    sink.not_ready("gone")
    assert posted == [CondemnedSeen(0), CondemnedSeen(8), CondemnedSeen(0)]


def test_the_word_names_what_is_protected_or_not_known():
    domains = (Domain(A, "a", "running", True), Domain(B, "b", "shutoff", False), Domain(C, "c", "running", True))
    seen = Look(1.0, domains, {A: 10, C: 11, "unknown-12": 12})
    assert word(seen, {C}, 7) == Word(7, (A,), (A, "unknown-12"), (A, B))
    assert word(Look(1.0, None, {}, "libvirt is away"), {C}, 7) is None
    assert word(Look(1.0, (), {}), (), 7) == Word(7)


def test_systemd_is_told_where_it_listens(tmp_path):
    import socket

    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        tell_systemd("READY=1", {"NOTIFY_SOCKET": path}.get)
        assert s.recv(100) == b"READY=1"
    tell_systemd("READY=1", {"NOTIFY_SOCKET": path + "x"}.get)
    tell_systemd("READY=1", {}.get)


def test_what_a_voter_knows_is_kept_for_its_boot_and_told_only_while_it_votes(tmp_path):
    lists = Lists("h1", str(tmp_path), "boot-1")
    assert lists.acknowledged() == (0, 0)
    assert not lists.take(CondemnedChanged(((5, "h2", True),))), "no listing yet"
    assert lists.take(CondemnedListed(7, frozenset({"h3"}))) and lists.acknowledged() == (0, 0)
    assert lists.take(VotersSeen(Voters(("h1", "h2"), revision=6))) and lists.acknowledged() == (6, 7)
    assert lists.take(CondemnedChanged(((8, "h2", True), (8, "h4", True), (9, "h3", False))))
    assert not lists.take(CondemnedListed(8, frozenset())), "older than what is known"
    again = Lists("h1", str(tmp_path), "boot-1")
    assert again.acknowledged() == (6, 9) and again.known.condemned == {"h2", "h4"}
    assert Lists("h1", str(tmp_path), "boot-2").acknowledged() == (0, 0)
    assert again.take(VotersSeen(Voters(("h2",), previous=("h1",), revision=10))) and again.acknowledged() == (10, 9)
    assert again.take(VotersSeen(Voters(("h2",), revision=11))) and again.acknowledged() == (0, 0)
    (tmp_path / "lists").write_text("{")
    assert Lists("h1", str(tmp_path), "boot-1").known is None


def test_a_list_of_voters_that_cannot_be_read_changes_nothing():
    assert voters_seen(None) == VotersSeen(None)
    assert voters_seen(item("voters", b"{}")) is None
    assert voters_seen(item("voters", b'{"v": 1, "names": ["h1"]}')) == VotersSeen(Voters(("h1",), revision=7))


def test_every_condemned_host_is_listed_and_the_own_one_told():
    posted = []
    own = KeySink("/vmha/v1/condemned/h1", condemned_seen, posted.append)
    sink = CondemnedSink(own, posted.append)
    sink.snapshot(Snapshot(9, {"/vmha/v1/condemned/h2": item("/vmha/v1/condemned/h2")}))
    assert posted == [CondemnedListed(9, frozenset({"h2"})), CondemnedSeen(0)]
    sink.changes([Change("/vmha/v1/condemned/h1", item("/vmha/v1/condemned/h1", b"x", 12), 12)])
    assert posted[2:] == [CondemnedChanged(((12, "h1", True),)), CondemnedSeen(12)]
