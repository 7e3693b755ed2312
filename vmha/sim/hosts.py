"""Compute hosts as physics: power, boots, processes, disks, the gate, and the QEMU processes that really run there.

What runs here is the truth by which invariants are judged, whatever anybody believes.  A host's disk keeps, over boots, the domains
that are defined and the agent's lists; ``/run`` (the gate) is empty after each boot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from vmha.sim.clock import Clock
from vmha.sim.physics import Physics


class Power(StrEnum):
    """What the machine does."""

    OFF = "off"
    BOOTING = "booting"
    UP = "up"


@dataclass(slots=True)
class Qemu:
    """One QEMU process.  ``guest``: running, paused, hung, panicked, io_error, silent (its guest agent)."""

    uuid: str
    guest: str = "running"
    since: float = 0.0
    answers: bool = False  # its guest has come up and answers


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What a scenario says of a host."""

    name: str
    failure_domain: str = ""
    networks: tuple[str, ...] = ("management", "storage", "tenant")
    power: bool = True
    watchdog: float | None = 30.0
    memory_gib: float = 256.0
    vcpus: int = 64
    reserved: bool = False
    maintenance: bool = False
    powered: bool = True
    service: str = "enabled"
    autostart: bool = False
    hook: bool = True
    segment: str = "default"


