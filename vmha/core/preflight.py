"""What would find no host, told with the plan: every living host's room by our own count.

A count of ours, not Nova's: capacity is what the agents registered times ``memory_ratio`` and ``cpu_ratio`` (Nova's
allocation ratios), used is what Nova told of each host at its last reading; disabled hosts count as if they were not.  So what is said to
find no host surely finds none that we know of, and nothing is said while a host has not been counted yet.  0 as ratio: no pre-flight.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmha.core.events import InventoryRead
from vmha.core.model import HostState, Step, StepState
from vmha.core.room import Space, room
from vmha.core.view import Case, HostView, Turn

NAMED = 5  # instances named in the sentence


def count(view: HostView, event: InventoryRead) -> None:
    """Remember what is used on a living host, and which hard server groups have members there."""
    memory = sum(i.memory_mib for i in event.instances)
    view.used = (memory, sum(i.vcpus for i in event.instances))
    view.groups = frozenset(g for i in event.instances if (g := i.affinity or i.anti_affinity))


def told(case: Case, steps: Iterable[Step], turn: Turn) -> str:
    """The sentence about the instances that would find no host; empty where all would, or we cannot say."""
    spaces = _spaces(turn)
    if not spaces or case.inventory is None:
        return ""
    members: dict[str, set[str]] = {}
    for view in turn.views.values():
        for group in view.groups if view.condemnation is None else ():
            members.setdefault(group, set()).add(view.name)
    free, without, asked = room(spaces, members), [], 0
    for step in steps:
        instance = case.inventory.get(step.instance)
        if step.state is not StepState.WAITING or instance is None:
            continue
        asked += 1
        size = instance.memory_mib, instance.vcpus
        if not free.place(*size, apart=instance.anti_affinity, together=instance.affinity):
            without.append(step.name or step.instance)
    if not without:
        return ""
    names = ", ".join(without[:NAMED]) + (" ..." if len(without) > NAMED else "")
    return f"{len(without)} of {asked} instances find no host by vmha's count of memory and processors: {names}"


def _spaces(turn: Turn) -> list[Space]:
    """What is free on each living host; nothing where one has not been counted, or nobody wants to know."""
    memory_ratio, cpu_ratio = turn.settings.memory_ratio, turn.settings.cpu_ratio
    spaces = []
    for view in turn.views.values() if memory_ratio > 0 and cpu_ratio > 0 else ():
        if view.state is not HostState.ONLINE or view.settings.maintenance:
            continue
        if view.used is None or view.alive is None or not view.alive.memory_mib:
            return []
        memory = int(view.alive.memory_mib * memory_ratio) - view.used[0]
        spaces.append(Space(view.name, memory, int(view.alive.vcpus * cpu_ratio) - view.used[1]))
    return spaces
