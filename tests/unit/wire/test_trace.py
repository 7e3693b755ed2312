"""Round trips of every event and action class, from samples that are made of the types alone."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Union, get_args, get_origin

import pytest

from vmha.core import checkpoint
from vmha.core.actions import Action
from vmha.core.engine import Engine
from vmha.core.events import Elected, Event, Silent, Stored, StoreSnapshot, Tick, World
from vmha.core.model import InstanceSeen
from vmha.core.seen import Seen
from vmha.core.settings import Settings
from vmha.errors import BadRecord
from vmha.wire import records, trace


def sample(hint: Any, n: int) -> Any:
    """The n-th value of a type: each alternative of a union comes, containers are full or empty in turn."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return sample(args[n % len(args)], n // len(args))
    if origin is tuple and args[-1] is not Ellipsis:
        return tuple(sample(a, n) for a in args)
    if origin in (tuple, list, set, frozenset):
        return origin(sample(args[0], n + i) for i in range(1 + n % 3))
    if origin is not None and issubclass(origin, Mapping):
        return {sample(args[0], n + i): sample(args[1], n + i) for i in range(1 + n % 3)}
    if dataclasses.is_dataclass(hint):
        hints = records.hints(hint)
        return hint(**{f.name: sample(hints[f.name], n + i) for i, f in enumerate(dataclasses.fields(hint))})
    if hint is type:
        return get_args(Stored)[n % len(get_args(Stored))]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return list(hint)[n % len(hint)]
    made = {str: f'ä"\n{n}', int: n, float: (float("-inf"), 0.1 + n, 1e300)[n % 3], bool: bool(n % 2), type(None): None}
    return made[hint]


STEP = (3.25, 1_700_000_000.5)


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda k: k.__name__)
def test_every_event_comes_back_as_it_was(kind: type) -> None:
    for n in range(24):
        line = trace.Step(*STEP, sample(kind, n), ())
        assert trace.decode("j line 2", trace.encode(line)) == line


@pytest.mark.parametrize("kind", get_args(Action), ids=lambda k: k.__name__)
def test_every_action_comes_back_as_it_was(kind: type) -> None:
    for n in range(24):
        line = trace.Step(*STEP, Tick(), (sample(kind, n), sample(kind, n + 1)))
        assert trace.decode("j line 2", trace.encode(line)) == line


def test_settings_and_all_that_an_engine_holds_come_back() -> None:
    for n in range(24):
        line = trace.Start("con1", "1", "start", sample(Settings, n), sample(checkpoint.Checkpoint, n))
        told = trace.encode(line)
        assert trace.decode("j line 1", told) == line
        assert trace.encode(trace.decode("j line 1", told)) == told


def test_a_checkpoint_knows_every_attribute_of_the_engine() -> None:
    engine = Engine(Settings())
    names = {f.name for f in dataclasses.fields(checkpoint.Checkpoint)}
    assert set(checkpoint.attributes(engine)) == names
    assert len(names) == len(vars(engine)) - 1


def test_the_small_table_stays_small_and_in_its_order() -> None:
    seen = Seen()
    for host in ("h2", "h1"):
        for n in range(100):
            uuid = f"00000000-0000-0000-0000-{n:012x}"
            seen.put(host, uuid, InstanceSeen(host, uuid, "boot", "running" if n % 7 else "paused"))
    seen.put("h1", "no uuid", InstanceSeen("h1", "no uuid", "boot", "running"))
    for event in (StoreSnapshot(World(seen=seen)), Elected(7, World(seen=seen))):
        told = trace.encode(trace.Step(*STEP, event, ()))
        found = trace.decode("j line 2", told)
        assert isinstance(found, trace.Step) and isinstance(found.event, (StoreSnapshot, Elected))
        back = found.event.world.seen
        assert isinstance(back, Seen) and list(back.items()) == list(seen.items()) and len(back) == len(seen)
        assert len(told) < 10_000


def test_a_checkpoint_is_not_changed_by_what_comes_after_it() -> None:
    engine = Engine(Settings())
    seen = Seen({("h1", "u"): InstanceSeen("h1", "u", "b", "running")})
    engine.step(Elected(7, World(seen=seen)), 1.0, 2.0)
    taken = checkpoint.take(engine)
    before = trace.encode(trace.Start("c", "1", "full", engine.settings, taken))
    engine.step(Silent("h1", "management", 0.5), 5.0, 6.0)
    seen.put("h2", "u", InstanceSeen("h2", "u", "b", "running"))
    assert trace.encode(trace.Start("c", "1", "full", engine.settings, taken)) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", ("j line 3", "not JSON")),
        (b'{"v":2}', ("j line 3", "version 2")),
        (b"[]", ("j line 3", "object")),
        (b'{"v":1,"now":1,"wall":2,"event":{"Tick":{}}}', ("j line 3", "line.actions", "missing")),
        (b'{"v":1,"now":"1","wall":2,"event":{"Tick":{}},"actions":[]}', ("j line 3", "line.now", "number")),
        (b'{"v":1,"now":1,"wall":2,"event":{"Tock":{}},"actions":[]}', ("j line 3", "line.event", "Tick", "Tock")),
        (b'{"v":1,"now":1,"wall":2,"event":{"Silent":{"host":"h"}},"actions":[]}', ("j line 3", "Silent.network")),
        (
            b'{"v":1,"now":1,"wall":2,"event":{"StoreChanged":{"kind":"Ship","key":[],"value":null}},"actions":[]}',
            ("j line 3", "StoreChanged.kind", "HostAlive"),
        ),
        (
            b'{"v":1,"now":1,"wall":2,"event":{"StoreSnapshot":{"world":{"seen":{"groups":[["h",'
            b'{"host":"h","uuid":"","boot":"","state":""},"AAA"]],"others":[]}}}},"actions":[]}',
            ("j line 3", "world.seen.groups", "base64"),
        ),
        (
            b'{"v":1,"now":1,"wall":2,"event":{"Tick":{}},"actions":[{"Commit":{"token":"t","forget":[["r"]]}}]}',
            ("forget[0]", "list of 2"),
        ),
    ],
)
def test_a_garbled_line_is_refused_with_its_place(text: bytes, words: tuple[str, ...]) -> None:
    with pytest.raises(BadRecord) as e:
        trace.decode("j line 3", text)
    assert all(word in str(e.value) for word in words), str(e.value)
