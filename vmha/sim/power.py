"""Fencing devices by host, with their troubles: unreachable, stuck, slow, lying, or not there at all.

They answer over a network of their own.  ``lies_off`` reads off while the host is on: the proof P1 assumes that no device does so
about a host that is not heard, and random worlds keep to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vmha.core.model import Outcome, PowerState
from vmha.sim.clock import Clock
from vmha.sim.hosts import Host, Power
from vmha.sim.physics import Physics

FINE = "fine"


@dataclass(slots=True)
class Device:
    mode: str = FINE  # fine, unreachable, stuck, lies_off, slow
    seconds: float = 0.0


class Devices:
    """Answers come through callbacks, after the time that they take."""

    def __init__(self, clock: Clock, physics: Physics, hosts: Mapping[str, Host]) -> None:
        self._clock, self._physics, self._hosts = clock, physics, hosts
        self.of = {name: Device() for name in hosts}

    def fail(self, host: str, mode: str, seconds: float) -> None:
        self.of[host] = Device(mode, seconds)

    def heal(self, host: str) -> None:
        self.of[host] = Device()

    def read(self, host: str, timeout: float, answer: Callable[[PowerState, str], None]) -> None:
        """Read back; a time-out is UNKNOWN."""
        device, takes = self.of[host], self._physics.power_read
        if not self._hosts[host].spec.power:
            self._clock.after(0.001, answer, PowerState.UNKNOWN, "no fencing device is set for it")
            return
        if device.mode == "slow":
            takes = device.seconds
        if device.mode == "unreachable" or takes > timeout:
            self._clock.after(timeout, answer, PowerState.UNKNOWN, "its device did not answer in time")
        else:
            self._clock.after(takes, self._reading, host, answer)

    def _reading(self, host: str, answer: Callable[[PowerState, str], None]) -> None:
        off = self._hosts[host].power is Power.OFF or self.of[host].mode == "lies_off"
        answer(PowerState.OFF if off else PowerState.ON, "")

    def off(self, host: str, limit: float, runs: Callable[[], bool], answer: Callable[[Outcome, str], None]) -> None:
        """Order off.  The order acts only while the fence agent ``runs``; it is killed at ``limit``."""
        device, takes = self.of[host], self._physics.power_off
        if not self._hosts[host].spec.power:
            self._clock.after(0.001, answer, Outcome.FAILED, "no fencing device is set for it")
            return
        if device.mode == "slow":
            takes = device.seconds
        if device.mode == "unreachable":
            self._clock.after(min(limit, 5.0), answer, Outcome.FAILED, "its device did not answer")
        elif takes > limit:
            self._clock.after(limit, answer, Outcome.UNKNOWN, "the fence agent was killed at its limit")
        else:
            self._clock.after(takes, self._act, host, runs, answer)

    def _act(self, host: str, runs: Callable[[], bool], answer: Callable[[Outcome, str], None]) -> None:
        if not runs():
            return
        if self.of[host].mode != "stuck":
            self._hosts[host].lose_power()
        answer(Outcome.DONE, "")
