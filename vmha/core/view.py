"""What the engine holds in its hands: one HostView a host, one Case a recovery, one Turn a step.

These are the only mutable things of the core; they belong to the engine and are changed in no other thread.  Times are those of
the engine's clock; ``-inf`` means never.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from vmha.core.actions import Action, Commit, Page, ReadInstance, ReadInventory, ReadPower, ReadService, Say, StartCall
from vmha.core.calls import OpenCall, conflicts
from vmha.core.events import Acked, CutRead, PowerRead, Probed, World
from vmha.core.gates import Fleet
from vmha.core.model import (
    Call,
    CallKind,
    Command,
    Condemnation,
    HostAlive,
    HostSettings,
    HostState,
    Instance,
    Migration,
    Recovery,
    Service,
    Stage,
    Step,
)
from vmha.core.settings import Settings

NEVER = float("-inf")
MOMENT = 0.01  # seconds


@dataclass(slots=True)
class HostView:
    """All that is known of one host.  ``heard``: networks on which its beats come now."""

    name: str
    settings: HostSettings
    known_since: float
    state: HostState = HostState.UNKNOWN
    alive: HostAlive | None = None
    lease_gone_at: float | None = None  # seen through a fresh watch
    heard: dict[str, float] = field(default_factory=dict)
    last_heard: float = NEVER
    last_boot: str = ""  # of the last accepted beat
    stuck: float = 0.0
    suspect_since: float | None = None
    power: PowerRead | None = None
    reading_power: bool = False
    cut: CutRead | None = None
    registered_boot: str = ""  # of its last registration that a watch told, and when
    registered_at: float = NEVER
    fence_delay: float = 0.0  # seconds spent in readings and orders since the suspicion
    power_again: float = NEVER
    probe: Probed | None = None
    probing: bool = False
    probe_again: float = NEVER
    answered_at: float = NEVER  # when its kernel last answered ICMP
    service: Service | None = None
    service_began: float = NEVER
    reading_service: bool = False
    service_again: float = NEVER
    reading_inventory: bool = False
    inventory_again: float = NEVER
    condemnation: Condemnation | None = None
    condemning: float = NEVER  # when the commit of a condemnation was asked for; its answer is awaited
    pending: tuple[Condemnation, Recovery] | None = None  # what that commit writes
    condemn_again: float = NEVER
    hold: str = ""
    hold_since: float = NEVER
    paged_at: float = NEVER
    back_since: float | None = None  # a later boot of the condemned host has registered
    used: tuple[int, int] | None = None  # MiB and processors of its instances, as last counted
    groups: frozenset[str] = frozenset()  # hard server groups with members there
    service_baseline: float | None = None  # Nova's time of the last report before the return
    orders: tuple[Command, ...] = ()  # that its next condemnation carries out

    def silent(self) -> bool:
        """No network is heard."""
        return not self.heard

    def silent_since(self) -> float:
        """From when on nothing was heard: the last beat, or when we first knew of the host."""
        return self.last_heard if self.last_heard > NEVER else self.known_since

    def boot(self) -> str:
        """The boot that a verdict would be about: of the last beat, else registered, else remembered."""
        return self.last_boot or (self.alive.boot if self.alive else "") or self.settings.last_boot


def remembered(settings: HostSettings, alive: HostAlive) -> HostSettings:
    """What a leader that has never seen the host alive will need to know of this boot."""
    return replace(
        settings,
        last_boot=alive.boot,
        addresses=dict(alive.addresses),
        watchdog=alive.watchdog,
        watchdog_timeout=alive.watchdog_timeout,
        watchdog_held=alive.watchdog_held,
    )


@dataclass(slots=True)
class Case:
    """One recovery while it is driven.  ``committed_at``: our clock at the commit's answer, or our own election."""

    record: Recovery
    committed_at: float
    steps: dict[str, Step] = field(default_factory=dict)
    open_calls: dict[str, OpenCall] = field(default_factory=dict)
    last_call: dict[str, Call] = field(default_factory=dict)  # by instance: its last evacuate call
    plans_unsaved: int = 0  # plans whose write is not answered yet
    counted: int = 0  # calls made so far, for their names
    inventory: dict[str, Instance] | None = None
    inventory_began: float = NEVER
    migrations: tuple[Migration, ...] = ()
    retry_at: dict[str, float] = field(default_factory=dict)
    no_host: set[str] = field(default_factory=set)  # instances for which Nova found no host, since one more was enabled
    reserved_failures: dict[str, int] = field(default_factory=dict)  # reserved host to failed calls about it
    placed_at: dict[str, float] = field(default_factory=dict)  # begin of the read that found it stopped at its target
    companion_since: dict[str, float] = field(
        default_factory=dict
    )  # instance to since when it waits for one of its group
    stuck_since: dict[str, float] = field(default_factory=dict)  # when a task in flight was first seen
    called_at: dict[str, float] = field(default_factory=dict)  # when Nova took the last evacuate call
    arrived_at: dict[str, float] = field(default_factory=dict)
    asking: set[str] = field(default_factory=set)  # instances whose read is under way
    ask_again: dict[str, float] = field(default_factory=dict)
    window: int = 1
    host_retry: float = NEVER  # no host call before this
    host_failures: int = 0
    off_ended: float = NEVER
    off_refused: int = 0  # orders in a row that the device did not take
    off_ordered: float = NEVER
    proven_at: float = NEVER
    closed_at: float = NEVER
    restart_boot: str = ""  # the boot whose nova-compute must be restarted
    restart_asked: float = NEVER  # when nova-compute's restart was last asked for
    proof_began: float = NEVER  # begin of the reading that proved the death, or our election
    acked_since: float = NEVER  # since when a majority of the voters has acknowledged the condemnation to us
    acked_list: int = 0  # revision of the voters' record for which that is so
    acked_by: str = ""
    acked_said: bool = False
    self_fence_off: str = ""  # why there can be no proof P2; empty: it is possible
    outlived: bool = False  # beats came after the watchdog must have stopped it
    nova_silent: dict[str, float] = field(
        default_factory=dict
    )  # kind of read to since when Nova has not answered any such
    hold_since: float = NEVER  # since when it holds for the same reason, under whatever leader
    dirty: bool = False
    saved: float = NEVER
    paged: set[str] = field(default_factory=set)
    paged_at: dict[str, float] = field(default_factory=dict)  # reason of a hold to its last page

    def stage(self) -> Stage:
        return self.record.stage

    def change(self, **fields: object) -> None:
        """Replace fields of the record; it is saved at the end of the turn."""
        self.record = replace(self.record, **fields)  # type: ignore[arg-type]
        self.dirty = True

    def set(self, step: Step, **fields: object) -> None:
        """Replace fields of a step."""
        self.steps[step.instance] = replace(step, **fields)  # type: ignore[arg-type]
        self.dirty = True

    def stamp(self, name: str, wall: float) -> None:
        """Remember the first wall time of a named moment (for display)."""
        if name not in self.record.times_wall:
            self.change(times_wall={**self.record.times_wall, name: wall})

    def written(self) -> Recovery:
        """The record as it goes to the store."""
        ordered = sorted(self.steps.values(), key=lambda s: s.order)
        return replace(self.record, steps=tuple(ordered))


