"""Bytes of every record in etcd: one JSON object, ``"v": 1`` first, fields named as in ``vmha.core.model``.

A reader takes a record whose version it knows, ignores fields it does not know (a newer writer may add some), fills absent
ones with the model's defaults, and refuses every value of a wrong type with BadRecord that names key, field and what was expected.
Fields in ``OUTSIDE`` are not in the bytes: they come from etcd itself.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vmha.core.model import Condemnation, Voters
from vmha.errors import BadRecord

VERSION = 1
OUTSIDE: Mapping[type, frozenset[str]] = {Condemnation: frozenset({"revision"}), Voters: frozenset({"revision"})}

T = TypeVar("T")
_HINTS: dict[type, dict[str, Any]] = {}
# types whose bytes have a form of their own: (key, value, where) to the value
FORMS: dict[Any, Callable[[str, Any, str], Any]] = {}


def hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls, localns=vars(builtins))  # not its methods: one may be named "set"
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
    types_of = hints(cls)
    values = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.name in fields:
            values[f.name] = value_of(types_of[f.name], key, fields[f.name], f"{where}{f.name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BadRecord(f"{key}: field {where}{f.name} is missing: restore the record or delete the key")
    return cls(**values)


def value_of(hint: Any, key: str, value: Any, where: str) -> Any:
    """A value of the type ``hint`` from its JSON; ``key`` and ``where`` name it in errors.  BadRecord."""
    origin = get_origin(hint)
    if hint in FORMS:
        return FORMS[hint](key, value, where)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(hint), key, value, where)
    if origin in (tuple, list, set, frozenset):
        return _sequence(origin, get_args(hint), key, value, where)
    if origin is not None and issubclass(origin, Mapping):
        names, of = get_args(hint)
        return _mapping(names, of, key, value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise _wrong(key, where, "an object", value)
        return _object(cast(type[Any], hint), key, value, where + ".")
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _word(hint, key, value, where)
    return _scalar(hint, key, value, where)


def _one_of(hints: tuple[Any, ...], key: str, value: Any, where: str) -> Any:
    """Of several dataclasses each is an object under its class's name; other alternatives are told by their JSON type."""
    if value is None and type(None) in hints:
        return None
    named: dict[str, Any] = {h.__name__: h for h in hints if isinstance(h, type) and dataclasses.is_dataclass(h)}
    if len(named) > 1:
        if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in named:
            raise _wrong(key, where, "an object with one of " + ", ".join(named), value)
        ((name, fields),) = value.items()
        return value_of(named[name], key, fields, f"{where}.{name}")
    hints = tuple(h for h in hints if h is not type(None))
    containers = [h for h in hints if get_origin(h) is not None]
    inside = isinstance(value, (list, dict))
    return value_of(next((h for h in hints if (h in containers) == inside), hints[0]), key, value, where)


def _sequence(kind: type, of: tuple[Any, ...], key: str, value: Any, where: str) -> Any:
    if not isinstance(value, list):
        raise _wrong(key, where, "a list", value)
    if kind is not tuple or of[-1] is Ellipsis:
        return kind(value_of(of[0], key, v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(of):
        raise _wrong(key, where, f"a list of {len(of)}", value)
    return tuple(value_of(h, key, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(of, value, strict=True)))


def _mapping(names: Any, of: Any, key: str, value: Any, where: str) -> dict[Any, Any]:
    """An object; a list of pairs where the names are not text."""
    if names is not str:
        pairs = _sequence(tuple, (tuple[names, of], Ellipsis), key, value, where)
        return dict(pairs)
    if not isinstance(value, dict):
        raise _wrong(key, where, "an object", value)
    return {k: value_of(of, key, v, f"{where}.{k}") for k, v in value.items()}


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
