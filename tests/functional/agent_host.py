"""A host with a real vmha-agent (and its vmha-beat) beside a real libvirtd, and a receiver of its beats."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests.functional.etcd_cluster import EtcdCluster
from tests.functional.libvirt_host import LibvirtHost, until
from vmha.adapters.beats import BeatReceiver
from vmha.adapters.etcd import BootClock, EtcdStore
from vmha.agent.attach import ask
from vmha.core.model import Condemnation, HostAlive, InstanceSeen
from vmha.wire import keys, records

REPOSITORY = Path(__file__).parents[2]
KEY = bytes(range(32))


class Heard:
    """What the receiver heard, newest last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.beats: list[tuple[str, str, str, int, float | None, float]] = []
        self.lists: dict[str, tuple[int, int]] = {}  # network to what the last beat there acknowledged

    def heard(self, beats, at):
        with self.lock:
            for b in beats:
                self.beats.append((b.host, b.network, b.boot, b.progress, b.progress_age, at))
                self.lists[b.network] = b.voters, b.condemned

    def last(self):
        with self.lock:
            return self.beats[-1] if self.beats else None

    def age(self) -> float:
        """Of the agent's last sign of life, as the last beat told it; 0 before the first."""
        last = self.last()
        return 0.0 if last is None or last[4] is None else last[4]

    def fresh(self) -> bool:
        """A beat was heard in the last half second."""
        last = self.last()
        return last is not None and BootClock().now() - last[5] < 0.5


class AgentHost:
    """``name`` as a compute host; ``options`` are lines of its [agent] section."""

    def __init__(self, directory: Path, cluster: EtcdCluster, name: str = "compute1", options: str = "") -> None:
        self.name = name
        self.cluster = cluster
        self.store = EtcdStore(cluster.urls)
        self.host = LibvirtHost(directory)
        self.heard = Heard()
        self.receiver = BeatReceiver([("management", "127.0.0.1", 0)], KEY, BootClock(), self.heard)
        self.agent: subprocess.Popen[bytes] | None = None
        self.log_file = directory / "agent.log"
        self._beats: set[int] = set()
        key = directory / "deployment.key"
        key.write_text(KEY.hex())
        key.chmod(0o600)
        self.configuration = directory / "vmha.conf"
        self.configuration.write_text(f"""
[DEFAULT]
host = {name}
deployment_key_file = {key}
[etcd]
endpoints = {",".join(cluster.urls)}
[beat]
networks = management:127.0.0.1
controllers = management:127.0.0.1:{self.receiver.ports[0][2]}
[agent]
lease_ttl = 4
lease_renew = 1
call_timeout = 3
{options}
""")

    def __enter__(self) -> AgentHost:
        self.host.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.agent is not None:
            self.agent.send_signal(signal.SIGCONT)  # a stopped nsenter would not reap, and hold the namespace
        self.host.crash()
        if self.agent is not None:
            self.agent.wait(timeout=20)
        self.receiver.close()
        self.store.close()

    # --- the agent

    def command(self) -> list[str]:
        return self.host.inside([sys.executable, "-m", "vmha.cmd.agent", "--config-file", str(self.configuration)])

    def start(self) -> None:
        with open(self.log_file, "ab") as log:
            self.agent = subprocess.Popen(self.command(), cwd=REPOSITORY, stdout=log, stderr=log)

    @property
    def agent_pid(self) -> int:
        assert self.agent is not None
        with open(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children") as f:
            return int(f.read().split()[0])

    def signal_agent(self, number: int) -> None:
        assert self.agent is not None
        os.kill(self.agent_pid, number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.agent.wait(timeout=20)
        elif number == signal.SIGCONT:
            self.agent.send_signal(number)  # nsenter stopped itself along with its child

    def beat_status(self) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.host.root / "run/vmha/beat.sock"))
            return ask(s, {"op": "status"})

    # --- what stands where

    def gate_open(self) -> bool:
        path = self.host.root / "run/vmha/gate"
        return path.exists() and path.read_text().strip() == self.host.boot_id

    def alive(self) -> HostAlive | None:
        item = self.store.get(keys.alive(self.name))
        return None if item is None else records.decode(HostAlive, item.key, item.value)

    def instances(self) -> dict[str, tuple[str, str]]:
        """uuid to (state, reason) as published."""
        items = self.store.list(f"{keys.INSTANCES}{self.name}/").items.values()
        seen = [records.decode(InstanceSeen, i.key, i.value) for i in items]
        assert all(s.host == self.name for s in seen)
        return {s.uuid: (s.state, s.reason) for s in seen}

    def says(self, **fields: object) -> bool:
        """The registration has these values."""
        alive = self.alive()
        return alive is not None and all(getattr(alive, name) == value for name, value in fields.items())

    def until_says(self, **fields: object) -> None:
        until(lambda: self.says(**fields), says=f"alive has {fields}")

    # --- what the leader writes

    def condemn(self, boot: str = "", undefine: tuple[str, ...] = (), restart_compute: int = 0) -> int:
        record = Condemnation(self.name, boot or self.host.boot_id, "r1", "test", 0.0, undefine, restart_compute)
        self.store.commit({keys.condemned(self.name): records.encode(record)})
        item = self.store.get(keys.condemned(self.name))
        assert item is not None
        return item.created

    def release(self) -> None:
        self.store.commit({}, [keys.condemned(self.name)])

    def unprotect(self, *uuids: str) -> None:
        value = json.dumps({"v": 1, "uuids": list(uuids)}).encode()
        self.store.commit({keys.unprotected(self.name): value})
        path = self.host.root / "var/lib/vmha/unprotected"
        until(lambda: path.exists() and sorted(path.read_text().split()) == sorted(uuids), says="the list is kept")
