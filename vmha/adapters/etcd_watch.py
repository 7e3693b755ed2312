"""The watched cache of a prefix: snapshot, then every change in order, over any loss; and how fresh it surely is.

What is proven, and by what.  etcd's progress notifications come from the one member that serves the stream: they prove that it has
delivered everything *it* has applied.  A member cut off from its majority, or stopped from applying, goes on sending them (its
stream is cancelled only after three election time-outs without a leader, and only because we ask with ``hasleader``).
So freshness is proven otherwise: a linearizable request of this process, sent at time t, told the store's revision R; once the
stream has delivered everything up to R, the watch held at least all that was written before t.  ``fresh_at()`` is the
newest such t.  ``Probes`` asks when nothing else did within ``probe_every``.

etcd must run with ``--experimental-watch-progress-notify-interval=1s``: with 3.4's ten minutes a quiet prefix is silent
for longer than ``silence`` and the watch starts over again and again, saying so.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

import requests
import urllib3

from vmha.adapters.etcd_gateway import Endpoint, Gateway
from vmha.adapters.etcd_stream import Frames, Message, StreamBroken, coded, message, prefix_end
from vmha.errors import StoreUnavailable
from vmha.ports import Change, Clock, Sink, Snapshot

LOG = logging.getLogger(__name__)
PROGRESS_FLAG = "--experimental-watch-progress-notify-interval=1s"
LIST_TIMEOUT = 60.0  # for all pages; each page has its own, shorter one
READ_SIZE = 1 << 16
RETRY_PAUSE = 0.1  # seconds; doubled with every failure in a row up to LONGEST_PAUSE
LONGEST_PAUSE = 2.0
LIVED = 1.0  # a stream that held this long was not a failure to connect
HISTORY = 64  # answers remembered, at least SPACING apart
SPACING = 0.1
Lister = Callable[[str, float], tuple[float, Snapshot]]


class Probes:
    """Revisions that linearizable answers told, with the time each was asked; asks by itself when nothing else does."""

    def __init__(self, clock: Clock, probe: Callable[[str], None], every: float) -> None:
        self.every = every
        self._clock = clock
        self._probe = probe
        self._lock = threading.Lock()
        self._known: deque[tuple[float, int]] = deque(maxlen=HISTORY)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def observed(self, sent: float, revision: int) -> None:
        """A linearizable request sent at ``sent`` was answered at ``revision``."""
        with self._lock:
            if not self._known or sent >= self._known[-1][0] + SPACING:
                self._known.append((sent, revision))

    def proven(self, seen: int) -> float:
        """The newest time up to which one who has seen revision ``seen`` surely has seen everything; 0 if none."""
        with self._lock:
            return max((sent for sent, revision in self._known if revision <= seen), default=0.0)

    def start(self, key: str) -> None:
        """Ask about ``key`` (one that our account may read) from now on; once is enough."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(key,), name="etcd-probe", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _idle(self) -> float:
        with self._lock:
            return self._clock.now() - self._known[-1][0] if self._known else self.every

    def _run(self, key: str) -> None:
        while not self._stop.wait(max(self.every - self._idle(), SPACING)):
            if self._idle() < self.every:
                continue
            try:
                self._probe(key)
            except StoreUnavailable as e:
                LOG.debug("etcd's revision is not known now: %s", e)
            except Exception:
                LOG.exception("the probe of etcd's revision failed")


