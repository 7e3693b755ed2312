"""Bytes of beats: HMAC vectors, round trips, and every way of being wrong."""

import hashlib
import hmac
import subprocess
import sys
from pathlib import Path

import pytest

from vmha.wire import beat as wire

DEPLOYMENT_KEY = bytes(range(32))
DEPLOYMENT = wire.deployment_id(DEPLOYMENT_KEY)
BOOT = bytes(range(16))
KEY = wire.Key(wire.host_key(DEPLOYMENT_KEY, "compute1"))
SAME = wire.identity(wire.BEAT, DEPLOYMENT, BOOT, 77, "compute1", "management")


def a_beat(**fields):
    values = {"sequence": 5, "sent_ms": 1000, "progress": 9, "progress_age_ms": 40} | fields
    return wire.beat(SAME, KEY, **values)


# RFC 4231 section 4, test cases 1 to 4, 6 and 7 (5 is about truncation to 128 bits, below)
RFC4231 = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        b"\xaa" * 131,
        b"This is a test using a larger than block-size key and a larger than block-size data. "
        b"The key needs to be hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]


@pytest.mark.parametrize(("key", "message", "digest"), RFC4231)
def test_hmac_is_that_of_rfc_4231(key, message, digest):
    assert wire.Key(key).digest(message).hex() == digest
    assert hmac.new(key, message, hashlib.sha256).hexdigest() == digest


def test_truncated_hmac_of_rfc_4231():
    signed = wire.Key(b"\x0c" * 20).sign(b"Test With Truncation")
    assert signed.hex().endswith("a3b6167473100ee06e0c796c2955552b") and len(signed) == 20 + 16


def test_round_trip():
    datagram = a_beat(nonce=b"n" * 16, voters=3, condemned=4)
    assert wire.fault(datagram, wire.BEAT, DEPLOYMENT) == "" and KEY.signed(datagram)
    assert wire.names(datagram[: datagram[6]]) == (BOOT, 77, "compute1", "management")
    assert wire.body(datagram) == (5, 1000, 9, 40, 3, 4, b"n" * 16)


def test_longest_names_fit_and_longer_are_refused():
    same = wire.identity(wire.BEAT, DEPLOYMENT, BOOT, 1, "h" * wire.HOST_MAX, "n" * wire.NETWORK_MAX)
    datagram = wire.beat(same, KEY, 1, 1, 1, 1)
    assert len(datagram) == wire.MAX_SIZE and wire.fault(datagram, wire.BEAT, DEPLOYMENT) == ""
    assert wire.names(datagram[: datagram[6]]) == (BOOT, 1, "h" * wire.HOST_MAX, "n" * wire.NETWORK_MAX)
    with pytest.raises(ValueError, match="bytes long"):
        wire.identity(wire.BEAT, DEPLOYMENT, BOOT, 1, "h" * (wire.HOST_MAX + 1), "n")
    with pytest.raises(ValueError, match="bytes long"):
        wire.identity(wire.BEAT, DEPLOYMENT, BOOT, 1, "h", "")


def test_every_truncation_and_every_flipped_bit_is_refused_without_an_exception():
    datagram = a_beat()
    for size in range(len(datagram)):
        assert wire.fault(datagram[:size], wire.BEAT, DEPLOYMENT)
    for at in range(len(datagram)):
        for bit in range(8):
            forged = bytearray(datagram)
            forged[at] ^= 1 << bit
            assert wire.fault(bytes(forged), wire.BEAT, DEPLOYMENT) or not KEY.signed(bytes(forged))
            wire.names(bytes(forged)[: forged[6]])


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", wire.TRUNCATED),
        (b"vmhB", wire.TRUNCATED),
        (b"GET / HTTP/1.1\r\n", wire.WRONG_MAGIC),
        (b"x" * 120, wire.WRONG_MAGIC),
        (a_beat()[:-1], wire.TRUNCATED),
        (a_beat() + b"x", wire.OVERSIZED),
        (a_beat().ljust(2000, b"x"), wire.OVERSIZED),
        (a_beat()[:4] + b"\2" + a_beat()[5:], wire.WRONG_VERSION),
        (wire.as_kind(a_beat(), wire.CHALLENGE), wire.WRONG_KIND),
        (
            wire.beat(wire.identity(wire.BEAT, b"12345678", BOOT, 1, "compute1", "n"), KEY, 1, 1, 1, 1),
            wire.OTHER_DEPLOYMENT,
        ),
    ],
)
def test_fault_names_the_reason(datagram, reason):
    assert wire.fault(datagram, wire.BEAT, DEPLOYMENT) == reason


def test_challenge_reaches_its_session_only():
    datagram = wire.challenge(SAME, KEY, b"n" * 16)
    assert wire.fault(datagram, wire.CHALLENGE, DEPLOYMENT) == ""
    assert wire.challenged(datagram, SAME, KEY) == b"n" * 16
    later = wire.identity(wire.BEAT, DEPLOYMENT, BOOT, 78, "compute1", "management")
    assert wire.challenged(datagram, later, KEY) is None
    assert wire.challenged(datagram[:-1] + b"\0", SAME, KEY) is None
    assert wire.challenged(datagram[:-1], SAME, KEY) is None
    assert wire.challenged(a_beat(), SAME, KEY) is None
    assert wire.challenged(b"", SAME, KEY) is None


def test_hosts_have_keys_of_their_own():
    assert wire.host_key(DEPLOYMENT_KEY, "compute1") != wire.host_key(DEPLOYMENT_KEY, "compute2")
    assert wire.host_key(DEPLOYMENT_KEY, "compute1") != wire.host_key(DEPLOYMENT_KEY[::-1], "compute1")


def test_the_wire_module_needs_builtins_only():
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", "import sys; sys.path.insert(0, sys.argv[1]); import beat; print(*sys.modules)",
         str(Path(wire.__file__).parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(run.stdout.split())
    assert not loaded & {"enum", "dataclasses", "typing", "hashlib", "_hashlib", "hmac", "ssl", "_ssl", "re", "vmha"}
