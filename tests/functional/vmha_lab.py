"""The lab with vmha on it, as its tests see it: guests, deaths, what the journal and the logs say."""

from __future__ import annotations

import json
import time
from typing import Any

from lab import Lab
from lab.cloud import HOST, LabCloud, Server
from lab.demo import gates_open, manage
from lab.processes import wait_until

PREFIX = "t-"


class VmhaLab:
    """One lab with its cloud; every wait has a deadline and fails with what is missing."""

    def __init__(self, lab: Lab, cloud: LabCloud) -> None:
        self.lab, self.cloud = lab, cloud
        self._marks: dict[str, int] = {}

    def ready(self) -> None:
        """Everything runs, every host is in service, no guests are left, logs are marked: a test starts here."""
        for machine in self.lab.machines:
            self.lab.power(machine, "on")
            for network in self.lab.settings.networks(machine):
                self.lab.heal(machine, network)
        for host in self.lab.hosts:
            self.lab.heal(host, "oob")
            self.lab.service(self.lab.bmc(host), "ipmi", "start")
        for machine in self.lab.machines:
            self.lab.await_boot(machine)
        for controller in self.lab.settings.controllers:
            self.lab.service(controller, "vmha-controller", "start")
            self.lab.service(controller, "etcd", "start")
        self.lab.service("ctl", "etcd", "start")
        self.lab.service("ctl", "nova-api", "start")
        for host in self.lab.hosts:
            self.lab.service(host, "vmha-agent", "start")
        wait_until(lambda: gates_open(self.lab), 120, "every gate to open")
        for host in self.lab.hosts:
            wait_until(lambda host=host: self.cloud.in_service(host), 180, f"{host} to be in service")
        wait_until(lambda: not self.recoveries(), 60, "all recoveries to end")
        self.cloud.delete(PREFIX)
        self._marks = {c: len(self._text(c)) for c in self.lab.settings.controllers}

    def guests(self, count: int, host: str = "compute1", stopped: int = 0) -> list[Server]:
        """Running guests, the last ``stopped`` of them stopped by their user."""
        made = self.cloud.boot([f"{PREFIX}{n}" for n in range(count)], host)
        self.cloud.wait(PREFIX, lambda s: s["status"] == "ACTIVE", 180, "guests to start")
        halted = set(made[count - stopped :] if stopped else [])
        for uuid in halted:
            self.cloud.action(uuid, **{"os-stop": None})
        return self.cloud.wait(
            PREFIX, lambda s: (s["id"] in halted) == (s["status"] == "SHUTOFF"), 60, "guests to be as the test wants"
        )

    def recovered(self, servers: list[Server], dead: str = "compute1", seconds: float = 240) -> list[Server]:
        """Every guest is elsewhere in the state that it had."""
        was = {s["id"]: s["status"] for s in servers}
        found = self.cloud.wait(
            PREFIX,
            lambda s: s[HOST] not in (dead, None) and s["status"] == was.get(s["id"]),
            seconds,
            "guests to be recovered",
        )
        wait_until(lambda: all(r["stage"] == "closed" for r in self.recoveries(dead)), 60, "the recovery to close")
        return found

    def back(self, host: str = "compute1") -> None:
        """Power on; vmha puts it back in service by itself."""
        self.lab.power(host, "on")
        wait_until(lambda: self.cloud.in_service(host), 180, f"{host} to be put back in service")

    # --- vmha's word -------------------------------------------------------------------------------------------------

    def recoveries(self, host: str = "") -> list[dict[str, Any]]:
        """Open recoveries."""
        listed = json.loads(manage(self.lab, "recovery", "list", "--json"))
        return [r for r in listed if host in ("", r["host"])]

    def all_recoveries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(manage(self.lab, "recovery", "list", "--all", "--json"))
        return found

    def calls(self, recovery: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(manage(self.lab, "recovery", "show", recovery, "--json"))[1:]
        return found

    def _text(self, controller: str) -> str:
        path = self.lab.settings.log(controller) / "vmha-controller.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def log(self) -> str:
        """What the controllers logged since ``ready``."""
        return "\n".join(self._text(c)[self._marks.get(c, 0) :] for c in self.lab.settings.controllers)

    def await_log(self, text: str, seconds: float) -> None:
        wait_until(lambda: text in self.log(), seconds, f"vmha to say {text!r}")

    def quiet(self, seconds: float) -> None:
        """For this long nothing is condemned, fenced or moved; a condition of the test, not a wait for one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not self.recoveries(), "a host was condemned"
            time.sleep(0.5)

    def leader(self) -> str:
        """Name of the controller that leads."""
        ran = self.lab.exec(
            "ctl",
            ["etcdctl", "get", "--print-value-only", "/vmha/v1/controller/leader"],
            capture_output=True,
            text=True,
        )
        return str(json.loads(ran.stdout)["member"]) if ran.stdout.strip() else ""

    def no_double_run(self, servers: list[Server]) -> None:
        """The witness's word about these guests."""
        uuids = {s["id"] for s in servers}
        assert [o for o in self.lab.witness_overlaps() if o.uuid in uuids] == []
