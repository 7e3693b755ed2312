"""What agents last saw of every domain of the cloud, kept small: 168,000 of them in 3 MiB.

Agents' records of one host differ in little but their uuid: for each host the uuids of all that are alike stand behind each other, 16
bytes each, under the one value that they share.  A value is put together when somebody asks for it: only recoveries do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import replace

from vmha.core.model import InstanceSeen

DASHES = (8, 13, 18, 23)
WIDTH = 16


class Seen(MutableMapping[tuple[str, str], InstanceSeen]):
    """(host, uuid) to what was seen.  Values given to ``put`` need not carry their uuid."""

    def __init__(self, known: Mapping[tuple[str, str], InstanceSeen] | None = None) -> None:
        self._hosts: dict[str, dict[InstanceSeen, bytearray]] = {}
        self._odd: dict[tuple[str, str], InstanceSeen] = {}  # those whose name is no uuid
        self._count = 0
        for (host, uuid), value in (known or {}).items():
            self.put(host, uuid, value)

    def put(self, host: str, uuid: str, value: InstanceSeen) -> None:
        """Take one record in."""
        short = _short(uuid)
        if short is None:
            self._odd[host, uuid] = replace(value, uuid=uuid)
            return
        alike = replace(value, uuid="") if value.uuid else value
        mine = self._hosts.setdefault(host, {})
        self._count += not _take_out(mine, short)
        mine.setdefault(alike, bytearray()).extend(short)

    def copy(self) -> Seen:
        """One of its own, with the same order."""
        other = Seen()
        for host, alike, uuids in self.groups():
            other.put_group(host, alike, uuids)
        other._odd.update(self._odd)
        return other

    def groups(self) -> Iterator[tuple[str, InstanceSeen, bytes]]:
        """Each host's groups of records that differ in nothing but their uuid: 16 bytes of each of these."""
        for host, mine in self._hosts.items():
            yield from ((host, alike, bytes(uuids)) for alike, uuids in mine.items())

    def put_group(self, host: str, alike: InstanceSeen, uuids: bytes) -> None:
        """Take such a group in, none of which is known yet."""
        self._hosts.setdefault(host, {})[alike] = bytearray(uuids)
        self._count += len(uuids) // WIDTH

    def others(self) -> Mapping[tuple[str, str], InstanceSeen]:
        """The records whose name is no uuid."""
        return self._odd

    def __setitem__(self, key: tuple[str, str], value: InstanceSeen) -> None:
        self.put(*key, value)

    def __delitem__(self, key: tuple[str, str]) -> None:
        short = _short(key[1])
        if short is None:
            del self._odd[key]
        elif _take_out(self._hosts.get(key[0], {}), short):
            self._count -= 1
        else:
            raise KeyError(key)

    def get(self, key: tuple[str, str], default: object = None) -> InstanceSeen | None:  # type: ignore[override]
        short = _short(key[1])
        if short is None:
            return self._odd.get(key)
        for alike, uuids in self._hosts.get(key[0], {}).items():
            if _place(uuids, short) >= 0:
                return replace(alike, uuid=key[1])
        return None

    def __getitem__(self, key: tuple[str, str]) -> InstanceSeen:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for host, mine in self._hosts.items():
            for uuids in mine.values():
                yield from ((host, _long(uuids[at : at + WIDTH])) for at in range(0, len(uuids), WIDTH))
        yield from self._odd

    def __len__(self) -> int:
        return self._count + len(self._odd)


def _place(uuids: bytearray, short: bytes) -> int:
    """Where the uuid stands, -1 when it does not; bytes of two neighbours can look like it."""
    at = uuids.find(short)
    while at % WIDTH and at >= 0:
        at = uuids.find(short, at + 1)
    return at


def _take_out(mine: dict[InstanceSeen, bytearray], short: bytes) -> bool:
    """Remove the uuid; the last one takes its place."""
    for alike, uuids in mine.items():
        at = _place(uuids, short)
        if at >= 0:
            uuids[at : at + WIDTH] = uuids[-WIDTH:]
            del uuids[-WIDTH:]
            if not uuids:
                del mine[alike]
            return True
    return False


def _short(uuid: str) -> bytes | None:
    """The 16 bytes of a uuid as Nova writes it; None for any other name."""
    if len(uuid) != 36 or any(uuid[at] != "-" for at in DASHES) or uuid != uuid.lower():
        return None
    try:
        short = bytes.fromhex(uuid.replace("-", ""))
    except ValueError:
        return None
    return short if len(short) == WIDTH else None


def _long(short: bytes | bytearray) -> str:
    h = short.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
