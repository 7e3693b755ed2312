"""The lists from which a voter answers, as this host has applied them in this boot (safety.md sections 1 and 2).

What is acknowledged (on every beat) stands in ``run_dir/lists`` before: a restarted agent never knows less than it has told.
Only a listing by the watch, which is a linearizable read, is a beginning; a file of another boot is none.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmha.agent.gate import write
from vmha.core.model import Voters
from vmha.core.selffence import Known, followed, loaded
from vmha.core.voters import lists
from vmha.errors import BadRecord
from vmha.ports import Change, Item, Sink, Snapshot
from vmha.wire import keys, records

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CondemnedListed:
    """Every condemned host, as listed at ``revision``."""

    revision: int
    hosts: frozenset[str]


@dataclass(frozen=True, slots=True)
class CondemnedChanged:
    """Changes after what was told before, in order: revision, host, whether it is condemned now."""

    changes: tuple[tuple[int, str, bool], ...]


@dataclass(frozen=True, slots=True)
class VotersSeen:
    """The record of the voters; None: there is none."""

    voters: Voters | None


def voters_seen(item: Item | None) -> VotersSeen | None:
    """A record that cannot be read changes nothing (None)."""
    if item is None:
        return VotersSeen(None)
    try:
        return VotersSeen(records.decode(Voters, item.key, item.value, revision=item.modified))
    except BadRecord as e:
        LOG.error("the list of voters stays as it was known: %s", e)
        return None


class CondemnedSink:
    """A watch's sink for all condemnations; ``own`` hears the same, of which it takes what is about this host.

    A key alone condemns, whatever its bytes say.
    """

    def __init__(self, own: Sink, post: Callable[[object], None]) -> None:
        self._own = own
        self._post = post

    def snapshot(self, snapshot: Snapshot) -> None:
        self._post(CondemnedListed(snapshot.revision, frozenset(_host(key) for key in snapshot.items)))
        self._own.snapshot(snapshot)

    def changes(self, changes: Sequence[Change]) -> None:
        self._post(CondemnedChanged(tuple((c.revision, _host(c.key), c.item is not None) for c in changes)))
        self._own.changes(changes)

    def not_ready(self, reason: str) -> None:
        self._own.not_ready(reason)


def _host(key: str) -> str:
    return key.removeprefix(keys.CONDEMNED)


class Lists:
    """What this host knows; belongs to the engine's thread."""

    def __init__(self, host: str, run_dir: str, boot: str) -> None:
        self._host, self._boot = host, boot
        self._path = os.path.join(run_dir, "lists")
        self.known: Known | None = None
        self.voters: Voters | None = None
        self._load()

    def take(self, event: CondemnedListed | CondemnedChanged | VotersSeen) -> bool:
        """Apply what a watch told, and keep it; whether anything changed."""
        before = (self.known, self.voters)
        match event:
            case CondemnedListed(revision, hosts):
                self.known = loaded(self.known, revision, hosts)
            case CondemnedChanged(changes):
                self.known = followed(self.known, changes)
            case VotersSeen(voters):
                self.voters = voters
        if (self.known, self.voters) == before:
            return False
        self._save()
        return True

    def acknowledged(self) -> tuple[int, int]:
        """Revisions of the voters' and of the condemned list for the beats; zeros while this host does not vote."""
        voters, known = self.voters, self.known
        if voters is None or known is None or not any(self._host in names for names in lists(voters)):
            return 0, 0
        return voters.revision, known.revision

    def _save(self) -> None:
        kept: dict[str, Any] = {"v": records.VERSION, "boot": self._boot}
        if self.known is not None:
            kept |= {"revision": self.known.revision, "condemned": sorted(self.known.condemned)}
        if self.voters is not None:
            kept |= {"voters": records.encode(self.voters).decode(), "voters_revision": self.voters.revision}
        write(self._path, json.dumps(kept))

    def _load(self) -> None:
        """What an earlier run of this boot knew; a file that cannot be read is none, and what it told stays told."""
        try:
            with open(self._path, "rb") as f:
                kept = records.parse(self._path, f.read())
            if kept["boot"] != self._boot:
                return
            if "revision" in kept:
                self.known = Known(int(kept["revision"]), frozenset(map(str, kept["condemned"])))
            if "voters" in kept:
                voters = records.decode(Voters, self._path, kept["voters"].encode(), revision=0)
                self.voters = replace(voters, revision=int(kept["voters_revision"]))
        except FileNotFoundError:
            return
        except (BadRecord, KeyError, TypeError, ValueError, AttributeError) as e:
            LOG.error("what this host knew of the lists is not readable, they are loaded anew: %s: %s", self._path, e)
