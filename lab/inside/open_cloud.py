"""Run in ctl by ``lab up``: wait until every compute service is up, enabled and known to Placement.

Services left forced down or disabled by an earlier run are reset first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from lab import settings as settings_
from lab.inside import catalog
from lab.processes import wait_until
from lab.settings import Settings


def services(cloud: catalog.Cloud) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = cloud.call("compute", "os-services?binary=nova-compute")["services"]
    return answer


def reset(cloud: catalog.Cloud) -> None:
    for service in services(cloud):
        if service["forced_down"]:
            cloud.call("compute", f"os-services/{service['id']}", {"forced_down": False}, "PUT")
        if service["status"] == "disabled":
            cloud.call("compute", f"os-services/{service['id']}", {"status": "enabled"}, "PUT")


def hypervisors(cloud: catalog.Cloud) -> int:
    return len(cloud.call("compute", "os-hypervisors")["hypervisors"])


def open_cloud(settings: Settings) -> None:
    cloud = catalog.connect(settings)
    reset(cloud)
    want = len(settings.computes)
    where = f"(see nova-compute.log in {settings.log('compute1').parent}/compute*)"
    wait_until(
        lambda: sum(s["state"] == "up" for s in services(cloud)) >= want, 180, f"{want} compute services {where}"
    )
    if hypervisors(cloud) < want:
        config = [f"--config-file={settings.etc / 'ctl' / name}" for name in ("nova.conf", "nova-database.conf")]
        manage = [str(settings.venv / "bin" / "nova-manage"), *config, "cell_v2", "discover_hosts"]
        subprocess.run(manage, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: hypervisors(cloud) >= want, 60, f"{want} hypervisors {where}")


if __name__ == "__main__":
    open_cloud(settings_.load(Path(sys.argv[1])))
