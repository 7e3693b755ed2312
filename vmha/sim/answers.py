"""Who answers a host's question whether it is condemned (safety.md section 1): a linearizable read, by whomever, or the voters."""

from __future__ import annotations

from collections.abc import Mapping

from vmha.core.model import Condemnation
from vmha.core.selffence import Known, vouches
from vmha.core.voters import agreed, lists
from vmha.sim.agents import Agent
from vmha.sim.controllers import Controller
from vmha.sim.net import Net
from vmha.sim.store import Store


class Answers:
    """The rules are the core's; who holds which list is what each agent and controller has seen."""

    def __init__(
        self,
        net: Net,
        store: Store,
        agents: Mapping[str, Agent],
        controllers: Mapping[str, Controller],
        word: float,
    ) -> None:
        self._word = word
        self._net, self._store, self._agents, self._controllers = net, store, agents, controllers

    def to(self, host: str) -> str:
        """ "read" or "voters", by whichever a question sent now would be answered; empty: nobody."""
        agent = self._agents[host]
        if agent.reaches_store:
            return "read"
        if not agent.host.beat:
            return ""  # questions ride on beats
        if self._store.up and (self._by_controller(host) or self._by_peer(host)):
            return "read"
        return "voters" if self._by_voters(host) else ""

    def _talks(self, host: str, other: str) -> bool:
        """An answer comes back before the word would be over."""
        return any(
            self._net.path(host, other, n)
            and self._net.path(other, host, n)
            and self._net.delay(host, other, n) + self._net.delay(other, host, n) < self._word
            for n in self._net.of(host)
        )

    def _by_controller(self, host: str) -> bool:
        return any(c.working and c.reaches_store and self._talks(host, c.name) for c in self._controllers.values())

    def _by_peer(self, host: str) -> bool:
        return any(
            a.acting and a.host.beat and a.reaches_store and self._talks(host, name)
            for name, a in self._agents.items()
            if name != host
        )

    def _by_voters(self, host: str) -> bool:
        """A majority of all voters of its own list knows of no condemnation of the host."""
        voters = self._agents[host].voters
        if voters is None:
            return False
        names = {name for one in lists(voters) for name in one}
        return agreed(voters, {name for name in names if self._vouches(name, host, voters.revision)})

    def _vouches(self, voter: str, host: str, revision: int) -> bool:
        if voter in self._controllers:
            controller = self._controllers[voter]
            mine = controller.voters.revision if controller.voters is not None else 0
            known = Known(0, frozenset(controller.condemned))
            return controller.working and self._talks(host, voter) and vouches(known, mine, host, revision)
        agent = self._agents.get(voter)
        if agent is None or not agent.acting or not agent.host.beat or agent.known is None or agent.voters is None:
            return False
        hosts = frozenset(self._store.tables[Condemnation]) if agent.reaches_store else agent.known
        talks = voter == host or self._talks(host, voter)
        return talks and vouches(Known(0, hosts), agent.voters.revision, host, revision)
