"""Writes the leader's records, in order, in transactions that compare the epoch.

One thread, one queue: a later record of a recovery never overtakes an earlier one.  A write without an answer is repeated (the same
bytes again do no harm) until it is answered, refused or the leadership is over; only a decision that may be stale later
(``once``) is tried a single time, its unknown outcome told.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable

from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.model import (
    Answer,
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
from vmha.errors import LeadershipLost, StoreConflict, StoreUnavailable, VmhaError
from vmha.ports import Store
from vmha.wire import keys, records

LOG = logging.getLogger(__name__)
Then = Callable[[VmhaError | None], None]
PAUSE = 0.2  # seconds between two tries of a write without an answer


def _nothing(error: VmhaError | None) -> None:
    """Nobody waits for it."""


def key_of(value: ev.Stored) -> str:
    """The key at which a record is written."""
    match value:
        case HostAlive(host=host):
            return keys.alive(host)
        case HostSettings(host=host):
            return keys.host_settings(host)
        case SegmentSettings(name=name):
            return keys.segment_settings(name)
        case InstanceSettings(uuid=uuid):
            return keys.instance_settings(uuid)
        case Condemnation(host=host):
            return keys.condemned(host)
        case InstanceSeen(host=host, uuid=uuid):
            return keys.instance(host, uuid)
        case Recovery(id=recovery):
            return keys.recovery(recovery)
        case Call(id=call, recovery=recovery):
            return keys.call(recovery, call)
        case Voters():
            return keys.VOTERS
        case Command(id=command, target=target):
            return keys.command(target, command)
        case Answer(target=target):
            return keys.answer(target)


class Journal:
    """The writer.  ``give`` takes its answers as events; ``refused`` tells the last epoch that the store refused."""

    def __init__(self, store: Store, give: Callable[[ev.Event], None]) -> None:
        self._store = store
        self._give = give
        self.refused = 0
        self._queue: queue.SimpleQueue[tuple[int, act.Commit | act.StartCall, Then] | None] = queue.SimpleQueue()
        self._epoch = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._stopping = threading.Event()
        self._thread.start()

    def lead(self, epoch: int) -> None:
        """From now on only this epoch's records are written; 0: none."""
        self._epoch = epoch

    def commit(self, epoch: int, action: act.Commit) -> None:
        """Queue one transaction."""
        self._queue.put((epoch, action, _nothing))

    def commit_call(self, epoch: int, action: act.StartCall, then: Then) -> None:
        """Write the record of a call, once; ``then`` is called with the error, None when it is written.

        With a recovery it takes its turn in the queue, so that no record of the recovery is overtaken; else it is written here and now.
        """
        if action.recovery is not None:
            self._queue.put((epoch, action, then))
        else:
            then(self._try_call(epoch, action))

    def _try_call(self, epoch: int, action: act.StartCall) -> VmhaError | None:
        """The error that kept the record from being written for sure; whatever it was, the call is not made."""
        try:
            puts = {key_of(action.call): records.encode(action.call)}
            if action.recovery is not None:
                puts[key_of(action.recovery)] = records.encode(action.recovery)
            self._store.commit(puts, epoch=epoch)
        except LeadershipLost as e:
            self.refused = max(self.refused, epoch)
            return e
        except VmhaError as e:
            return e
        return None

    def close(self) -> None:
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (queued := self._queue.get()) is not None:
            epoch, action, then = queued
            try:
                if isinstance(action, act.StartCall):
                    then(self._try_call(epoch, action))
                else:
                    self._write(epoch, action)
            except Exception:
                LOG.exception("the journal could not write %s", action)
                if isinstance(action, act.Commit):
                    self._give(ev.NotCommitted(action.token, False, "an error inside vmha, see the log"))

    def _write(self, epoch: int, action: act.Commit) -> None:
        puts, deletes, expect = transaction(action)
        while epoch == self._epoch and not self._stopping.is_set():
            try:
                revision = self._store.commit(puts, deletes, epoch=epoch, expect=expect)
            except LeadershipLost:
                self.refused = max(self.refused, epoch)
                return
            except StoreConflict as e:
                self._give(ev.NotCommitted(action.token, True, str(e)))
                return
            except StoreUnavailable as e:
                if action.once:
                    self._give(ev.NotCommitted(action.token, False, str(e)))
                    return
                LOG.warning("%s is not written yet: %s", action.token, e)
                self._stopping.wait(PAUSE)
            else:
                self._give(ev.Committed(action.token, revision))
                return


def transaction(action: act.Commit) -> tuple[dict[str, bytes], list[str], dict[str, int]]:
    """Puts, deletes and expectations of a Commit."""
    puts = {key_of(value): records.encode(value) for value in action.puts}
    if action.unprotected is not None:
        host, uuids = action.unprotected
        puts[keys.unprotected(host)] = json.dumps({"v": records.VERSION, "uuids": list(uuids)}).encode()
    if action.disarmed is not None:
        puts[keys.switches()] = json.dumps({"v": records.VERSION, "disarmed": action.disarmed}).encode()
    deletes = [keys.call(r, c) if c else keys.recovery(r) for r, c in action.forget]
    deletes += [keys.command(target, command) for target, command in action.commands]
    if action.release:
        deletes.append(keys.condemned(action.release))
    expect = {keys.condemned(action.fresh): 0} if action.fresh else {}
    return puts, deletes, expect
