"""recvmmsg through ctypes: every datagram whole, in order, with its source, on IPv4 and IPv6."""

from __future__ import annotations

import socket
import struct

import pytest

from vmha.adapters.datagrams import Batch


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_batches(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as ear, socket.socket(family, socket.SOCK_DGRAM) as mouth:
        ear.bind((address, 0))
        mouth.bind((address, 0))
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
        batch = Batch(ear, 4, 20)
        assert batch.receive(wait=False) == [] and batch.receive(wait=True) == []
        sent = [b"", b"a", b"bb" * 9, b"c" * 20, b"d" * 30, b"last"]
        for datagram in sent:
            mouth.sendto(datagram, ear.getsockname())
        assert batch.receive(wait=True) == sent[:4]
        assert batch.receive(wait=False) == [b"d" * 20, b"last"], "a longer one is cut"
        assert batch.source(1) == mouth.getsockname()[:2]
        assert batch.receive(wait=False) == []
