"""The store on etcd 3.4 or newer, through its HTTP gateway: implements ``vmha.ports.Store``.

Reads are linearizable.  A transaction is sent to one member; when its answer is lost the outcome is unknown and StoreUnavailable
is raised.  Limits of etcd (operations and bytes of a transaction) are checked before sending, with a clear refusal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from vmha.adapters.etcd_gateway import Compacted, Gateway, TooLarge, access
from vmha.adapters.etcd_lease import EtcdLease, revoke
from vmha.adapters.etcd_stream import coded, item, prefix_end
from vmha.adapters.etcd_watch import EtcdWatch, Probes
from vmha.errors import LeadershipLost, StoreConflict, StoreRefused, StoreUnavailable
from vmha.ports import Clock, Item, Pages, Sink, Snapshot
from vmha.wire.keys import LEADER

MOST_OPERATIONS = 128  # etcd's --max-txn-ops default
MOST_BYTES = 1_500_000  # below etcd's --max-request-bytes default of 1.5 MiB
PAGE_TIMEOUT = 3.0  # seconds for one page of a list
PAGE = 10_000  # keys a list asks for at once: bounds the memory of its JSON (etcd 3.4 walks all the rest for each page)


class BootClock:
    """The machine's clock: seconds of CLOCK_BOOTTIME."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()


