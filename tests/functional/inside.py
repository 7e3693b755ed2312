"""Sockets in a lab machine's network, opened from this process: the calling thread enters the namespace for the moment it takes."""

from __future__ import annotations

import ctypes
import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab import Lab
from tests.stubs.nova_stub import NovaStub

CLONE_NEWNET = 0x40000000


@contextmanager
def network_of(lab: Lab, machine: str) -> Iterator[None]:
    """This thread is in the machine's network inside the with statement."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/run/netns/{lab.settings.namespace(machine)}", os.O_RDONLY)
    try:
        if libc.setns(other, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network of {machine}")
        yield
    finally:
        libc.setns(own, CLONE_NEWNET)
        os.close(own)
        os.close(other)


class ConnectionInside(http.client.HTTPConnection):
    """An HTTP connection made inside a machine's network."""

    def __init__(self, lab: Lab, machine: str, address: str, port: int) -> None:
        super().__init__(address, port, timeout=10)
        self._lab, self._machine = lab, machine

    def connect(self) -> None:
        with network_of(self._lab, self._machine):
            self.sock = socket.create_connection((self.host, self.port), timeout=10)


class StubInLab(NovaStub):
    """The Nova stub in the machine ``ctl`` of a lab, at the address and port of the real Keystone."""

    def __init__(self, lab: Lab, port: int = 5000) -> None:
        super().__init__(port)
        self._lab = lab
        self._address = lab.settings.address("ctl", "management")

    def start(self) -> StubInLab:
        import json
        import subprocess
        import sys

        from lab.settings import REPO

        argv = [sys.executable, "-m", "tests.stubs.nova_server", str(self._port), self._address]
        self._process = self._lab.popen("ctl", argv, stdout=subprocess.PIPE, cwd=REPO)
        assert self._process.stdout is not None
        json.loads(self._process.stdout.readline())
        return self

    def _do(self, order: str, /, **fields: Any) -> Any:
        import json

        connection = ConnectionInside(self._lab, "ctl", self._address, self._port)
        try:
            connection.request("POST", "/_stub", json.dumps({"do": order, **fields}))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return json.loads(text) if text else None
