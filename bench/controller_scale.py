"""What one controller costs at 64 to 10,000 hosts and 168,000 instances, and how soon it notices a host's silence.

    .venv/bin/python bench/controller_scale.py [--hosts 64,640,6400,10000] [--networks 2] [--seconds 20] [--kills 20] [--out FILE]

The real vmha-controller process with real etcd (one member) and the Nova stub; senders of signed beats, five a second for each host and
network, over loopback UDP, in processes of their own (their cost is told apart).  168,000 instances' keys stand in etcd, spread over the
hosts.  No host dies: each "kill" ends one host's beats on every network until it is suspect; its lease stays, so nothing is fenced.

CPU: user and system time of the controller and all its children, as a percentage of one core, with beats on one network and on all;
the difference, divided by the beats that were sent more, is the cost of a beat, and so of a network.  Memory: VmRSS of the leader's process less that of an idle interpreter.
etcd operations: by etcd's own count of requests served.  Goals: design section 11.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.beat_senders import boot_of, host_name, now
from tests.functional.etcd_cluster import EtcdCluster, free_ports
from tests.stubs.nova_stub import NovaStub
from vmha.adapters.etcd import EtcdStore
from vmha.core.model import HostAlive, HostSettings, InstanceSeen
from vmha.wire import keys, records
from vmha.wire.sessions import boot_name

ROOT = Path(__file__).resolve().parents[1]
INSTANCES = 168_000
TXN = 100  # keys in one transaction: etcd takes 128
HZ = os.sysconf("SC_CLK_TCK")
CONFIG = """[DEFAULT]
host = bench
deployment_key_file = {directory}/key
use_stderr = true
[etcd]
endpoints = {etcd}
[controller]
name = bench
listen = {listen}
fencing_file = {directory}/fencing.json
journal_file = {directory}/engine.journal
[nova]
auth_url = {nova}
username = admin
password = secret
project_name = admin
"""


@dataclass
class Window:
    """``cpu``: percentage of a core; ``beats``: sent in a second, as the senders counted."""

    cpu: float
    beats: float


@dataclass
class Row:
    """One line of the table."""

    hosts: int
    networks: int
    one: Window
    every: Window
    sender_us: float
    rss_over_idle: float
    peak_over_idle: float
    etcd_ops: float
    ready: float
    late: list[float]

    @property
    def beat_us(self) -> float:
        """CPU microseconds of one beat more."""
        more = self.every.beats - self.one.beats
        return (self.every.cpu - self.one.cpu) / 100 / max(1.0, more) * 1e6

    @property
    def each(self) -> float:
        """Percentage of a core for a network with five beats a second of each host."""
        return self.beat_us * self.hosts * 5 / 1e6 * 100

    @property
    def base(self) -> float:
        """What is not caused by beats."""
        return max(0.0, self.one.cpu - self.one.beats * self.beat_us / 1e6 * 100)


# --- the cloud in etcd ------------------------------------------------------------------------------------------------


def contents(hosts: int, networks: list[str]) -> Iterator[tuple[str, bytes]]:
    addresses = dict.fromkeys(networks, "127.0.0.1")
    for n in range(hosts):
        name, boot = host_name(n), boot_name(boot_of(n))
        alive = HostAlive(name, boot, "agent1", addresses, gate="open", hook=True, beating=True)
        yield keys.alive(name), records.encode(alive)
        yield keys.host_settings(name), records.encode(HostSettings(name, boot, addresses))
    for n in range(INSTANCES):
        name = host_name(n % hosts)
        one = str(uuid.UUID(int=n * 0x9E3779B97F4A7C15 % (1 << 128)))
        yield (
            keys.instance(name, one),
            records.encode(InstanceSeen(name, one, boot_name(boot_of(n % hosts)), "running", "booted")),
        )


def fill(store: EtcdStore, hosts: int, networks: list[str]) -> None:
    batch: dict[str, bytes] = {}
    for key, value in contents(hosts, networks):
        batch[key] = value
        if len(batch) == TXN:
            store.commit(batch, timeout=10)
            batch = {}
    store.commit(batch, timeout=10)


def operations(url: str) -> float:
    """Requests that etcd has served so far; a renewal of a lease is a stream of its own behind the gateway."""
    with urllib.request.urlopen(url + "/metrics", timeout=5) as answer:
        text = answer.read().decode()
    lines = re.findall(r"^grpc_server_handled_total\{(.*)\} (\S+)$", text, re.M)
    return sum(float(count) for _, count in lines)


# --- processes --------------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    children = [int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split()]
    return [pid, *(p for child in children for p in family(child))]


def cpu(pids: list[int]) -> float:
    """CPU seconds so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / HZ


