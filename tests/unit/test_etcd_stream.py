"""The watch stream's decoding: however the bytes are split, the same messages come out; anything else is refused."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmha.adapters.etcd_stream import Frames, StreamBroken, coded, item, message, prefix_end, text
from vmha.ports import Change, Item


def kv(key: str, value: bytes, created: int, modified: int, **more: str) -> dict[str, str]:
    fields = {"key": coded(key), "create_revision": str(created), "mod_revision": str(modified), **more}
    return {**fields, "value": coded(value)} if value else fields


def response(**fields: object) -> dict[str, object]:
    return {"result": {"header": {"revision": "9", "raft_term": "2"}, **fields}}


PUT = {"kv": kv("/a", b"\x00v", 3, 7, lease="5", version="2")}
DELETE = {"type": "DELETE", "kv": {"key": coded("/a"), "mod_revision": "8"}}
STREAM = [response(created=True), response(events=[PUT]), response(events=[DELETE]), {"result": {"note": "schön 漢"}}]
BYTES = b"".join(json.dumps(m, ensure_ascii=False).encode() + b"\n" for m in STREAM)


@given(st.lists(st.integers(0, len(BYTES)), max_size=40))
def test_any_split_gives_the_same_messages(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(BYTES)]
    frames = Frames()
    assert [m for a, b in zip(at, at[1:], strict=False) for m in frames.feed(BYTES[a:b])] == STREAM


def test_byte_by_byte() -> None:
    frames = Frames()
    assert [m for b in BYTES for m in frames.feed(bytes([b]))] == STREAM


def test_objects_joined_in_one_line_are_told_apart() -> None:
    assert list(Frames().feed(b'{"a":1}{"b":2} {"c":"}{"}\n')) == [{"a": 1}, {"b": 2}, {"c": "}{"}]


def test_blank_lines_and_an_unfinished_tail_are_nothing() -> None:
    assert list(Frames().feed(b'\n\r\n{"a":')) == []


@pytest.mark.parametrize("line", [b"<html>\n", b'{"a":1} x\n', b"[1]\n", b'{"a":"\xff"}\n', b'"text"\n'])
def test_what_is_not_json_objects_breaks_the_stream(line: bytes) -> None:
    with pytest.raises(StreamBroken):
        list(Frames().feed(line))


def test_a_put_is_a_change_with_its_item() -> None:
    got = message(response(events=[PUT]))
    assert got.changes == (Change("/a", Item("/a", b"\x00v", 3, 7, 5), 7),)


def test_a_delete_is_a_change_without_item() -> None:
    assert message(response(events=[DELETE])).changes == (Change("/a", None, 8),)


def test_an_empty_value_is_left_out_by_the_gateway() -> None:
    assert item(kv("/a", b"", 3, 7)) == Item("/a", b"", 3, 7, 0)


def test_progress_proves_the_headers_revision() -> None:
    assert message(response()).seen == 9


def test_created_proves_nothing_yet() -> None:
    assert message(response(created=True)).seen == 0


def test_events_prove_their_own_revision_not_the_headers() -> None:
    assert message(response(events=[PUT])).seen == 7


def test_a_fragment_is_marked() -> None:
    assert message(response(events=[PUT], fragment=True)).partial


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ({"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}, "no leader"),
        (response(canceled=True, compact_revision="40"), "compacted its history up to revision 40"),
        (response(canceled=True, cancel_reason="permission denied"), "permission denied"),
        (response(canceled=True, created=True), "no reason given"),
        ({"result": {}}, "not a watch response"),
        ({"result": {"header": {"revision": "x"}}}, "not a watch response"),
        ({"result": None}, "not a watch response"),
        ({}, "not a watch response"),
        (response(events=[{"kv": {"key": "/a"}}]), "not a watch response"),
    ],
)
def test_whatever_ends_a_watch_breaks_the_stream(frame: dict[str, object], says: str) -> None:
    with pytest.raises(StreamBroken, match=says):
        message(frame)


@given(st.binary(max_size=8))
def test_a_key_that_is_not_utf8_stays_readable(key: bytes) -> None:
    assert isinstance(text(base64.b64encode(key).decode()), str)


@pytest.mark.parametrize(("prefix", "end"), [("/a/", b"/a0"), ("", b"\0"), ("\x7f", b"\x80")])
def test_the_end_of_a_prefix(prefix: str, end: bytes) -> None:
    assert prefix_end(prefix) == end


@given(st.text(min_size=1, max_size=8), st.text(max_size=8))
def test_every_key_with_the_prefix_is_before_its_end(prefix: str, rest: str) -> None:
    key, end = (prefix + rest).encode(), prefix_end(prefix)
    assert prefix.encode() <= key and (end == b"\0" or key < end)
