"""Bytes of beats and of the challenges that answer them (UDP).

Read by ``vmha-beat``, which must start and stay small: builtin modules only, no dataclasses, enum or OpenSSL.  All numbers are
big-endian.  Every datagram is ``identity || body || MAC``; the identity is the same in every datagram of one session and
network, so a receiver finds what it knows of the sender by one look-up of these bytes.

========  =====================================================================================
identity  magic 4, version 1, kind 1, length of identity 1, zero 1, deployment id 8, boot id 16,
          start of the beat process u64 (ns of CLOCK_BOOTTIME), host (length 1 + UTF-8), network (length 1 + UTF-8)
beat      sequence u64, sent u64 (ms of CLOCK_BOOTTIME), progress u64, age of progress u32 (ms), voters revision u64,
          condemned list revision u64, nonce 16 (the last that this receiver sent, zeros before)
challenge nonce 16
MAC       first 16 bytes of HMAC-SHA256 over all before it, by the host's key (truncated as in RFC 4868)
========  =====================================================================================

A session is one run of one beat process: (boot id, start).  ``kind`` is under the MAC, so a challenge never reads as a beat.
"""

from __future__ import annotations

import struct
from _operator import _compare_digest  # hmac.compare_digest without importing OpenSSL

TYPE_CHECKING = False  # typing itself is not imported: see above
if TYPE_CHECKING:
    from hashlib import _Hash, sha256
    from typing import Protocol

    class Sha256(Protocol):
        def __call__(self, string: bytes, /) -> _Hash: ...

else:
    try:
        from _sha2 import sha256  # Python >= 3.12
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:  # a Python built without its own SHA-2 (FIPS builds)
            from hashlib import sha256

MAGIC = b"vmhB"
VERSION = 1
BEAT = 1
CHALLENGE = 2

MAC_SIZE = 16
NONCE_SIZE = 16
NO_NONCE = bytes(NONCE_SIZE)
HOST_MAX = 128  # bytes of UTF-8
NETWORK_MAX = 32
NEVER_MS = 0xFFFFFFFF  # age of a progress that never was

_HEAD = struct.Struct(">4sBBBx8s16sQ")
_BODY = struct.Struct(">QQQIQQ16s")
BODY_SIZE = _BODY.size
MIN_SIZE = _HEAD.size + 4 + NONCE_SIZE + MAC_SIZE
MAX_SIZE = _HEAD.size + 2 + HOST_MAX + NETWORK_MAX + BODY_SIZE + MAC_SIZE

# Why a datagram is refused.
TRUNCATED = "truncated"
OVERSIZED = "oversized"
WRONG_MAGIC = "wrong magic"
WRONG_VERSION = "wrong version"
WRONG_KIND = "wrong kind"
OTHER_DEPLOYMENT = "other deployment"
BAD_IDENTITY = "bad identity"
BAD_MAC = "bad MAC"

_INNER = bytes(b ^ 0x36 for b in range(256))
_OUTER = bytes(b ^ 0x5C for b in range(256))


class Key:
    """An HMAC-SHA256 key (RFC 2104) with both pads hashed beforehand, which halves the work for each short message."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, sha256: Sha256 = sha256) -> None:
        block = (sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
        self._inner = sha256(block.translate(_INNER))
        self._outer = sha256(block.translate(_OUTER))

    def digest(self, message: bytes) -> bytes:
        """All 32 bytes."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def sign(self, message: bytes) -> bytes:
        """``message`` with its MAC behind it."""
        return message + self.digest(message)[:MAC_SIZE]

    def signed(self, datagram: bytes) -> bool:
        """The MAC at the end of ``datagram`` is right.  Takes the same time wherever it differs."""
        return _compare_digest(self.digest(datagram[:-MAC_SIZE])[:MAC_SIZE], datagram[-MAC_SIZE:])


def host_key(deployment_key: bytes, host: str) -> bytes:
    """The key of one host; a host holds its own only, so a stolen host cannot speak for others."""
    return Key(deployment_key).digest(b"vmha host key v1" + host.encode())