def memory(pid: int, what: str) -> float:
    """MiB of VmRSS or VmHWM."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def idle_interpreter(imports: str = "sys") -> float:
    """MiB of one that waits."""
    code = f"import {imports}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as idle:
        assert idle.stdout is not None and idle.stdout.readline()
        found = memory(idle.pid, "VmRSS")
        idle.kill()
    return found


class Controller:
    """The real controller; ``lines`` of its log with the time each was read."""

    def __init__(self, directory: Path) -> None:
        argv = [sys.executable, "-m", "vmha.cmd.controller", "--config-file", str(directory / "vmha.conf")]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT, text=True)
        self.lines: list[tuple[float, str]] = []
        self.log = (directory / "controller.log").open("w")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append((now(), line))
            self.log.write(line)

    def wait_for(self, pattern: str, seconds: float, begin: int = 0) -> tuple[float, str]:
        until, wanted = now() + seconds, re.compile(pattern)
        while True:
            for line in self.lines[begin:]:
                if wanted.search(line[1]):
                    return line
            begin = max(begin, len(self.lines) - 1)
            assert now() < until and self.process.poll() is None, (
                f"not within {seconds:g} s: {pattern}; see {self.log.name}"
            )
            time.sleep(0.002)

    def leader(self) -> int:
        """The process that runs the engine."""
        return family(self.process.pid)[1]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


class Senders:
    """One process for each network."""

    def __init__(self, ports: dict[str, int], hosts: int, key: bytes) -> None:
        script = str(ROOT / "bench" / "beat_senders.py")
        self.running = [
            subprocess.Popen(
                [sys.executable, script, "127.0.0.1", str(port), network, str(hosts), key.hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for network, port in ports.items()
        ]
        for one in self.running:
            assert one.stdout is not None and one.stdout.readline() == "sent\n"

    def ask(self, command: str) -> list[str]:
        for one in self.running:
            assert one.stdin is not None
            one.stdin.write(command + "\n")
            one.stdin.flush()
        return [one.stdout.readline().strip() for one in self.running if one.stdout is not None]

    def tell(self, command: str) -> None:
        for one in self.running:
            assert one.stdin is not None
            one.stdin.write(command + "\n")
            one.stdin.flush()

    def cost(self) -> tuple[float, int]:
        found = [line.split() for line in self.ask("cost")]
        return sum(float(c) for c, _ in found), sum(int(n) for _, n in found)

    def stop(self) -> None:
        for one in self.running:
            assert one.stdin is not None
            one.stdin.close()
            one.wait(10)


# --- one size ---------------------------------------------------------------------------------------------------------


def measured(pid: int, senders: list[Senders], seconds: float) -> Window:
    """What the controller and its children use."""
    pids = family(pid)
    before, sent, began = cpu(pids), sum(s.cost()[1] for s in senders), now()
    time.sleep(seconds)
    used, took = cpu(pids) - before, now() - began
    return Window(used / took * 100, (sum(s.cost()[1] for s in senders) - sent) / took)


def settled(pid: int) -> None:
    """Wait until what a start costs is over: two looks in a row that are alike."""
    until, before = now() + 60, 1e9
    while now() < until:
        pids, began = family(pid), now()
        first = cpu(pids)
        time.sleep(3)
        rate = (cpu(pids) - first) / (now() - began)
        if rate < before * 1.15 and before < rate * 1.15:
            return
        before = rate


def kills(controller: Controller, senders: Senders, hosts: int, count: int) -> list[float]:
    """Seconds from the last beat to the line that says suspect."""
    late = []
    for k in range(count):
        n = (k * 7919 + 13) % hosts
        begin = len(controller.lines)
        last = max(float(one) for one in senders.ask(f"mute {n}"))
        at, _ = controller.wait_for(rf"{host_name(n)}: suspect", 60, begin)
        late.append(at - last)
        senders.tell(f"heard {n}")
        controller.wait_for(rf"{host_name(n)}: (online|heard again)", 60, begin)
    return late


def one_size(hosts: int, args: argparse.Namespace, idle: float) -> Row:
    networks = [f"net{n}" for n in range(args.networks)]
    ports = dict(zip(networks, free_ports(args.networks), strict=True))
    with (
        EtcdCluster(1, flags=["--quota-backend-bytes=4294967296"]) as cluster,
        NovaStub() as nova,
        tempfile.TemporaryDirectory(prefix="vmha-scale-") as name,
    ):
        directory, key = Path(name), os.urandom(32)
        fill(EtcdStore(cluster.urls), hosts, networks)
        for n in range(hosts):
            nova.add_host(host_name(n))
            if n < args.nova_hosts:
                nova.add_instances(host_name(n), INSTANCES // max(hosts, 640))
        listen = ",".join(f"{n}:127.0.0.1:{p}" for n, p in ports.items())
        (directory / "vmha.conf").write_text(
            CONFIG.format(directory=directory, etcd=cluster.urls[0], listen=listen, nova=nova.url)
        )
        for file, text in (("key", key.hex()), ("fencing.json", "{}")):
            (directory / file).write_text(text)
            (directory / file).chmod(0o600)
        return run(hosts, args, idle, cluster, ports, key, Controller(directory))


def run(
    hosts: int,
    args: argparse.Namespace,
    idle: float,
    cluster: EtcdCluster,
    ports: dict[str, int],
    key: bytes,
    controller: Controller,
) -> Row:
    began = now()
    first = dict(list(ports.items())[:1])
    senders = [Senders(first, hosts, key)]
    try:
        at, _ = controller.wait_for("leading, epoch", 120)
        controller.wait_for(rf"{host_name(hosts - 1)}: online", 60)
        settled(controller.process.pid)
        one = measured(controller.process.pid, senders, args.seconds)
        if args.profile:
            profile(controller.leader(), args.profile)
        senders.append(Senders(dict(list(ports.items())[1:]), hosts, key))
        settled(controller.process.pid)
        (cost, sent), ops = senders[1].cost(), operations(cluster.urls[0])
        window = now()
        every = measured(controller.process.pid, senders, args.seconds)
        ops_rate = (operations(cluster.urls[0]) - ops) / (now() - window)
        cost_after, sent_after = senders[1].cost()
        both = Both(senders)
        late = kills(controller, both, hosts, args.kills)  # type: ignore[arg-type]
        leader = controller.leader()
        return Row(
            hosts,
            len(ports),
            one,
            every,
            (cost_after - cost) / max(1, sent_after - sent) * 1e6,
            memory(leader, "VmRSS") - idle,
            memory(leader, "VmHWM") - idle,
            ops_rate,
            at - began,
            late,
        )
    finally:
        if args.log:
            Path(args.log).write_text("".join(f"{at - began:8.3f} {line}" for at, line in controller.lines))
        for sender in senders:
            sender.stop()
        controller.stop()


class Both:
    """All senders as one."""

    def __init__(self, senders: list[Senders]) -> None:
        self.senders = senders

    def ask(self, command: str) -> list[str]:
        return [line for one in self.senders for line in one.ask(command)]

    def tell(self, command: str) -> None:
        for one in self.senders:
            one.tell(command)


def profile(pid: int, out: str) -> None:
    """py-spy's view of the leader, where it is installed."""
    subprocess.run(
        [os.environ.get("PY_SPY", "py-spy"), "record", "-p", str(pid), "-d", "10", "-f", "raw", "-o", out, "--threads"],
        check=False,
    )


