"""Sends the signed beats of many hosts on one network, from one process; for ``controller_scale``.

    python bench/beat_senders.py ADDRESS PORT NETWORK HOSTS KEY_HEX

Each host beats five times a second, evenly spread; challenges are answered with the next beat, as vmha-beat does.  Commands come as lines
on stdin: ``mute N`` ends host N's beats and prints the CLOCK_BOOTTIME of its last one, ``heard N`` lets it go on, ``cost`` prints
the CPU seconds of this process and the beats sent.  ``sent`` is printed once every host has sent its first.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmha.wire import beat as wire

PERIOD = 0.2
TICK = 0.002


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def host_name(number: int) -> str:
    return f"compute{number:05d}"


def boot_of(number: int) -> bytes:
    return (b"boot" + number.to_bytes(12, "big"))[:16]


class Sender:
    """All hosts of one network, on one socket."""

    def __init__(self, address: str, port: int, network: str, hosts: int, deployment_key: bytes) -> None:
        deployment = wire.deployment_id(deployment_key)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.socket.connect((address, port))
        self.socket.setblocking(False)
        self.keys = [wire.Key(wire.host_key(deployment_key, host_name(n))) for n in range(hosts)]
        self.same = [wire.identity(wire.BEAT, deployment, boot_of(n), 1, host_name(n), network) for n in range(hosts)]
        self.number = {wire.as_kind(same, wire.CHALLENGE): n for n, same in enumerate(self.same)}
        self.nonces = [wire.NO_NONCE] * hosts
        self.last = [0.0] * hosts
        self.muted: set[int] = set()
        self.sequence = 0
        self.sent = 0

    def beats(self, first: int, end: int, at: float) -> None:
        """One beat of each of these hosts."""
        self.sequence += 1
        for n in range(first, end):
            if n in self.muted:
                continue
            nonce, self.nonces[n] = self.nonces[n], wire.NO_NONCE
            data = wire.beat(self.same[n], self.keys[n], self.sequence, int(at * 1000), self.sequence, 100, nonce)
            try:
                self.socket.send(data)
            except (BlockingIOError, ConnectionRefusedError):
                continue
            self.last[n] = at
            self.sent += 1

    def challenges(self) -> None:
        while True:
            try:
                datagram = self.socket.recv(512)
            except (BlockingIOError, ConnectionRefusedError):
                return
            n = self.number.get(datagram[: datagram[6]], -1)
            if n >= 0:
                self.nonces[n] = wire.challenged(datagram, self.same[n], self.keys[n]) or wire.NO_NONCE

    def command(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word == "mute":
            self.muted.add(int(rest))
            print(f"{self.last[int(rest)]:.6f}", flush=True)
        elif word == "heard":
            self.muted.discard(int(rest))
        elif word == "cost":
            times = os.times()
            print(f"{times.user + times.system:.3f} {self.sent}", flush=True)

    def run(self) -> None:
        """Until stdin ends."""
        hosts, done, start, told = len(self.same), 0, now(), False
        poll = select.poll()
        poll.register(sys.stdin, select.POLLIN)
        while True:
            at = now()
            due = int((at - start) / PERIOD * hosts)
            due = min(due, done + hosts)  # a stall is not made up for
            while done < due:
                end = min(due, done - done % hosts + hosts)
                self.beats(done % hosts, done % hosts + end - done, at)
                done = end
            self.challenges()
            if not told and done >= hosts:
                told = True
                print("sent", flush=True)
            if poll.poll(max(0.0, TICK - (now() - at)) * 1000):
                line = sys.stdin.readline()
                if not line:
                    return
                self.command(line)


if __name__ == "__main__":
    Sender(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), bytes.fromhex(sys.argv[5])).run()
