"""The lab's own record of what was done to whom and when: ``events.jsonl``, one event a line.

Benchmarks and the demo compute their timelines from it. Times are seconds: ``mono`` (CLOCK_MONOTONIC), ``boot``
(CLOCK_BOOTTIME, what the witness writes) and ``wall``. All namespaces share one kernel, so they compare everywhere.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from lab.settings import Settings


def now() -> dict[str, float]:
    return {
        "mono": time.clock_gettime(time.CLOCK_MONOTONIC),
        "boot": time.clock_gettime(time.CLOCK_BOOTTIME),
        "wall": time.time(),
    }


def record(settings: Settings, event: str, machine: str, stamp: dict[str, float] | None = None, **detail: Any) -> None:
    """Append one event. ``stamp`` says when it happened, if that was before now."""
    line = json.dumps({**(stamp or now()), "event": event, "machine": machine, **detail}) + "\n"
    with settings.events_file.open("ab", buffering=0) as out:
        out.write(line.encode())


def read(settings: Settings) -> list[dict[str, Any]]:
    """All events since the lab came up, in the order they were written."""
    try:
        text = settings.events_file.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def asked_by() -> str:
    """Who asks for the change in this process: ``cli``, ``api`` or ``ipmi``."""
    return os.environ.get("VMHA_LAB_BY", "api")
