"""The Nova adapter against the lab's real Nova: the same contract as on the stub.

Nova is only reachable inside the lab's networks, so each phase runs as a process in ``ctl``; hosts lose and get back power
from here.  vmha's own controllers are stopped meanwhile: they would recover the host themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab import Lab, LabError
from lab.cloud import LabCloud
from lab.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
CONTROLLER = "vmha-controller"
pytestmark = [pytest.mark.functional, pytest.mark.lab]


@pytest.fixture
def quiet_lab(lab: Lab) -> Iterator[Lab]:
    """The lab without vmha's controllers, all hosts in service."""
    stopped = [machine for machine in ("con1", "con2") if lab.services(machine).get(CONTROLLER)]
    for machine in stopped:
        lab.service(machine, CONTROLLER, "stop")
    yield lab
    for machine in stopped:
        lab.service(machine, CONTROLLER, "start")


def phase(lab: Lab, name: str, host: str, uuid: str) -> None:
    """Run a phase of the contract in ctl."""
    argv = [sys.executable, "-m", "tests.functional.compute_contract", name, "lab", host, uuid]
    done = lab.exec("ctl", argv, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


@pytest.mark.timeout(600)
def test_contract(quiet_lab: Lab) -> None:
    lab, host = quiet_lab, quiet_lab.hosts[0]
    with LabCloud(lab) as cloud:
        put_back(lab, cloud, host)
        wait_until(lambda: all(cloud.in_service(one) for one in lab.hosts), 120, "all hosts to be in service")
        try:
            cloud.boot(["contract", "turns"], host)
            runs = "the server to run"
            other = cloud.wait("turns", lambda one: one["status"] == "ACTIVE", 120, runs)[0]
            server = cloud.wait("contract", lambda one: one["status"] == "ACTIVE", 120, runs)[0]
            for name in ("reads", "refusals", "switches"):
                phase(lab, name, host, server["id"])
            lab.power(host, "off")
            phase(lab, "evacuation", host, server["id"])
            phase(lab, "by_turns", host, other["id"])
            lab.power(host, "on")
            lab.await_boot(host)
            phase(lab, "coming_back", host, server["id"])
        finally:
            put_back(lab, cloud, host)
            cloud.delete("turns")
            cloud.delete("contract")


def put_back(lab: Lab, cloud: LabCloud, host: str) -> None:
    """The host in service again, however far the test came."""
    lab.power(host, "on")
    lab.await_boot(host)

    def in_service() -> bool:
        with suppress(LabError):  # refused until the host has cleaned up after an evacuation
            cloud.call(
                "compute",
                f"os-services/{cloud.service(host)['id']}",
                {"forced_down": False, "status": "enabled"},
                "PUT",
            )
        return cloud.in_service(host)

    wait_until(in_service, 120, f"{host} to be in service")
