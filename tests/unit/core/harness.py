"""A small world around the real engine, in virtual time: a store, power, Nova and beats that answer at once or as told.

It answers every action with the event that the shell would give.  No mocks: the engine is the real one, and what it does
is read from the world's state and from ``log``.
"""

from __future__ import annotations

from dataclasses import replace

from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.engine import Engine
from vmha.core.model import (
    Answer,
    Call,
    CallKind,
    Command,
    Condemnation,
    HostAlive,
    HostSettings,
    Instance,
    InstanceSeen,
    Migration,
    Outcome,
    PowerState,
    Recovery,
    Service,
    Verb,
    Voters,
    Word,
)
from vmha.core.settings import Settings
from vmha.core.suspicion import BeatFold

WALL = 1_700_000_000.0


class World:
    """Hosts h1..hN with beats on two networks, each with a nova-compute service and a power device."""

    def __init__(self, hosts: int = 3, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.now = 1000.0
        self.log: list[act.Action] = []
        self.pages: list[str] = []
        self.store: dict[tuple[type, str], object] = {}
        self.revision = 10
        self.epoch = 0
        self.power = {f"h{i + 1}": PowerState.ON for i in range(hosts)}
        self.bmc = dict.fromkeys(self.power, "fine")
        self.beating = dict.fromkeys(self.power, True)
        self.boots = {h: f"{h}-boot1" for h in self.power}
        self.icmp: dict[str, bool | None] = dict.fromkeys(self.power, None)
        self.services = {h: Service(f"id-{h}", h, True, False, False, "", WALL) for h in self.power}
        self.instances: dict[str, Instance] = {}
        self.migrations: list[Migration] = []
        self.refuse: dict[str, tuple[Outcome, str]] = {}  # call kind or instance -> outcome
        self.nova_down = False
        self.calls: list[Call] = []
        self.events: list[ev.Event] = []
        self.die_at = 0  # the leader dies at the n-th action that has an effect outside
        self.die_how = (
            "after"  # "before" it, "after" it (answer lost), "record" (the call's record is written, the call not sent)
        )
        self.acted = 0
        self.disarmed = False
        self.ordered = 0
        self.mute_computes: set[str] = set()  # hosts whose nova-compute does not report
        self.slow_gates: set[str] = set()  # hosts that do not open their gate by themselves
        for h in self.power:
            self.put(HostSettings(h, self.boots[h], {"management": "10.0.0.1"}))
            self.put(self.alive(h))
        self.start_controller()

    # --- the world ---------------------------------------------------------------------------------------------------

    def alive(self, host: str, **fields: object) -> HostAlive:
        value = HostAlive(
            host, self.boots[host], "agent1", {"management": "10.0.0.1"}, gate="open", hook=True, beating=True
        )
        return replace(value, **fields)  # type: ignore[arg-type]

    def put(self, value: object) -> None:
        key = getattr(value, "id", None) or getattr(value, "uuid", None) or getattr(value, "host", None)
        if isinstance(value, Command):
            key = f"{value.target}/{value.id}"
        if isinstance(value, Answer):
            key = value.target
        if isinstance(value, Voters):
            key = "voters"
        if isinstance(value, Call):
            key = f"{value.recovery}/{value.id}"
        if isinstance(value, InstanceSeen):
            key = f"{value.host}/{value.uuid}"
        self.store[type(value), str(key)] = value

    def of(self, kind: type) -> dict[str, object]:
        return {k: v for (t, k), v in self.store.items() if t is kind}

    def world(self) -> ev.World:
        return ev.World(
            alive=self.of(HostAlive),  # type: ignore[arg-type]
            hosts=self.of(HostSettings),  # type: ignore[arg-type]
            condemned=self.of(Condemnation),  # type: ignore[arg-type]
            recoveries=self.of(Recovery),  # type: ignore[arg-type]
            calls={(c.recovery, c.id): c for c in self.of(Call).values()},  # type: ignore[attr-defined,misc]
            commands={(c.target, c.id): c for c in self.of(Command).values()},  # type: ignore[attr-defined,misc]
            voters=self.store.get((Voters, "voters")),  # type: ignore[arg-type]
            disarmed=self.disarmed,
            seen={(s.host, s.uuid): s for s in self.of(InstanceSeen).values()},  # type: ignore[attr-defined,misc]
        )

    def start_controller(self) -> None:
        """A fresh leader, as after the death of the one before: answers to the old one are lost."""
        self.engine = Engine(self.settings)
        self.fold = BeatFold(self.settings.silence)
        self.events.clear()
        self.epoch += 100
        self.give(ev.Elected(self.epoch, self.world()))

    def add_instance(self, uuid: str, host: str, **fields: object) -> None:
        instance = Instance(uuid, uuid, host, "ACTIVE", "active", None, 1, memory_mib=64)
        self.instances[uuid] = replace(instance, **fields)  # type: ignore[arg-type]

    def cut_power(self, host: str) -> None:
        self.power[host] = PowerState.OFF
        self.beating[host] = False
        self.icmp[host] = False

    def boot(self, host: str, number: int = 2) -> None:
        """Power on: a later boot registers, gate shut when condemned."""
        self.power[host], self.beating[host] = PowerState.ON, True
        self.boots[host] = f"{host}-boot{number}"
        condemnation = self.store.get((Condemnation, host))
        word = Word(condemnation.revision) if isinstance(condemnation, Condemnation) else None
        self.change(self.alive(host, gate="shut" if word else "open", word=word))
        self.services[host] = replace(self.services[host], updated_wall=self.services[host].updated_wall + 1)
        self.migrations = [
            replace(m, status="completed") if m.source == host and m.status == "done" else m for m in self.migrations
        ]

    def change(self, value: object) -> None:
        self.put(value)
        self.give(ev.StoreChanged(type(value), (value.host,), value))  # type: ignore[attr-defined,arg-type]

    def order(self, verb: Verb, target: str, by: str = "ann", reason: str = "looked at it", epoch: int = 0) -> str:
        """An operator writes a command; its id."""
        self.ordered += 1
        command = Command(f"c{self.ordered}", verb, target, by, reason, epoch, self.now)
        self.put(command)
        self.give(ev.StoreChanged(Command, (target, command.id), command))
        return command.id

    def answer_about(self, target: str) -> Answer:
        """What became of the last command about it."""
        found = self.store[Answer, target]
        assert isinstance(found, Answer)
        return found

    def vote(self, *names: str, arbiter: str = "", previous: tuple[str, ...] = ()) -> None:
        """The list of voters is written by an operator."""
        self.revision += 1
        voters = Voters(names, arbiter, previous, revision=self.revision)
        self.put(voters)
        self.give(ev.StoreChanged(Voters, (), voters))

    def ack(self, *names: str, applied: int | None = None) -> None:
        """Their beats tell that they have applied everything so far (or the list of that revision)."""
        revision = self.revision if applied is None else applied
        for name in names:
            self.give(ev.Acked(name, self.boots.get(name, ""), self.revision, revision, self.now))

    def lease_ends(self, host: str) -> None:
        self.store.pop((HostAlive, host), None)
        self.give(ev.StoreChanged(HostAlive, (host,), None))

    # --- time --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, tick: float = 0.05) -> None:
        """Let time pass; beats come each 0.2 s from hosts that beat."""
        end = self.now + seconds
        while self.now < end:
            self.now += tick
            self._beats()
            self.give(ev.Tick())
            while self.events:
                self.give(self.events.pop(0))
            for host, service in self.services.items():
                if self.beating[host] and host not in self.mute_computes:
                    self.services[host] = replace(service, updated_wall=WALL + self.now)

    def _beats(self) -> None:
        for host, beating in self.beating.items():
            if beating:
                for network in ("management", "storage"):
                    edge = self.fold.heard(host, network, self.boots[host], self.now)
                    if edge:
                        self.give(edge)
        for silent in self.fold.silent(self.now):
            self.give(silent)

    def give(self, event: ev.Event) -> None:
        for action in self.engine.step(event, self.now, WALL + self.now):
            self.log.append(action)
            if self._dies(action):
                self.start_controller()
                return
            self.answer(action)

    def _dies(self, action: act.Action) -> bool:
        """Whether the leader dies at this action, which then happened or not as ``die_how`` says."""
        if not isinstance(action, (act.Commit, act.StartCall)):
            return False
        self.acted += 1
        if self.acted != self.die_at:
            return False
        if self.die_how == "after":
            self.answer(action)
        elif self.die_how == "record" and isinstance(action, act.StartCall):
            self.put(action.call)
            if action.recovery is not None:
                self.put(action.recovery)
        return True

    # --- the shell -----------------------------------------------------------------------------------------------------

    def answer(self, action: act.Action) -> None:
        match action:
            case act.ReadPower(host) if self.bmc[host] == "hangs":
                pass
            case act.ReadPower(host):
                state = self.power[host] if self.bmc[host] == "fine" else PowerState.UNKNOWN
                if self.bmc[host] == "lies":
                    state = PowerState.OFF
                self.later(ev.PowerRead(host, state, self.now + 0.001, self.now + 0.01))
            case act.Probe(host):
                self.later(ev.Probed(host, {"management": self.icmp[host]}, self.now + 0.001))
            case act.ReadService(host):
                known = not self.nova_down
                self.later(ev.ServiceRead(host, known, self.services[host] if known else None, self.now + 0.001))
            case act.ReadInventory(host):
                self.later(self._inventory(host))
            case act.ReadInstance(uuid):
                self.later(ev.InstanceRead(uuid, not self.nova_down, self.instances.get(uuid), self.now + 0.001))
            case act.Commit():
                self.commit(action)
            case act.StartCall(call, record):
                self.put(call)
                if record is not None:
                    self.put(record)
                self.calls.append(call)
                self.later(ev.CallEnded(call, *self.carry_out(call)))
            case act.Page(subject, text):
                self.pages.append(f"{subject}: {text}")
            case act.Say():
                pass

    def later(self, event: ev.Event) -> None:
        self.events.append(event)

    def _inventory(self, host: str) -> ev.InventoryRead:
        mine = tuple(i for i in self.instances.values() if i.host == host)
        moves = tuple(m for m in self.migrations if host in (m.source, m.target))
        return ev.InventoryRead(host, not self.nova_down, mine, moves, self.now + 0.001)

    def commit(self, action: act.Commit) -> None:
        if action.fresh and (Condemnation, action.fresh) in self.store:
            self.later(ev.NotCommitted(action.token, True, "already there"))
            return
        self.revision += 1
        for value in action.puts:
            if isinstance(value, Condemnation):
                old = self.store.get((Condemnation, value.host))
                value = replace(value, revision=old.revision if isinstance(old, Condemnation) else self.revision)
            if isinstance(value, Voters):
                value = replace(value, revision=self.revision)
                self.later(ev.StoreChanged(Voters, (), value))
            self.put(value)
        for key in action.commands:
            del self.store[Command, "/".join(key)]
            self.later(ev.StoreChanged(Command, key, None))
        if action.disarmed is not None:
            self.disarmed = action.disarmed
            self.later(ev.Disarm(action.disarmed))
        if action.release:
            del self.store[Condemnation, action.release]
            self.later(ev.StoreChanged(Condemnation, (action.release,), None))
            alive = self.alive(action.release, gate="shut" if action.release in self.slow_gates else "open")
            self.put(alive)
            self.later(ev.StoreChanged(HostAlive, (action.release,), alive))
        self.later(ev.Committed(action.token, self.revision))

    def carry_out(self, call: Call) -> tuple[Outcome, str]:
        for key in (call.kind, call.instance):
            if key in self.refuse:
                return self.refuse[key]
        if call.kind is CallKind.POWER_OFF:
            if self.bmc[call.host] != "fine":
                return Outcome.FAILED, "no answer from the device"
            self.cut_power(call.host)
            return Outcome.DONE, ""
        if self.nova_down:
            return Outcome.UNKNOWN, "503"
        if call.kind is CallKind.EVACUATE:
            self.evacuate(call)
        elif call.kind is CallKind.START:
            self.instances[call.instance] = replace(self.instances[call.instance], vm_state="active", power_state=1)
            self._runs(call.instance)
        elif call.kind is CallKind.RESET_STATE:
            self.instances[call.instance] = replace(self.instances[call.instance], task_state=None, vm_state=call.state)
        else:
            self._service(call)
        return Outcome.DONE, "req-1"

    def _service(self, call: Call) -> None:
        s = self.services[call.host]
        fields: dict[CallKind, dict[str, object]] = {
            CallKind.FORCE_DOWN: {"forced_down": True, "up": False},
            CallKind.UNFORCE: {"forced_down": False, "up": True},
            CallKind.DISABLE: {"disabled": True, "disabled_reason": call.reason},
            CallKind.ENABLE: {"disabled": False, "disabled_reason": ""},
        }
        self.services[call.host] = replace(s, **fields[call.kind])  # type: ignore[arg-type]

    def evacuate(self, call: Call) -> None:
        """Nova moves it at once to the first other living host."""
        instance = self.instances[call.instance]
        if instance.host != call.host:
            return  # Nova refuses: it lives elsewhere
        assert self.services[instance.host].forced_down, "evacuated before the host was forced down"
        target = next(h for h, b in self.beating.items() if b and h != instance.host)
        self.migrations.append(Migration(len(self.migrations) + 1, call.instance, "done", instance.host, target))
        stays = instance.vm_state == "stopped" or (call.arrive_stopped and instance.vm_state != "error")
        state, power = ("stopped", 4) if stays else ("active", 1)
        self.instances[call.instance] = replace(instance, host=target, vm_state=state, power_state=power)
        if not stays:
            self._runs(call.instance)

    def _runs(self, uuid: str) -> None:
        """The agent of its host sees it running."""
        host = self.instances[uuid].host
        seen = InstanceSeen(host, uuid, self.boots[host], "running")
        self.put(seen)
        self.later(ev.StoreChanged(InstanceSeen, (host, uuid), seen))

    # --- what tests ask --------------------------------------------------------------------------------------------------

    def did(self) -> list[str]:
        """Outside calls in order, as words."""
        return [f"{c.kind} {c.instance or c.host}" for c in self.calls]

    def said(self, text: str) -> bool:
        return any(isinstance(a, act.Say) and text in a.text for a in self.log)

    def state(self, host: str) -> str:
        return str(self.engine.views[host].state)
