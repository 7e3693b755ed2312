"""From the store's bytes to the core's values: keys and records decoded, bad ones reported and lost to nothing.

A value that cannot be read is unknown, not absent: the condemnation of a host whose bytes are refused stays one (with no more
than its name), and everything else keeps what was known before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vmha.core import events as ev
from vmha.core.model import (
    Call,
    Command,
    Condemnation,
    HostAlive,
    HostSettings,
    InstanceSeen,
    InstanceSettings,
    Recovery,
    SegmentSettings,
    Voters,
)
from vmha.core.seen import Seen
from vmha.errors import BadRecord
from vmha.ports import Change, Item
from vmha.wire import keys, records

LOG = logging.getLogger(__name__)
SEEN_PARTS = len(keys.instance("host", "uuid").split("/"))
MOST_ALIKE = 50_000

# parts of the key below the prefix -> (kind, position of the identifying parts); "*" stands for one part
_SHAPES: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (("hosts", "*", "alive"), HostAlive, "alive"),
    (("settings", "hosts", "*"), HostSettings, "hosts"),
    (("settings", "segments", "*"), SegmentSettings, "segments"),
    (("settings", "instances", "*"), InstanceSettings, "instances"),
    (("condemned", "*"), Condemnation, "condemned"),
    (("instances", "*", "*"), InstanceSeen, "seen"),
    (("recoveries", "*"), Recovery, "recoveries"),
    (("decisions", "*", "*"), Call, "calls"),
    (("commands", "*", "*"), Command, "commands"),
    (("voters",), Voters, "voters"),
)


def classify(key: str) -> tuple[type, str, tuple[str, ...]] | None:
    """Kind of the record at a key, the World's field it belongs to, and its identity; None for keys without a record."""
    parts = keys.split(key)
    for shape, kind, name in _SHAPES:
        if len(shape) == len(parts) and all(s in ("*", p) for s, p in zip(shape, parts, strict=True)):
            return kind, name, tuple(p for s, p in zip(shape, parts, strict=True) if s == "*")
    return None


def decode(kind: type, item: Item) -> Any:
    """The value of a record.  BadRecord."""
    outside = {Condemnation: {"revision": item.created}, Voters: {"revision": item.modified}}.get(kind, {})
    return records.decode(kind, item.key, item.value, **outside)


def _uuids(item: Item) -> tuple[str, ...]:
    found = records.parse(item.key, item.value).get("uuids")
    if not isinstance(found, list) or not all(isinstance(u, str) for u in found):
        raise BadRecord(f"{item.key}: field uuids must be a list of text: correct the record")
    return tuple(found)


def disarmed(item: Item | None) -> bool:
    """The global switch: armed when nothing is written; a value that cannot be read counts as disarmed."""
    if item is None:
        return False
    try:
        return bool(records.parse(item.key, item.value).get("disarmed", False))
    except BadRecord as e:
        LOG.error("%s; vmha acts as disarmed until then", e)
        return True


def acknowledgement(item: Item) -> ev.Acked | None:
    """What the arbiter of the key has applied; None where that cannot be read."""
    try:
        found = records.parse(item.key, item.value)
        lists = (found.get("voters"), found.get("condemned"))
        if not all(type(revision) is int for revision in lists):
            raise BadRecord(f"{item.key}: fields voters and condemned must be revisions: delete the key")
    except BadRecord as e:
        LOG.error("%s", e)
        return None
    return ev.Acked(item.key.removeprefix(keys.ACKNOWLEDGED), "", found["voters"], found["condemned"], 0.0)


class SeenPages:
    """What agents saw of their domains, taken page by page into a small table; all other keys are left to the snapshot.

    Records that differ in nothing but their uuid are decoded once.
    """

    def __init__(self) -> None:
        self.seen = Seen()
        self.unreadable: list[str] = []
        self._decoded: dict[tuple[str, bytes], InstanceSeen] = {}

    def begin(self) -> None:
        self.seen, self.unreadable, self._decoded = Seen(), [], {}

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        return [item for item in items if not self._is_seen(item)]

    def _is_seen(self, item: Item) -> bool:
        """Whether the record is such a one, and taken."""
        parts = item.key.split("/")
        if not item.key.startswith(keys.INSTANCES) or len(parts) != SEEN_PARTS:
            return False
        host, uuid = parts[-2:]
        alike = (host, item.value.replace(uuid.encode(), b"", 1))
        found = self._decoded.get(alike)
        if found is None:
            try:
                found = decode(InstanceSeen, item)
            except BadRecord as e:
                LOG.error("%s", e)
                self.unreadable.append(str(e))
                return True
            if len(self._decoded) < MOST_ALIKE:
                self._decoded[alike] = replace(found, uuid="")
        self.seen.put(host, uuid, found)
        return True

    def hand_over(self) -> Seen:
        """The table; it belongs to the taker from now on."""
        found = self.seen
        self.begin()
        return found


def world(items: Mapping[str, Item], revision: int) -> ev.World:
    """Everything, decoded."""
    fields: dict[str, dict[Any, Any]] = {name: {} for _, _, name in _SHAPES}
    unprotected: dict[str, tuple[str, ...]] = {}
    unreadable = []
    for key, item in items.items():
        try:
            shape = classify(key)
            if shape is not None:
                fields[shape[1]][_identity(shape[2])] = decode(shape[0], item)
            elif key.startswith(keys.SETTINGS + "unprotected/"):
                unprotected[key.rpartition("/")[2]] = _uuids(item)
        except BadRecord as e:
            LOG.error("%s", e)
            unreadable.append(str(e))
            if key.startswith(keys.CONDEMNED):
                fields["condemned"][key.rpartition("/")[2]] = _bare(key, item)
    switch = disarmed(items.get(keys.switches()))
    voters = fields.pop("voters").get((), None)
    return ev.World(
        **fields,
        voters=voters,
        disarmed=switch,
        unprotected=unprotected,
        unreadable=tuple(unreadable),
        revision=revision,
    )


def _identity(parts: tuple[str, ...]) -> Any:
    return parts[0] if len(parts) == 1 else parts


def _bare(key: str, item: Item) -> Condemnation:
    """A condemnation of which only the host and the revision are known."""
    return Condemnation(
        key.rpartition("/")[2], "", "unreadable", "its record cannot be read", 0.0, revision=item.created
    )


def changes(told: Iterable[Change]) -> list[ev.Event]:
    """The events of a batch of changes, in order; a record that cannot be read changes nothing and is reported."""
    found: list[ev.Event] = []
    for change in told:
        if change.key == keys.switches():
            found.append(ev.Disarm(disarmed(change.item)))
            continue
        if change.key.startswith(keys.ACKNOWLEDGED):
            acked = acknowledgement(change.item) if change.item is not None else None
            found += [acked] if acked is not None else []
            continue
        try:
            shape = classify(change.key)
            if shape is not None:
                value = decode(shape[0], change.item) if change.item is not None else None
                found.append(ev.StoreChanged(shape[0], shape[2], value, change.revision))
        except BadRecord as e:
            LOG.error("%s; what was known before stays in force", e)
            if change.item is not None and change.key.startswith(keys.CONDEMNED):
                bare = _bare(change.key, change.item)
                found.append(ev.StoreChanged(Condemnation, (bare.host,), bare, change.revision))
    return found
