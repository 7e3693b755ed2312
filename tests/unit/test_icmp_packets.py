"""Echo packets by the book (RFC 792, RFC 1071)."""

from __future__ import annotations

from vmha.adapters.icmp import checksum, echo_request, is_reply


def test_checksum_of_the_rfc() -> None:
    assert (
        checksum(bytes([0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])) == 0x220D
    )  # RFC 1071, section 3: sum is ddf2


def test_a_packet_with_its_checksum_sums_to_zero() -> None:
    assert checksum(echo_request(4, 0x1234, b"0123456789abcdef")) == 0
    assert checksum(echo_request(4, 0x1234, b"odd")) == 0


def test_what_counts_as_a_reply() -> None:
    nonce = b"0123456789abcdef"
    reply = bytes([0]) + echo_request(4, 1, nonce)[1:]
    header = bytes([0x45]) + bytes(19)
    options = bytes([0x46]) + bytes(23)
    assert is_reply(4, reply, nonce) and is_reply(4, header + reply, nonce) and is_reply(4, options + reply, nonce)
    assert not is_reply(4, header + echo_request(4, 1, nonce), nonce), "our own question on loopback"
    assert not is_reply(4, header + reply, b"another nonce...")
    assert not is_reply(4, (header + reply)[:-1], nonce)
    assert not is_reply(4, b"", nonce)
    assert is_reply(6, bytes([129]) + echo_request(6, 1, nonce)[1:], nonce)
    assert not is_reply(6, reply, nonce)
