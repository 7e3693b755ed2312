"""The demo: guests run on a real Nova, a host loses power, vmha recovers them.  Run by ``tools/demo``.

Every time in the table was taken by those who did it: the lab (power cut), vmha's own journal, Nova's answers seen from outside.
All machines of the lab share one kernel and so one clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime
from typing import Any

from lab.api import Lab
from lab.cloud import HOST, LabCloud, Server
from lab.errors import LabError
from lab.processes import wait_until

VICTIM, PREFIX = "compute1", "demo-"
ROWS = (
    ("last_beat", "last beat heard"),
    ("suspected", "suspected: silent on every network for 1.2 s"),
    ("condemned", "condemned, written to etcd"),
    ("proven", "proven dead"),
    ("forced_down", "forced down in Nova"),
    ("first_evacuate", "first evacuate call"),
    ("last_evacuate", "last evacuate call"),
    ("first_done", "first instance verified"),
    ("last_done", "last instance verified"),
    ("closed", "recovery closed"),
)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        "tools/demo", description="a host of a real OpenStack loses power; vmha recovers its guests"
    )
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    parser.add_argument("--guests", type=int, default=4, help="guests on the host that loses power (default 4)")
    args = parser.parse_args()
    lab, started = Lab(), False
    try:
        if not lab.is_up():
            say("starting the lab: three compute hosts, two vmha controllers, three etcd members (about a minute)")
            lab.up(say=say)
            started = True
        with LabCloud(lab) as cloud:
            return play(lab, cloud, args.guests)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        if started and not args.keep:
            lab.down(say)


def play(lab: Lab, cloud: LabCloud, guests: int) -> int:
    """The story; 0 when it ended as it should."""
    ready(lab, cloud)
    servers = start_guests(cloud, guests)
    began = time.time()
    say(f"cutting the power of {VICTIM}: no goodbye on any network")
    lab.power(VICTIM, "off")
    active = follow(lab, cloud, servers, began)
    record = recovery(lab, began)
    say(f"powering {VICTIM} on again; vmha keeps it out until it is reconciled")
    lab.power(VICTIM, "on")
    wait_until(lambda: cloud.in_service(VICTIM), 180, f"{VICTIM} to be put back in service by vmha")
    say(f"{VICTIM} is back in service")
    back = time.time()
    table(lab, record, active, began, back)
    return verdict(lab, cloud, servers)


def ready(lab: Lab, cloud: LabCloud) -> None:
    say("waiting until every host is registered with vmha, its gate open, its service up")
    wait_until(lambda: gates_open(lab), 120, "every host's gate to open (vmha-manage host list)")
    for host in lab.hosts:
        wait_until(lambda host=host: cloud.in_service(host), 180, f"{host} to be in service")
    cloud.delete(PREFIX)


def gates_open(lab: Lab) -> bool:
    listed = manage(lab, "host", "list").splitlines()[1:]
    return [line.split()[0] for line in listed if line.split()[1:3] == ["registered", "open"]] == lab.hosts


def manage(lab: Lab, *words: str) -> str:
    """vmha-manage, as an operator runs it on a controller."""
    config = str(lab.settings.etc / "con2" / "vmha.conf")
    ran = lab.exec("con2", ["vmha-manage", "--config-file", config, *words], capture_output=True, text=True)
    if ran.returncode:
        raise LabError(f"vmha-manage {' '.join(words)} failed: {ran.stderr.strip()[-300:]}")
    return str(ran.stdout)


def start_guests(cloud: LabCloud, guests: int) -> list[Server]:
    say(f"starting {guests} guests on {VICTIM}, one of which is then stopped by its user")
    made = cloud.boot([f"{PREFIX}{n + 1}" for n in range(guests)], VICTIM)
    cloud.wait(PREFIX, lambda s: s["status"] == "ACTIVE", 180, "the guests to start")
    cloud.action(made[-1], **{"os-stop": None})
    servers = cloud.wait(
        PREFIX,
        lambda s: s["status"] in ("ACTIVE", "SHUTOFF") and (s["id"] != made[-1]) == (s["status"] == "ACTIVE"),
        60,
        "one guest to stop",
    )
    for server in servers:
        say(f"    {server['name']}  {server['status']:8} at {server[HOST]}")
    return servers


def follow(lab: Lab, cloud: LabCloud, servers: list[Server], began: float) -> dict[str, tuple[float, str, str]]:
    """Show each guest as it comes back; name to (seconds after the cut, status, host)."""
    was = {s["id"]: s["status"] for s in servers}
    seen: dict[str, tuple[float, str, str]] = {}
    deadline = time.time() + 240
    while len(seen) < len(was):
        if time.time() > deadline:
            raise LabError(
                f"only {len(seen)} of {len(was)} guests are back after 240 s:\n{manage(lab, 'recovery', 'list')}"
            )
        for server in cloud.servers(PREFIX):
            moved = server[HOST] != VICTIM and server["status"] == was[server["id"]]
            if moved and server["name"] not in seen:
                seen[server["name"]] = (time.time(), server["status"], server[HOST])
                say(f"    {server['name']}  {server['status']:8} at {server[HOST]}  (+{time.time() - began:.1f} s)")
        time.sleep(0.1)
    wait_until(lambda: "closed" in recovery(lab, began)["times_wall"], 60, "the recovery to close")
    return seen


def recovery(lab: Lab, began: float) -> dict[str, Any]:
    """The journal's record of this death."""
    records = json.loads(manage(lab, "recovery", "list", "--all", "--json"))
    mine = [r for r in records if r["host"] == VICTIM and r["times_wall"].get("condemned", 0) > began - 1]
    if not mine:
        raise LabError(f"vmha has no recovery of {VICTIM}: see {lab.settings.log('con1')}/vmha-controller.log")
    found: dict[str, Any] = mine[-1]
    return found


