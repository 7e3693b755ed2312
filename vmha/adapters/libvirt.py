"""libvirt: implements ``vmha.ports.Hypervisor``.

libvirt's calls block for as long as libvirtd likes, so they run in a few threads of ours and are waited for with a deadline.  The
connection is kept by a thread that opens it again for ever and says "list again" after each gap.  Events come from libvirt's own
event loop, one for the process, and only enqueue.

Seen with libvirt 9.0.0 (tests/functional/test_libvirt.py): a domain is in the active list (as "paused") from before its ``prepare`` hook
runs; a listing made meanwhile *waits* until the hook has ended.  So a list that came back has left out no starting domain, and a
list that does not come back is HypervisorUnavailable, never "none".
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from vmha.errors import HypervisorUnavailable
from vmha.ports import Domain

LOG = logging.getLogger(__name__)

T = TypeVar("T")
THREADS = 6  # calls that may hang at the same time; libvirtd itself takes 5 of one client (max_client_requests)
DESTROY = 20.0  # seconds: libvirt gives a QEMU 10 from SIGTERM to SIGKILL, and a stopped one uses them
KEEPALIVE = (5, 3)  # seconds between, unanswered ones allowed: libvirt then closes the connection itself
RETRY = (0.2, 5.0)  # seconds between attempts to connect: first, longest

RUNNING, PAUSED, SHUTOFF, CRASHED = "running", "paused", "shutoff", "crashed"

# virDomainState to our states; "shutdown" is a domain whose guest has shut down but whose QEMU is still there
STATES = {
    libvirt.VIR_DOMAIN_RUNNING: RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PAUSED,
}
# words of virDomainRunningReason, ...PausedReason, ...ShutoffReason by number
REASONS = {
    RUNNING: ("", "booted", "migrated", "restored", "snapshot", "unpaused", "migration canceled", "save canceled",
              "wakeup", "crashed", "postcopy", "postcopy failed"),
    PAUSED: ("", "user", "migration", "save", "dump", "I/O error", "watchdog", "snapshot", "shutting down", "snapshot",
             "crashed", "starting up", "postcopy", "postcopy failed", "API error"),
    SHUTOFF: ("", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "snapshot", "daemon"),
    CRASHED: ("", "panicked"),
}  # fmt: skip
# lifecycle event to state, and the words of its details, chosen to be those of REASONS where they mean the same
EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: (RUNNING, ("booted", "migrated", "restored", "snapshot", "wakeup")),
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: (
        PAUSED,
        ("user", "migration", "I/O error", "watchdog", "restored", "snapshot", "API error", "postcopy", "postcopy failed"),
    ),
    libvirt.VIR_DOMAIN_EVENT_RESUMED: (RUNNING, ("unpaused", "migrated", "snapshot", "postcopy", "postcopy failed")),
    libvirt.VIR_DOMAIN_EVENT_STOPPED: (
        SHUTOFF,
        # QEMU gone by itself is FAILED in the event and "crashed" in the state
        ("shutdown", "destroyed", "crashed", "migrated", "saved", "crashed", "snapshot"),
    ),
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: (PAUSED, ("user", "user")),
    libvirt.VIR_DOMAIN_EVENT_CRASHED: (CRASHED, ("panicked", "crashloaded")),
}  # fmt: skip
GONE = frozenset({libvirt.VIR_ERR_NO_DOMAIN})
UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class _Call:
    """One call: done, abandoned by its caller, or neither."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done = threading.Event()
        self.abandoned = False
        self.result: Any = None
        self.error: Exception | None = None