# --- the table --------------------------------------------------------------------------------------------------------


def machine() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores, python = os.cpu_count(), platform.python_version()
    return f"{model[1] if model else platform.machine()}, {cores} cores shared with the senders, etcd and other work; Python {python}"


def table(rows: list[Row], idle: float, args: argparse.Namespace) -> str:
    lines = [
        "bench/controller_scale.py: the real vmha-controller, real etcd (1 member), Nova stub, beats over loopback UDP",
        f"machine: {machine()}",
        f"{INSTANCES:,} instance keys in etcd; 5 beats/s for each host and network; {args.seconds:g} s windows, {args.kills} kills; "
        f"idle interpreter {idle:.1f} MiB, with the controller's imports {idle_interpreter('vmha.cmd.controller'):.1f} MiB",
        "",
        " hosts  CPU % 1 net (beats/s)  CPU % all nets (beats/s)  us/beat  CPU %/net  sender us  RSS over idle MiB (peak)  etcd ops/s  "
        "leads after s  silence to suspect, s: median  p99  max",
    ]
    for r in rows:
        late = sorted(r.late)
        lines.append(
            f"{r.hosts:6d}  {r.one.cpu:11.2f} ({r.one.beats:7.0f})  {r.every.cpu:14.2f} ({r.every.beats:7.0f})  {r.beat_us:7.2f}  "
            f"{r.each:9.2f}  {r.sender_us:9.2f}  "
            f"{r.rss_over_idle:17.1f} ({r.peak_over_idle:5.1f})  {r.etcd_ops:10.1f}  {r.ready:13.1f}  "
            f"{statistics.median(late):29.3f}  {late[int(len(late) * 0.99)]:.3f}  {late[-1]:.3f}"
        )
    lines += ["", *conclusions(rows)]
    return "\n".join(lines)


