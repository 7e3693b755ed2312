"""Which beats count as heard: the receiver's half of the replay protection.  Pure: no clock, no randomness, no sockets.

Rules, each checked on one (host, network):

* A session (boot id, start of the beat process) is *unproven* until one of its beats carries a nonce that this receiver made for
  it at most ``2 x FRESH`` seconds ago.  Nothing of an unproven session counts; the answer to it is a challenge.  A nonce is a
  MAC, by a secret of this process, over the session, a count of proofs and the time: a proof uses it up, so it
  needs no memory and no recording of any earlier time, of this process or another, is ever accepted.
* Within a session the sequence must rise.  There is no window for reordering: at five beats a second an overtaken one is not missed.
* A beat must not be late: by its own time of sending it may come at most ``LATE`` seconds later than the quickest so far
  (which is allowed to drift).  A late one, held back on the way or read after a stall of ours, must prove itself like a new session.
* A proven session ends all others of its host: those of the same boot that started earlier are refused for good, those of another
  boot must prove themselves anew.

So no beat counts that left its host more than about ``2 x FRESH + LATE`` seconds ago.
"""

from __future__ import annotations

from hashlib import sha256  # OpenSSL's uses the processor's SHA instructions: twice as quick as the builtin one
from typing import NamedTuple

from vmha.wire import beat as wire

FRESH = 2.0
LATE = 3.0
DRIFT = 0.001  # seconds per second that the two clocks may part

REPLAYED = "replayed"
SUPERSEDED = "superseded"
WRONG_NETWORK = "wrong network"
WRONG_NONCE = "wrong nonce"


class Heard(NamedTuple):
    """A beat that counts.  ``progress_age`` is seconds, None when no agent ever reported progress."""

    host: str
    network: str
    boot: str
    start: int
    sequence: int
    progress: int
    progress_age: float | None
    voters: int
    condemned: int


_made = tuple.__new__  # of a named tuple, without the function that its class makes for it: twice as quick


class Refused(NamedTuple):
    """A datagram that does not count.  ``host`` is set only where the MAC was right."""

    reason: str
    host: str = ""


class Unproven(NamedTuple):
    """A true beat of a session that has to prove itself: send ``challenge`` back to where the beat came from."""

    host: str
    network: str
    reason: str
    challenge: bytes


class _Flow:
    """One session on one network; ``base`` is the least seen difference between our clock and its time of sending."""

    __slots__ = ("at", "base", "boot", "host", "key", "name", "network", "proven", "same", "sequence", "size", "start")

    def __init__(self, same: bytes, boot: bytes, start: int, host: _Host, network: str) -> None:
        self.same = same
        self.size = len(same) + wire.BODY_SIZE + wire.MAC_SIZE
        self.proven = False
        self.boot = boot
        self.name = boot_name(boot)
        self.start = start
        self.host = host
        self.key = host.key
        self.network = network
        self.sequence = -1
        self.base = 0.0
        self.at = 0.0


class _Host:
    __slots__ = ("flows", "key", "name", "newest", "proofs")

    def __init__(self, name: str, key: wire.Key) -> None:
        self.name = name
        self.key = key
        self.flows: dict[str, _Flow] = {}
        self.newest: tuple[bytes, int] | None = None
        self.proofs = 0


class Sessions:
    """All sessions that one receiver process knows.  Not for use by two threads at once.

    ``secret``: at least 16 random bytes, new in each process.  Memory is held for hosts of this deployment only.
    """

    def __init__(self, deployment_key: bytes, secret: bytes) -> None:
        self._deployment_key = deployment_key
        self._deployment = wire.deployment_id(deployment_key)
        self._secret = wire.Key(secret, sha256)
        self._hosts: dict[str, _Host] = {}
        self._flows: dict[bytes, _Flow] = {}

    def take(self, datagram: bytes, network: str, now: float) -> Heard | Refused | Unproven:
        """Judge one datagram that came in on ``network`` at ``now`` (seconds, monotonic)."""
        size = len(datagram)
        flow = self._flows.get(datagram[: datagram[6]]) if size >= wire.MIN_SIZE else None
        if flow is None or flow.size != size:  # not the short path of a known session
            if reason := wire.fault(datagram, wire.BEAT, self._deployment):
                return Refused(reason)
            flow = self._stranger(datagram[: datagram[6]])
            if flow is None:
                return Refused(wire.BAD_IDENTITY)
        if not flow.key.signed(datagram):
            return Refused(wire.BAD_MAC)
        if flow.network != network:
            return Refused(WRONG_NETWORK, flow.host.name)
        return self._next(flow, datagram, now) if flow.proven else self._prove(flow, datagram, now, "new session")

    def _next(self, flow: _Flow, datagram: bytes, now: float) -> Heard | Refused | Unproven:
        sequence, sent_ms, progress, age_ms, voters, condemned, _ = wire.body(datagram)
        if sequence <= flow.sequence:
            return Refused(REPLAYED, flow.host.name)
        delay = now - sent_ms / 1000
        base = flow.base + DRIFT * (now - flow.at)
        if delay > base + LATE:
            return self._prove(flow, datagram, now, "late")
        flow.base = delay if delay < base else base
        flow.at = now
        flow.sequence = sequence
        age = None if age_ms == wire.NEVER_MS else age_ms / 1000
        said = (flow.host.name, flow.network, flow.name, flow.start, sequence, progress, age, voters, condemned)
        return _made(Heard, said)

    def _stranger(self, same: bytes) -> _Flow | None:
        """A flow that is not yet kept: its MAC is still to be checked."""
        names = wire.names(same)
        if names is None:
            return None
        boot, start, name, network = names
        host = self._hosts.get(name) or _Host(name, wire.Key(wire.host_key(self._deployment_key, name), sha256))
        return _Flow(same, boot, start, host, network)

    def _prove(self, flow: _Flow, datagram: bytes, now: float, reason: str) -> Heard | Refused | Unproven:
        host = self._hosts.setdefault(flow.host.name, flow.host)
        if host.newest is not None and flow.boot == host.newest[0] and flow.start < host.newest[1]:
            return Refused(SUPERSEDED, host.name)
        nonce = wire.body(datagram)[6]
        slot = int(now / FRESH)
        if nonce not in (self._nonce(flow, slot), self._nonce(flow, slot - 1)):
            why = reason if nonce == wire.NO_NONCE else f"{reason}, {WRONG_NONCE}"
            return Unproven(host.name, flow.network, why, wire.challenge(flow.same, host.key, self._nonce(flow, slot)))
        self._settle(flow, host)
        flow.at = now
        flow.base = now - wire.body(datagram)[1] / 1000
        return self._next(flow, datagram, now)

    def _nonce(self, flow: _Flow, slot: int) -> bytes:
        return self._secret.digest(b"%d %d " % (flow.host.proofs, slot) + flow.same)[: wire.NONCE_SIZE]

    def _settle(self, flow: _Flow, host: _Host) -> None:
        """``flow`` is proven: end every other session of its host, and use up the nonces."""
        session = (flow.boot, flow.start)
        for old in [f for f in host.flows.values() if (f.boot, f.start) != session]:
            del host.flows[old.network], self._flows[old.same]
        flow.proven = True
        host.newest = session
        host.proofs += 1
        host.flows[flow.network] = flow
        self._flows[flow.same] = flow


def boot_name(boot: bytes) -> str:
    """A boot id as the kernel writes it."""
    h = boot.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
