"""Who would fit where: the pre-flight of a plan, by our own count of memory and processors.

Nova's scheduler decides; this tells beforehand, and says which instances would find no host.  Like Nova's weigher it takes the host with
the most free memory.  Hosts of the same zone and tags stand in one heap, so that an instance looks at the tops of a few heaps instead of
at every host.  A host that was found with too few processors for somebody stands from then on in a heap of those with as few (to a power of
two), so that nobody who needs as many meets it again.  Room is only taken in a pre-flight, never given back: an entry that says
more than its host has is put right when it comes to the top.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

MANY = 1 << 30  # processors: of hosts that nobody has found short of them


@dataclass(frozen=True, slots=True)
class Space:
    """What is free on a host; ``tags`` are the aggregates or traits that instances can require."""

    host: str
    memory_mib: int
    vcpus: int
    zone: str = ""
    tags: frozenset[str] = frozenset()


class _Left:
    """A host during a pre-flight."""

    __slots__ = ("memory", "shelf", "space", "vcpus")

    def __init__(self, space: Space) -> None:
        self.space, self.memory, self.vcpus, self.shelf = space, space.memory_mib, space.vcpus, MANY


Heap = list[tuple[int, str]]  # (minus free memory, host)
NO_TAGS: frozenset[str] = frozenset()


@dataclass(slots=True)
class Room:
    """All hosts that may take instances.  ``members``: hard server group to the hosts where its members are."""

    hosts: dict[str, _Left] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    heaps: dict[tuple[str, frozenset[str], int], Heap] = field(default_factory=dict)
    fitting: dict[tuple[str, frozenset[str]], list[tuple[int, Heap]]] = field(default_factory=dict)

    def place(
        self,
        memory: int,
        vcpus: int,
        zone: str = "",
        tags: frozenset[str] = NO_TAGS,
        apart: str = "",
        together: str = "",
    ) -> str:
        """The host that takes an instance of this size, which has its room from now on; empty when none does.

        ``apart`` and ``together``: its hard server group, of whose members no two, or all, share a host.
        """
        if together and self.members.get(together):
            found = self._among(self.members[together], memory, vcpus, zone, tags)
        else:
            found = self._best(memory, vcpus, zone, tags, self.members.get(apart, ()) if apart else ())
        if not found:
            return ""
        host = self.hosts[found]
        host.memory -= memory
        host.vcpus -= vcpus
        if apart or together:
            self.members.setdefault(apart or together, set()).add(found)
        return found

    def _among(self, names: Iterable[str], memory: int, vcpus: int, zone: str, tags: frozenset[str]) -> str:
        """The best of a few hosts."""
        fit = [
            (-h.memory, n)
            for n in names
            if (h := self.hosts.get(n)) is not None
            and h.memory >= memory
            and h.vcpus >= vcpus
            and zone in ("", h.space.zone)
            and tags <= h.space.tags
        ]
        return min(fit)[1] if fit else ""

    def _best(self, memory: int, vcpus: int, zone: str, tags: frozenset[str], taken: Collection[str]) -> str:
        """The host with the most free memory; ties go by name."""
        best, found, hosts = -memory, "", self.hosts
        for shelf, heap in self.fitting.get((zone, tags)) or self._heaps(zone, tags):
            if not heap or (top := heap[0])[0] > best or shelf * 2 <= vcpus:
                continue
            host = hosts[top[1]]
            if host.memory != -top[0] or host.vcpus < vcpus or top[1] in taken:
                top = self._top(heap, shelf, memory, vcpus, taken)
            if top[0] < best or (top[0] == best and (not found or top[1] < found)):
                best, found = top
        return found

    def _heaps(self, zone: str, tags: frozenset[str]) -> list[tuple[int, Heap]]:
        """Of the hosts that an instance of this zone and with these tags may be on."""
        found = self.fitting[zone, tags] = [
            (shelf, heap)
            for (its_zone, its_tags, shelf), heap in self.heaps.items()
            if zone in ("", its_zone) and tags <= its_tags
        ]
        return found

    def _top(self, heap: Heap, shelf: int, memory: int, vcpus: int, taken: Collection[str]) -> tuple[int, str]:
        """The best host of a heap that takes the instance; entries that are out of date are put right on the way."""
        aside: Heap = []
        found = (1, "")
        while heap and -heap[0][0] >= memory:
            free, name = heap[0]
            host = self.hosts[name]
            if host.memory != -free:
                heapq.heapreplace(heap, (-host.memory, name))
            elif host.vcpus < vcpus:
                heapq.heappop(heap)
                if shelf != MANY and host.vcpus >= shelf:
                    aside.append((free, name))
                else:
                    self._shelve(host)
            elif name in taken:
                aside.append(heapq.heappop(heap))
            else:
                found = heap[0]
                break
        for entry in aside:
            heapq.heappush(heap, entry)
        return found

    def _shelve(self, host: _Left) -> None:
        """It stands among those with as few processors from now on; with none it stands nowhere."""
        host.shelf = 1 << (host.vcpus.bit_length() - 1) if host.vcpus > 0 else 0
        if not host.shelf:
            return
        key = (host.space.zone, host.space.tags, host.shelf)
        if key not in self.heaps:
            self.heaps[key] = []
            for (zone, tags), heaps in self.fitting.items():
                if zone in ("", key[0]) and tags <= key[1]:
                    heaps.append((host.shelf, self.heaps[key]))
        heapq.heappush(self.heaps[key], (-host.memory, host.space.host))


def room(spaces: Iterable[Space], members: Mapping[str, Iterable[str]]) -> Room:
    """An index of what is free now."""
    made = Room(members={group: set(hosts) for group, hosts in members.items()})
    for space in spaces:
        made.hosts[space.host] = _Left(space)
        made.heaps.setdefault((space.zone, space.tags, MANY), []).append((-space.memory_mib, space.host))
    for heap in made.heaps.values():
        heapq.heapify(heap)
    return made
