"""Does a host's kernel still answer?  ICMP and ICMPv6 echo (RFC 792, RFC 4443) to all its addresses at once.

Only an answer that carries this probe's own random bytes, from the address that was asked, counts: neither another
program's ping nor a late answer to an earlier probe.  "Silent" is said only of an address to which the kernel took the
question; without permission or route it could not be asked, which is None.

Raw sockets where permitted (CAP_NET_RAW), else the kernel's ping sockets (net.ipv4.ping_group_range).
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

from vmha.ports import Clock

ECHO, ECHO_REPLY = 8, 0
ECHO6, ECHO6_REPLY = 128, 129
NONCE = 16
AGAIN = 0.3  # seconds after which the question is repeated: one lost packet is not silence


class _Boottime:
    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()


@dataclass(slots=True)
class _Question:
    """One address that is being asked."""

    address: str
    packet: bytes
    sock: socket.socket
    nonce: bytes
    answer: bool | None = None


def checksum(packet: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = packet + b"\0" * (len(packet) % 2)
    total = sum(int(word) for word in struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo_request(version: int, ident: int, nonce: bytes) -> bytes:
    """An echo request; of ICMPv6 the kernel fills the checksum in."""
    kind = ECHO if version == 4 else ECHO6
    packet = struct.pack("!BBHHH", kind, 0, 0, ident, 1) + nonce
    if version == 6:
        return packet
    return packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]


def is_reply(version: int, packet: bytes, nonce: bytes) -> bool:
    """Whether a received packet (with its IPv4 header, where the socket is raw) is the reply that carries the nonce."""
    if version == 4 and packet[:1] and packet[0] >> 4 == 4:
        packet = packet[(packet[0] & 15) * 4 :]
    kind = ECHO_REPLY if version == 4 else ECHO6_REPLY
    return len(packet) >= 8 + len(nonce) and packet[0] == kind and packet[8 : 8 + len(nonce)] == nonce


def _socket(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    proto = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    try:
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, proto)
    except PermissionError:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, proto)
    if sock.type == socket.SOCK_RAW and version == 6:
        # only replies (RFC 3542, ICMP6_FILTER is option 1): a set bit blocks
        blocked = [0xFFFFFFFF] * 8
        blocked[ECHO6_REPLY // 32] &= ~(1 << ECHO6_REPLY % 32)
        sock.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("=8I", *blocked))
    return sock


def _ask(address: str) -> _Question | None:
    """Send the question; None when it could not be asked (no address, permission or route)."""
    try:
        version = ipaddress.ip_address(address.partition("%")[0]).version
        sock = _socket(version)
    except (ValueError, OSError):
        return None
    try:
        # connected: the kernel passes on only what comes from that address, and tells when it cannot be reached from here
        sock.connect(
            socket.getaddrinfo(address.encode(), None, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]
        )
        nonce = os.urandom(NONCE)
        question = _Question(address, echo_request(version, nonce[0] << 8 | nonce[1], nonce), sock, nonce)
        sock.send(question.packet)
    except OSError:
        sock.close()
        return None
    return question


def _hear(question: _Question) -> None:
    """Read what arrived for one question."""
    version = 4 if question.sock.family == socket.AF_INET else 6
    try:
        while question.answer is None:
            if is_reply(version, question.sock.recv(2048), question.nonce):
                question.answer = True
    except BlockingIOError:
        return
    except OSError:
        # an error report after the question was taken: no neighbour answered, or a router has no way there; not an answer
        return


def _repeat(questions: list[_Question]) -> None:
    for question in questions:
        try:
            question.sock.send(question.packet)
        except OSError:
            continue


def _readable(questions: list[_Question], timeout: float) -> list[_Question]:
    poll = select.poll()  # select() would refuse descriptors above 1023
    by_fd = {question.sock.fileno(): question for question in questions}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _ in poll.poll(max(1.0, timeout * 1000))]


class Icmp:
    """``Prober``.  Thread-safe: every probe has its own sockets."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or _Boottime()

    def probe(self, addresses: Mapping[str, str], timeout: float) -> Mapping[str, bool | None]:
        """Ask all addresses at once; returns when all have answered, or after ``timeout`` seconds."""
        until = self._clock.now() + timeout
        asked = {network: _ask(address) for network, address in addresses.items()}
        questions = [question for question in asked.values() if question]
        try:
            self._listen(questions, until)
        finally:
            for question in questions:
                question.sock.close()
        return {network: (question.answer or False) if question else None for network, question in asked.items()}

    def _listen(self, questions: list[_Question], until: float) -> None:
        again = self._clock.now() + AGAIN
        while open_ones := [question for question in questions if question.answer is None]:
            now = self._clock.now()
            if now >= until:
                return
            if now >= again:
                _repeat(open_ones)
                again = now + AGAIN
            for question in _readable(open_ones, min(until, again) - now):
                _hear(question)
