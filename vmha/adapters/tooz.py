"""Membership and locks on any backend of tooz, for clouds that run one already.

Run and tested here: ``file://DIRECTORY`` (one machine) and ``etcd3+http://HOST:PORT`` (one endpoint).  Documented only, not run:
``redis://`` and ``zookeeper://`` (``kazoo://``) behave as tooz's compatibility page says; a lock there is taken as held only
while the driver's own heartbeat or ownership check says so.

Hazards of tooz's etcd driver (drivers/etcd3gw.py, 9.1), and what is done about each:

* after its lease has expired its heartbeat takes a new one without joining again: after every heartbeat our membership is read back and,
  where missing, joined again;
* a restart inside the TTL gets MemberAlreadyExist, and the key then dies with the old lease: leave first, then join;
* a lost lock still reads as acquired: ``held`` asks its lease, and counts from the time of asking;
* every failed try at a lock leaves a lease behind: it is revoked;
* its time-outs are 30 s: give ``?timeout=3&membership_timeout=9&lock_timeout=9`` in the URL.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

import requests

from vmha.adapters.etcd_gateway import Etcd3Exception  # first: it keeps eventlet out of the process
from vmha.errors import BadConfig, StoreConflict, StoreUnavailable
from vmha.wire.keys import part

import tooz  # isort: skip
from tooz import coordination  # isort: skip

LOG = logging.getLogger(__name__)
FAILURES = (tooz.ToozError, Etcd3Exception, requests.RequestException, FutureTimeout, OSError)
ANSWER = 10.0  # seconds for one answer of the backend
LOCK_PAUSE = 0.2  # seconds between tries at a lock: tooz has no way to be told
JOIN_TRIES = 3
T = TypeVar("T")


def _asked(what: str, question: Callable[[], T]) -> T:
    """The answer, with every failure of tooz and its drivers translated to StoreUnavailable."""
    try:
        return question()
    except FAILURES as e:
        raise StoreUnavailable(
            f"{what}: the coordination backend did not do it ({type(e).__name__}: {e}): nothing is known; ask again"
        ) from None


class ToozCoordination:
    """Implements ``vmha.ports.Coordination`` at ``url`` as ``member_id``.

    BadConfig: no such driver, or its settings are wrong.  StoreUnavailable: the backend does not answer.
    """

    def __init__(self, url: str, member_id: str) -> None:
        self._url = url
        self._member_id = part(member_id)
        self._guard = threading.RLock()
        self._coordinators: dict[str, Any] = {}
        self._memberships: list[ToozMembership] = []
        self._locks: list[ToozLock] = []
        self._stop = threading.Event()
        self.coordinator(self._member_id)
        self._thread = threading.Thread(target=self._run, name="tooz-heartbeat", daemon=True)
        self._thread.start()

    def coordinator(self, member: str) -> Any:
        """tooz's coordinator of one member name: it knows only one."""
        with self._guard:
            if member not in self._coordinators:
                self._coordinators[member] = self._start(member)
            return self._coordinators[member]

    def _start(self, member: str) -> Any:
        try:
            made = coordination.get_coordinator(self._url, member.encode())
        except (
            RuntimeError,
            ImportError,
            ValueError,
            TypeError,
            tooz.ToozError,
        ) as e:  # stevedore's NoMatches is a RuntimeError
            raise BadConfig(f"coordination URL {self._url!r}: {e}: correct it or install the driver's client") from None
        _asked("connecting", made.start)
        return made

    def membership(self, group: str) -> ToozMembership:
        made = ToozMembership(self, part(group))
        with self._guard:
            self._memberships.append(made)
        return made

    def lock(self, name: str) -> ToozLock:
        made = ToozLock(self.coordinator(self._member_id), self._url, part(name))
        with self._guard:
            self._locks.append(made)
        return made

    def close(self) -> None:
        """Leave all groups, release all locks, end the heartbeat.  Never raises."""
        self._stop.set()
        self._thread.join(2 * ANSWER)
        for end in [*(lock.release for lock in self._locks), *(m.leave for m in self._memberships)]:
            _quietly(end)
        for made in self._coordinators.values():
            _quietly(made.stop)

    def _run(self) -> None:
        pause = 1.0
        while not self._stop.wait(pause):
            try:
                pause = self._beat()
            except StoreUnavailable as e:
                LOG.warning("%s", e)
            except Exception:
                LOG.exception("the heartbeat of the coordination backend failed")

    def _beat(self) -> float:
        """One heartbeat; seconds until the next: a fifth of what the driver says it may take at most."""
        with self._guard:
            coordinators, memberships = list(self._coordinators.values()), list(self._memberships)
            locks = list(self._locks)
        longest = min(float(_asked("heartbeat", c.heartbeat)) for c in coordinators)
        for membership in memberships:
            membership.read_back()
        for lock in locks:
            lock.prove()
        return max(longest / 5, 0.2)