class Calls:
    """Runs blocking calls in ``THREADS`` threads; a caller waits for its deadline and no longer."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        for number in range(THREADS):
            threading.Thread(target=self._run, name=f"libvirt-call-{number}", daemon=True).start()

    def call(self, what: str, work: Callable[[], T], timeout: float) -> T:
        """``work()``'s result; what it raised; HypervisorUnavailable after ``timeout``, it may then still happen."""
        call = _Call(work)
        self._queue.put(call)
        if not call.done.wait(timeout):
            call.abandoned = True
            raise HypervisorUnavailable(f"libvirt did not answer within {timeout:g} s to: {what}")
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def close(self) -> None:
        for _ in range(THREADS):
            self._queue.put(None)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            if call.abandoned:
                continue
            try:
                call.result = call.work()
            except Exception as e:  # noqa: BLE001  a thread's main; the caller gets it
                call.error = e
            call.done.set()


_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def _start_event_loop() -> None:
    """libvirt's event loop, once for the process; before any connection is opened."""
    global _loop
    with _loop_lock:
        if _loop is None:
            libvirt.registerErrorHandler(lambda _context, _error: None, None)  # else it prints to stderr
            libvirt.virEventRegisterDefaultImpl()
            _loop = threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True)
            _loop.start()


def _run_event_loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as e:
            LOG.error("libvirt's event loop: %s", e)


class LibvirtHypervisor:
    """The libvirt at ``uri``.  Made without waiting: until the connection stands every method raises HypervisorUnavailable.

    ``call_timeout``: seconds that one call may take; ``destroy`` may take ``DESTROY``.
    """

    def __init__(self, uri: str = "qemu:///system", call_timeout: float = 5.0) -> None:
        self._uri = uri
        self._timeout = call_timeout
        self._calls = Calls()
        self._lock = threading.Lock()
        self._connection: Any = None
        self._why = "not connected yet"
        self._changed: Callable[[Domain | None, str], None] = lambda _domain, _uuid: None
        # what the keeper has to do, in order: tell an event, look up a uuid, notice a closed connection, end
        self._orders: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._closing = threading.Event()
        _start_event_loop()
        self._keeper = threading.Thread(target=self._keep, name="libvirt-keeper", daemon=True)
        self._keeper.start()

    # --- the port --------------------------------------------------------------------------------------------------

    def domains(self) -> tuple[Domain, ...]:
        connection = self._connected()
        return self._ask("list the domains", lambda: tuple(_listed(connection)))

    def destroy(self, uuid: str) -> None:
        connection = self._connected()
        self._ask(f"destroy {uuid}", lambda: _destroy(connection, uuid), max(self._timeout, DESTROY))

    def undefine(self, uuid: str) -> None:
        connection = self._connected()
        self._ask(f"undefine {uuid}", lambda: _undefine(connection, uuid))

    def subscribe(self, changed: Callable[[Domain | None, str], None]) -> None:
        self._changed = changed
        if self._connection is not None:
            changed(None, "")

    def version(self) -> str:
        """libvirt's version, "" when it does not answer."""
        try:
            connection = self._connected()
            number = self._ask("version", connection.getLibVersion)
        except HypervisorUnavailable:
            return ""
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    def close(self) -> None:
        self._closing.set()
        self._orders.put(("end", None))
        self._keeper.join(timeout=self._timeout)
        self._calls.close()

    # --- calls -----------------------------------------------------------------------------------------------------

    def _connected(self) -> Any:
        with self._lock:
            if self._connection is None:
                raise HypervisorUnavailable(f"libvirt at {self._uri}: {self._why}")
            return self._connection

    def _ask(self, what: str, work: Callable[[], T], timeout: float = 0.0) -> T:
        try:
            return self._calls.call(what, work, timeout or self._timeout)
        except libvirt.libvirtError as e:
            raise HypervisorUnavailable(f"libvirt at {self._uri} could not {what}: {e}") from None

    # --- the connection --------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        pause = RETRY[0]
        while not self._closing.is_set():
            try:
                connection = self._calls.call("connect", self._open, self._timeout)
            except (HypervisorUnavailable, libvirt.libvirtError) as e:
                self._lost(str(e))
                self._closing.wait(pause)
                pause = min(pause * 2, RETRY[1])
                continue
            pause = RETRY[0]
            with self._lock:
                self._connection = connection
            LOG.info("libvirt at %s: connected", self._uri)
            self._changed(None, "")
            self._serve(connection)
            self._lost("the connection was closed")
            if not self._closing.is_set():
                self._changed(None, "")
            self._forget(connection)

    def _lost(self, why: str) -> None:
        with self._lock:
            said, self._why, self._connection = self._why, why, None
        if said != why and not self._closing.is_set():
            LOG.warning("libvirt at %s: %s; trying again", self._uri, why)

    def _open(self) -> Any:
        connection = libvirt.open(self._uri)
        connection.registerCloseCallback(lambda c, _reason, _opaque: self._orders.put(("closed", c)), None)
        connection.setKeepAlive(*KEEPALIVE)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        return connection

    def _serve(self, connection: Any) -> None:
        """Look up what events did not tell, until the connection is closed."""
        while True:
            order, subject = self._orders.get()
            if order == "end" or (order == "closed" and subject is connection):
                return
            if order == "event":
                self._changed(subject, subject.uuid)
            elif order == "look":
                self._look(connection, subject)

    def _look(self, connection: Any, uuid: str) -> None:
        try:
            domain = self._ask(f"look at {uuid}", lambda: _looked(connection, uuid))
        except HypervisorUnavailable:
            self._changed(None, "")
        else:
            self._changed(domain, uuid)

    def _forget(self, connection: Any) -> None:
        """Close what is left of a connection; it may hang, so nobody waits for it."""
        try:
            self._calls.call("close", connection.close, 1.0)
        except (HypervisorUnavailable, libvirt.libvirtError) as e:
            LOG.debug("libvirt at %s: closing: %s", self._uri, e)

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        """From libvirt's event loop: no call to libvirtd here, and everything in order through the keeper."""
        uuid = domain.UUIDString()
        if event in EVENTS:
            state, reasons = EVENTS[event]
            reason = reasons[detail] if detail < len(reasons) else ""
            self._orders.put(("event", Domain(uuid, domain.name(), state, state != SHUTOFF, reason)))
        if event in (
            libvirt.VIR_DOMAIN_EVENT_DEFINED,
            libvirt.VIR_DOMAIN_EVENT_UNDEFINED,
            libvirt.VIR_DOMAIN_EVENT_STOPPED,  # a transient domain is gone now
        ):
            self._orders.put(("look", uuid))