@dataclass(slots=True)
class Brakes:
    """What holds fencing back in the whole cloud.

    ``fences``: recovery to the time of its condemnation, of those that needed an order to power off; ``flaps``: host to the same of
    all its recoveries.  A new leader counts each that its predecessors still counted as if it had happened at its election
    (safety.md section 4, 8).
    """

    disarmed: bool = False
    fences: dict[str, float] = field(default_factory=dict)
    flaps: dict[str, dict[str, float]] = field(default_factory=dict)
    stormy: dict[str, float] = field(
        default_factory=dict
    )  # failure domain, "" the cloud, to until when its caps are kept
    approved: set[str] = field(default_factory=set)
    starts: dict[str, list[float]] = field(default_factory=dict)  # destination to the times of starts there
    groups: dict[str, tuple[int, float]] = field(default_factory=dict)  # start group to its progress, and since when
    passed: set[tuple[str, float]] = field(default_factory=set)  # groups that the next ones did not wait for
    ordered: dict[tuple[str, str], float] = field(default_factory=dict)  # command to when we first took it up
    answered: set[tuple[str, str]] = field(default_factory=set)  # commands carried out, their deletion not seen yet


@dataclass(slots=True)
class Turn:
    """One step of the engine: the time, what may be asked, and the actions decided so far."""

    now: float
    wall: float
    settings: Settings
    epoch: int
    views: dict[str, HostView]
    cases: dict[str, Case]
    world: World
    brakes: Brakes
    acks: Mapping[str, Acked] = field(default_factory=dict)  # by voter, the newest
    doubt: str = ""  # why the watch is not fresh; empty when it is
    out: list[Action] = field(default_factory=list)
    wakes: dict[str, float] = field(default_factory=dict)
    seen_fleet: Fleet | None = None

    def fleet(self) -> Fleet:
        """The cloud as it is in this turn; looked at once, when somebody asks."""
        if self.seen_fleet is None:
            self.seen_fleet = self._fleet()
        return self.seen_fleet

    def _fleet(self) -> Fleet:
        counted = [v for v in self.views.values() if not v.settings.maintenance or v.condemnation is not None]
        silent = {v.name for v in counted if v.silent() and self.now - v.silent_since() >= self.settings.silence}
        window = self.now - self.settings.fence_window
        return Fleet(
            domains={v.name: v.settings.failure_domain or v.name for v in counted},
            down=frozenset(silent | {v.name for v in counted if v.condemnation is not None}),
            heard=frozenset(v.name for v in counted if not v.silent()),
            disarmed=self.brakes.disarmed,
            fenced=sum(at > window for at in self.brakes.fences.values()),
            stormy=self.brakes.stormy,
            approved=frozenset(self.brakes.approved),
        )

    def wake(self, host: str, at: float) -> None:
        """Look at the host again at this time at the latest, but not sooner than after a moment."""
        at = max(at, self.now + MOMENT)
        self.wakes[host] = min(at, self.wakes.get(host, at))

    def say(
        self, subject: str, text: str, level: str = "info", *, do: str = "", instance: str = "", to: str = ""
    ) -> None:
        self.out.append(Say(level, subject, text, do, instance, to))

    def page(self, subject: str, text: str) -> None:
        self.out.append(Page(subject, text))

    def flaps(self, host: str) -> int:
        """Recoveries of the host within the flap window."""
        window = self.now - self.settings.flap_window
        return sum(at > window for at in self.brakes.flaps.get(host, {}).values())

    def open_calls(self) -> Iterator[OpenCall]:
        for case in self.cases.values():
            yield from case.open_calls.values()

    def free(self, kind: CallKind, host: str, instance: str = "") -> bool:
        """No open record, ours or a predecessor's, forbids such a call."""
        return conflicts(self.open_calls(), kind, host, instance) is None

    def call(self, case: Case, kind: CallKind, *, save: bool = False, host: str = "", **fields: object) -> Call:
        """Start one outside call: its record is opened here and now, so that nothing else is started beside it.

        It is about the case's own host, or about ``host``: a reserved one.
        """
        case.counted += 1
        call = Call(
            id=f"{self.epoch:x}-{case.counted:05d}",
            recovery=case.record.id,
            kind=kind,
            host=host or case.record.host,
            epoch=self.epoch,
            condemned_revision=case.record.condemned_revision,
            at_wall=self.wall,
            **fields,  # type: ignore[arg-type]
        )
        case.open_calls[call.id] = OpenCall(call, self.now)
        self.out.append(StartCall(call, case.written() if save else None))
        if save:
            case.dirty, case.saved = False, self.now
        return call

    def save(self, case: Case, token: str = "save") -> None:
        """Write the recovery now."""
        case.dirty, case.saved = False, self.now
        self.out.append(Commit(f"{token}/{case.record.id}", (case.written(),)))

    def read_power(self, view: HostView) -> None:
        if not view.reading_power:
            view.reading_power = True
            self.out.append(ReadPower(view.name, self.settings.power_timeout))

    def read_service(self, view: HostView) -> None:
        if not view.reading_service and self.now >= view.service_again:
            view.reading_service, view.service_again = True, self.now + self.settings.poll
            self.out.append(ReadService(view.name, self.settings.read_timeout))
        elif not view.reading_service:
            self.wake(view.name, view.service_again)

    def read_inventory(self, view: HostView) -> None:
        if not view.reading_inventory and self.now >= view.inventory_again:
            view.reading_inventory, view.inventory_again = True, self.now + self.settings.poll
            self.out.append(ReadInventory(view.name, self.settings.read_timeout))
        elif not view.reading_inventory:
            self.wake(view.name, view.inventory_again)

    def read_instance(self, case: Case, uuid: str) -> None:
        again = case.ask_again.get(uuid, NEVER)
        if uuid not in case.asking and self.now >= again:
            case.asking.add(uuid)
            case.ask_again[uuid] = self.now + self.settings.poll
            self.out.append(ReadInstance(uuid, self.settings.read_timeout))
        elif uuid not in case.asking:
            self.wake(case.record.host, again)