def table(
    lab: Lab, record: dict[str, Any], active: dict[str, tuple[float, str, str]], began: float, back: float
) -> None:
    cut = next(e["wall"] for e in reversed(lab.events()) if e["event"] == "power-off" and e["machine"] == VICTIM)
    rows = [(cut, "power cut", "by the lab")]
    notes = {"proven": f"{record['proof']}: {record['evidence']}", "condemned": record["reason"]}
    rows += [(record["times_wall"][k], text, notes.get(k, "")) for k, text in ROWS if k in record["times_wall"]]
    by_time = sorted(active.items(), key=lambda a: a[1][0])
    for title, (name, (at, status, host)) in (
        ("first guest back in Nova", by_time[0]),
        ("last guest back in Nova", by_time[-1]),
    ):
        rows.append((at, title, f"{name} {status} at {host}"))
    rows.append((back, f"{VICTIM} back in service", "powered on by hand, reconciled, un-forced, enabled"))
    print(f"\nrecovery {record['id']} of {VICTIM}\n")
    for at, what, note in sorted(rows, key=lambda row: row[0]):
        stamp = datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")[:-3]
        print(f"  {stamp}  {at - cut:+8.2f} s  {what:46} {note}")
    print()


def verdict(lab: Lab, cloud: LabCloud, servers: list[Server]) -> int:
    """The witness's word, and what Nova says in the end."""
    uuids = {s["id"] for s in servers}
    runs = [r for r in lab.witness_runs() if r.uuid in uuids]
    overlaps = [o for o in lab.witness_overlaps() if o.uuid in uuids]
    for overlap in overlaps:
        print(f"  DOUBLE RUN: {overlap}")
    if overlaps:
        return 1
    print(f"  The witness saw {len(runs)} QEMU processes of these guests, and never two of one guest at the same time.")
    for server in cloud.servers(PREFIX):
        print(f"  {server['name']}  {server['status']:8} at {server[HOST]}")
    cloud.delete(PREFIX)
    return 0


if __name__ == "__main__":
    sys.exit(main())
