"""Power devices by the ``fence-agents`` executables (https://github.com/ClusterLabs/fence-agents).

Options go to an agent's standard input, never to its command line; only "status" and "off" are ever asked, and the
action is the first line (an agent that is told none reboots).  How runs are bounded: ``fence_runner``.

What an agent's end means (exit codes from the agents' library, fencing.py, release 4.12: ``fence_action``, ``fail``):

===========================================  ================
status: exit 0 and "Status: ON"              ON
status: exit 2 and "Status: OFF"             OFF
status: anything else, also exit 2 alone     UNKNOWN (2 is also what a shell or Python gives for bad usage)
off: exit 0                                  DONE: the order was taken, or the device says it is off already
off: the agent could not be started          NOT_STARTED
off: anything else, or ended at its limit    UNKNOWN
===========================================  ================
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from vmha.adapters.fence_devices import Device
from vmha.adapters.fence_runs import Run, Runners
from vmha.core.model import Outcome, PowerState
from vmha.ports import Clock, PowerReading

_STATUS = re.compile(r"^Status: (ON|OFF)\s*$", re.MULTILINE)
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ")
_MEANING = {(0, "ON"): PowerState.ON, (2, "OFF"): PowerState.OFF}
DETAIL_LIMIT = 300


class _Boottime:
    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()


def power_state(run: Run) -> PowerState:
    """The power that a "status" run has read; the table above."""
    found = _STATUS.findall(run.out)
    if run.exit is None or len(found) != 1:
        return PowerState.UNKNOWN
    return _MEANING.get((run.exit, found[0]), PowerState.UNKNOWN)


def off_outcome(run: Run) -> Outcome:
    """What became of an "off" run; the table above."""
    if not run.started:
        return Outcome.NOT_STARTED
    return Outcome.DONE if run.exit == 0 else Outcome.UNKNOWN


class FenceAgents:
    """``Fencer`` over fence agents.  ``devices`` maps host to device (``fence_devices.load``).

    Thread-safe; a call blocks for its own run, at most its limit and a moment.
    """

    def __init__(self, devices: Mapping[str, Device], clock: Clock | None = None) -> None:
        self._devices = dict(devices)
        self._clock: Clock = clock or _Boottime()
        self._runners = Runners({device.interpreter for device in self._devices.values()}, self._clock)

    def close(self) -> None:
        """End the runners, and with them every run."""
        self._runners.close()

    def has_device(self, host: str) -> bool:
        return host in self._devices

    def status(self, host: str, timeout: float) -> PowerReading:
        began = self._clock.now()
        device = self._devices.get(host)
        if device is None:
            return PowerReading(PowerState.UNKNOWN, began, began, f"{host} has no fencing device")
        run = self._runners.run(device, "status", began + timeout)
        return PowerReading(power_state(run), began, self._clock.now(), said(host, device, run))

    def off(self, host: str, limit: float, sent: float | None = None) -> tuple[Outcome, str]:
        """Order "off".  ``sent``: clock time at which the commit of the order was sent; the limit counts from it, so a
        leader that was stopped in between orders nothing late.  Without it the limit counts from now."""
        device = self._devices.get(host)
        if device is None:
            return Outcome.NOT_STARTED, f"{host} has no fencing device"
        run = self._runners.run(device, "off", (self._clock.now() if sent is None else sent) + limit)
        return off_outcome(run), said(host, device, run)


def said(host: str, device: Device, run: Run) -> str:
    """One line: which agent asked which device for which host, how it ended, what it said; no secrets."""
    lines = [_STAMP.sub("", line.strip()) for line in (run.out + "\n" + run.err).splitlines() if line.strip()]
    words = device.without_secrets("; ".join(dict.fromkeys(lines)))[:DETAIL_LIMIT]
    return f"{device.agent} of {host} ({device.address or 'no address'}) {run.end}: {words or 'said nothing'}"
