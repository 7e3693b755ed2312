"""The agent's side of vmha-beat's socket: start it where none runs, configure it, tell it that the agent is alive."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

LOG = logging.getLogger(__name__)

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "beat.py")
SOCKET = "beat.sock"
START = 5.0  # seconds for a new beat process to listen
ANSWER = 2.0  # seconds for it to answer


class BeatProcess:
    """The one beat process of this host, which outlives the agent.

    ``configuration``: what it is told on attaching, see vmha/agent/beat.py.  ``attach`` may wait; ``progress`` never does.
    """

    def __init__(self, run_dir: str, configuration: Mapping[str, Any]) -> None:
        self._run_dir = run_dir
        self._configuration = dict(configuration)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def attach(self) -> str:
        """Connect and configure, starting a beat process when there is none.  Why that failed, or ""."""
        try:
            connection = self._connect() or self._start()
            if connection is None:
                return f"vmha-beat did not come up within {START:g} s: see its messages in the agent's log"
            answer = ask(connection, {"op": "configure", **self._configuration})
            if not answer.get("ok"):
                return f"vmha-beat refused its configuration: {answer.get('error')}"
            connection.setblocking(False)
        except (OSError, ValueError) as e:
            return f"vmha-beat does not answer: {e}"
        with self._lock:
            self._socket = connection
        return ""

    def progress(self, voters: int = 0, condemned: int = 0) -> bool:
        """Tell it that the engine is alive, and which lists it has applied; False when nothing is attached (then ``attach``)."""
        line = json.dumps({"op": "progress", "voters": voters, "condemned": condemned}).encode() + b"\n"
        with self._lock:
            if self._socket is None:
                return False
            try:
                self._socket.send(line)
            except BlockingIOError:  # it does not read now; this sign of life is lost, as it should be
                pass
            except OSError:
                self._socket.close()
                self._socket = None
        return self._socket is not None

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(ANSWER)
        try:
            connection.connect(os.path.join(self._run_dir, SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    def _start(self) -> socket.socket | None:
        if self._child is None or self._child.poll() is not None:
            # a session of its own: it must not get the agent's signals
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", PROGRAM, self._run_dir],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
            LOG.info("vmha-beat started, pid %s", self._child.pid)
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            connection = self._connect()
            if connection is not None:
                return connection
            time.sleep(0.02)
        return None


def ask(connection: socket.socket, question: Mapping[str, Any]) -> dict[str, Any]:
    """One question and its answer.  OSError, ValueError."""
    connection.sendall(json.dumps(question).encode() + b"\n")
    answer = bytearray()
    while not answer.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError("it closed the connection")
        answer += piece
    found = json.loads(answer)
    if not isinstance(found, dict):
        raise ValueError(f"an object is expected, not {found!r:.60}")
    return found
