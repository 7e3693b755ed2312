"""A real etcd cluster on loopback for tests: members can be killed, started again, stopped and continued.

    with EtcdCluster() as cluster:
        EtcdStore(cluster.urls)

Ports are free ones; data is in a temporary directory (RAM when /dev/shm is there: the tests are not about disks).  All members are
ended by pid at the end of the block, or of the test process.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def wait_until(fact: object, seconds: float, what: str) -> None:
    """Waits until ``fact()`` is true; AssertionError naming ``what`` after ``seconds``."""
    assert callable(fact)
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


class EtcdCluster:
    """``size`` members; ``flags`` are added to each one's command line; ``tls`` = (ca, cert, key) files for clients."""

    def __init__(
        self, size: int = 3, flags: Sequence[str] = (), tls: tuple[str, str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.directory = Path(
            tempfile.mkdtemp(prefix="vmha-etcd-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        )
        ports = free_ports(2 * size)
        scheme = "https" if tls else "http"
        self.urls = [f"{scheme}://{host}:{p}" for p in ports[:size]]
        self._peers = [f"http://{host}:{p}" for p in ports[size:]]
        self._flags = list(flags)
        self._tls = tls
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        atexit.register(self.close)

    def __enter__(self) -> EtcdCluster:
        try:
            self.start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_all(self) -> None:
        """Start whatever does not run; returns when every member answers."""
        for index in range(len(self.urls)):
            if index not in self._running:
                self._spawn(index)
        for index in range(len(self.urls)):
            self.wait_healthy(index)

    def start(self, index: int, wait: bool = True) -> None:
        """Start a member that was killed, with the data it had."""
        self._spawn(index)
        if wait:
            self.wait_healthy(index)

    def _spawn(self, index: int) -> None:
        name = f"m{index}"
        command = [
            "/usr/bin/etcd",
            f"--name={name}",
            f"--data-dir={self.directory / name}",
            f"--listen-client-urls={self.urls[index]}",
            f"--advertise-client-urls={self.urls[index]}",
            f"--listen-peer-urls={self._peers[index]}",
            f"--initial-advertise-peer-urls={self._peers[index]}",
            "--initial-cluster=" + ",".join(f"m{i}={p}" for i, p in enumerate(self._peers)),
            f"--initial-cluster-token={self.directory.name}",
            "--experimental-watch-progress-notify-interval=1s",
            "--logger=zap",
            "--log-level=warn",
            *self._tls_flags(),
            *self._flags,
        ]
        with open(self.directory / f"{name}.log", "ab") as log:
            self._running[index] = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "2"}
            )

    def _tls_flags(self) -> list[str]:
        if not self._tls:
            return []
        ca, cert, key = self._tls
        return [f"--trusted-ca-file={ca}", f"--cert-file={cert}", f"--key-file={key}", "--client-cert-auth"]

    def wait_healthy(self, index: int, seconds: float = 20.0) -> None:
        """Until the member answers a linearizable read (with TLS: until etcdctl says healthy)."""
        wait_until(lambda: self.healthy(index), seconds, f"etcd member {index} healthy: {self.log(index)[-500:]}")

    def healthy(self, index: int) -> bool:
        if self._tls:
            return self.etcdctl("endpoint", "health", index=index).returncode == 0
        try:
            with urllib.request.urlopen(self.urls[index] + "/health", timeout=1) as answer:
                return json.load(answer).get("health") in ("true", True)
        except (OSError, urllib.error.URLError, ValueError):
            return False

    def log(self, index: int) -> str:
        path = self.directory / f"m{index}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def running(self) -> list[int]:
        return list(self._running)

    def pid(self, index: int) -> int:
        return self._running[index].pid

    def kill(self, index: int) -> None:
        """SIGKILL: what power loss does to a process."""
        process = self._running.pop(index)
        process.kill()
        process.wait()

    def stop_signal(self, index: int) -> None:
        """SIGSTOP: the member's kernel still takes connections and bytes, nobody answers."""
        os.kill(self.pid(index), signal.SIGSTOP)

    def cont(self, index: int) -> None:
        os.kill(self.pid(index), signal.SIGCONT)

    def index_of(self, url: str) -> int:
        return self.urls.index(url)

    def leader(self) -> int:
        """Index of the member that leads; AssertionError when there is none now."""
        for index in self._running:
            answer = self.etcdctl("endpoint", "status", "-w", "json", index=index)
            if answer.returncode == 0:
                status = json.loads(answer.stdout)[0]["Status"]
                if status["header"]["member_id"] == status["leader"]:
                    return index
        raise AssertionError("no etcd member leads")

    def etcdctl(self, *arguments: str, index: int | None = None) -> subprocess.CompletedProcess[str]:
        urls = self.urls if index is None else [self.urls[index]]
        files = dict(zip(("--cacert", "--cert", "--key"), self._tls or (), strict=False))
        return subprocess.run(
            ["/usr/bin/etcdctl", f"--endpoints={','.join(urls)}", *(f"{k}={v}" for k, v in files.items()), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "ETCDCTL_API": "3"},
        )

    def close(self) -> None:
        for index in list(self._running):
            self.kill(index)
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.close)