@dataclass(slots=True)
class Host:
    """One host.  ``changed`` is called after each change of its power, ``domain`` after each of a domain while it is up."""

    spec: HostSpec
    clock: Clock
    physics: Physics
    changed: Callable[[Host], None]
    domain: Callable[[Host, str, str], None]  # told of each domain that started, stopped, crashed
    copies: dict[str, set[str]]  # instance -> hosts where a QEMU process of it is
    power: Power = Power.UP
    boots: int = 1
    life: int = 0  # counts losses of power: what was begun under an older number never ends
    qemu: dict[str, Qemu] = field(default_factory=dict)
    starting: set[str] = field(default_factory=set)  # the hook has let them pass, their QEMU is not there yet
    defined: set[str] = field(default_factory=set)
    beat: bool = True
    libvirt: bool = True
    gate: bool = True  # /run/vmha/gate
    unprotected: frozenset[str] = frozenset()  # on disk
    denied: set[str] = field(default_factory=set)  # on disk
    failed_stores: set[str] = field(default_factory=set)
    mute: bool = False  # shut out by storage and switch: what runs here can neither write nor speak
    booted_at: float = 0.0
    lost_at: float = 0.0  # its power, last
    on_boot: list[Callable[[Host], None]] = field(default_factory=list)
    on_loss: list[Callable[[Host], None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def boot(self) -> str:
        return f"{self.name}-{self.boots}"

    @property
    def up(self) -> bool:
        return self.power is Power.UP

    # --- power ---------------------------------------------------------------------------------------------------------

    def lose_power(self) -> None:
        """Everything that was only in memory is gone."""
        if self.power is Power.OFF:
            return
        self.power, self.life, self.lost_at = Power.OFF, self.life + 1, self.clock.now
        for uuid in list(self.qemu):
            self._gone(uuid)
        self.starting.clear()
        self.gate = False
        for lost in self.on_loss:
            lost(self)
        self.changed(self)

    def switch_on(self) -> None:
        """Begin to boot."""
        if self.power is Power.OFF:
            self.power, self.boots, self.life = Power.BOOTING, self.boots + 1, self.life + 1
            self.clock.after(self.physics.boot, self._booted, self.life)

    def reset(self) -> None:
        """What a watchdog does: off and on again at once."""
        if self.power is not Power.OFF:
            self.lose_power()
            self.switch_on()

    def _booted(self, life: int) -> None:
        if self.life != life:
            return
        self.power, self.beat, self.libvirt, self.booted_at = Power.UP, True, True, self.clock.now
        if self.spec.autostart:
            for uuid in sorted(self.defined):
                self.start(uuid)
        for booted in self.on_boot:
            booted(self)
        self.changed(self)

    # --- domains -------------------------------------------------------------------------------------------------------

    def allows(self, uuid: str) -> bool:
        """The libvirt hook's answer to ``prepare``: an open gate or a known unprotected instance, never a denied one."""
        if not self.spec.hook:
            return True
        return uuid not in self.denied and (self.gate or uuid in self.unprotected)

    def start(self, uuid: str) -> bool:
        """Define and start the domain, as far as libvirt and its hook let it; whether it runs now or is starting."""
        if not self.up or not self.libvirt:
            return False
        self.defined.add(uuid)
        if uuid in self.active() or not self.allows(uuid):
            return uuid in self.active()
        if self.physics.launch:
            self.starting.add(uuid)
            self.clock.after(self.physics.launch, self._launched, uuid, self.life)
        else:
            self._runs(uuid)
        return True

    def _launched(self, uuid: str, life: int) -> None:
        if self.life == life and uuid in self.starting:
            self.starting.discard(uuid)
            self._runs(uuid)

    def _runs(self, uuid: str) -> None:
        self.qemu[uuid] = Qemu(uuid, since=self.clock.now)
        self._counts(uuid)
        self.domain(self, uuid, "running")

    def _counts(self, uuid: str) -> None:
        if not self.mute:
            self.copies.setdefault(uuid, set()).add(self.name)

    def shut_out(self, mute: bool) -> None:
        """Storage and switch shut the host out, or let it in again: then what still runs here writes and speaks."""
        self.mute = mute
        for uuid in self.qemu:
            self._counts(uuid)
            if mute:
                self.copies[uuid].discard(self.name)

    def _gone(self, uuid: str, how: str = "") -> None:
        if self.qemu.pop(uuid, None) is not None:
            self.copies.setdefault(uuid, set()).discard(self.name)
            if how:
                self.domain(self, uuid, how)

    def crash(self, uuid: str, how: str = "crashed") -> None:
        """Its QEMU process is gone; the domain stays defined."""
        self._gone(uuid, how)

    def destroy(self, uuid: str) -> bool:
        """End it through libvirt; False when libvirt does not answer."""
        if self.up and self.libvirt:
            if uuid in self.starting:
                self.starting.discard(uuid)
                self.domain(self, uuid, "shutoff")
            self._gone(uuid, "shutoff")
        return uuid not in self.active()

    def undefine(self, uuid: str) -> bool:
        if self.up and self.libvirt and uuid in self.defined:
            self.starting.discard(uuid)
            self._gone(uuid)
            self.defined.discard(uuid)
            self.domain(self, uuid, "gone")
        return uuid not in self.defined

    def guest(self, uuid: str, state: str) -> None:
        """Something happens inside the guest, or to its I/O; ``io_ok`` ends an I/O error."""
        qemu = self.qemu.get(uuid)
        if qemu is not None:
            qemu.guest = ("running" if qemu.guest == "io_error" else qemu.guest) if state == "io_ok" else state
            self.domain(self, uuid, qemu.guest)

    def answers(self, uuid: str, since: float) -> None:
        """The guest of the QEMU process that began then has come up."""
        qemu = self.qemu.get(uuid)
        if qemu is not None and qemu.since == since and qemu.guest == "running":
            qemu.answers = True
            self.domain(self, uuid, qemu.guest)

    def fail_store(self, store: str) -> None:
        """A datastore is gone for this host: its guests' writes fail from now on."""
        self.failed_stores.add(store)
        for uuid in sorted(self.qemu):
            self.guest(uuid, "io_error")

    def heal_store(self, store: str) -> None:
        self.failed_stores.clear() if store == "all" else self.failed_stores.discard(store)
        for uuid in sorted(self.qemu) if not self.failed_stores else ():
            self.guest(uuid, "io_ok")

    def adopt(self, uuid: str) -> None:
        """It runs here already when the world begins."""
        self.defined.add(uuid)
        self.qemu[uuid] = Qemu(uuid)
        self._counts(uuid)

    def active(self) -> set[str]:
        """What libvirt's list shows: domains that run, and those that it is starting."""
        return self.starting | set(self.qemu)

    def protected(self) -> list[str]:
        """Protected active domains, by the host's own list (unknown counts as protected)."""
        return sorted(u for u in self.active() if u not in self.unprotected)