class EtcdStore:
    """etcd's members at ``endpoints`` (URLs).  For use by any thread.

    ``silence``: seconds without a message after which a watch changes member.  ``probe_every``: seconds between proofs of
    freshness while a watch runs.  BadConfig when a setting or file is wrong; nothing is asked of etcd yet: see ``check``.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        user: str | None = None,
        password: str | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        clock: Clock | None = None,
        silence: float = 3.0,
        probe_every: float = 1.0,
    ) -> None:
        self._gateway = Gateway(access(endpoints, user, password, ca, cert, key))
        self._clock: Clock = clock or BootClock()
        self._silence = silence
        self._probes = Probes(self._clock, self._probe, probe_every)

    def check(self, timeout: float = 2.0) -> None:
        """Asks every member: BadConfig when a certificate or our account is refused, StoreUnavailable when none answers."""
        self._gateway.check(timeout)

    # --- reads -----------------------------------------------------------------------------------------------------

    def get(self, key: str, timeout: float = 2.0) -> Item | None:
        """Linearizable read of one key; None means absent, surely.  StoreUnavailable."""
        answer = self._range({"key": coded(key)}, timeout)
        found = answer.get("kvs", [])
        return item(found[0]) if found else None

    def list(self, prefix: str, timeout: float = 5.0, *, without: str = "") -> Snapshot:
        """Linearizable read of all keys under a prefix but those under ``without``, at one revision.  StoreUnavailable, never a part."""
        return self._list(prefix, timeout, without=without)[1]

    def _list(
        self, prefix: str, timeout: float, pages: Pages | None = None, without: str = ""
    ) -> tuple[float, Snapshot]:
        """The listing and the time it was asked at: it holds everything written before."""
        begin, end = coded(prefix or "\0"), coded(prefix_end(prefix))
        ranges = [(begin, coded(without)), (coded(prefix_end(without)), end)] if without else [(begin, end)]
        sent = self._clock.now()
        deadline = sent + timeout
        page = PAGE
        while True:
            try:
                if pages is not None:
                    pages.begin()
                return sent, self._pages(prefix, ranges, page, deadline, pages)
            except TooLarge:
                if page == 1:
                    raise
                page = max(page // 8, 1)
            except Compacted:  # between two pages: begin again, with a new revision
                sent = self._clock.now()

    def _pages(
        self, prefix: str, ranges: Sequence[tuple[str, str]], page: int, deadline: float, pages: Pages | None
    ) -> Snapshot:
        """All ranges at the revision of the first answer, page by page."""
        items: dict[str, Item] = {}
        revision, count = 0, 0
        for key, end in ranges:
            more = True
            while more:
                left = deadline - self._clock.now()
                if left <= 0:
                    raise StoreUnavailable(f"listing {prefix} took too long ({count} keys so far): give it more time")
                question = {"key": key, "range_end": end, "limit": page, **({"revision": revision} if revision else {})}
                answer = self._range(question, min(left, PAGE_TIMEOUT))
                revision = revision or int(answer["header"]["revision"])
                found = [item(kv) for kv in answer.get("kvs", ())]
                count += len(found)
                items.update((i.key, i) for i in (found if pages is None else pages.take(found)))
                more = bool(answer.get("more") and found)
                key = coded(found[-1].key + "\0") if more else key
        return Snapshot(revision, items)

    def _range(self, question: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        sent = self._clock.now()
        answer = self._gateway.ask("/kv/range", question, timeout, repeatable=True)
        if "revision" not in question:
            self._probes.observed(sent, _revision(answer))
        return answer

    def _probe(self, key: str) -> None:
        self._range({"key": coded(key), "count_only": True}, 2.0)

    # --- writes ----------------------------------------------------------------------------------------------------

    def commit(
        self,
        puts: Mapping[str, bytes],
        deletes: Sequence[str] = (),
        *,
        epoch: int | None = None,
        expect: Mapping[str, int] | None = None,
        lease: int = 0,
        timeout: float = 2.0,
    ) -> int:
        """One transaction; returns its revision.

        LeadershipLost: ``controller/leader`` was not created at ``epoch``.  StoreConflict: a key of ``expect`` has another modified
        revision (0: it exists).  StoreRefused: too large, not permitted, lease gone.  StoreUnavailable: the outcome is unknown.
        """
        expect = expect or {}
        question = _transaction(puts, deletes, epoch, expect, lease)
        sent = self._clock.now()
        answer = self._gateway.ask("/kv/txn", question, timeout, repeatable=False)
        self._probes.observed(sent, _revision(answer))
        if answer.get("succeeded"):
            return _revision(answer)
        raise _failed(answer, epoch, expect)

    def lease(self, ttl: float, renew_every: float) -> EtcdLease:
        """A new lease, renewed by a thread until revoked or lost.  etcd grants whole seconds and at least about 2.  StoreUnavailable."""
        return EtcdLease(self._gateway, self._clock, ttl, renew_every)

    def revoke(self, lease_id: int) -> None:
        """End any lease by its id (a parent process gives back its dead child's); done when already gone.  StoreUnavailable."""
        revoke(self._gateway, lease_id)

    # --- watch -----------------------------------------------------------------------------------------------------

    def watch(self, prefix: str, sink: Sink, pages: Pages | None = None) -> EtcdWatch:
        """A watched cache of a prefix: snapshot first, then changes for ever, over any endpoint loss or compaction."""
        self._probes.start(prefix)
        lister = partial(self._list, pages=pages)
        return EtcdWatch(self._gateway, self._clock, self._probes, lister, prefix, sink, self._silence)

    def close(self) -> None:
        """Ends what the store itself runs; leases and watches are ended by their owners."""
        self._probes.stop()
        self._gateway.disconnect()


def _revision(answer: Mapping[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _transaction(
    puts: Mapping[str, bytes], deletes: Iterable[str], epoch: int | None, expect: Mapping[str, int], lease: int
) -> dict[str, Any]:
    """The gateway's TxnRequest; its failure branch reads what was compared, so that the caller learns what differed."""
    compare: list[dict[str, Any]] = []
    if epoch is not None:
        compare.append({"key": coded(LEADER), "target": "CREATE", "result": "EQUAL", "create_revision": epoch})
    compare += [
        {"key": coded(k), "target": "MOD", "result": "EQUAL", "mod_revision": revision}
        for k, revision in expect.items()
    ]
    success: list[dict[str, Any]] = [
        {"request_put": {"key": coded(k), "value": coded(v), "lease": lease}} for k, v in puts.items()
    ]
    success += [{"request_delete_range": {"key": coded(k)}} for k in deletes]
    _check_size(puts, deletes, max(len(compare), len(success)))
    failure = [{"request_range": {"key": c["key"]}} for c in compare]
    return {"compare": compare, "success": success, "failure": failure}


def _check_size(puts: Mapping[str, bytes], deletes: Iterable[str], operations: int) -> None:
    if both := set(puts).intersection(deletes):
        raise StoreRefused(f"one transaction both writes and deletes {sorted(both)[0]}: do one of them")
    if operations > MOST_OPERATIONS:
        raise StoreRefused(f"a transaction of {operations} operations, etcd takes {MOST_OPERATIONS}: split it")
    size = sum(len(k) + len(v) for k, v in puts.items())
    if size > MOST_BYTES:
        largest = max(puts, key=lambda k: len(puts[k]))
        raise StoreRefused(
            f"a transaction of {size} bytes, etcd takes {MOST_BYTES} (largest: {largest}, {len(puts[largest])}): split it"
        )


def _failed(answer: Mapping[str, Any], epoch: int | None, expect: Mapping[str, int]) -> LeadershipLost | StoreConflict:
    """What differed, from the failure branch's reads."""
    found = [(r.get("response_range", {}).get("kvs") or [{}])[0] for r in answer.get("responses", [])]
    if epoch is not None:
        leader = found.pop(0)
        created = int(leader.get("create_revision", 0))
        if created != epoch:
            now = f"epoch {created} leads" if created else "nobody leads"
            return LeadershipLost(f"our epoch {epoch} is over, {now}: nothing was written; stop acting")
    for (key, expected), kv in zip(expect.items(), found, strict=False):
        modified = int(kv.get("mod_revision", 0))
        if modified != expected:
            return StoreConflict(
                f"{key} is {f'at revision {modified}' if modified else 'absent'}, expected "
                f"{f'revision {expected}' if expected else 'absent'}: nothing was written; read again"
            )
    return StoreConflict("a compare failed for keys that changed meanwhile: nothing was written; read again")
