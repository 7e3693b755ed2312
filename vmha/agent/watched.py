"""What the agent's watches of single keys tell the engine."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmha.core.model import Condemnation
from vmha.errors import BadRecord
from vmha.ports import Change, Item, Snapshot
from vmha.wire import records

LOG = logging.getLogger(__name__)

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CondemnedSeen:
    """The condemnation of this host by its revision, 0 for none; ``undefine``: instances that the leader knows to live elsewhere."""

    revision: int
    undefine: frozenset[str] = frozenset()
    restart_compute: int = 0


@dataclass(frozen=True, slots=True)
class UnprotectedSeen:
    """The leader's list of instances that policy leaves alone."""

    uuids: frozenset[str]


def condemned_seen(item: Item | None) -> CondemnedSeen:
    """The key alone condemns, whatever its bytes say; from those only the list of stale domains is taken."""
    if item is None:
        return CondemnedSeen(0)
    try:
        record = records.decode(Condemnation, item.key, item.value, revision=item.created)
    except BadRecord as e:
        LOG.error("condemned, and no stale domain is undefined: %s", e)
        return CondemnedSeen(item.created)
    return CondemnedSeen(item.created, frozenset(u.lower() for u in record.undefine), record.restart_compute)


def unprotected_seen(item: Item | None) -> UnprotectedSeen | None:
    """No list: everything is protected.  An unreadable one changes nothing (None)."""
    if item is None:
        return UnprotectedSeen(frozenset())
    try:
        uuids = records.parse(item.key, item.value).get("uuids")
        if not isinstance(uuids, list) or not all(isinstance(u, str) and UUID.fullmatch(u) for u in uuids):
            raise BadRecord(f"{item.key}: uuids must be a list of uuids, not {json.dumps(uuids):.60}")
    except BadRecord as e:
        LOG.error("the list of unprotected instances stays as it was: %s", e)
        return None
    return UnprotectedSeen(frozenset(u.lower() for u in uuids))


class KeySink:
    """A watch's sink for the one key ``key`` (a watch is of a prefix, and compute1 is one of compute10)."""

    def __init__(self, key: str, seen: Callable[[Item | None], object | None], post: Callable[[object], None]) -> None:
        self._key = key
        self._seen = seen
        self._post = post

    def snapshot(self, snapshot: Snapshot) -> None:
        self._tell(snapshot.items.get(self._key))

    def changes(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.key == self._key:
                self._tell(change.item)

    def not_ready(self, reason: str) -> None:
        """What was seen stays: losing the store changes nothing by itself."""
        LOG.info("the watch of %s is in doubt: %s", self._key, reason)

    def _tell(self, item: Item | None) -> None:
        event = self._seen(item)
        if event is not None:
            self._post(event)
