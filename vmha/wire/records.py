"""Bytes of every record in etcd: one JSON object, ``"v": 1`` first, fields named as in ``vmha.core.model``.

A reader takes a record whose version it knows, ignores fields it does not know (a newer writer may add some), fills absent
ones with the model's defaults, and refuses every value of a wrong type with BadRecord that names key, field and what was expected.
Fields in ``OUTSIDE`` are not in the bytes: they come from etcd itself.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vmha.core.model import Condemnation, Voters
from vmha.errors import BadRecord

VERSION = 1
OUTSIDE: Mapping[type, frozenset[str]] = {Condemnation: frozenset({"revision"}), Voters: frozenset({"revision"})}

T = TypeVar("T")
_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


def encode(value: Any) -> bytes:
    """The bytes of a record of ``vmha.core.model``; the same value always gives the same bytes."""
    left_out = OUTSIDE.get(type(value), frozenset())
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in left_out}
    return json.dumps({"v": VERSION, **_plain(fields)}, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list, frozenset, set)):
        return [_plain(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return value


def decode(cls: type[T], key: str, data: bytes, **outside: Any) -> T:
    """A value of ``cls`` from the bytes at ``key``; ``outside`` gives the fields that are not in the bytes.  BadRecord."""
    fields = parse(key, data)
    return _object(cls, key, {**fields, **outside}, "")


def parse(key: str, data: bytes) -> dict[str, Any]:
    """The JSON object of a record, its version checked and taken off.  BadRecord."""
    try:
        fields = json.loads(data)
    except (ValueError, UnicodeDecodeError) as e:
        raise BadRecord(f"{key}: not JSON ({e}): restore it or delete the key") from None
    if not isinstance(fields, dict):
        raise BadRecord(f"{key}: a JSON object is expected, not {type(fields).__name__}: restore it or delete the key")
    version = fields.pop("v", None)
    if version != VERSION:
        raise BadRecord(
            f"{key}: record version {version!r} is not known here (this vmha reads {VERSION}): upgrade this vmha"
        )
    return fields


def _object(cls: type[T], key: str, fields: Mapping[str, Any], where: str) -> T:
    hints = _hints(cls)
    values = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.name in fields:
            values[f.name] = _value(hints[f.name], key, fields[f.name], f"{where}{f.name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BadRecord(f"{key}: field {where}{f.name} is missing: restore the record or delete the key")
    return cls(**values)


def _value(hint: Any, key: str, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        return _value(next(a for a in get_args(hint) if a is not type(None)), key, value, where)
    if origin is tuple:
        return _sequence(get_args(hint)[0], key, value, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(get_args(hint)[1], key, value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise _wrong(key, where, "an object", value)
        return _object(cast(type[Any], hint), key, value, where + ".")
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _word(hint, key, value, where)
    return _scalar(hint, key, value, where)


def _sequence(of: Any, key: str, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(key, where, "a list", value)
    return tuple(_value(of, key, v, f"{where}[{i}]") for i, v in enumerate(value))


def _mapping(of: Any, key: str, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(key, where, "an object", value)
    return {k: _value(of, key, v, f"{where}.{k}") for k, v in value.items()}


def _word(hint: type[StrEnum], key: str, value: Any, where: str) -> StrEnum:
    try:
        return hint(value)
    except ValueError:
        raise _wrong(key, where, "one of " + ", ".join(hint), value) from None


def _scalar(hint: Any, key: str, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _wrong(
            key,
            where,
            {"str": "text", "int": "a whole number", "bool": "true or false"}.get(hint.__name__, "a number"),
            value,
        )
    return value


def _wrong(key: str, where: str, expected: str, value: Any) -> BadRecord:
    return BadRecord(f"{key}: field {where} must be {expected}, not {value!r:.60}: correct the record")
