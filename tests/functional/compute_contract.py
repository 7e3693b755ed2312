"""What every ``Compute`` must do, on the stub and on a real Nova, in phases between which the caller kills or starts hosts.

Run by hand inside a lab: ``python -m tests.functional.compute_contract PHASE CLOUD HOST UUID``.
"""

from __future__ import annotations

import sys
import time
import uuid as uuids
from collections.abc import Callable
from typing import Any

from vmha.adapters.nova import Nova
from vmha.core.model import FINAL_GOOD, Call, CallKind, Migration, Outcome

LIMITS = {"start_limit": 5.0, "call_limit": 20.0}
LONG = 20.0


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_for(what: str, fact: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Ask until the fact is true; its value."""
    until = now() + seconds
    while not (value := fact()):
        assert now() < until, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)
    return value


def order(nova: Nova, kind: CallKind, host: str, **fields: Any) -> tuple[Outcome, str]:
    """Carry out a call as the dispatcher does."""
    call = Call(id="c1", recovery="r1", kind=kind, host=host, epoch=1, **fields)
    return nova.call(call, now(), **LIMITS)


def service_order(nova: Nova, kind: CallKind, host: str, reason: str = "") -> tuple[Outcome, str]:
    service = nova.service(host, LONG)
    assert service is not None
    return order(nova, kind, host, service=service.id, reason=reason)


def reads(nova: Nova, host: str, uuid: str) -> None:
    """A living host with an instance is described in full; what does not exist is surely absent."""
    assert tuple(map(int, nova.check(LONG).split("."))) <= (2, 94)
    service = nova.service(host, LONG)
    assert service is not None and service.host == host and service.up and not service.forced_down
    assert abs(service.updated_wall - time.time()) < 120
    assert nova.service("no-such-host", LONG) is None
    assert nova.instances("no-such-host", LONG) == ()
    assert nova.migrations("no-such-host", LONG) == ()
    assert nova.instance(str(uuids.uuid4()), LONG) is None
    there = {one.uuid: one for one in nova.instances(host, LONG)}
    one = nova.instance(uuid, LONG)
    assert one is not None and there[uuid] == one
    assert (one.host, one.status, one.vm_state, one.task_state, one.power_state) == (host, "ACTIVE", "active", None, 1)
    assert one.memory_mib > 0 and one.vcpus > 0 and one.project


def refusals(nova: Nova, host: str, uuid: str) -> None:
    """What Nova refuses has its words in the detail; what comes too late is never sent."""
    outcome, detail = order(nova, CallKind.EVACUATE, host, instance=uuid)
    assert outcome is Outcome.FAILED and "still in use" in detail and "400" in detail
    outcome, detail = order(nova, CallKind.EVACUATE, host, instance=str(uuids.uuid4()))
    assert outcome is Outcome.FAILED and "404" in detail
    outcome, detail = order(nova, CallKind.FORCE_DOWN, host, service=str(uuids.uuid4()))
    assert outcome is Outcome.FAILED and "404" in detail
    service = nova.service(host, LONG)
    assert service is not None
    late = Call(id="c2", recovery="r1", kind=CallKind.FORCE_DOWN, host=host, epoch=1, service=service.id)
    assert nova.call(late, now() - 10, 2.0, 8.0)[0] is Outcome.NOT_STARTED
    empty = Call(id="c3", recovery="r1", kind=CallKind.EVACUATE, host=host, epoch=1)
    assert nova.call(empty, now(), 2.0, 8.0)[0] is Outcome.NOT_STARTED
    after = nova.service(host, LONG)
    assert after is not None and not after.forced_down


def switches(nova: Nova, host: str, uuid: str) -> None:
    """Disabling with a reason and forcing down, and both back."""
    outcome, detail = service_order(nova, CallKind.DISABLE, host, reason="vmha: contract")
    assert outcome is Outcome.DONE and detail.startswith("req-")
    service = nova.service(host, LONG)
    assert service is not None and service.disabled and service.disabled_reason == "vmha: contract" and service.up
    assert service_order(nova, CallKind.FORCE_DOWN, host)[0] is Outcome.DONE
    service = nova.service(host, LONG)
    assert service is not None and service.forced_down and not service.up and service.disabled
    assert service_order(nova, CallKind.UNFORCE, host)[0] is Outcome.DONE
    assert service_order(nova, CallKind.ENABLE, host)[0] is Outcome.DONE
    service = wait_for("the service to be up", lambda: (one := nova.service(host, LONG)) and one.up and one)
    assert not service.disabled and not service.forced_down and service.disabled_reason == ""


def evacuation(nova: Nova, host: str, uuid: str) -> None:
    """The host is dead: its instance moves by one evacuation, whose record is told from older ones.

    Never order a second one here: Nova takes it (evacuate has no check of the task state) and breaks the instance.
    """
    assert service_order(nova, CallKind.FORCE_DOWN, host)[0] is Outcome.DONE
    known = {one.id for one in nova.migrations(host, LONG)}
    outcome, detail = order(nova, CallKind.EVACUATE, host, instance=uuid)
    assert outcome is Outcome.DONE and detail.startswith("req-")
    record = wait_for("the record to be final", lambda: _final(nova, host, uuid, known), 180)
    assert record.status in FINAL_GOOD and record.source == host and record.user == nova.user_id()
    moved = nova.instance(uuid, LONG)
    assert moved is not None and moved.host == record.target != host and moved.task_state is None
    assert moved.status == "ACTIVE", "below microversion 2.95 it keeps running"
    assert uuid not in {one.uuid for one in nova.instances(host, LONG)}
    assert record.id in {one.id for one in nova.migrations(record.target, LONG)}
    outcome, detail = service_order(nova, CallKind.UNFORCE, host)
    assert outcome is Outcome.FAILED and "done" in detail, "not until the host has seen that its instances left"


def by_turns(nova: Nova, host: str, uuid: str) -> None:
    """The host is forced down: an instance asked to arrive stopped does so, and is started by a call of its own."""
    known = {one.id for one in nova.migrations(host, LONG) if one.instance == uuid}
    assert order(nova, CallKind.EVACUATE, host, instance=uuid, arrive_stopped=True)[0] is Outcome.DONE
    record = wait_for("the record to be final", lambda: _final(nova, host, uuid, known), 180)
    assert record.status in FINAL_GOOD
    moved = nova.instance(uuid, LONG)
    assert moved is not None and moved.host == record.target and moved.task_state is None
    assert (moved.vm_state, moved.status) == ("stopped", "SHUTOFF"), "from microversion 2.95 on it arrives stopped"
    outcome, detail = order(nova, CallKind.START, host, instance=uuid, target=record.target)
    assert outcome is Outcome.DONE and detail.startswith("req-")
    started = lambda: (one := nova.instance(uuid, LONG)) and one.vm_state == "active" and one.task_state is None  # noqa: E731
    wait_for("the instance to run", started, 120)
    outcome, detail = order(nova, CallKind.START, host, instance=uuid, target=record.target)
    assert outcome is Outcome.FAILED and "409" in detail, "it runs already"


def _final(nova: Nova, host: str, uuid: str, known: set[int]) -> Migration | None:
    new = [one for one in nova.migrations(host, LONG) if one.instance == uuid and one.id not in known]
    assert len(new) == 1
    return new[0] if new[0].status not in ("accepted", "pre-migrating") else None


def coming_back(nova: Nova, host: str, uuid: str) -> None:
    """The host has returned: its records become completed, then it can be un-forced and is up."""

    def completed() -> bool:
        return all(one.status != "done" for one in nova.migrations(host, LONG) if one.source == host)

    wait_for("the records to be completed", completed, 120)
    assert service_order(nova, CallKind.UNFORCE, host)[0] is Outcome.DONE
    wait_for("the service to be up", lambda: (one := nova.service(host, LONG)) and one.up, 120)


PHASES = {one.__name__: one for one in (reads, refusals, switches, evacuation, by_turns, coming_back)}


def main() -> None:
    phase, cloud, host, uuid = sys.argv[1:]
    nova = Nova(cloud=cloud)
    try:
        PHASES[phase](nova, host, uuid)
    finally:
        nova.close()
    print(f"{phase}: passed")


if __name__ == "__main__":
    main()