def deployment_id(deployment_key: bytes) -> bytes:
    """Eight bytes that tell deployments apart; not secret."""
    return Key(deployment_key).digest(b"vmha deployment id v1")[:8]


def identity(kind: int, deployment: bytes, boot: bytes, start: int, host: str, network: str) -> bytes:
    """The unchanging first part of the datagrams of one session on one network.  ValueError for a name too long or empty."""
    names = b""
    for name, limit in ((host.encode(), HOST_MAX), (network.encode(), NETWORK_MAX)):
        if not 0 < len(name) <= limit:
            raise ValueError(f"{name!r} is not 1 to {limit} bytes long")
        names += bytes((len(name),)) + name
    return _HEAD.pack(MAGIC, VERSION, kind, _HEAD.size + len(names), deployment, boot, start) + names


def as_kind(same: bytes, kind: int) -> bytes:
    """The identity ``same`` with another kind."""
    return same[:5] + bytes((kind,)) + same[6:]


def fault(datagram: bytes, kind: int, deployment: bytes) -> str:
    """Why ``datagram`` cannot be one of ``kind`` of this deployment, or "" (its MAC is not looked at)."""
    size = len(datagram)
    if size < MIN_SIZE:
        return TRUNCATED if MAGIC.startswith(datagram[:4]) else WRONG_MAGIC
    if size > MAX_SIZE:
        return OVERSIZED
    magic, version, its_kind, length, its_deployment, _, _ = _HEAD.unpack_from(datagram)
    if magic != MAGIC:
        return WRONG_MAGIC
    if version != VERSION:
        return WRONG_VERSION
    if its_kind != kind:
        return WRONG_KIND
    if its_deployment != deployment:
        return OTHER_DEPLOYMENT
    expected = length + (BODY_SIZE if kind == BEAT else NONCE_SIZE) + MAC_SIZE
    if size != expected:
        return TRUNCATED if size < expected else OVERSIZED
    return ""


def names(same: bytes) -> tuple[bytes, int, str, str] | None:
    """(boot id, start, host, network) of an identity; None when its lengths or its text are wrong."""
    try:
        _, _, _, length, _, boot, start = _HEAD.unpack_from(same)
        at = _HEAD.size
        host = same[at + 1 : at + 1 + same[at]]
        at += 1 + same[at]
        network = same[at + 1 : at + 1 + same[at]]
        at += 1 + same[at]
        if at != len(same) or at != length or not 0 < len(host) <= HOST_MAX or not 0 < len(network) <= NETWORK_MAX:
            return None
        return boot, start, host.decode(), network.decode()
    except (struct.error, IndexError, UnicodeDecodeError):
        return None


def beat(
    same: bytes,
    key: Key,
    sequence: int,
    sent_ms: int,
    progress: int,
    progress_age_ms: int,
    nonce: bytes = NO_NONCE,
    voters: int = 0,
    condemned: int = 0,
) -> bytes:
    """The datagram of one beat."""
    return key.sign(same + _BODY.pack(sequence, sent_ms, progress, progress_age_ms, voters, condemned, nonce))


def body(datagram: bytes) -> tuple[int, int, int, int, int, int, bytes]:
    """(sequence, sent ms, progress, age ms, voters, condemned, nonce) of a beat that has no ``fault``."""
    return _BODY.unpack_from(datagram, datagram[6])


def challenge(same: bytes, key: Key, nonce: bytes) -> bytes:
    """The datagram that asks the session of the beat identity ``same`` to echo ``nonce``."""
    return key.sign(as_kind(same, CHALLENGE) + nonce)


def challenged(datagram: bytes, same: bytes, key: Key) -> bytes | None:
    """The nonce, when ``datagram`` is a true challenge to the session of the beat identity ``same``; else None."""
    expected = as_kind(same, CHALLENGE)
    if len(datagram) != len(expected) + NONCE_SIZE + MAC_SIZE or not datagram.startswith(expected):
        return None
    return datagram[len(expected) : -MAC_SIZE] if key.signed(datagram) else None
