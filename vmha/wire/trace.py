"""Bytes of an engine's journal: one JSON object a line, ``"v": 1`` first.

A line ``start`` holds the settings and all that the engine held (``vmha.core.checkpoint``): replay can begin there.  Each line after it is
one step: the fact, its times, and the actions that the engine decided.  The same values always give the same bytes.  Of a type with
several alternatives each value is an object under its class's name.  Numbers may be ``Infinity`` and ``-Infinity``.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Union, get_args, get_origin

from vmha.core.actions import Action
from vmha.core.checkpoint import Checkpoint
from vmha.core.events import Event, Stored
from vmha.core.model import InstanceSeen
from vmha.core.seen import WIDTH, Seen
from vmha.core.settings import Settings
from vmha.errors import BadRecord
from vmha.wire import records

KINDS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(Stored)}
SEEN = Mapping[tuple[str, str], InstanceSeen]


@dataclass(frozen=True, slots=True)
class Start:
    """A place where a replay can begin.  ``why``: start, full (the file before was), lost (lines before it are missing)."""

    controller: str
    version: str
    why: str
    settings: Settings
    engine: Checkpoint


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the engine, as it was."""

    now: float
    wall: float
    event: Event
    actions: tuple[Action, ...]


Line = Start | Step


def encode(line: Line) -> bytes:
    """One line, with its end."""
    return (_json({"v": records.VERSION, **_plain(type(line))(line)}) + "\n").encode()


def decode(where: str, data: bytes) -> Line:
    """The line at ``where`` (for errors).  BadRecord, which names line and field."""
    fields = records.parse(where, data)
    found: Line = records.value_of(Start if "settings" in fields else Step, where, fields, "line")
    return found


def actions(decided: Sequence[Action]) -> str:
    """The text of actions, to be compared."""
    return _json(_plain(tuple[Action, ...])(decided))


def words(value: Any) -> str:
    """An event or action in one line for people: its class and fields, empty ones left out."""
    fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    told = (f"{name}={_short(v)}" for name, v in fields if v not in ("", (), None))
    return f"{type(value).__name__} " + " ".join(told)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value) if isinstance(value, str) else f"{value!r}"
    return text if len(text) <= 300 else f"{text[:300]}..."


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# --- from values to JSON, by type ------------------------------------------------------------------------------------------

Encoder = Callable[[Any], Any]


def _plain(hint: Any) -> Encoder:
    """What makes JSON of values of that type."""
    return _made(hint)


@cache
def _made(hint: Any) -> Encoder:
    origin, args = get_origin(hint), get_args(hint)
    if hint == SEEN:
        return _seen_to
    if origin in (Union, types.UnionType):
        return _of_union(args)
    if origin is tuple and args[-1] is not Ellipsis:
        return lambda v: [_plain(h)(x) for h, x in zip(args, v, strict=True)]
    if origin in (set, frozenset):
        return lambda v: [_plain(args[0])(x) for x in sorted(v)]
    if origin in (tuple, list):
        of = _plain(args[0])
        return lambda v: [of(x) for x in v]
    if origin is not None and issubclass(origin, Mapping):
        return _of_mapping(*args)
    if dataclasses.is_dataclass(hint):
        return _of_object(hint)
    if hint is type:
        return lambda v: v.__name__
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return str
    return float if hint is float else lambda v: v


def _of_object(hint: Any) -> Encoder:
    of = records.hints(hint)
    parts = [(f.name, _plain(of[f.name])) for f in dataclasses.fields(hint)]
    return lambda v: {name: part(getattr(v, name)) for name, part in parts}


def _of_mapping(names: Any, of: Any) -> Encoder:
    part = _plain(of)
    if names is str:
        return lambda v: {k: part(x) for k, x in v.items()}
    name = _plain(names)
    return lambda v: [[name(k), part(x)] for k, x in v.items()]


def _of_union(args: tuple[Any, ...]) -> Encoder:
    known = {h for h in args if dataclasses.is_dataclass(h)}
    if len(known) > 1:
        return lambda v: None if v is None else {type(v).__name__: _plain(type(v))(v)}
    rest = [h for h in args if h is not type(None)]

    def encoder(value: Any) -> Any:
        if value is None:
            return None
        fitting = (h for h in rest if isinstance(value, get_origin(h) or h))
        return _plain(next(fitting, rest[0]))(value)

    return encoder


# --- forms of their own ----------------------------------------------------------------------------------------------------


def _seen_to(seen: Mapping[tuple[str, str], InstanceSeen]) -> Any:
    """The compact table stays compact: 16 bytes of each uuid in base64; any other mapping is a list of pairs."""
    one = _plain(InstanceSeen)
    if not isinstance(seen, Seen):
        return [[list(k), one(v)] for k, v in seen.items()]
    groups = [[host, one(alike), base64.b64encode(uuids).decode()] for host, alike, uuids in seen.groups()]
    return {"groups": groups, "others": [[list(k), one(v)] for k, v in seen.others().items()]}


def _seen_from(key: str, value: Any, where: str) -> Mapping[tuple[str, str], InstanceSeen]:
    pairs = tuple[tuple[tuple[str, str], InstanceSeen], ...]
    if not isinstance(value, dict):
        return dict(records.value_of(pairs, key, value, where))
    seen = Seen()
    groups = records.value_of(tuple[tuple[str, InstanceSeen, str], ...], key, value.get("groups"), f"{where}.groups")
    for host, alike, text in groups:
        try:
            uuids = base64.b64decode(text, validate=True)
        except ValueError:
            uuids = b"?"
        if len(uuids) % WIDTH:
            raise BadRecord(f"{key}: field {where}.groups has uuids that are not {WIDTH} bytes each in base64")
        seen.put_group(host, alike, uuids)
    for (host, uuid), found in records.value_of(pairs, key, value.get("others"), f"{where}.others"):
        seen.put(host, uuid, found)
    return seen


def _kind_from(key: str, value: Any, where: str) -> type:
    if value not in KINDS:
        raise BadRecord(
            f"{key}: field {where} must be one of {', '.join(KINDS)}, not {value!r:.60}: correct the record"
        )
    return KINDS[value]


records.FORMS[type] = _kind_from
records.FORMS[SEEN] = _seen_from
