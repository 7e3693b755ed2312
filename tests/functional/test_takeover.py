"""The leader dies, or is stopped and goes on later, between any two steps of a recovery: nothing is lost, nothing done twice.

Real controllers, agents, etcd (three members), IPMI and fence_ipmilan on a light lab; Nova is the stub, whose log tells what reached it.
The limits of the call rules are short here, so that what must be waited out takes seconds.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from lab.processes import wait_until
from lab.settings import REPO
from tests.functional.inside import StubInLab

pytestmark = [pytest.mark.functional, pytest.mark.timeout(240)]

OVERRIDE = """
[calls]
start_limit = 0.5
call_limit = 1.5
fence_limit = 4
[detection]
power_timeout = 3
[recovery]
stability_delay = 0.5
poll = 0.2
flap_limit = 100000
instances_path_shared = yes
[gates]
max_fences_per_window = 100000
"""
OFF_STEPS = ("condemn", "force_down", "evacuate", "disable", "release", "unforce", "enable")


class Cloud:
    """The light lab with the stub as its Nova and controllers that the tests start."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(state=folder / "lab", light=True, prefix="take-")
        self.lab.up(hosts=3, vmha=True)
        for controller in self.lab.settings.controllers:
            self.lab.service(controller, "vmha-controller", "stop")
        self.stub = StubInLab(self.lab).start()
        for host in self.lab.hosts:
            self.stub.add_host(host)
        self.override = folder / "override.conf"
        self.override.write_text(OVERRIDE)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.logs = folder

    def close(self) -> None:
        self.end_controllers()
        self.stub.stop()
        self.lab.down()

    # --- controllers -------------------------------------------------------------------------------------------------

    def start(self, controller: str, die: str = "") -> None:
        module = "tests.functional.dying_controller" if die else "vmha.cmd.controller"
        config = str(self.lab.settings.etc / controller / "vmha.conf")
        argv = ["env", f"VMHA_TEST_DIE={die}", sys.executable, "-m", module]
        journal = self.logs / f"{controller}.conf"
        journal.write_text(f"[controller]\njournal_file = {self.journal(controller)}\n")
        argv += [f"--config-file={file}" for file in (config, self.override, journal)]
        with (self.logs / f"{controller}.log").open("ab") as log:
            self.running[controller] = self.lab.popen(controller, argv, stdout=log, stderr=log, cwd=REPO)
        if die or len(self.running) == 1:
            wait_until(lambda: self.leader().get("member") == controller, 20, f"{controller} to lead")

    def journal(self, controller: str) -> Path:
        return self.logs / f"{controller}.journal"

    def leader(self) -> dict[str, Any]:
        ran = self.lab.exec(
            "ctl",
            ["etcdctl", "get", "--print-value-only", "/vmha/v1/controller/leader"],
            capture_output=True,
            text=True,
        )
        found: dict[str, Any] = json.loads(ran.stdout) if ran.stdout.strip() else {}
        return found

    def engine_pid(self, controller: str) -> int:
        """Root pid of the controller's engine: the guard's one child.  LookupError when it has ended."""
        return self._child(self._child(self.running[controller].pid))

    def _child(self, pid: int) -> int:
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            return int([c for t in tasks for c in (t / "children").read_text().split()][0])
        except (OSError, IndexError):
            raise LookupError(f"process {pid} has no child any more") from None

    def end_controllers(self) -> None:
        """End both, stopped ones too."""
        for controller, process in self.running.items():
            with suppress(LookupError):  # it has ended, and its guard is about to
                os.kill(self.engine_pid(controller), signal.SIGKILL)
            process.wait(timeout=20)
        self.running.clear()
        wait_until(lambda: not self.leader(), 20, "the leader's key to go")

    # --- hosts -------------------------------------------------------------------------------------------------------

    def host(self, name: str) -> dict[str, Any]:
        record: dict[str, Any] = self.stub.dump()["hosts"][name]
        return record

    def in_service(self, name: str) -> bool:
        record = self.host(name)
        return record["alive"] and not record["forced_down"] and not record["disabled"]

    def servers(self, uuids: list[str]) -> list[dict[str, Any]]:
        listed = self.stub.dump()["servers"]
        return [listed[uuid] for uuid in uuids]

    def closed(self, host: str) -> bool:
        prefix = "/vmha/v1/recoveries/"
        ran = self.lab.exec(
            "ctl", ["etcdctl", "get", "--prefix", "--print-value-only", prefix], capture_output=True, text=True
        )
        records = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        return all(r["stage"] not in ("condemned", "proven", "moving") for r in records if r["host"] == host)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    one = Cloud(tmp_path_factory.mktemp("takeover"))
    yield one
    one.close()


