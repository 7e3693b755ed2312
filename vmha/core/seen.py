"""What agents last saw of every domain of the cloud, kept small: 168,000 of them in about 15 MiB.

Agents' records of one host differ in little but their uuid, so one value without it is shared by all that are alike, and the uuid is
kept as its 16 bytes.  A value is put together when somebody asks for it: only recoveries do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import replace

from vmha.core.model import InstanceSeen

DASHES = (8, 13, 18, 23)
MOST_SHARED = 50_000  # values remembered for sharing


class Seen(MutableMapping[tuple[str, str], InstanceSeen]):
    """(host, uuid) to what was seen.  Values given to ``put`` need not carry their uuid."""

    def __init__(self, known: Mapping[tuple[str, str], InstanceSeen] | None = None) -> None:
        self._hosts: dict[str, dict[str | bytes, InstanceSeen]] = {}
        self._shared: dict[InstanceSeen, InstanceSeen] = {}
        self._count = 0
        for (host, uuid), value in (known or {}).items():
            self.put(host, uuid, value)

    def put(self, host: str, uuid: str, value: InstanceSeen) -> None:
        """Take one record in."""
        alike = replace(value, uuid="") if value.uuid else value
        if len(self._shared) > MOST_SHARED:
            self._shared.clear()
        alike = self._shared.setdefault(alike, alike)
        mine = self._hosts.setdefault(host, {})
        before = len(mine)
        mine[_short(uuid)] = alike
        self._count += len(mine) - before

    def __setitem__(self, key: tuple[str, str], value: InstanceSeen) -> None:
        self.put(*key, value)

    def __delitem__(self, key: tuple[str, str]) -> None:
        mine = self._hosts.get(key[0], {})
        del mine[_short(key[1])]
        self._count -= 1
        if not mine:
            del self._hosts[key[0]]

    def get(self, key: tuple[str, str], default: object = None) -> InstanceSeen | None:  # type: ignore[override]
        alike = self._hosts.get(key[0], {}).get(_short(key[1]))
        return None if alike is None else replace(alike, uuid=key[1])

    def __getitem__(self, key: tuple[str, str]) -> InstanceSeen:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for host, mine in self._hosts.items():
            for uuid in mine:
                yield host, _long(uuid)

    def __len__(self) -> int:
        return self._count


def _short(uuid: str) -> str | bytes:
    """The 16 bytes of a uuid as Nova writes it; any other name as it is."""
    if len(uuid) != 36 or any(uuid[at] != "-" for at in DASHES) or uuid != uuid.lower():
        return uuid
    try:
        return bytes.fromhex(uuid.replace("-", ""))
    except ValueError:
        return uuid


def _long(short: str | bytes) -> str:
    if isinstance(short, str):
        return short
    h = short.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