def _quietly(end: Callable[[], object]) -> None:
    try:
        end()
    except (StoreUnavailable, *FAILURES) as e:
        LOG.info("the coordination backend will notice by itself: %s", e)


class ToozMembership:
    """Implements ``vmha.ports.Membership`` for one group; one member of it at a time."""

    def __init__(self, owner: ToozCoordination, group: str) -> None:
        self._owner = owner
        self._name = group
        self._group = group.encode()
        self._guard = threading.Lock()  # the heartbeat thread joins again
        self._member: str | None = None
        self._value = b""

    def join(self, member: str, value: bytes) -> None:
        """Join; an own earlier membership is taken over.  StoreUnavailable."""
        with self._guard:
            self._member, self._value = part(member), value
            self._join()

    def _join(self) -> None:
        coordinator = self._owner.coordinator(self._member or "")
        _asked(f"creating group {self._name}", lambda: _tolerant(coordinator.create_group(self._group), _EXISTS))
        for _ in range(JOIN_TRIES):
            try:
                coordinator.join_group(self._group, self._value).get(timeout=ANSWER)
                return
            except coordination.MemberAlreadyExist:
                _asked(f"leaving {self._name}", lambda: _tolerant(coordinator.leave_group(self._group), _NOT_JOINED))
            except FAILURES as e:
                raise self._unknown("joining", e) from None
        raise StoreUnavailable(
            f"{self._member} is in {self._name} again after each leave: does another process use its name?"
        )

    def update(self, value: bytes) -> None:
        """Another value; where the driver cannot (file), by leaving and joining.

        StoreUnavailable; it will still be written by a later heartbeat.
        """
        with self._guard:
            if self._member is None:
                raise StoreConflict("not a member: join first")
            self._value = value
            self._rewrite()

    def leave(self) -> None:
        """Gone at once.  StoreUnavailable."""
        with self._guard:
            member, self._member = self._member, None
            if member is not None:
                coordinator = self._owner.coordinator(member)
                _asked(f"leaving {self._name}", lambda: _tolerant(coordinator.leave_group(self._group), _NOT_JOINED))

    def members(self) -> Mapping[str, bytes]:
        """All members now.  StoreUnavailable, never a part; a group nobody made has none."""
        coordinator = self._owner.coordinator(self._owner._member_id)
        try:
            names = coordinator.get_members(self._group).get(timeout=ANSWER)
        except coordination.GroupNotCreated:
            return {}
        except FAILURES as e:
            raise self._unknown("listing", e) from None
        found: dict[str, bytes] = {}
        for name in names:
            try:
                found[_text(name)] = coordinator.get_member_capabilities(self._group, name).get(timeout=ANSWER)
            except (coordination.MemberNotJoined, coordination.GroupNotCreated):
                continue  # left between the two questions
            except FAILURES as e:
                raise self._unknown("listing", e) from None
        return found

    def read_back(self) -> None:
        """Join again where a heartbeat came too late, write again what was not answered (for the heartbeat thread).

        StoreUnavailable.
        """
        with self._guard:
            if self._member is None:
                return
            coordinator = self._owner.coordinator(self._member)
            try:
                value = coordinator.get_member_capabilities(self._group, self._member.encode()).get(timeout=ANSWER)
            except _NOT_JOINED:
                LOG.warning("%s had fallen out of %s: joining again", self._member, self._name)
                self._join()
                return
            except FAILURES as e:
                raise self._unknown("reading back", e) from None
            if value != self._value:
                self._rewrite()

    def _rewrite(self) -> None:
        coordinator = self._owner.coordinator(self._member or "")
        try:
            coordinator.update_capabilities(self._group, self._value).get(timeout=ANSWER)
        except (tooz.NotImplemented, coordination.MemberNotJoined):
            self._join()
        except FAILURES as e:
            raise self._unknown("updating", e) from None

    def _unknown(self, doing: str, error: BaseException) -> StoreUnavailable:
        return StoreUnavailable(
            f"{doing} in {self._name}: {type(error).__name__}: {error}: nothing is known; ask again"
        )


