"""Hosts that their storage or the switches have shut out, and the readings of that which P3 rests on.

Who shuts a host out (an adapter of the storage, an operator) is not simulated: it happens by an event, and is read by every controller
once a second, as an adapter would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from vmha.core import events as ev
from vmha.sim.clock import Clock
from vmha.sim.hosts import Host
from vmha.sim.net import Net

READ_EVERY = 1.0


class Reader(Protocol):
    """A controller."""

    def now(self) -> float:
        """Its own clock."""

    def give(self, event: ev.Event) -> None:
        """One fact."""


class Cuts:
    """Storage and switches, as far as they shut hosts out."""

    def __init__(self, clock: Clock, net: Net, readers: Mapping[str, Reader], changed: Callable[[], None]) -> None:
        self._clock, self._net, self._readers, self._changed = clock, net, readers, changed
        self._out: dict[str, tuple[bool, bool]] = {}
        self._reads: dict[str, int] = {}

    def shut_out(self, host: Host, storage: bool, networks: bool) -> None:
        """``storage``: its writes are refused; ``networks``: all its ports are shut."""
        self._out[host.name] = (storage, networks)
        if networks:
            self._cut(host.name, self._net.of(host.name))
        host.shut_out(storage and networks)
        self._reads[host.name] = number = self._reads.get(host.name, 0) + 1
        self._read(host.name, number)

    def let_in(self, host: Host) -> None:
        if self._out.pop(host.name, (False, False))[1]:
            self._net.heal(host.name, self._net.of(host.name))
            self._changed()
        self._reads[host.name] = self._reads.get(host.name, 0) + 1
        host.shut_out(False)

    def _cut(self, host: str, networks: Iterable[str]) -> None:
        self._net.cut(host, networks)
        self._changed()

    def _read(self, host: str, number: int) -> None:
        if self._reads[host] != number:
            return
        storage, networks = self._out[host]
        for reader in self._readers.values():
            reader.give(ev.CutRead(host, storage, networks, reader.now(), reader.now(), "blocklisted"))
        self._clock.after(READ_EVERY, self._read, host, number)