class EtcdWatch:
    """Implements ``vmha.ports.Watch``; made by ``EtcdStore.watch``.  One thread calls the sink, never two at once.

    ``silence``: seconds without a message after which the stream is given up; twice that without a proof of freshness does
    the same, whatever the stream sends.
    """

    def __init__(
        self, gateway: Gateway, clock: Clock, probes: Probes, lister: Lister, prefix: str, sink: Sink, silence: float
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._probes = probes
        self._list = lister
        self._prefix = prefix
        self._sink = sink
        self._silence = silence
        self._seen = 0
        self._fresh = 0.0
        self._listed = 0.0  # when the last listing ended
        self._failures = 0  # in a row
        self._ready = True  # so that a first failure is told
        self._stopped = threading.Event()
        self._calling = threading.RLock()
        self._response: requests.Response | None = None
        self._member: Endpoint | None = None
        self._thread = threading.Thread(target=self._run, name=f"etcd-watch {prefix}", daemon=True)
        self._thread.start()

    @property
    def member(self) -> Endpoint | None:
        """The member whose stream is read now; None between two."""
        return self._member

    def fresh_at(self) -> float:
        """Clock time at which everything written before had surely been told to the sink; 0 before the first snapshot."""
        self._fresh = max(self._fresh, self._probes.proven(self._seen)) if self._seen else self._fresh
        return self._fresh

    def stop(self) -> None:
        """The sink is not called any more once this has returned (it may be called by the sink itself)."""
        self._stopped.set()
        with self._calling:
            response = self._response
        if response is not None:
            _wake(response)

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                began = self._clock.now()
                try:
                    self._follow(self._begin())
                except (StoreUnavailable, StreamBroken) as e:
                    self._doubt(str(e))
                self._pause(began)
        except Exception as e:
            if not self._stopped.is_set():
                LOG.exception("the watch of %s failed", self._prefix)
                self._doubt(f"the watch of {self._prefix} has ended by a fault of vmha ({e}): restart this process")
        finally:
            self._gateway.disconnect()

    def _pause(self, began: float) -> None:
        """After a stream that lived: none.  After failures in a row: longer each time, so that listing is no load."""
        self._failures = 0 if self._clock.now() - began > LIVED else self._failures + 1
        if self._failures:
            self._stopped.wait(min(RETRY_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE))

    def _begin(self) -> int:
        """Lists and tells the snapshot; its revision."""
        sent, snapshot = self._list(self._prefix, LIST_TIMEOUT)
        with self._calling:
            if not self._stopped.is_set():
                self._sink.snapshot(snapshot)
                self._ready = True
        self._seen = snapshot.revision
        self._fresh, self._listed = max(self._fresh, sent), self._clock.now()
        return snapshot.revision

    def _follow(self, revision: int) -> None:
        """Streams and tells changes after ``revision``; returns only when stopped, else raises what ended the stream."""
        index = self._gateway.first
        question = {
            "create_request": {
                "key": coded(self._prefix),
                "range_end": coded(prefix_end(self._prefix)),
                "start_revision": revision + 1,
                "progress_notify": True,
                "fragment": True,
            }
        }
        try:
            with self._gateway.open_stream(index, "/watch", question, self._silence, self._silence) as response:
                self._member = self._gateway.endpoint(index)
                self._read(response)
        except urllib3.exceptions.ReadTimeoutError:
            reason = f"no message for {self._silence:g} s: stopped or cut off, or started without {PROGRESS_FLAG}"
        except (StoreUnavailable, StreamBroken, urllib3.exceptions.HTTPError, requests.RequestException, OSError) as e:
            reason = str(e) or type(e).__name__
        else:
            return
        finally:
            self._member = None
        if not self._stopped.is_set():
            self._gateway.blame(index)
            raise StreamBroken(f"watch of {self._prefix} at {self._gateway.endpoint(index)}: {reason}")

    def _read(self, response: requests.Response) -> None:
        with self._calling:
            self._response = response
        frames = Frames()
        held: list[Change] = []
        for chunk in response.raw.stream(READ_SIZE, decode_content=False):
            if self._stopped.is_set():
                return
            for frame in frames.feed(chunk):
                self._take(message(frame), held)
            self._check_freshness()
        if not self._stopped.is_set():
            raise StreamBroken("the member ended the stream")

    def _take(self, got: Message, held: list[Change]) -> None:
        """Tells the changes of a whole revision; those of a fragment are held until its last part is here."""
        if got.changes and got.changes[0].revision < self._seen:
            raise StreamBroken(f"revision {got.changes[0].revision} came after {self._seen}")
        held.extend(got.changes)
        if got.partial:
            return
        if held:
            with self._calling:
                if not self._stopped.is_set():
                    self._sink.changes(tuple(held))
            held.clear()
        self._seen = max(self._seen, got.seen)

    def _check_freshness(self) -> None:
        age = self._clock.now() - max(self.fresh_at(), self._listed)  # a long listing is no fault of the stream
        if age > 2 * self._silence + self._probes.every:
            raise StreamBroken(
                f"for {age:.1f} s nothing proves that the stream is not behind (it stands at revision {self._seen})"
            )

    def _doubt(self, reason: str) -> None:
        with self._calling:
            if self._ready and not self._stopped.is_set():
                LOG.info("%s: listing again", reason)
                self._ready = False
                self._sink.not_ready(reason)


def _wake(response: requests.Response) -> None:
    """Ends the other thread's wait for bytes (urllib3 >= 2.3; with older ones it ends by its time-out)."""
    shutdown = getattr(response.raw, "shutdown", None)
    if shutdown is not None:
        try:
            shutdown()
        except (OSError, ValueError) as e:  # it has just ended by itself
            LOG.debug("stream already closed: %s", e)
