"""Power cut to first evacuate call, over many cuts of light hosts.

Light hosts (network namespaces with the real agent and beat process, no libvirt), real etcd (three members), two real
controllers, real IPMI devices and fence_ipmilan; Nova is the stub.  Every cut is a power loss without a goodbye.

    .venv/bin/python bench/host_death.py [--cuts 100] [--hosts 8] [--instances 4] [--json FILE]

Times: the cut by the lab just before the cables go, the evacuate call by the stub when the request has arrived, the rest
from vmha's journal; one kernel, one clock.  *Fence delay* is the sum of the fence agent's runs, from their start to their end.
Goal (design section 11): median <= 1.5 s, p99 <= 2.5 s, fence delay excluded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab import Lab
from lab.processes import wait_until
from tests.functional.inside import StubInLab

PHASES = (
    ("cut to last beat", "cut", "last_beat"),
    ("last beat to suspicion", "last_beat", "suspected"),
    ("suspicion to condemnation", "suspected", "condemned"),
    ("condemnation to proof", "condemned", "proven"),
    ("proof to forced down", "proven", "forced_down"),
    ("forced down to evacuate at Nova", "forced_down", "evacuate"),
)


@dataclass(frozen=True)
class Cut:
    """One power cut; wall times by name."""

    host: str
    at: dict[str, float]
    fence: float

    @property
    def total(self) -> float:
        return self.at["evacuate"] - self.at["cut"]


def manage(lab: Lab, *words: str) -> str:
    config = str(lab.settings.etc / "con2" / "vmha.conf")
    ran = lab.exec("con2", ["vmha-manage", "--config-file", config, *words], capture_output=True, text=True, check=True)
    return str(ran.stdout)


def registered(lab: Lab) -> dict[str, list[str]]:
    rows = [line.split() for line in manage(lab, "host", "list").splitlines()[1:]]
    return {row[0]: row for row in rows if len(row) > 2 and row[1] == "registered" and row[2] == "open"}


def in_service(stub: StubInLab, host: str) -> bool:
    record = stub.dump()["hosts"][host]
    return record["alive"] and not record["forced_down"] and not record["disabled"]


def cut(lab: Lab, stub: StubInLab, host: str, uuids: list[str]) -> tuple[float, float]:
    """Cut the power; wall times of the cut and of the first evacuate call for one of these instances at Nova."""
    asked = len(stub.requests("/action$", "POST"))
    lab.power(host, "off")
    stub.host_dies(host)
    cut_at = next(e for e in reversed(lab.events()) if e["event"] == "power-off" and e["machine"] == host)
    found: list[dict[str, Any]] = []

    def called() -> bool:
        found[:] = [r for r in stub.requests("/action$", "POST")[asked:] if r["path"].split("/")[-2] in uuids]
        return bool(found)

    wait_until(called, 60, f"an evacuate call for {host}")
    return cut_at["wall"], cut_at["wall"] + found[0]["at"] - cut_at["boot"]


def moved(stub: StubInLab, host: str, uuids: list[str]) -> bool:
    servers = stub.dump()["servers"]
    return all(servers[u]["host"] != host and servers[u]["task_state"] is None for u in uuids)


def measure(lab: Lab, stub: StubInLab, args: argparse.Namespace) -> list[Cut]:
    times: list[tuple[str, float, float]] = []
    for number in range(args.cuts):
        host = lab.hosts[number % len(lab.hosts)]
        wait_until(lambda host=host: in_service(stub, host), 180, f"{host} to be in service")
        wait_until(lambda host=host: host in registered(lab), 60, f"{host} to be registered, its gate open")
        uuids = stub.add_instances(host, args.instances)
        at, called = cut(lab, stub, host, uuids)
        times.append((host, at, called))
        wait_until(lambda host=host, uuids=uuids: moved(stub, host, uuids), 60, f"the instances of {host} to be moved")
        for uuid in uuids:
            stub.delete_instance(uuid)
        lab.power(host, "on")
        stub.host_returns(host)
        print(f"{number + 1:4} {host:10} {called - at:6.3f} s", flush=True)
    last = lab.hosts[(args.cuts - 1) % len(lab.hosts)]
    wait_until(lambda: in_service(stub, last), 180, f"{last} to be in service")
    records = json.loads(manage(lab, "recovery", "list", "--all", "--json"))
    return [joined(host, at, called, records) for host, at, called in times]


def joined(host: str, at: float, called: float, records: list[dict[str, Any]]) -> Cut:
    """The journal's stamps of the recovery that belongs to a cut."""
    mine = next(r for r in records if r["host"] == host and at < r["times_wall"]["condemned"] < called + 1)
    return Cut(host, {**mine["times_wall"], "cut": at, "evacuate": called}, mine["fence_delay"])


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(cuts: list[Cut]) -> dict[str, Any]:
    rows: dict[str, list[float]] = {"power cut to first evacuate call": [c.total for c in cuts]}
    rows["  the same without fence delay"] = [c.total - c.fence for c in cuts]
    rows["  fence delay (runs of fence_ipmilan)"] = [c.fence for c in cuts]
    for title, start, end in PHASES:
        rows[title] = [c.at[end] - c.at[start] for c in cuts if start in c.at and end in c.at]
    print(f"\n{len(cuts)} power cuts{'':28} median    p99    max  share")
    whole = statistics.median(rows["power cut to first evacuate call"])
    result = {}
    for title, values in rows.items():
        median, p99 = statistics.median(values), quantile(values, 0.99)
        print(f"{title:40} {median:6.3f} {p99:6.3f} {max(values):6.3f}  {100 * median / whole:4.0f} %")
        result[title.strip()] = {"median": median, "p99": p99, "max": max(values)}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vmha-bench-") as folder:
        lab = Lab(state=folder, light=True, prefix="bench-")
        lab.up(hosts=args.hosts, vmha=True)
        stub = StubInLab(lab)
        try:
            stub.start()
            for host in lab.hosts:
                stub.add_host(host)
            wait_until(lambda: len(registered(lab)) == len(lab.hosts), 60, "all hosts to register")
            cuts = measure(lab, stub, args)
        finally:
            stub.stop()
            lab.down()
    figures = report(cuts)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"({time.monotonic() - started:.0f} s)")
    sys.exit(status)