def conclusions(rows: list[Row]) -> Iterator[str]:
    for r in rows:
        if r.hosts == 640:
            yield f"goals at 640 hosts: CPU for each network {r.each:.2f} % (goal 3), memory {r.rss_over_idle:.1f} MiB (goal 64), etcd {r.etcd_ops:.1f} ops/s (goal 50)"
    big = rows[-1]
    if big.each > 0:
        share = big.base / big.hosts
        for n in (1, 2, 3):
            hosts = 50 / (share + n * big.each / big.hosts)
            yield f"half a core is used at about {hosts:,.0f} hosts with {n} beat network{'s' * (n > 1)}"


def share(nice: int) -> None:
    """Where the kernel shares processors among sessions (autogroup), nice counts within one only: set this session's."""
    os.nice(nice)
    group = Path("/proc/self/autogroup")
    if nice and group.exists():
        group.write_text(str(nice))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hosts", default="64,640,6400,10000")
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--nova-hosts", type=int, default=640, help="hosts that have instances in the Nova stub")
    parser.add_argument("--profile", default="", help="write a py-spy profile of the leader here")
    parser.add_argument("--log", default="", help="write the controller's log here")
    parser.add_argument("--out", default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--nice", type=int, default=0, help="of this session, where the machine has other work")
    args = parser.parse_args()
    share(args.nice)
    idle = idle_interpreter()
    rows: list[Row] = []
    for hosts in map(int, args.hosts.split(",")):
        rows.append(one_size(hosts, args, idle))
        print(table(rows[-1:], idle, args), flush=True)
    text = table(rows, idle, args)
    print(text)
    if args.json:
        print(json.dumps([asdict(r) for r in rows]))
    if args.out:
        Path(args.out).write_text(text + "\n\ncommand: .venv/bin/python " + " ".join(sys.argv) + "\n")


if __name__ == "__main__":
    main()
