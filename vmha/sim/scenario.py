"""Scenario files: YAML read without mercy, checked by ``scenario.schema.json``, made into values.

Whatever is not in the contract is refused with one line that names it, its place, and the word that was probably meant.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from vmha.core.model import Protect
from vmha.core.settings import Settings, check
from vmha.sim.hosts import HostSpec
from vmha.sim.nova import Server
from vmha.sim.physics import Physics

SCHEMA = Path(__file__).with_name("scenario.schema.json")
RUNNING_STATES = frozenset({"active", "paused", "rescued", "resized"})
RENAMED = {"lease_ttl": "host_lease"}  # contract's word -> field of Settings


class Refused(Exception):
    """The file is not a scenario; the text is one line that says where and why."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One event of the file: at a time, or when vmha acts (``when`` = before or after, action, number)."""

    do: str
    at: float = 0.0
    when: tuple[str, str, int] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``extra`` holds settings that the core has no field for yet; ``data`` is what was read."""

    name: str
    hosts: Mapping[str, HostSpec]
    instances: Mapping[str, Mapping[str, Any]]
    settings: Settings
    extra: Mapping[str, Any]
    physics: Physics
    controllers: tuple[str, ...]
    voters: bool
    events: tuple[Happening, ...]
    until: float
    expect: Mapping[str, Any]
    data: Mapping[str, Any]

    def servers(self) -> Iterator[Server]:
        for name, fields_ in self.instances.items():
            yield server(name, fields_)


def server(name: str, given: Mapping[str, Any]) -> Server:
    """An instance as a file describes it."""
    known = {k: v for k, v in given.items() if k not in ("state", "task", "allowed_hosts")}
    state = given.get("state", "active")
    return Server(
        name,
        vm_state=state,
        task=given.get("task"),
        allowed_hosts=tuple(given.get("allowed_hosts", ())),
        own_error=state == "error",
        **known,
    )


# --- reading -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):
    """Refuses a key that stands twice in one mapping: YAML would silently take the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, list | dict):
            raise Refused(f"line {key_node.start_mark.line + 1}: a mapping cannot be a name")
        if key in found:
            raise Refused(f"line {key_node.start_mark.line + 1}: {key!r} stands there twice")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read(path: Path) -> Scenario:
    """The scenario in a file.  Refused."""
    try:
        data = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 (a safe loader)
    except OSError as e:
        raise Refused(f"it cannot be read: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise Refused("it is not YAML: " + " ".join(str(e).split())) from None
    return parse(data, path.stem)


def parse(data: Any, name: str) -> Scenario:
    """The scenario that ``data`` describes.  Refused."""
    _check_schema(data)
    _check_names(data)
    return build(data, name)


# --- the schema ----------------------------------------------------------------------------------------------------------


@functools.cache
def schema() -> dict[str, Any]:
    """The contract, with the core's settings of this very version."""
    found: dict[str, Any] = json.loads(SCHEMA.read_text())
    return found


@functools.cache
def _validator(part: str) -> Draft202012Validator:
    """Of the whole (empty) or of one of its definitions."""
    whole = schema()
    return Draft202012Validator({**whole["$defs"][part], "$defs": whole["$defs"]} if part else whole)


def _check_schema(data: Any) -> None:
    """The whole with few representatives of its instances and events, then each event by its own kind."""
    if not isinstance(data, dict):
        raise Refused("a scenario is a mapping with hosts, instances, events and until")
    instances, events = data.get("instances"), data.get("events")
    small = dict(data)
    if isinstance(instances, dict):
        small["instances"] = _representatives(instances)
    if isinstance(events, list):
        small["events"] = []
    _raise_first(_validator("").iter_errors(small), ())
    for number, event in enumerate(events or ()):
        place = ("events", str(number))
        if not isinstance(event, dict) or not isinstance(event.get("do"), str):
            raise Refused(f"{_place(place)}: an event is a mapping with do, and at or when")
        known = schema()["$defs"]["event"]["properties"]["do"]["enum"]
        if event["do"] not in known:
            raise Refused(f"{_place((*place, 'do'))}: unknown event {event['do']!r}{_meant(event['do'], known)}")
        _raise_first(_validator(event["do"]).iter_errors(event), place)
        if ("at" in event) == ("when" in event):
            raise Refused(f"{_place(place)}: give either at or when")


def _representatives(instances: dict[Any, Any]) -> dict[Any, Any]:
    """One instance of each form: tens of thousands are rarely of more than a few."""
    forms: dict[tuple[Any, ...], Any] = {}
    for name, given in instances.items():
        form: tuple[Any, ...]
        if isinstance(given, dict):
            form = tuple((k, type(v) if k == "host" else repr(v), isinstance(name, str)) for k, v in given.items())
        else:
            form = (repr(given),)
        forms.setdefault(form, name)
        if not isinstance(name, str) or "/" in name or " " in name:
            forms[name,] = name
    return {name: instances[name] for name in forms.values()}


def _raise_first(errors: Iterator[ValidationError], place: tuple[str, ...]) -> None:
    error = min(errors, key=lambda e: (len(e.absolute_path), [str(p) for p in e.absolute_path]), default=None)
    if error is not None:
        raise Refused(_text(error, (*place, *(str(p) for p in error.absolute_path))))


def _text(error: ValidationError, place: tuple[str, ...]) -> str:
    """One line for one error."""
    where = _place(place)
    given: Any = error.instance
    wanted: Any = error.validator_value
    schema_: Any = error.schema
    known = list(schema_.get("properties", {}))
    match error.validator:
        case "additionalProperties":
            extra = next(str(k) for k in given if k not in known)
            return f"{where or 'the file'}: unknown field {extra!r}{_meant(extra, known)}"
        case "enum":
            return f"{where}: {given!r} is none of {', '.join(map(str, wanted))}{_meant(str(given), wanted)}"
        case "required":
            missing = [r for r in wanted if r not in given]
            return f"{where or 'the file'}: {', '.join(missing)} is missing"
        case "type":
            words = " or ".join(wanted) if isinstance(wanted, list) else wanted
            return f"{where}: {given!r:.60} must be of type {words}"
    return f"{where or 'the file'}: {' '.join(error.message.split())}"


def _place(place: tuple[str, ...]) -> str:
    return "".join(f"[{p}]" if p.isdigit() and n else f".{p}" if n else p for n, p in enumerate(place))


def _meant(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, [str(k) for k in known], 1, 0.5)
    return f", did you mean {close[0]!r}?" if close else ""


# --- names -------------------------------------------------------------------------------------------------------------


def _check_names(data: Mapping[str, Any]) -> None:
    """Every host, instance and controller that is named must be there."""
    hosts, instances = data["hosts"], data.get("instances") or {}
    created = {e["instance"] for e in data.get("events") or () if e["do"] == "create"}
    controllers = data.get("controllers") or DEFAULT_CONTROLLERS
    for name, given in instances.items():
        _known(given["host"], hosts, f"instances.{name}.host", "host")
        for allowed in given.get("allowed_hosts", ()):
            _known(allowed, hosts, f"instances.{name}.allowed_hosts", "host")
    for number, event in enumerate(data.get("events") or ()):
        place = f"events[{number}]"
        if "host" in event:
            ends = (*hosts, *controllers) if event["do"] in ("net_cut", "net_heal") else hosts
            _known(event["host"], ends, f"{place}.host", "host")
        if "instance" in event and event["do"] != "create":
            _known(event["instance"], {**instances, **dict.fromkeys(created)}, f"{place}.instance", "instance")
        if event["do"] == "migrate":
            _known(event["to"], hosts, f"{place}.to", "host")
        elif "to" in event:
            for end in (*_several(event["from"]), *_several(event["to"])):
                _known(end, (*hosts, *controllers, "store"), f"{place}.from/to", "host or controller")
        if "which" in event:
            _known(event["which"], ("leader", "all", *controllers), f"{place}.which", "controller")
        if event["do"] == "set":
            _check_set(event, place)
    _check_expected(data.get("expect") or {}, hosts, {**instances, **dict.fromkeys(created)})


def _check_set(event: Mapping[str, Any], place: str) -> None:
    """``set`` is about a host, an instance or settings, and a field of it."""
    subjects = [s for s in ("host", "instance", "settings") if s in event]
    if subjects == ["host", "instance"]:
        subjects = ["instance"]  # "host" is no field that can be set
    if len(subjects) != 1:
        raise Refused(f"{place}: set is about a host, an instance or settings: give one of them")
    if subjects == ["settings"]:
        return
    properties = schema()["$defs"][subjects[0]]["properties"]
    known = (*properties, "local_start_fails")
    for name in event:
        if name not in ("at", "when", "do", subjects[0]) and name not in known:
            raise Refused(f"{place}: unknown field {name!r} of the {subjects[0]}{_meant(name, known)}")


def _check_expected(expect: Mapping[str, Any], hosts: Any, instances: Any) -> None:
    for name in expect.get("hosts", ()):
        _known(name, hosts, "expect.hosts", "host")
    for name in expect.get("instances", ()):
        _known(name, instances, "expect.instances", "instance")
    for part in ("happens", "never", "order"):
        for number, wanted in enumerate(expect.get(part, ())):
            if "instance" in wanted:
                _known(wanted["instance"], instances, f"expect.{part}[{number}].instance", "instance")


def _known(name: Any, names: Any, place: str, kind: str) -> None:
    if name not in names:
        raise Refused(f"{place}: there is no {kind} {name!r}{_meant(str(name), names)}")


def _several(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


# --- values ------------------------------------------------------------------------------------------------------------

DEFAULT_CONTROLLERS = ("c1", "c2", "c3")


def build(data: Mapping[str, Any], name: str = "") -> Scenario:
    """Values of data that the schema allows.  Refused when its settings are unsafe."""
    given = dict(data.get("settings") or {})
    settings, extra = product_settings(given)
    physics = {
        **(data.get("world") or {}),
        **{n: getattr(settings, n) for n in ("word", "ask_every", "feed_every")},
    }
    return Scenario(
        name=data.get("name") or name,
        hosts={n: host_spec(n, given or {}) for n, given in data["hosts"].items()},
        instances=data.get("instances") or {},
        settings=settings,
        extra=extra,
        physics=Physics(**physics),
        controllers=tuple(data.get("controllers") or DEFAULT_CONTROLLERS),
        voters=data.get("voters", True),
        events=tuple(happening(e) for e in data.get("events") or ()),
        until=float(data["until"]),
        expect=data.get("expect") or {},
        data=data,
    )


def host_spec(name: str, given: Mapping[str, Any]) -> HostSpec:
    values = dict(given)
    if "networks" in values:
        values["networks"] = tuple(values["networks"])
    values.setdefault("failure_domain", name)
    return HostSpec(name, **values)


def happening(given: Mapping[str, Any]) -> Happening:
    args = {k: v for k, v in given.items() if k not in ("at", "when", "do")}
    when = given.get("when")
    if when is None:
        return Happening(given["do"], at=float(given["at"]), args=args)
    moment = "before" if "before" in when else "after"
    return Happening(given["do"], when=(moment, when[moment], when.get("nth", 1)), args=args)


def product_settings(given: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """The core's settings, and what it has no field for yet.  Refused when a relation of safety.md is broken."""
    defaults = {f.name: f.default for f in fields(Settings)}
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for word, value in given.items():
        name = RENAMED.get(word, word)
        if name in defaults:
            values[name] = _converted(value, defaults[name])
        else:
            extra[word] = value
    if "host_lease" in values and "host_renew" not in values:
        values["host_renew"] = values["host_lease"] / 3
    settings = Settings(**values)
    wrong = next(check(settings), None)
    if wrong is not None:
        raise Refused(f"settings: {wrong}")
    return settings, extra


def _converted(value: Any, default: Any) -> Any:
    if isinstance(default, StrEnum):
        return Protect(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return tuple(value) if isinstance(value, list) else value
