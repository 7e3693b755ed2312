"""Worlds drawn from a seed: hosts, instances, and faults of every kind that stop at a time; the rest of the run is peace.

The assumption of P1 is kept: a device that reads "off" while its host runs does so only about hosts to which nothing else happens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from vmha.core.host import IllegalMove
from vmha.core.model import Recovery, Stage
from vmha.sim import scenario
from vmha.sim.happenings import Happenings
from vmha.sim.run import result
from vmha.sim.world import World

PEACE, END = 240.0, 1200.0
OPEN = (Stage.CONDEMNED, Stage.PROVEN, Stage.MOVING, Stage.RELEASED)
Data = dict[str, Any]


def drawn(seed: int) -> Data:
    """The scenario of a seed."""
    rng = random.Random(seed)
    hosts = {f"h{n + 1}": _host(rng) for n in range(rng.choice([2, 3, 3, 4, 5, 6]))}
    names = list(hosts)
    instances = {f"v{n + 1}": _instance(rng, names) for n in range(rng.randint(1, 6))}
    liar = rng.choice(names) if rng.random() < 0.1 else ""
    events: list[Data] = [{"at": 5.0, "do": "bmc_fail", "host": liar, "mode": "lies_off"}] if liar else []
    others = [n for n in names if n != liar]
    for _ in range(rng.randint(2, 12)):
        events += _fault(rng, others, list(instances))
    events += _repairs(rng, names)
    data: Data = {
        "name": f"seed-{seed}",
        "hosts": hosts,
        "instances": instances,
        "settings": {"fence_limit": 12.0, "max_down_percent": rng.choice([40, 60, 100]), "flap_limit": 100},
        "world": {"seed": seed, "boot": rng.choice([3, 20, 45]), "spawn": rng.choice([1, 5, 20]), "call_spread": 1.0},
        "events": sorted(events, key=lambda e: e.get("at", -1.0)),
        "until": END,
    }
    data["settings"]["inventory_every"] = rng.choice([5, 20, 60])  # most steps of a calm world are inventories
    return data


def _host(rng: random.Random) -> Data:
    return {
        "watchdog": rng.choice([None, 5, 10, 30]),
        "power": rng.random() < 0.9,
        "autostart": rng.random() < 0.3,
        "memory_gib": rng.choice([4, 16, 256]),
        "maintenance": rng.random() < 0.05,
        "service": "disabled" if rng.random() < 0.1 else "enabled",
    }


def _instance(rng: random.Random, hosts: list[str]) -> Data:
    found: Data = {"host": rng.choice(hosts), "state": rng.choice(["active"] * 6 + ["stopped", "error", "paused"])}
    if rng.random() < 0.3:
        found["protect"] = rng.choice(["none", "restart", "host", "full"])
    if rng.random() < 0.2:
        found["memory_gib"] = 3
    if rng.random() < 0.1:
        found["anti_affinity"] = "g"
    return found


def _fault(rng: random.Random, hosts: list[str], instances: list[str]) -> list[Data]:
    """One fault, often with its end."""
    at = round(rng.uniform(8, PEACE - 60), 2)
    host = rng.choice(hosts)
    end = round(at + rng.choice([0.5, 2, 4, 9, 12, 25, 60]) * rng.uniform(0.5, 1.5), 2)
    kind = rng.choice(KINDS)
    return kind(rng, at, min(end, PEACE - 1), host, rng.choice(instances), hosts)


def _pair(begin: str, finish: str, *fields: str) -> Callable[..., list[Data]]:
    def draw(rng: random.Random, at: float, end: float, host: str, instance: str, hosts: list[str]) -> list[Data]:
        given = {"host": host, "instance": instance}
        args = {f: given[f] for f in fields}
        return [{"at": at, "do": begin, **args}, {"at": end, "do": finish, **args}]

    return draw


def _net(rng: random.Random, at: float, end: float, host: str, instance: str, hosts: list[str]) -> list[Data]:
    networks = rng.choice([["management"], ["storage", "tenant"], ["management", "storage", "tenant"]])
    args = {"host": host, "networks": networks}
    return [{"at": at, "do": "net_cut", **args}, {"at": end, "do": "net_heal", **args}]


def _link(rng: random.Random, at: float, end: float, host: str, instance: str, hosts: list[str]) -> list[Data]:
    other = rng.choice([*hosts, "c1", "c2", "store"])
    ends = [host, other] if rng.random() < 0.5 else [other, host]
    if ends[0] == ends[1]:
        return []
    args = {"from": ends[0], "to": ends[1]}
    return [{"at": at, "do": "link_cut", **args}, {"at": end, "do": "link_heal", **args}]


def _bmc(rng: random.Random, at: float, end: float, host: str, instance: str, hosts: list[str]) -> list[Data]:
    mode = rng.choice(["unreachable", "stuck", "slow"])
    seconds = {"seconds": rng.choice([3, 8, 14])} if mode == "slow" else {}
    return [
        {"at": at, "do": "bmc_fail", "host": host, "mode": mode, **seconds},
        {"at": end, "do": "bmc_ok", "host": host},
    ]


def _nova(rng: random.Random, at: float, end: float, host: str, instance: str, hosts: list[str]) -> list[Data]:
    mode: Data = {"mode": rng.choice(["error", "lost", "late"])}
    if mode["mode"] == "late":
        mode["seconds"] = rng.choice([1, 5, 8])
    return [{"at": at, "do": "nova_fail", **mode}, {"at": end, "do": "nova_ok"}]


def _leader(rng: random.Random, at: float, end: float, host: str, instance: str, hosts: list[str]) -> list[Data]:
    """Killed or stopped at a time or at an action."""
    action = rng.choice(
        ["suspect", "condemn", "fence", "fence_confirmed", "force_down", "evacuate", "disable", "close"]
    )
    when: Data = {"at": at}
    if rng.random() < 0.7:
        when = {"when": {rng.choice(["before", "after"]): action, "nth": rng.choice([1, 1, 1, 2])}}
    how = rng.choice(["controller_kill", "controller_hang"])
    finish = "controller_start" if how == "controller_kill" else "controller_resume"
    return [{**when, "do": how}, {"at": end, "do": finish, "which": "all"}]


def _user(rng: random.Random, at: float, end: float, host: str, instance: str, hosts: list[str]) -> list[Data]:
    verb = rng.choice(["stop", "start", "delete", "migrate", "vm_crash", "vm_poweroff"])
    return [{"at": at, "do": verb, "instance": instance, **({"to": rng.choice(hosts)} if verb == "migrate" else {})}]


def _once(do: str, **args: Any) -> Callable[..., list[Data]]:
    return lambda rng, at, end, host, instance, hosts: [{"at": at, "do": do, **args}]


KINDS: list[Callable[..., list[Data]]] = [
    *[_pair("power_off", "power_on", "host")] * 4,
    *[_net] * 3,
    _link,
    _link,
    _bmc,
    _bmc,
    _nova,
    *[_leader] * 3,
    _user,
    _user,
    _pair("agent_kill", "agent_start", "host"),
    _pair("agent_hang", "agent_resume", "host"),
    _pair("beat_kill", "beat_start", "host"),
    _pair("libvirt_kill", "libvirt_start", "host"),
    _pair("nova_compute_kill", "nova_compute_start", "host"),
    _pair("store_down", "store_up"),
    _pair("disarm", "arm"),
    _pair("maintain", "release", "host"),
    _once("leases_expire"),
    _once("watch_lost", which="all"),
]


def _repairs(rng: random.Random, hosts: list[str]) -> list[Data]:
    """Peace: whatever was broken is whole again; some hosts stay off."""
    ends = [*hosts, "c1", "c2", "c3", "store"]
    found: list[Data] = [{"at": PEACE, "do": do} for do in ("store_up", "nova_ok", "arm")]
    for at in (PEACE, PEACE + 300):  # a fault that waits for an action may come after the first
        found += [{"at": at, "do": do, "which": "all"} for do in ("controller_resume", "controller_start")]
    found.append({"at": PEACE, "do": "link_heal", "from": ends, "to": ends})
    for host in hosts:
        for do in (
            "net_heal",
            "bmc_ok",
            "beat_start",
            "libvirt_start",
            "agent_resume",
            "agent_start",
            "nova_compute_start",
        ):
            found.append({"at": PEACE, "do": do, "host": host})
        if rng.random() < 0.8:
            found.append({"at": PEACE + 1, "do": "power_on", "host": host})
    return found


HARMLESS = {
    *("power_on", "net_heal", "link_heal", "bmc_ok", "beat_start", "libvirt_start", "agent_resume", "agent_start"),
    *("nova_compute_start", "migrate"),
}


# --- judging ---------------------------------------------------------------------------------------------------------------


def run(data: Data) -> tuple[World, list[str]]:
    """The world at its end, and what was wrong on the way or is then."""
    world = World(scenario.build(data))
    Happenings(world)
    world.run()
    return world, [*world.violations, *limbo(world), *wronged(world, data)]


def harmed(data: Data) -> set[str]:
    """Hosts to which anything has happened that may look like their death, or that a person has ordered about."""
    found = set()
    for event in data["events"]:
        if event["do"] not in HARMLESS:
            ends = [event[k] for k in ("host", "from", "to") if k in event]
            found |= {name for end in ends for name in ([end] if isinstance(end, str) else end)}
    return found


def wronged(world: World, data: Data) -> list[str]:
    """I7, I11: whatever happens to etcd, Nova, controllers, other hosts or guests, a host that is well is not condemned, fenced, forced down.

    One that has stopped itself before, as nobody answered it, is not well.
    """
    unwell = harmed(data)
    wrong = set()
    for _, word in world.output.actions:
        if word.do == "self_fence" and word.host:
            unwell.add(word.host)
        elif word.do in ("condemn", "fence", "force_down") and word.host in data["hosts"] and word.host not in unwell:
            wrong.add(f"I11: {word.do} of {word.host}, to which nothing had happened")
    return sorted(wrong)


def limbo(world: World) -> list[str]:
    """Recoveries that neither ended nor wait for something that a person was told of."""
    wrong = []
    paged = {w.host for _, w in world.output.actions if w.do == "page"}
    if world.leader() is None:
        return ["liveness: nobody leads though everything is whole"]
    for record in world.store.tables[Recovery].values():
        if record.stage in OPEN and record.host not in paged:
            wrong.append(
                f"liveness: recovery {record.id} is {record.stage} at the end, and nobody was told: {record.hold}"
            )
    return wrong


def fails(data: Data) -> list[str]:
    """What is wrong with the world; an error of the core or the world counts."""
    return judged(data)[1]


def judged(data: Data) -> tuple[World | None, list[str]]:
    """As ``run``, and an error of the core or the world counts as wrong; the world is None then."""
    try:
        return run(data)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, IllegalMove) as e:
        return None, [f"{type(e).__name__}: {e}"]


# --- shrinking -------------------------------------------------------------------------------------------------------------


def shrunken(data: Data, budget: int = 400) -> Data:
    """The smallest scenario found that still fails in the same way (by the first word of its first failure)."""
    kind = fails(data)[0].split(":")[0]

    def still(candidate: Data) -> bool:
        found = fails(candidate)
        return bool(found) and found[0].split(":")[0] == kind

    changed = True
    while changed and budget > 0:
        changed = False
        for candidate in _smaller(data):
            budget -= 1
            if still(candidate):
                data, changed = candidate, True
                break
            if budget <= 0:
                break
    return data


def _smaller(data: Data) -> list[Data]:
    """Candidates with one thing less: halves of the events first, then single ones, instances, hosts, settings."""
    repairs = [e for e in data["events"] if e.get("at", 0.0) >= PEACE]  # what ends the faults stays
    events, found = [e for e in data["events"] if e not in repairs], []
    for size in (len(events) // 2, len(events) // 4, 1):
        for start in range(0, len(events), size) if size else ():
            found.append({**data, "events": events[:start] + events[start + size :] + repairs})
    for name in data["instances"]:
        rest = {n: i for n, i in data["instances"].items() if n != name}
        found.append({**data, "instances": rest, "events": [e for e in data["events"] if e.get("instance") != name]})
    for host in data["hosts"] if len(data["hosts"]) > 2 else ():
        found.append(_without_host(data, host))
    for name, given in {**data["hosts"], **data["instances"]}.items():
        part = "hosts" if name in data["hosts"] else "instances"
        for field in given:
            if field != "host":
                rest = {k: v for k, v in given.items() if k != field}
                found.append({**data, part: {**data[part], name: rest}})
    found += [{**data, "settings": {k: v for k, v in data["settings"].items() if k != s}} for s in data["settings"]]
    return found


def _without_host(data: Data, host: str) -> Data:
    def names(event: Data) -> bool:
        return host in (event.get("host"), event.get("from"), event.get("to"))

    instances = {n: i for n, i in data["instances"].items() if i["host"] != host}
    events = [e for e in data["events"] if not names(e) and e.get("instance", "") in ("", *instances)]
    for e in events:
        for end in ("from", "to"):
            if isinstance(e.get(end), list):
                e = {**e, end: [x for x in e[end] if x != host]}
    return {
        **data,
        "hosts": {n: h for n, h in data["hosts"].items() if n != host},
        "instances": instances,
        "events": [
            {**e, **{end: [x for x in e[end] if x != host] for end in ("from", "to") if isinstance(e.get(end), list)}}
            for e in events
        ],
    }


def told(data: Data, wrong: list[str]) -> str:
    """A failing scenario for people: a file that reproduces it."""
    import yaml

    small = shrunken(data)
    log = result(run(small)[0]).log()
    return "\n".join([*wrong, "", yaml.safe_dump(small, sort_keys=False, default_flow_style=None, width=140), log])
