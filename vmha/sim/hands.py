"""What a controller asks of the outside and orders there: readings, probes, and calls by the rules of safety.md section 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.model import Call, CallKind, Outcome, PowerState
from vmha.core.settings import Settings
from vmha.errors import LeadershipLost
from vmha.sim.clock import Clock
from vmha.sim.nova import Nova
from vmha.sim.output import Output, of_call
from vmha.sim.physics import Physics
from vmha.sim.power import Devices
from vmha.sim.store import Store

TIMEOUT = 2.0  # of one transaction


class Outside(Protocol):
    """What the hands need of the world."""

    clock: Clock
    physics: Physics
    settings: Settings
    store: Store
    devices: Devices
    nova: Nova
    output: Output

    def probe(self, controller: str, host: str, network: str) -> bool | None: ...

    def landing(self, call: Call) -> None:
        """The call takes effect now, whatever the other side makes of it."""

    def draw(self) -> float:
        """Seconds by which a call lands later than usual."""


class Process(Protocol):
    """The controller's process, as its hands need it.  ``life`` changes when it ends."""

    name: str
    life: int

    @property
    def reaches_store(self) -> bool: ...

    def now(self) -> float: ...

    def give(self, event: ev.Event) -> None: ...

    def mine(self, life: int, do: Callable[[], None]) -> None:
        """``do``, if the process of that life still is; after SIGCONT where it is stopped."""

    def later(self, delay: float, do: Callable[[], None]) -> None: ...

    def written(self, after: float, then: Callable[[], None]) -> None: ...


class Hands:
    """Of one controller."""

    def __init__(self, process: Process, world: Outside) -> None:
        self._c, self._world = process, world
        self._clock, self._physics, self._store = world.clock, world.physics, world.store

    def read(self, action: act.Action) -> None:
        """Ask; the answer comes to this very process, or to nobody."""
        match action:
            case act.ReadPower(host, timeout):
                self._power(host, timeout)
            case act.Probe():
                self._probe(action)
            case act.ReadService(name) | act.ReadInventory(name) | act.ReadInstance(name):
                self._read(action, name)

    def _power(self, host: str, timeout: float) -> None:
        life, began = self._c.life, self._c.now()

        def answer(state: PowerState, why: str) -> None:
            self._c.mine(life, lambda: self._c.give(ev.PowerRead(host, state, began, self._c.now(), why)))

        self._world.devices.read(host, timeout, answer)

    def _probe(self, action: act.Probe) -> None:
        life, began = self._c.life, self._c.now()
        answers = {n: self._world.probe(self._c.name, action.host, n) for n in action.addresses}
        takes = 0.002 if all(answers.values()) else action.timeout

        def answer() -> None:
            late = {n: a or self._world.probe(self._c.name, action.host, n) for n, a in answers.items()}
            self._c.give(ev.Probed(action.host, late, began))

        self._clock.after(takes, self._c.mine, life, answer)

    def _read(self, action: act.Action, name: str) -> None:
        """Nova's state at the moment in which the question arrives."""
        began, life = self._c.now(), self._c.life
        nova, lag = self._world.nova, self._physics.nova_latency

        def arrives() -> None:
            trouble = nova.trouble.mode or (nova.refusing.get(name, "") if isinstance(action, act.ReadInstance) else "")
            known, why = not trouble, "HTTP 503 from Nova" if trouble else ""
            event: ev.Event
            match action:
                case act.ReadService():
                    event = ev.ServiceRead(name, known, nova.service(name) if known else None, began, why)
                case act.ReadInventory():
                    mine = nova.instances(name) if known else ()
                    moves = tuple(nova.migrations_of(name)) if known else ()
                    event = ev.InventoryRead(name, known, mine, moves, began, why)
                case _:
                    server = nova.servers.get(name) if known else None
                    event = ev.InstanceRead(name, known, server.view(nova.key) if server else None, began, why)
            self._clock.after(lag, self._c.mine, life, lambda: self._c.give(event))

        self._clock.after(lag, arrives)

    # --- outside calls (safety.md section 4) ---------------------------------------------------------------------------------

    def try_call(self, action: act.StartCall, epoch: int, queued: bool = False) -> None:
        """Commit the record of the call, then send it: within ``start_limit`` of this moment, or never."""
        sent, lag = self._clock.now, self._physics.store_latency

        def arrives() -> None:
            refused, answer = "", lag
            if not self._c.reaches_store:
                refused, answer = "etcd did not answer", TIMEOUT
            else:
                try:
                    self._store.commit(epoch, action)
                except LeadershipLost as e:
                    refused = str(e)
            if queued:
                self._c.written(answer, lambda: self._send(action.call, sent, refused))
            else:
                self._c.later(answer, lambda: self._send(action.call, sent, refused))

        if queued:
            arrives()
        else:
            self._c.later(lag, arrives)

    def _send(self, call: Call, sent: float, refused: str) -> None:
        if refused:
            self._ended(call, Outcome.NOT_STARTED, f"its record could not be written: {refused}")
            return
        if self._clock.now - sent >= self._world.settings.start_limit:
            self._ended(call, Outcome.NOT_STARTED, "its record was written too late to start it")
            return
        if call.kind is CallKind.POWER_OFF:
            self._power_off(call, self._c.life)
        else:
            self._nova(call, self._c.life)
        for word in of_call(call):
            self._world.output.done(word)

    def _ended(self, call: Call, outcome: Outcome, detail: str) -> None:
        self._c.give(ev.CallEnded(call, outcome, detail))

    def _power_off(self, call: Call, life: int) -> None:
        """A fence agent is a process of its own: it goes on while we are stopped, and ends with us."""

        def runs() -> bool:
            if self._c.life == life:
                self._world.landing(call)
            return self._c.life == life

        def answer(outcome: Outcome, why: str) -> None:
            self._c.mine(life, lambda: self._ended(call, outcome, why))

        if self._c.life == life:
            self._world.devices.off(call.host, self._world.settings.fence_limit, runs, answer)

    def _nova(self, call: Call, life: int) -> None:
        """A request that was sent lands, whatever becomes of us; ``call_limit`` is the latest."""
        nova, lag, limit = self._world.nova, self._physics.nova_latency, self._world.settings.call_limit
        mode = nova.refusing.get(call.instance, "") or nova.trouble.mode
        lands = lag + self._world.draw()
        if mode == "late":
            lands = min(nova.trouble.seconds or limit, limit) - 0.01
            self._c.later(min(lands, limit / 2), lambda: self._ended(call, Outcome.UNKNOWN, "sent to Nova, no answer"))
        elif mode == "lost":
            self._c.later(limit / 2, lambda: self._ended(call, Outcome.UNKNOWN, "sent to Nova, no answer"))

        def land() -> None:
            outcome, detail = Outcome.UNKNOWN, "HTTP 503 from Nova"
            if mode != "error":
                self._world.landing(call)
                outcome, detail = nova.land(call)
            if mode in ("", "error"):
                self._clock.after(lag, self._c.mine, life, lambda: self._ended(call, outcome, detail))

        self._clock.after(lands, land)
