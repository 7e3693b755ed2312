"""The lab's cloud as tests, benches and the demo use it: servers and compute services, asked from outside the lab's networks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from lab.api import Lab
from lab.errors import LabError
from lab.processes import wait_until
from lab.settings import REPO

Server = dict[str, Any]
HOST = "OS-EXT-SRV-ATTR:host"
TASK = "OS-EXT-STS:task_state"
POWER = "OS-EXT-STS:power_state"


class LabCloud:
    """A session with the lab's Nova as admin.  Close it, or use it in a with statement."""

    def __init__(self, lab: Lab) -> None:
        argv = [sys.executable, "-m", "lab.inside.cloud_proxy", str(lab.settings.state)]
        self._proxy = lab.popen("ctl", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO)

    def __enter__(self) -> LabCloud:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._proxy.stdin is not None and self._proxy.stdout is not None
        self._proxy.stdin.close()
        self._proxy.wait(timeout=20)
        self._proxy.stdout.close()

    def call(self, service: str, path: str, body: Any = None, method: str = "") -> Any:
        """One API request; LabError with the service's words when it is refused."""
        assert self._proxy.stdin is not None and self._proxy.stdout is not None
        self._proxy.stdin.write(json.dumps({"service": service, "path": path, "body": body, "method": method}) + "\n")
        self._proxy.stdin.flush()
        line = self._proxy.stdout.readline()
        if not line:
            raise LabError(
                f"the lab's cloud was asked {path} and its proxy in ctl ended: is the lab up? (lab/lab status)"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(answer["error"])
        return answer["ok"]

    # --- servers -----------------------------------------------------------------------------------------------------

    def servers(self, prefix: str = "") -> list[Server]:
        """All servers of all projects, by name."""
        listed = self.call("compute", "servers/detail?all_tenants=1&limit=500")["servers"]
        return sorted((s for s in listed if s["name"].startswith(prefix)), key=lambda s: str(s["name"]))

    def boot(self, names: Iterable[str], host: str, metadata: dict[str, str] | None = None) -> list[str]:
        """Ask for servers on a host; their uuids."""
        image = self.call("image", "images?name=lab-guest")["images"][0]["id"]
        network = self.call("network", "networks?name=net1")["networks"][0]["id"]
        made = []
        for name in names:
            server = {
                "name": name,
                "imageRef": image,
                "flavorRef": "tiny",
                "networks": [{"uuid": network}],
                "host": host,
                "metadata": metadata or {},
            }
            made.append(self.call("compute", "servers", {"server": server})["server"]["id"])
        return made

    def action(self, uuid: str, **body: Any) -> None:
        """A server action, as ``action(uuid, **{"os-stop": None})``."""
        self.call("compute", f"servers/{uuid}/action", body)

    def wait(self, prefix: str, fact: Callable[[Server], bool], seconds: float, what: str) -> list[Server]:
        """Until the fact holds for every server whose name starts so; LabError tells who is not there yet."""
        found: list[Server] = []

        def all_true() -> bool:
            try:
                found[:] = self.servers(prefix)
            except LabError:
                return False  # Nova's API is away just now
            return bool(found) and all(fact(s) for s in found)

        try:
            wait_until(all_true, seconds, what)
        except LabError:
            late = ", ".join(f"{s['name']} {s['status']} at {s[HOST]}" for s in found if not fact(s))
            raise LabError(f"{what}: not within {seconds:g} s: {late or 'no server'}") from None
        return found

    def delete(self, prefix: str, seconds: float = 90) -> None:
        """Delete servers and wait until they are gone."""
        for server in self.servers(prefix):
            self.call("compute", f"servers/{server['id']}", method="DELETE")
        wait_until(lambda: not self.servers(prefix), seconds, f"servers {prefix}* to be deleted")

    # --- services ----------------------------------------------------------------------------------------------------

    def service(self, host: str) -> dict[str, Any]:
        """The host's nova-compute record."""
        services = self.call("compute", f"os-services?binary=nova-compute&host={host}")["services"]
        record: dict[str, Any] = services[0]
        return record

    def in_service(self, host: str) -> bool:
        """Up, enabled, not forced down; False also while Nova's API does not answer."""
        try:
            record = self.service(host)
        except LabError:
            return False
        return record["state"] == "up" and record["status"] == "enabled" and not record["forced_down"]
