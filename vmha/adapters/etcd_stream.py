"""What comes out of etcd's watch stream: bytes to messages to changes.  Pure: no I/O.

Format (etcd's rpc.proto through grpc-gateway): one JSON object a line, ``{"result": WatchResponse}`` or ``{"error": ...}``;
64-bit numbers are strings, keys and values base64, fields of default value are left out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmha.ports import Change, Item

LARGEST_MESSAGE = 256 << 20  # bytes; a line longer than this is not etcd's


class StreamBroken(Exception):
    """The stream holds something that is not a watch response, or ends the watch: connect again and list again."""


class Frames:
    """Cuts a byte stream into JSON objects however it was split: the unfinished tail is carried over to the next bytes.

    A line is the unit (JSON escapes newlines inside text, and no byte of a multi-byte character is one); several objects joined
    in one line are told apart.
    """

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The objects completed by ``chunk``.  StreamBroken when a line is not JSON objects."""
        if b"\n" not in chunk:
            self._tail += chunk
            if len(self._tail) > LARGEST_MESSAGE:
                raise StreamBroken(f"a message of more than {LARGEST_MESSAGE} bytes")
            return
        head, *lines, tail = chunk.split(b"\n")
        self._tail += head
        first, self._tail = bytes(self._tail), bytearray(tail)
        for line in (first, *lines):
            yield from _objects(line)


def _objects(line: bytes) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    try:
        text = line.decode().strip()
        while text:
            value, end = decoder.raw_decode(text)
            if not isinstance(value, dict):
                raise StreamBroken(f"a JSON object is expected, not {text[:60]!r}")
            yield value
            text = text[end:].lstrip()
    except ValueError as e:
        raise StreamBroken(f"not JSON ({e}): {line[:60]!r}") from None


@dataclass(frozen=True, slots=True)
class Message:
    """One watch response.  ``seen``: every change up to this revision has been delivered with or before it.

    ``created`` answers the request; a progress notification has no changes.  ``partial``: more of the same revision follows.
    """

    changes: tuple[Change, ...]
    seen: int
    created: bool = False
    partial: bool = False


def message(frame: Mapping[str, Any]) -> Message:
    """The message in one frame.  StreamBroken for an error, a cancellation (compaction, permission) or another form.

    ``seen`` is the header's revision for a progress notification only: the header of ``created`` and of catching-up
    responses names the member's revision, which is ahead of what was delivered (mvcc/watchable_store.go).
    """
    try:
        if "error" in frame:
            raise StreamBroken(f"etcd ended the watch: {_error_text(frame['error'])}")
        result = frame["result"]
        if result.get("canceled"):
            raise StreamBroken(_cancelled(result))
        changes = tuple(_change(e) for e in result.get("events", ()))
        created = bool(result.get("created"))
        header = int(result["header"].get("revision", 0))
    except (KeyError, ValueError, TypeError, AttributeError) as e:
        raise StreamBroken(f"not a watch response ({type(e).__name__}: {e}): {str(frame)[:120]}") from None
    seen = changes[-1].revision if changes else 0 if created else header
    return Message(changes, seen, created, bool(result.get("fragment")))


def _error_text(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _cancelled(result: Mapping[str, Any]) -> str:
    if compacted := int(result.get("compact_revision", 0)):
        return f"etcd has compacted its history up to revision {compacted}, past where the watch stood"
    return f"etcd cancelled the watch: {result.get('cancel_reason') or 'no reason given'}"


def _change(event: Mapping[str, Any]) -> Change:
    kv = event["kv"]
    if event.get("type") == "DELETE":
        return Change(text(kv["key"]), None, int(kv["mod_revision"]))
    found = item(kv)
    return Change(found.key, found, found.modified)


def item(kv: Mapping[str, Any]) -> Item:
    """The Item of etcd's KeyValue."""
    return Item(
        text(kv["key"]),
        base64.b64decode(kv.get("value", "")),
        int(kv["create_revision"]),
        int(kv["mod_revision"]),
        int(kv.get("lease", 0)),
    )


def text(key: str) -> str:
    """A key from base64; bytes that are not UTF-8 (not ours) are kept readable and never equal one of ours."""
    return base64.b64decode(key).decode(errors="backslashreplace")


def coded(value: str | bytes) -> str:
    """Base64 as the gateway wants it."""
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode("ascii")


def prefix_end(prefix: str) -> bytes:
    """The end of the range of all keys with ``prefix`` (etcd's clientv3/op.go getPrefix); all keys for an empty one."""
    end = bytearray(prefix.encode())
    while end:
        if end[-1] < 0xFF:
            end[-1] += 1
            return bytes(end)
        end.pop()
    return b"\0"
