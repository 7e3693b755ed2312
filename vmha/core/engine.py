"""The engine: one event in, actions out.  No clock, no I/O: time comes with each event, effects leave as data.

``Engine.step(event, now, wall)`` takes one fact and returns what must be done, in order.  ``next_deadline()`` says when to call it with
Tick at the latest.  Followers feed their engine the same events: it keeps the same views and returns nothing, so that a
take-over starts warm.  Only Elected makes it act, from the world read linearizably after the election.

Take-over (safety.md section 4): every open record of a predecessor blocks, and is closed by its own trace or after its wait, counted
from our election; waiting times start again, readings count only if they began after it.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Any, assert_never

from vmha.core import chores, commands, judge, moving, outcomes, recovery, returning, silence, takeover, upkeep
from vmha.core import events as ev
from vmha.core.actions import Action, Commit
from vmha.core.model import (
    Call,
    Command,
    Condemnation,
    HostAlive,
    HostSettings,
    HostState,
    InstanceSeen,
    InstanceSettings,
    Outcome,
    Recovery,
    SegmentSettings,
    Stage,
    Voters,
)
from vmha.core.settings import Settings
from vmha.core.table import own, own_seen, put
from vmha.core.view import NEVER, Brakes, Case, HostView, Turn, remembered


class Engine:
    """The decision core of one controller."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.epoch = 0  # 0: follower
        self.views: dict[str, HostView] = {}
        self.cases: dict[str, Case] = {}  # by recovery id, all that are not ended
        self.world = own(ev.World())
        self._seen_revision = 0  # up to which what agents saw of their domains was listed
        self.brakes = Brakes()
        self.acks: dict[str, ev.Acked] = {}
        self.doubt = "not listed yet"  # why the watch is not fresh; empty when it is
        self._wakes: list[tuple[float, str]] = []  # with superseded entries; _wake_at holds the valid one of each host
        self._wake_at: dict[str, float] = {}
        self._next_inventory = NEVER
        self._rotation = 0

    # --- the seam --------------------------------------------------------------------------------------------------

    def step(self, event: ev.Event, now: float, wall: float = 0.0) -> list[Action]:
        """Take one fact; the actions it makes, in order.  A follower returns none."""
        if isinstance(event, ev.Tick) and self._idle(now):
            return []
        s, e = self.settings, self.epoch
        turn = Turn(now, wall, s, e, self.views, self.cases, self.world, self.brakes, self.acks, self.doubt)
        touched = self._take(event, turn)
        if not self.epoch:
            return []
        turn.epoch, turn.world, turn.doubt = self.epoch, self.world, self.doubt
        touched |= commands.strangers(turn)
        for host in self._due(now) if isinstance(event, ev.Tick) else ():
            touched.add(host)
        for host in sorted(touched):
            self._wake_at.pop(host, None)
            self._drive(host, turn)
        self._rotate(turn)
        for host, at in turn.wakes.items():
            if at < self._wake_at.get(host, float("inf")):
                self._wake_at[host] = at
                heapq.heappush(self._wakes, (at, host))
        return turn.out

    def next_deadline(self) -> float | None:
        """When Tick is due at the latest; None when only an event can change anything."""
        if not self.epoch:
            return None
        while self._wakes and self._wake_at.get(self._wakes[0][1]) != self._wakes[0][0]:
            heapq.heappop(self._wakes)  # superseded
        waking = self._wakes[0][0] if self._wakes else None
        if self._next_inventory > NEVER:
            return self._next_inventory if waking is None else min(waking, self._next_inventory)
        return waking

    def _idle(self, now: float) -> bool:
        """No time that was asked for has come, and no order waits: a Tick changes nothing."""
        due = self.next_deadline()
        return (due is None or due > now) and not self.world.commands

    def _due(self, now: float) -> set[str]:
        due = set()
        while self._wakes and self._wakes[0][0] <= now:
            at, host = heapq.heappop(self._wakes)
            if self._wake_at.get(host) == at:
                due.add(host)
        return due

    # --- facts -----------------------------------------------------------------------------------------------------

    def _take(self, event: ev.Event, turn: Turn) -> set[str]:
        """Write the fact into the views; the hosts it touches."""
        match event:
            case ev.Tick():
                return set()
            case ev.Elected():
                return self._elected(event, turn)
            case ev.Deposed():
                self.epoch = 0
                self.cases.clear()
                self._wake_at.clear()
                return set()
            case ev.StoreSnapshot(world):
                return self._listed(world, turn)
            case ev.StoreDoubt(reason):
                self.doubt = reason
                return set()
            case ev.Disarm(disarmed):
                self.brakes.disarmed = disarmed
                return set(self.views)
            case ev.StoreChanged():
                listed = self._seen_revision if event.kind is InstanceSeen else self.world.revision
                stale = 0 < event.revision <= listed
                return set() if stale else self._changed(event, turn)
            case ev.Heard() | ev.Silent() | ev.AgentStuck() | ev.PowerRead() | ev.Probed() | ev.CutRead():
                return self._sensed(event, turn)
            case ev.Acked():
                return self._acked(event)
            case ev.ServiceRead() | ev.InventoryRead() | ev.InstanceRead():
                return self._read(event, turn)
            case ev.Committed() | ev.NotCommitted():
                return self._answered(event, turn)
            case ev.CallEnded(call, outcome, detail):
                return self._call_ended(call, outcome, detail, turn)
        assert_never(event)

    def _view(self, host: str, now: float) -> HostView:
        if host not in self.views:
            settings = self.world.hosts.get(host) or HostSettings(host)
            self.views[host] = HostView(host, settings, known_since=now)
        return self.views[host]

    def _acked(self, event: ev.Acked) -> set[str]:
        """What a voter has applied; it never knows less than it once did."""
        old = self.acks.get(event.host)
        if old is not None:
            lists = (
                max(old.voters_revision, event.voters_revision),
                max(old.condemned_applied, event.condemned_applied),
            )
            event = replace(event, voters_revision=lists[0], condemned_applied=lists[1])
        self.acks[event.host] = event
        return {c.record.host for c in self.cases.values() if c.stage() is Stage.CONDEMNED}

    def _sensed(
        self, event: ev.Heard | ev.Silent | ev.AgentStuck | ev.PowerRead | ev.Probed | ev.CutRead, turn: Turn
    ) -> set[str]:
        view = self._view(event.host, turn.now)
        match event:
            case ev.Heard(_, network, boot, at):
                view.heard[network] = at
                view.last_heard = max(view.last_heard, at)
                view.last_boot = boot
            case ev.Silent(_, network, last):
                view.heard.pop(network, None)
                view.last_heard = max(view.last_heard, last)
            case ev.AgentStuck(_, age):
                view.stuck = age
            case ev.CutRead():
                view.cut = event
            case ev.PowerRead():
                view.reading_power = False
                before, view.power = view.power, event
                view.fence_delay += max(0.0, event.ended - event.began)
                view.power_again = event.ended + self._recheck(view)
                if view.condemnation is None and (before is None or before.state is not event.state):
                    turn.say(view.name, f"power reads {event.state}" + (f" ({event.detail})" if event.detail else ""))
            case ev.Probed(_, answers, _):
                view.probing = False
                view.probe = event
                view.probe_again = turn.now + self.settings.probe_every
                if any(answers.values()):
                    view.answered_at = turn.now
        return {event.host}

    def _recheck(self, view: HostView) -> float:
        return self.settings.fence_recheck if view.condemnation is not None else self.settings.power_every

    def _read(self, event: ev.ServiceRead | ev.InventoryRead | ev.InstanceRead, turn: Turn) -> set[str]:
        if isinstance(event, ev.InstanceRead):
            return self._instance_read(event, turn)
        view = self._view(event.host, turn.now)
        if isinstance(event, ev.ServiceRead):
            view.reading_service = False
            if event.known:
                view.service, view.service_began = event.service, event.began
        else:
            view.reading_inventory = False
            if event.known:
                self._inventory_read(event, turn)
        case = self._case(event.host)
        if case is not None:
            silence.noted(case, event, turn)
        if not event.known:
            view.service_again = view.inventory_again = turn.now + self.settings.poll
        return {event.host}

    def _inventory_read(self, event: ev.InventoryRead, turn: Turn) -> None:
        case = self._case(event.host)
        if case is None:
            chores.publish_unprotected(event, turn)
        elif event.began > max(case.proven_at, case.inventory_began):
            case.inventory = {i.uuid: i for i in event.instances}
            case.inventory_began, case.migrations = event.began, event.migrations
            if case.stage() in (Stage.PROVEN, Stage.MOVING):
                moving.absorb(case, turn)

    def _instance_read(self, event: ev.InstanceRead, turn: Turn) -> set[str]:
        touched = set()
        for case in self.cases.values():
            if event.uuid in case.asking:
                silence.noted(case, event, turn)
                moving.instance_read(case, event, turn)
                touched.add(case.record.host)
        return touched

    def _call_ended(self, call: Call, outcome: Outcome, detail: str, turn: Turn) -> set[str]:
        case = self.cases.get(call.recovery)
        if case is None:
            return {call.host}
        outcomes.call_ended(case, call, outcome, detail, turn)
        return {call.host, case.record.host}

    # --- the store -------------------------------------------------------------------------------------------------

    def _listed(self, world: ev.World, turn: Turn) -> set[str]:
        """The watch has listed; our election may have read the store later, but not what agents saw of their domains."""
        seen = world.seen if world.revision >= self._seen_revision else self.world.seen
        self._seen_revision = max(self._seen_revision, world.revision)
        if world.revision >= self.world.revision:
            return self._snapshot(replace(world, seen=seen), turn)
        self.world = replace(self.world, seen=own_seen(seen))
        return set()

    def _snapshot(self, world: ev.World, turn: Turn) -> set[str]:
        """A fresh listing replaces what the watch told; records that the leader writes itself stay its own."""
        self.world, self.doubt = own(world), ""
        self.brakes.disarmed = world.disarmed
        for host in {*world.hosts, *world.alive}:
            self._view(host, turn.now)
        for view in self.views.values():
            view.settings = world.hosts.get(view.name, view.settings)
            self._lease(view, world.alive.get(view.name), turn)
            if not self.epoch:
                view.condemnation = world.condemned.get(view.name)
        if self.epoch:
            for name in sorted(set(world.alive) - set(world.hosts)):
                self._register(name, turn)
        return set(self.views)

    def _lease(self, view: HostView, alive: HostAlive | None, turn: Turn) -> None:
        """A registration came, or its lease ended; told through a fresh watch or listing only."""
        if alive is None:
            if view.lease_gone_at is None:
                view.lease_gone_at = turn.now
            view.alive = view.alive and replace(view.alive, gate="shut", word=None)
            return
        view.alive, view.lease_gone_at = alive, None

    def _changed(self, event: ev.StoreChanged, turn: Turn) -> set[str]:
        value: Any = event.value
        kind, name = event.kind, event.key[0] if event.key else ""
        if kind is HostAlive:
            put(self.world.alive, name, value)
            self._lease(self._view(name, turn.now), value, turn)
            if value is not None:
                view = self.views[name]
                view.registered_boot, view.registered_at = value.boot, turn.now
                if self.epoch:
                    self._register(name, turn)
            return {name}
        if kind is HostSettings:
            put(self.world.hosts, name, value)
            self._view(name, turn.now).settings = value or HostSettings(name)
            return {name}
        if kind is InstanceSeen:
            put(self.world.seen, (event.key[0], event.key[1]), value)
            return {c.record.host for c in self.cases.values() if upkeep.verifying(c, event.key[1])}
        if kind is Condemnation:
            return self._condemned(name, value, turn)
        if kind is SegmentSettings:
            put(self.world.segments, name, value)
        elif kind is InstanceSettings:
            put(self.world.instances, name, value)
        elif kind is Recovery:
            put(self.world.recoveries, name, value)
        elif kind is Call:
            put(self.world.calls, (event.key[0], event.key[1]), value)
        elif kind is Voters:
            self.world = replace(self.world, voters=value)
            return {c.record.host for c in self.cases.values() if c.stage() is Stage.CONDEMNED}
        elif kind is Command:
            put(self.world.commands, (event.key[0], event.key[1]), value)
            if value is None:
                self.brakes.answered.discard((event.key[0], event.key[1]))
            return {event.key[0]}
        return set()

    def _condemned(self, host: str, value: Condemnation | None, turn: Turn) -> set[str]:
        put(self.world.condemned, host, value)
        view = self._view(host, turn.now)
        case = self._case(host)
        if value is None:
            if case is None or case.stage() is Stage.RELEASED or not self.epoch:
                _uncondemned(view)
            else:
                judge.condemn_anew(case, view, turn)
        elif view.condemnation is None or view.condemnation.revision != value.revision:
            view.condemnation = value
            if self.epoch and case is not None and case.record.id == value.recovery:
                judge.condemned_anew(case, view, value.revision, turn)
            elif self.epoch and view.condemning <= NEVER and case is None:
                self._adopt(value, turn)
        return {host}

    def _register(self, host: str, turn: Turn) -> None:
        """Remember boot and addresses of a living host, for a leader that has never seen it alive."""
        view = self._view(host, turn.now)
        alive = view.alive
        if alive is None or view.condemnation is not None:
            return
        wanted = remembered(view.settings, alive)
        if wanted != view.settings or host not in self.world.hosts:
            new = host not in self.world.hosts
            view.settings = wanted
            self.world.hosts[host] = wanted  # type: ignore[index]
            turn.out.append(Commit(f"register/{host}", (wanted,)))
            text = "registered for the first time" if new else "registered"
            turn.say(host, f"{text}: boot {alive.boot[:8]}, networks {', '.join(sorted(alive.addresses))}")
        if not alive.hook:
            turn.say(host, "its libvirt hook is missing: its instances are not safe from a double start", "warning")

    # --- answers of the store ----------------------------------------------------------------------------------------

    def _answered(self, event: ev.Committed | ev.NotCommitted, turn: Turn) -> set[str]:
        kind, _, name = event.token.partition("/")
        if kind == "condemn":
            return self._condemn_answered(name, event, turn)
        case = self.cases.get(name)
        if case is None:
            return set()
        if kind == "release" and isinstance(event, ev.Committed):
            _uncondemned(self.views[case.record.host])
        if kind == "anew" and isinstance(event, ev.Committed):
            judge.condemned_anew(case, self.views[case.record.host], event.revision, turn)
        if kind == "plan" and isinstance(event, ev.NotCommitted):
            turn.save(case, "plan")
        elif kind == "plan":
            case.plans_unsaved -= 1
        return {case.record.host}

    def _condemn_answered(self, host: str, event: ev.Committed | ev.NotCommitted, turn: Turn) -> set[str]:
        view = self.views[host]
        pending, view.pending, view.condemning = view.pending, None, NEVER
        if isinstance(event, ev.Committed) and pending is not None:
            commands.settled(view.orders, turn)
            view.orders = ()
            self._adopt(replace(pending[0], revision=event.revision), turn, pending[1])
            return {host}
        view.condemn_again = turn.now + self.settings.poll
        if isinstance(event, ev.NotCommitted):
            turn.say(host, f"the condemnation was not written, judged again: {event.detail}", "warning")
        if view.condemnation is not None and self._case(host) is None:
            self._adopt(view.condemnation, turn)  # it was written after all: the watch has told
        return {host}

    def _adopt(self, condemnation: Condemnation, turn: Turn, record: Recovery | None = None) -> Case:
        """Open the case of a committed condemnation; its record may be missing when only the key survived."""
        view = self._view(condemnation.host, turn.now)
        record = record or self.world.recoveries.get(condemnation.recovery)
        if record is None:
            c = condemnation
            record = Recovery(c.recovery, c.host, c.boot, Stage.CONDEMNED, c.reason)
        record = replace(record, condemned_revision=condemnation.revision)
        self._supersede(view.name, turn)
        case = Case(record, committed_at=turn.now)
        self.cases[record.id] = case
        self.brakes.flaps.setdefault(view.name, {})[record.id] = turn.now
        self.brakes.approved.discard(view.name)
        view.service_again = view.inventory_again = NEVER  # what follows needs reads of its own, at once
        view.back_since = view.service_baseline = None  # of an earlier death
        view.condemnation, view.state, view.hold = condemnation, HostState.CONDEMNED, ""
        turn.say(view.name, f"condemned (boot {condemnation.boot[:8] or 'unknown'}): {condemnation.reason}", "warning")
        for other in upkeep.bound_for(view.name, turn):
            turn.wake(other.record.host, turn.now)
        return case

    def _supersede(self, host: str, turn: Turn) -> None:
        """A released host died again before it was in service: its former case ends, its open records stay in force."""
        for case in [c for c in self.cases.values() if c.record.host == host]:
            if case.stage() is not Stage.RELEASED:
                continue
            case.change(stage=Stage.ENDED, hold="superseded by a later recovery")
            turn.save(case)

    # --- take-over -------------------------------------------------------------------------------------------------

    def _elected(self, event: ev.Elected, turn: Turn) -> set[str]:
        self.epoch = turn.epoch = event.epoch
        self.cases.clear()
        self._wake_at.clear()
        self._next_inventory = turn.now + self.settings.inventory_every
        if event.world.seen:
            self._seen_revision = event.world.revision
        self._snapshot(replace(event.world, seen=event.world.seen or self.world.seen), turn)
        for view in self.views.values():
            takeover.restart(view)
            view.condemnation = event.world.condemned.get(view.name)
        turn.world = self.world
        takeover.count_windows(turn)
        self.brakes.approved.clear()
        self.brakes.ordered.clear()
        self.brakes.answered.clear()
        for record in sorted(event.world.recoveries.values(), key=lambda r: r.id):
            if record.stage is not Stage.ENDED:
                takeover.resume(record, self._view(record.host, turn.now), turn)
        takeover.without_key(turn)
        for condemnation in event.world.condemned.values():
            readable = not any(condemnation.recovery in text for text in event.world.unreadable)
            newest = self._case(condemnation.host)
            if newest is None and readable:
                self._adopt(condemnation, turn)
            elif newest is not None and newest.stage() is not Stage.RELEASED:
                self._supersede(condemnation.host, turn)  # its predecessor may not have come to that
        turn.say(
            "controller", f"leading, epoch {self.epoch}: {len(self.views)} hosts, {len(self.cases)} open recoveries"
        )
        if event.world.voters is None:
            turn.say("voters", "no list of voters: proof by self-fence is off; run vmha-manage voters init", "warning")
        for key in event.world.unreadable:
            turn.page("store", f"{key}")
        return set(self.views)

    # --- driving ---------------------------------------------------------------------------------------------------

    def _case(self, host: str) -> Case | None:
        """The case about the host's present condemnation, else one that is being put back in service."""
        mine = [c for c in self.cases.values() if c.record.host == host and c.stage() is not Stage.ENDED]
        return max(mine, key=lambda c: c.record.condemned_revision, default=None)

    def _drive(self, host: str, turn: Turn) -> None:
        commands.carry_out(host, turn)
        view = self.views.get(host)
        if view is None:
            return
        case = self._case(host)
        if case is not None and case.stage() in (Stage.CLOSED, Stage.RELEASED):
            returning.drive(case, view, turn)
        elif case is not None:
            recovery.drive(case, view, turn)
        for old in [c for c in self.cases.values() if c.record.host == host and c is not case]:
            recovery.close_waited_out(old, turn)
        if view.condemnation is None:
            judge.judge(view, turn)
        self._forget_ended(turn)

    def _forget_ended(self, turn: Turn) -> None:
        for case in [c for c in self.cases.values() if c.stage() is Stage.ENDED and not c.open_calls]:
            del self.cases[case.record.id]
            self.world.recoveries[case.record.id] = case.written()  # type: ignore[index]
            chores.prune(turn)

    def _rotate(self, turn: Turn) -> None:
        """Ask for one living host's instances after another, to tell its gate which are unprotected."""
        if turn.now < self._next_inventory:
            return
        self._next_inventory = turn.now + self.settings.inventory_every
        chores.uncount(turn)
        written = chores.follow_voters(turn)
        if written is not None:  # in doubt until the store tells it
            self.world = turn.world = replace(self.world, voters=replace(written, revision=0))
        online = sorted(v.name for v in self.views.values() if v.state is HostState.ONLINE)
        if online:
            self._rotation = (self._rotation + 1) % len(online)
            turn.read_inventory(self.views[online[self._rotation]])


def _uncondemned(view: HostView) -> None:
    """The condemnation is gone: the host is judged again, from nothing."""
    if view.condemnation is not None:
        view.condemnation, view.state = None, HostState.UNKNOWN
        judge.clear(view)
