"""How long a plan takes: the instances of 1, 10 and 40 dead hosts among 640 hosts and 168,000 instances.

    .venv/bin/python bench/planner.py [--repeat 50] [--out FILE]

A plan is: policy and order of every instance of the dead hosts (``vmha.core.planner.plan``), and the pre-flight that says where each would fit
(``vmha.core.room``): zones, aggregates, hard anti-affinity groups, priorities.  *half full*: hosts have half of their memory free; *99 % full*:
one hundredth, so that most instances find no host.  The reference, in the same run, is the plain way: what is free is
counted from all 168,000 instances, and every host is looked at for every instance.  Goals: design section 11 (5, 15 and 60 ms; 99 % full at most
three times the median).  Both ways must give the same answers, which is checked.  What Nova tells of instances holds no zone and no
aggregate, so the controller's own pre-flight (``vmha.core.preflight``) has fewer constraints than this.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import re
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmha.core import planner
from vmha.core.model import Instance, InstanceSettings, SegmentSettings
from vmha.core.room import Space, room
from vmha.core.settings import Settings

HOSTS, EACH = 640, 262
ZONES = ("az1", "az2", "az3")
AGGREGATES = (frozenset[str](), frozenset({"ssd"}), frozenset({"ssd", "gpu"}))
GOALS = {1: 5.0, 10: 15.0, 40: 60.0}
SETTINGS = Settings(instances_path_shared="yes")
SEGMENT = SegmentSettings("default")


@dataclass(frozen=True)
class Cloud:
    """Hosts, what lives on each, and what is kept up to date between deaths: free room by host, group members."""

    spaces: dict[str, Space]
    on: dict[str, list[Instance]]
    words: dict[str, InstanceSettings]
    members: dict[str, set[str]]
    zone: dict[str, str]
    tags: dict[str, frozenset[str]]


def cloud(full: float) -> Cloud:
    """The same cloud each time; ``full`` is the part of the memory that is taken."""
    rng = random.Random(1)
    made = Cloud({}, {}, {}, {}, {}, {})
    for n in range(HOSTS):
        host, zone, tags = f"compute{n:04d}", ZONES[n % 3], AGGREGATES[(n // 3) % 3]
        mine = made.on[host] = [instance(rng, host, made, zone, tags) for _ in range(EACH)]
        used, vcpus = sum(i.memory_mib for i in mine), sum(i.vcpus for i in mine)
        free = used / full - used
        made.spaces[host] = Space(host, int(free), int(vcpus / full - vcpus), zone, tags)
    return made


def instance(rng: random.Random, host: str, made: Cloud, zone: str, tags: frozenset[str]) -> Instance:
    one = str(uuid.UUID(int=rng.getrandbits(128)))
    size = rng.choice((1, 1, 2, 2, 4, 8, 16))
    group = f"group{rng.randrange(5000)}" if rng.random() < 0.1 else ""
    if group:
        made.members.setdefault(group, set()).add(host)
    if rng.random() < 0.2:
        made.words[one] = InstanceSettings(one, priority=rng.randrange(10))
    made.zone[one] = zone if rng.random() < 0.5 else ""
    made.tags[one] = frozenset(rng.sample(sorted(tags), 1)) if tags and rng.random() < 0.3 else frozenset()
    state = "stopped" if rng.random() < 0.1 else "active"
    return Instance(
        one, f"vm-{one[:8]}", host, state.upper(), state, memory_mib=size * 1024, vcpus=size, anti_affinity=group
    )


# --- the two ways -----------------------------------------------------------------------------------------------------


def plans(made: Cloud, dead: Sequence[str]) -> list[planner.Step]:
    """The plans of all dead hosts."""
    return [step for host in dead for step in planner.plan(made.on[host], SEGMENT, made.words, SETTINGS)]


def indexed(made: Cloud, dead: Sequence[str]) -> list[str]:
    """vmha's way: the plan of each dead host, and the pre-flight over what is kept up to date."""
    gone = set(dead)
    by_uuid = {i.uuid: i for host in dead for i in made.on[host]}
    steps = plans(made, dead)
    members = {s.together: made.members[s.together] - gone for s in steps if s.together}
    free = room((s for h, s in made.spaces.items() if h not in gone), members)
    place, zone, tags = free.place, made.zone, made.tags
    found = []
    for step in steps:
        i = by_uuid[step.instance]
        found.append(place(i.memory_mib, i.vcpus, zone[i.uuid], tags[i.uuid], i.anti_affinity, i.affinity))
    return found


