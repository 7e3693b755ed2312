"""The controller's ear: receives beats on UDP, one thread for each socket, and answers unproven sessions with a challenge."""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from vmha.adapters.datagrams import Batch
from vmha.errors import BadConfig
from vmha.ports import Clock
from vmha.wire import beat as wire
from vmha.wire.sessions import Heard, Refused, Sessions, Unproven

LOG = logging.getLogger(__name__)

BUFFER = 16 << 20  # bytes asked of the kernel: a second of 10,000 hosts
BATCH = 256  # datagrams read with one system call
GATHER = (
    0.025  # seconds let pass at the most: one wake-up then serves many beats, and silence is noticed no later than that
)
LOOK = 0.5  # seconds after which an idle thread looks whether it should end
SAY_EVERY = 60.0
SAID_MAX = 10_000


class BeatSink(Protocol):
    """Takes what was heard.  Called from the receiver's threads, thousands of beats a second: it must only note or enqueue."""

    def heard(self, beats: Sequence[Heard], at: float) -> None:
        """Beats of proven sessions, in the order in which they came, all of one network; read at clock time ``at``."""


class BeatReceiver:
    """Receives on every bind until ``close``.

    ``binds``: (network, address, port); port 0 takes a free one, see ``ports``.  Raises BadConfig when an address cannot be bound.
    Nothing that arrives raises: it is counted by reason in ``refusals`` and logged at most once a minute for each host and reason.
    """

    def __init__(
        self, binds: Sequence[tuple[str, str, int]], deployment_key: bytes, clock: Clock, sink: BeatSink
    ) -> None:
        self._sessions = Sessions(deployment_key, os.urandom(32))
        self._lock = threading.Lock()
        self._clock = clock
        self._sink = sink
        self._refusals: Counter[str] = Counter()
        self._heard = 0
        self._said: dict[tuple[str, str], float] = {}
        self._closing = False
        self._drained: dict[str, float] = {}  # network to the time up to which its socket was read empty
        self._sockets: list[tuple[str, socket.socket]] = []
        try:
            for network, address, port in binds:
                self._sockets.append((network, _bound(network, address, port)))
        except BadConfig:
            self._close_sockets()
            raise
        self._threads = [
            threading.Thread(target=self._run, args=pair, name=f"beats-{pair[0]}", daemon=True)
            for pair in self._sockets
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ports(self) -> tuple[tuple[str, str, int], ...]:
        """The binds with their real ports."""
        return tuple((network, *s.getsockname()[:2]) for network, s in self._sockets)

    def counts(self) -> tuple[int, Mapping[str, int]]:
        """Beats heard, and refusals (challenged ones too) by reason, since the start."""
        with self._lock:
            return self._heard, dict(self._refusals)

    def heard_until(self, now: float) -> float:
        """The time up to which everything that arrived has been handed to the sink: silence is judged no further."""
        unread = select.poll()
        for _, s in self._sockets:
            unread.register(s, select.POLLIN)
        waiting = {fd for fd, _ in unread.poll(0)}
        return min((self._drained.get(n, now) for n, s in self._sockets if s.fileno() in waiting), default=now)

    def close(self) -> None:
        """End the threads and close the sockets."""
        self._closing = True
        for thread in self._threads:
            thread.join(timeout=4 * LOOK)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for _, s in self._sockets:
            s.close()

    def _run(self, network: str, s: socket.socket) -> None:
        batch = Batch(s, BATCH, wire.MAX_SIZE + 1)
        while not self._closing:
            try:
                self._drain(network, s, batch)
            except OSError as e:
                self._say("", network, f"receiving failed: {e}", self._clock.now())
            except Exception:
                LOG.exception("beats on network %s: a datagram could not be handled", network)

    def _drain(self, network: str, s: socket.socket, batch: Batch) -> None:
        """Wait for the first datagram and handle all that is there: a batch that is not full has left nothing behind."""
        asked = self._clock.now()
        datagrams = batch.receive(wait=False) or batch.receive(wait=True)
        if not datagrams:
            return
        self._take(network, s, batch, datagrams, self._clock.now())
        count = len(datagrams)
        while len(datagrams) == BATCH:
            asked = self._clock.now()
            datagrams = batch.receive(wait=False)
            self._take(network, s, batch, datagrams, self._clock.now())
            count += len(datagrams)
        self._drained[network] = asked
        time.sleep(GATHER * min(1.0, BATCH / count))  # where many come, fewer need to be waited for

    def _take(self, network: str, s: socket.socket, batch: Batch, datagrams: list[bytes], now: float) -> None:
        """Judge a batch that came by ``now``."""
        with self._lock:
            take = self._sessions.take
            results = [take(datagram, network, now) for datagram in datagrams]
            self._heard += sum([type(result) is Heard for result in results])
        beats = [result for result in results if type(result) is Heard]
        if len(beats) < len(results):
            for n, result in enumerate(results):
                if type(result) is not Heard:
                    self._not_heard(network, s, result, batch.source(n), now)
        self._sink.heard(beats, now)

    def _not_heard(
        self, network: str, s: socket.socket, result: Heard | Refused | Unproven, source: tuple[str, int], now: float
    ) -> None:
        if type(result) is Unproven:
            self._count(result.reason)
            self._answer(s, result.challenge, source)
            LOG.debug("beat of %s on network %s: %s, challenged", result.host, network, result.reason)
        elif type(result) is Refused:
            self._count(result.reason)
            self._say(result.host or str(source[0]), network, f"refused: {result.reason}", now)

    def _count(self, reason: str) -> None:
        with self._lock:
            self._refusals[reason] += 1

    def _answer(self, s: socket.socket, challenge: bytes, source: tuple[str, int]) -> None:
        try:
            s.sendto(challenge, socket.MSG_DONTWAIT, source)
        except OSError as e:
            self._count(f"challenge not sent: {e.strerror}")

    def _say(self, who: str, network: str, what: str, now: float) -> None:
        if now - self._said.get((who, what), -SAY_EVERY) < SAY_EVERY:
            return
        if len(self._said) >= SAID_MAX:
            self._said.clear()
        self._said[(who, what)] = now
        LOG.warning("beat of %s on network %s %s (said once a minute)", who or "an unknown host", network, what)


def _bound(network: str, address: str, port: int) -> socket.socket:
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        s.bind((address, port))
    except OSError as e:
        s.close()
        raise BadConfig(
            f"beats of network {network} cannot be received on {address} port {port} ({e.strerror}): "
            "correct the address, or end the other process that uses the port"
        ) from None
    for option in (getattr(socket, "SO_RCVBUFFORCE", 33), socket.SO_RCVBUF):  # the first is not limited by rmem_max
        try:
            s.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            break
        except PermissionError:
            continue
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(LOOK * 1e6)))
    return s
