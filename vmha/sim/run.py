"""One scenario from its file to its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmha.sim.expect import unmet
from vmha.sim.happenings import Happenings
from vmha.sim.scenario import Scenario
from vmha.sim.world import World


@dataclass(frozen=True, slots=True)
class Result:
    """What the contract's ``--json`` prints, and the operators' log."""

    name: str
    actions: list[dict[str, Any]]
    final: dict[str, Any]
    violations: list[str]
    unmet: list[str]
    lines: list[str]

    @property
    def held(self) -> bool:
        return not self.violations and not self.unmet

    def as_json(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("name", "actions", "final", "violations", "unmet")}

    def log(self) -> str:
        """The lines, then how it ended."""
        hosts = (
            f"{n} {h['state']}{'' if h['in_service'] else ', out of service'}" for n, h in self.final["hosts"].items()
        )
        tail = [f"    final -- {text}" for text in hosts]
        tail += [f"    final -- {n} {i['state']} on {i['host']}" for n, i in self.final["instances"].items()][:40]
        tail += [f"VIOLATION {text}" for text in self.violations] + [f"UNMET {text}" for text in self.unmet]
        return "\n".join([f"# {self.name}", *self.lines, *tail]) + "\n"


def simulate(scenario: Scenario) -> Result:
    """Run it to its end."""
    world = World(scenario)
    Happenings(world)
    world.run()
    return result(world)


def result(world: World) -> Result:
    final = final_of(world)
    scenario = world.scenario
    return Result(
        name=scenario.name,
        actions=world.output.as_json(),
        final=final,
        violations=list(world.violations),
        unmet=list(unmet(scenario.expect, world.output.actions, final)),
        lines=world.output.lines,
    )


def final_of(world: World) -> dict[str, Any]:
    """Where everything stands: instances by Nova's word, hosts by the leader's and Nova's."""
    leader = world.leader()
    views = leader.engine.views if leader is not None else {}
    hosts = {}
    for name in world.hosts:
        service = world.nova.service(name)
        hosts[name] = {
            "state": str(views[name].state) if name in views else "unknown",
            "in_service": service.up and not service.disabled and not service.forced_down,
        }
    instances = {n: {"host": s.host, "state": s.vm_state} for n, s in world.nova.servers.items()}
    return {"instances": instances, "hosts": hosts}