def scanned(made: Cloud, dead: Sequence[str]) -> list[str]:
    """The plain way."""
    gone = set(dead)
    capacity = {h: sum(i.memory_mib for i in made.on[h]) + s.memory_mib for h, s in made.spaces.items()}
    cores = {h: sum(i.vcpus for i in made.on[h]) + s.vcpus for h, s in made.spaces.items()}
    memory = {h: capacity[h] - sum(i.memory_mib for i in mine) for h, mine in made.on.items() if h not in gone}
    vcpus = {h: cores[h] - sum(i.vcpus for i in mine) for h, mine in made.on.items() if h not in gone}
    members = {g: hosts - gone for g, hosts in made.members.items()}
    by_uuid = {i.uuid: i for host in dead for i in made.on[host]}
    found = []
    for step in plans(made, dead):
        i = by_uuid[step.instance]
        zone, tags, taken = made.zone[i.uuid], made.tags[i.uuid], members.get(i.anti_affinity, set())
        best, most = "", -1
        for h in memory:
            s = made.spaces[h]
            if (
                memory[h] >= i.memory_mib
                and vcpus[h] >= i.vcpus
                and zone in ("", s.zone)
                and tags <= s.tags
                and h not in taken
                and (memory[h] > most or (memory[h] == most and h < best))
            ):
                best, most = h, memory[h]
        found.append(best)
        if best:
            memory[best] -= i.memory_mib
            vcpus[best] -= i.vcpus
            if i.anti_affinity:
                members.setdefault(i.anti_affinity, set()).add(best)
    return found


# --- measuring --------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], object], repeat: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each repetition, of processor time and by the clock on the wall, each from the least to the most."""
    busy, wall = [], []
    for _ in range(repeat):
        began, used = time.perf_counter(), time.process_time()
        run()
        wall.append((time.perf_counter() - began) * 1000)
        busy.append((time.process_time() - used) * 1000)
    return sorted(busy), sorted(wall)


def rows(repeat: int) -> list[str]:
    lines = [
        "milliseconds of processor time (the machine has other work); wall: by the clock",
        "dead hosts  instances  fleet        fit  order only     plan: median     p99  wall median  goal  plain scan  ratio  99 %/half",
    ]
    medians: dict[int, float] = {}
    for name, full in (("half full", 0.5), ("99 % full", 0.99)):
        made = cloud(full)
        gc.freeze()  # a controller holds no such table of 168,000 instances: collecting it is not a plan's cost
        for count in (1, 10, 40):
            dead = [f"compute{n * 16:04d}" for n in range(count)]
            result = indexed(made, dead)
            assert result == scanned(made, dead), "the two ways must agree"
            order, _ = timed(lambda made=made, dead=dead: plans(made, dead), repeat)  # type: ignore[misc]
            quick, wall = timed(lambda made=made, dead=dead: indexed(made, dead), repeat)  # type: ignore[misc]
            plain, _ = timed(lambda made=made, dead=dead: scanned(made, dead), max(3, repeat // 20))  # type: ignore[misc]
            median = statistics.median(quick)
            worst = f"{median / medians[count]:9.2f}" if count in medians else "        -"
            medians.setdefault(count, median)
            lines.append(
                f"{count:10d}  {len(result):9d}  {name:9s}  {sum(map(bool, result)):5d}  {statistics.median(order):10.2f}  "
                f"{median:15.2f}  {quick[int(len(quick) * 0.99)]:6.2f}  {statistics.median(wall):11.2f}  {GOALS[count]:4.0f}  "
                f"{statistics.median(plain):10.1f}  {statistics.median(plain) / median:5.0f}  {worst}"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    text = "\n".join(
        [
            f"bench/planner.py: {HOSTS} hosts, {HOSTS * EACH:,} instances, 3 zones, 3 aggregates, a tenth in anti-affinity groups, a fifth with a priority",
            f"machine: {model[1] if model else platform.machine()}, {os.cpu_count()} cores (shared); Python {platform.python_version()}; "
            f"{args.repeat} repetitions",
            "",
            *rows(args.repeat),
        ]
    )
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
