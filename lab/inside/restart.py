"""Run in a machine: restart one of its services, as systemctl would. ``python3 -m lab.inside.restart STATE MACHINE NAME``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from lab import services
from lab import settings as settings_
from lab.processes import wait_until


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def main() -> None:
    settings, machine, name = settings_.load(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
    pid = json.loads((settings.run(machine) / "services" / f"{name}.json").read_text())["pid"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid), 20, f"{name} to end")
    services.relaunch(settings, machine, name)


if __name__ == "__main__":
    main()