def _listed(connection: Any) -> list[Domain]:
    found = []
    for domain in connection.listAllDomains(0):
        try:
            found.append(_domain(domain))
        except libvirt.libvirtError as e:
            if e.get_error_code() not in GONE:
                raise
    return found


def _domain(domain: Any) -> Domain:
    number, reason = domain.state(0)
    state = STATES.get(number, RUNNING)  # VIR_DOMAIN_NOSTATE: it is there, take it as running
    words = REASONS[state]
    active = state not in (SHUTOFF, CRASHED) or bool(domain.isActive())
    return Domain(domain.UUIDString(), domain.name(), state, active, words[reason] if reason < len(words) else "")


def _looked(connection: Any, uuid: str) -> Domain | None:
    try:
        return _domain(connection.lookupByUUIDString(uuid))
    except libvirt.libvirtError as e:
        if e.get_error_code() in GONE:
            return None
        raise


def _destroy(connection: Any, uuid: str) -> None:
    try:
        connection.lookupByUUIDString(uuid).destroy()
    except libvirt.libvirtError as e:
        if e.get_error_code() in GONE:
            return
        after = _looked(connection, uuid)
        if after is not None and after.active:
            raise


def _undefine(connection: Any, uuid: str) -> None:
    try:
        connection.lookupByUUIDString(uuid).undefineFlags(UNDEFINE)
    except libvirt.libvirtError as e:
        if e.get_error_code() not in GONE:
            raise
