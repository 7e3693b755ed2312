"""Who can reach whom: host networks, cut networks, cut links, delay and loss, each by direction.

Ends of a link are hosts, controllers and ``store`` (etcd, on the management network).  Power devices sit on a network
of their own that is never cut; their troubles are modes of the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

NETWORKS = ("management", "storage", "tenant")
STORE = "store"
Link = tuple[str, str, str]  # from, to, network


class Net:
    """``networks`` names the networks that each host has; every other end has all of them."""

    def __init__(self, networks: Mapping[str, tuple[str, ...]]) -> None:
        self.networks = dict(networks)
        self._cut: set[tuple[str, str]] = set()  # (end, network)
        self._links: set[Link] = set()
        self._delay: dict[Link, float] = {}
        self._loss: dict[Link, float] = {}

    # --- faults ----------------------------------------------------------------------------------------------------

    def cut(self, end: str, networks: Iterable[str]) -> None:
        self._cut.update((end, n) for n in networks)

    def heal(self, end: str, networks: Iterable[str]) -> None:
        self._cut.difference_update((end, n) for n in networks)

    def cut_link(self, source: str, target: str, networks: Iterable[str]) -> None:
        self._links.update((source, target, n) for n in networks)

    def heal_link(self, source: str, target: str, networks: Iterable[str]) -> None:
        """The link is whole again: no cut, no delay, no loss."""
        for n in networks:
            self._links.discard((source, target, n))
            self._delay.pop((source, target, n), None)
            self._loss.pop((source, target, n), None)

    def set_delay(self, source: str, target: str, networks: Iterable[str], seconds: float) -> None:
        self._delay.update({(source, target, n): seconds for n in networks})

    def set_loss(self, source: str, target: str, networks: Iterable[str], fraction: float) -> None:
        self._loss.update({(source, target, n): fraction for n in networks})

    # --- questions -------------------------------------------------------------------------------------------------

    def of(self, end: str) -> tuple[str, ...]:
        return self.networks.get(end, NETWORKS)

    def attached(self, end: str, network: str) -> bool:
        """Its own link to the network is up: it can send at all."""
        return network in self.of(end) and (end, network) not in self._cut

    def path(self, source: str, target: str, network: str) -> bool:
        """A packet of ``source`` on ``network`` comes to ``target`` (when both are switched on)."""
        if network not in self.of(source) or network not in self.of(target):
            return False
        if not self._cut and not self._links and not self._loss:
            return True
        link = (source, target, network)
        whole = (source, network) not in self._cut and (target, network) not in self._cut
        return whole and link not in self._links and self._loss.get(link, 0.0) < 1.0

    def talks(self, a: str, b: str, networks: Iterable[str] = NETWORKS) -> bool:
        """Questions of ``a`` to ``b`` are answered on at least one of the networks."""
        return any(self.path(a, b, n) and self.path(b, a, n) for n in networks)

    def delay(self, source: str, target: str, network: str) -> float:
        return self._delay.get((source, target, network), 0.0) if self._delay else 0.0

    def loss(self, source: str, target: str, network: str) -> float:
        return self._loss.get((source, target, network), 0.0) if self._loss else 0.0