def tell(cloud: Cloud, die: str, cut: str = "power") -> None:
    """A host dies, its recovery is interrupted at the chosen point, another controller finishes it, the host returns."""
    cloud.start("con1", die)
    cloud.start("con2")
    uuids = cloud.stub.add_instances("compute1", 2)
    asked = len(cloud.stub.requests())
    if cut == "power":
        cloud.lab.power("compute1", "off")
    else:
        for network in ("management", "storage"):
            cloud.lab.cut("compute1", network)
    cloud.stub.host_dies("compute1")
    moved = lambda: all(s["host"] != "compute1" and s["task_state"] is None for s in cloud.servers(uuids))  # noqa: E731
    wait_until(moved, 90, "the instances to be moved")
    wait_until(lambda: cloud.closed("compute1"), 60, "the recovery to close")
    for network in ("management", "storage"):
        cloud.lab.heal("compute1", network)
    cloud.lab.power("compute1", "on")
    cloud.stub.host_returns("compute1")
    wait_until(lambda: cloud.in_service("compute1"), 60, "the host to be back in service")
    if die.endswith("SIGSTOP"):
        wake(cloud)
    once_each(cloud, uuids, asked)


def wake(cloud: Cloud) -> None:
    """The stopped leader goes on once another leads: it finds itself deposed and does nothing more."""
    wait_until(lambda: cloud.leader().get("member") == "con2", 20, "con2 to lead")
    before = (cloud.logs / "con1.log").stat().st_size
    os.kill(cloud.engine_pid("con1"), signal.SIGCONT)

    def deposed() -> bool:
        return "is over" in (cloud.logs / "con1.log").read_text(errors="replace")[before:]

    wait_until(deposed, 30, "the old leader to see that it is deposed")


def once_each(cloud: Cloud, uuids: list[str], asked: int) -> None:
    """Nova took one evacuation of each instance, each started once elsewhere; the host is as it was before."""
    log = cloud.stub.requests()[asked:]
    taken = Counter(r["path"].split("/")[-2] for r in log if "evacuate" in (r["body"] or {}) and r["status"] == 200)
    assert taken == dict.fromkeys(uuids, 1)
    for server in cloud.servers(uuids):
        assert len(server["arrivals"]) == 2, f"started more than once elsewhere: {server['arrivals']}"
    assert cloud.in_service("compute1")
    for uuid in uuids:
        cloud.stub.delete_instance(uuid)


@pytest.fixture
def finished(cloud: Cloud) -> Iterator[Cloud]:
    yield cloud
    cloud.end_controllers()


POINTS = [f"{step}:before" for step in OFF_STEPS]
POINTS += [
    f"{step}:{moment}"
    for step in OFF_STEPS
    if step not in ("condemn", "release")
    for moment in ("committed", "answered")
]


@pytest.mark.parametrize("point", POINTS)
def test_killed(finished: Cloud, point: str) -> None:
    tell(finished, f"{point}:SIGKILL")


@pytest.mark.parametrize("point", POINTS)
def test_stopped_and_continued_later(finished: Cloud, point: str) -> None:
    tell(finished, f"{point}:SIGSTOP")


@pytest.mark.parametrize("moment", ["before", "committed", "answered"])
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGSTOP"])
def test_while_it_orders_the_power_off(finished: Cloud, moment: str, kind: str) -> None:
    tell(finished, f"power_off:{moment}:{kind}", cut="networks")


def test_what_they_decided_is_decided_the_same_again(finished: Cloud) -> None:
    """The journals of all those controllers, whatever ended them: to the same bytes."""
    tell(finished, "")
    finished.end_controllers()
    for controller in finished.lab.settings.controllers:
        for file in sorted(finished.logs.glob(f"{controller}.journal*")):
            argv = [sys.executable, "-m", "vmha.cmd.replay", str(file)]
            ran = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)
            assert ran.returncode == 0, f"{file}: {ran.stdout[-2000:]}{ran.stderr}"
            steps, actions = re.findall(r"(\d+) steps, (\d+) actions: decided the same again", ran.stdout)[0]
            assert int(steps) > 100 and (controller != "con1" or int(actions) > 10)
