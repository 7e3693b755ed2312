"""Carries the engine's actions out and brings their answers back as events; decides nothing.

Reads and calls run in threads; each ends in exactly one event, whatever happens.  An outside call starts only after the answer to the
commit of its record (safety.md section 4, rule 1); its adapter sees to the limits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from vmha.controller.journal import Journal
from vmha.core import actions as act
from vmha.core import events as ev
from vmha.core.model import CallKind, Outcome, PowerState
from vmha.core.settings import Settings
from vmha.errors import ComputeError, ComputeUnknown, VmhaError
from vmha.ports import Clock, Compute, Fencer, Notifier, Prober

LOG = logging.getLogger(__name__)
DECISIONS = logging.getLogger("vmha.decisions")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Dispatcher:
    """One for each controller.  ``give`` takes events from any thread."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        journal: Journal,
        fencer: Fencer,
        prober: Prober,
        compute: Compute,
        notifier: Notifier,
        give: Callable[[ev.Event], None],
    ) -> None:
        self._settings, self._clock, self._journal = settings, clock, journal
        self._fencer, self._prober, self._compute, self._notifier = fencer, prober, compute, notifier
        self._give = give
        self._power = ThreadPoolExecutor(16, "power")
        self._reads = ThreadPoolExecutor(8, "read")
        self._records = ThreadPoolExecutor(8, "records")  # of its own: a read waits for it
        self._calls = ThreadPoolExecutor(max(16, settings.evacuate_most), "call")
        self._probes = ThreadPoolExecutor(8, "probe")

    def close(self) -> None:
        for pool in (self._power, self._reads, self._records, self._calls, self._probes):
            pool.shutdown(wait=False, cancel_futures=True)

    def do(self, action: act.Action, epoch: int) -> None:
        """Start one action; returns at once."""
        match action:
            case act.Say(level, subject, text):
                DECISIONS.log(_LEVELS[level], "%s: %s", subject, text)
            case act.Page(subject, text):
                DECISIONS.error("PAGE %s: %s", subject, text)
                self._notifier.page(subject, text)
            case act.Commit():
                self._journal.commit(epoch, action)
            case act.StartCall():
                self._calls.submit(self._commit_call, action, epoch)
            case act.ReadPower():
                self._submit(self._power, action, lambda: self._read_power(action))
            case act.Probe():
                self._submit(self._probes, action, lambda: self._probe(action))
            case act.ReadService():
                self._submit(self._reads, action, lambda: self._read_service(action))
            case act.ReadInventory():
                self._submit(self._reads, action, lambda: self._read_inventory(action))
            case act.ReadInstance():
                self._submit(self._reads, action, lambda: self._read_instance(action))

    def _submit(self, pool: ThreadPoolExecutor, action: act.Action, run: Callable[[], ev.Event]) -> None:
        pool.submit(self._answered, action, run)

    def _answered(self, action: act.Action, run: Callable[[], ev.Event]) -> None:
        """Exactly one event, also when an adapter breaks its word: its error is unknown, and loud."""
        try:
            event = run()
        except Exception as e:
            LOG.exception("%s failed inside vmha", action)
            event = broken(action, f"an error inside vmha: {e}", self._clock.now())
        self._give(event)

    # --- reads -----------------------------------------------------------------------------------------------------

    def _read_power(self, action: act.ReadPower) -> ev.Event:
        reading = self._fencer.status(action.host, action.timeout)
        return ev.PowerRead(action.host, reading.state, reading.began, reading.ended, reading.detail)

    def _probe(self, action: act.Probe) -> ev.Event:
        began = self._clock.now()
        return ev.Probed(action.host, self._prober.probe(action.addresses, action.timeout), began)

    def _read_service(self, action: act.ReadService) -> ev.Event:
        began = self._clock.now()
        try:
            return ev.ServiceRead(action.host, True, self._compute.service(action.host, action.timeout), began)
        except (ComputeError, ComputeUnknown) as e:
            return ev.ServiceRead(action.host, False, None, began, str(e))

    def _read_inventory(self, action: act.ReadInventory) -> ev.Event:
        began = self._clock.now()
        migrations = self._records.submit(self._compute.migrations, action.host, action.timeout)
        try:
            instances = self._compute.instances(action.host, action.timeout)
            return ev.InventoryRead(action.host, True, instances, migrations.result(action.timeout + 1), began)
        except (ComputeError, ComputeUnknown, TimeoutError) as e:
            return ev.InventoryRead(action.host, False, (), (), began, str(e))

    def _read_instance(self, action: act.ReadInstance) -> ev.Event:
        began = self._clock.now()
        try:
            return ev.InstanceRead(action.uuid, True, self._compute.instance(action.uuid, action.timeout), began)
        except (ComputeError, ComputeUnknown) as e:
            return ev.InstanceRead(action.uuid, False, None, began, str(e))

    # --- calls -----------------------------------------------------------------------------------------------------

    def _commit_call(self, action: act.StartCall, epoch: int) -> None:
        sent = self._clock.now()

        def then(error: VmhaError | None) -> None:
            self._submit(self._calls, action, lambda: self._make_call(action, sent, error))

        self._journal.commit_call(epoch, action, then)

    def _make_call(self, action: act.StartCall, sent: float, error: VmhaError | None) -> ev.Event:
        """The call itself, when its record is written and the time to start it is not over."""
        call, s = action.call, self._settings
        if error is not None:
            return ev.CallEnded(call, Outcome.NOT_STARTED, f"its record could not be written: {error}")
        LOG.debug("record of %s %s written within %.3f s", call.kind, call.id, self._clock.now() - sent)
        if self._clock.now() - sent >= s.start_limit:
            return ev.CallEnded(call, Outcome.NOT_STARTED, "its record was written too late to start it")
        if call.kind is CallKind.POWER_OFF:
            return ev.CallEnded(call, *self._fencer.off(call.host, s.fence_limit, sent))
        return ev.CallEnded(call, *self._compute.call(call, sent, s.start_limit, s.call_limit))


def broken(action: object, detail: str, now: float) -> ev.Event:
    """The event that says "unknown" for an action whose adapter failed."""
    match action:
        case act.ReadPower(host):
            return ev.PowerRead(host, PowerState.UNKNOWN, now, now, detail)
        case act.Probe(host, addresses):
            return ev.Probed(host, dict.fromkeys(addresses), now)
        case act.ReadService(host):
            return ev.ServiceRead(host, False, None, now, detail)
        case act.ReadInventory(host):
            return ev.InventoryRead(host, False, (), (), now, detail)
        case act.ReadInstance(uuid):
            return ev.InstanceRead(uuid, False, None, now, detail)
        case act.StartCall(call):
            return ev.CallEnded(call, Outcome.UNKNOWN, detail)
    raise VmhaError(f"{action} has no answer")