_EXISTS = (coordination.GroupAlreadyExist,)
_NOT_JOINED = (coordination.MemberNotJoined, coordination.GroupNotCreated)


def _tolerant(result: Any, tolerated: tuple[type[Exception], ...]) -> None:
    try:
        result.get(timeout=ANSWER)
    except tolerated:
        return


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


class ToozLock:
    """Implements ``vmha.ports.Lock``; not re-entrant, for one thread.  ``held`` is proven again by every heartbeat."""

    def __init__(self, coordinator: Any, url: str, name: str) -> None:
        self._coordinator = coordinator
        self._local = url.startswith("file:")  # the kernel holds it as long as this process lives
        self._name = name
        self._guard = threading.Lock()
        self._lock: Any = None
        self._proven_until = 0.0  # of time.monotonic

    def acquire(self, timeout: float) -> bool:
        """Ours within ``timeout`` seconds?  True as well when it is still held.  StoreUnavailable."""
        if self.held():
            return True
        deadline = time.monotonic() + timeout
        while not self._try():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(LOCK_PAUSE, left))
        return True

    def _try(self) -> bool:
        lock = self._coordinator.get_lock(f"vmha-lock-{self._name}".encode())
        began = time.monotonic()
        taken = False
        try:
            taken = _asked(f"lock {self._name}", lambda: bool(lock.acquire(blocking=False)))
        finally:
            if not taken:
                _revoke(lock)
        if taken:
            with self._guard:
                self._lock = lock
                self._proven_until = began + self._lasts()
        return taken

    def _lasts(self) -> float:
        return float(
            getattr(self._coordinator, "lock_timeout", 0) or getattr(self._coordinator, "timeout", 0) or ANSWER
        )

    def held(self) -> bool:
        with self._guard:
            if self._lock is None or not getattr(self._lock, "acquired", True):
                return False
            return self._local or time.monotonic() < self._proven_until

    def prove(self) -> None:
        """Ask the backend whether it is still ours (for the heartbeat thread).  StoreUnavailable: the proof runs out."""
        with self._guard:
            lock = self._lock
        if lock is None or self._local:
            return
        began = time.monotonic()
        left = _asked(f"lock {self._name}", lambda: _seconds_left(lock, self._lasts()))
        with self._guard:
            if self._lock is lock and began < self._proven_until:
                self._proven_until = began + left if left > 0 else 0.0

    def release(self) -> None:
        """Given back at once, or when its time runs out (StoreUnavailable)."""
        with self._guard:
            lock, self._lock = self._lock, None
        if lock is not None:
            try:
                _asked(f"lock {self._name}", lock.release)
            finally:
                _revoke(lock)


def _seconds_left(lock: Any, lasts: float) -> float:
    """How long the lock is ours from now, as the backend says; 0 when it is not.

    The etcd driver's own heartbeat ignores what its lease answers, so the lease (``_lease``, no public name) is asked.
    """
    lease = getattr(lock, "_lease", None)
    if lease is not None:
        return float(max(lease.refresh(), 0))
    return lasts if lock.heartbeat() else 0.0


def _revoke(lock: Any) -> None:
    """End the lease that the etcd driver leaves behind after a failed try or a release."""
    lease = getattr(lock, "_lease", None)
    if lease is not None:
        try:
            lease.revoke()
        except FAILURES as e:
            LOG.debug("a lock's lease ends by itself: %s", e)
