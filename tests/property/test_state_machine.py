"""A cloud to which anything may happen at any moment, chosen and shrunken by hypothesis: the invariants hold after every step, and once
all is whole again every recovery ends or a person was told.

Beside the seeded worlds this one reaches what those do not draw: orders of operators in the middle of everything, and repairs that never
come, in any order.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.property.random_worlds import limbo
from vmha.sim import scenario
from vmha.sim.happenings import Happenings
from vmha.sim.scenario import Happening
from vmha.sim.world import World

HOSTS, INSTANCES = ("h1", "h2", "h3", "h4"), ("v1", "v2", "v3", "v4")
CLOUD: dict[str, Any] = {
    "hosts": {"h1": {"watchdog": 10}, "h2": {"power": False, "watchdog": 10}, "h3": {"watchdog": None}, "h4": {}},
    "instances": {
        "v1": {"host": "h1"},
        "v2": {"host": "h2"},
        "v3": {"host": "h3", "state": "stopped"},
        "v4": {"host": "h1"},
    },
    "settings": {"fence_limit": 12, "max_down_percent": 60, "flap_limit": 100, "inventory_every": 20},
    "world": {"boot": 20, "spawn": 5},
    "until": 1e6,
}
AFTERWARDS = 900.0  # virtual seconds in which all must come to rest once everything is whole

host = st.sampled_from(HOSTS)


class Cloud(RuleBasedStateMachine):
    """Each rule is one thing that happens; time passes by a rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(scenario.build(CLOUD))
        self.happenings = Happenings(self.world)
        self.wait(5.0)

    def happens(self, do: str, **args: Any) -> None:
        self.happenings.happen(Happening(do, args=args))

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.3, 2.0, 5.0, 9.0, 13.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.run(self.world.clock.now + seconds, self.world._check)

    @rule(host=host, do=st.sampled_from(["power_off", "power_on"]))
    def power(self, host: str, do: str) -> None:
        self.happens(do, host=host)

    @rule(host=host, do=st.sampled_from(["net_cut", "net_heal"]))
    def network(self, host: str, do: str) -> None:
        self.happens(do, host=host)

    @rule(host=host, part=st.sampled_from(["agent", "beat", "libvirt", "nova_compute"]), on=st.booleans())
    def process(self, host: str, part: str, on: bool) -> None:
        self.happens(f"{part}_{'start' if on else 'kill'}", host=host)

    @rule(host=host, do=st.sampled_from(["agent_hang", "agent_resume"]))
    def agent_stands_still(self, host: str, do: str) -> None:
        self.happens(do, host=host)

    @rule(host=host, mode=st.sampled_from(["unreachable", "stuck", "slow", ""]))
    def device(self, host: str, mode: str) -> None:
        if mode:
            self.happens("bmc_fail", host=host, mode=mode)
        else:
            self.happens("bmc_ok", host=host)

    @rule(do=st.sampled_from(["controller_kill", "controller_hang"]))
    def leader(self, do: str) -> None:
        self.happens(do, which="leader")

    @rule(do=st.sampled_from(["controller_start", "controller_resume"]))
    def controllers(self, do: str) -> None:
        self.happens(do, which="all")

    @rule(do=st.sampled_from(["nova_fail", "nova_ok", "store_down", "store_up", "leases_expire", "disarm", "arm"]))
    def service(self, do: str) -> None:
        self.happens(do)

    @rule(instance=st.sampled_from(INSTANCES), do=st.sampled_from(["stop", "start", "vm_crash"]))
    def user(self, instance: str, do: str) -> None:
        self.happens(do, instance=instance)

    @rule(
        host=host,
        do=st.sampled_from(["condemn", "approve", "retry", "abort", "resolve", "release", "maintain", "confirm_dead"]),
    )
    def operator(self, host: str, do: str) -> None:
        named = {} if do in ("release", "maintain") else {"by": "ann", "reason": "she has looked"}
        self.happens(do, host=host, **named)

    @invariant()
    def nothing_is_violated(self) -> None:
        assert not self.world.violations, "\n".join([*self.world.violations, *self.world.output.lines])

    def teardown(self) -> None:
        """Peace: whatever was broken is whole again."""
        for do in ("store_up", "nova_ok", "arm"):
            self.happens(do)
        for do in ("controller_resume", "controller_start"):
            self.happens(do, which="all")
        for name in HOSTS:
            for do in ("net_heal", "bmc_ok", "power_on", "release"):
                self.happens(do, host=name)
            for do in ("libvirt_start", "agent_resume", "agent_start", "beat_start", "nova_compute_start"):
                self.happens(do, host=name)
        self.wait(AFTERWARDS)
        wrong = [*self.world.violations, *limbo(self.world)]
        assert not wrong, "\n".join([*wrong, *self.world.output.lines])


TestCloud = Cloud.TestCase
TestCloud.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None, print_blob=False
)
