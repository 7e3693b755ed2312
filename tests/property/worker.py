"""Runs chunks of random worlds for ``many``: a line "FIRST COUNT" in, a line of JSON out: what was counted and what was wrong.

``--print`` writes everything that happened in each world instead, so that two ways of running them can be compared.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from typing import Any

from tests.property.random_worlds import OPEN, PEACE, drawn, judged
from vmha.core.model import Recovery
from vmha.sim.run import result

LIMIT = 600  # seconds for one chunk


def tally(first: int, count: int) -> dict[str, Any]:
    """Judge the worlds of these seeds."""
    began, counted, faults, wrong = time.process_time(), Counter[str](), Counter[str](), {}
    for seed in range(first, first + count):
        data = drawn(seed)
        faults.update(e["do"] for e in data["events"] if e.get("at", 0.0) < PEACE and not _ends(e["do"]))
        world, found = judged(data)
        if found:
            wrong[seed] = found
        if world is not None:
            counted["steps"] += world.clock.happened
            stages = [record.stage for record in world.store.tables[Recovery].values()]
            counted["held"] += sum(stage in OPEN for stage in stages)
            counted["closed"] += sum(stage not in OPEN for stage in stages)
    counted["worlds"] = count
    return {"counted": counted, "faults": faults, "wrong": wrong, "cpu": time.process_time() - began}


def _ends(do: str) -> bool:
    """It ends a fault."""
    return do.endswith(("_resume", "_start", "_ok", "_heal", "_up")) or do in ("arm", "power_on", "release")


def told(first: int, count: int) -> str:
    """All that happened, one world a line."""
    lines = []
    for seed in range(first, first + count):
        world, found = judged(drawn(seed))
        told = [result(world).as_json(), result(world).lines, world.clock.happened] if world is not None else []
        lines.append(json.dumps([seed, found, *told], sort_keys=True))
    return "\n".join(lines) + "\n"


def main() -> None:
    for line in sys.stdin:
        first, count = (int(word) for word in line.split())
        signal.alarm(LIMIT)  # a world that never ends kills us, and ``many`` names its chunk
        answer = told(first, count) if "--print" in sys.argv else json.dumps(tally(first, count)) + "\n"
        sys.stdout.write(answer)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
