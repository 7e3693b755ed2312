"""The ``vmha-simulate`` command: what would happen if."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vmha.sim import scenario
from vmha.sim.run import simulate

HELD, BROKEN, REFUSED = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run scenario files.  Status 0: all held; 1: an expectation or invariant did not; 2: a file was refused."""
    parser = argparse.ArgumentParser(
        prog="vmha-simulate", description="Run scenario files against vmha's own decisions, in virtual time."
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a scenario (YAML); see vmha/sim/scenario.schema.json"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each file")
    parser.add_argument(
        "--update", action="store_true", help="write the log beside each file, as FILE with the suffix .log"
    )
    args = parser.parse_args(arguments)
    return max(_run(path, args.json, args.update) for path in args.files)


def _run(path: Path, as_json: bool, update: bool) -> int:
    try:
        found = simulate(scenario.read(path))
    except scenario.Refused as e:
        print(f"vmha-simulate: {path}: {e}", file=sys.stderr)
        return REFUSED
    if update:
        path.with_suffix(".log").write_text(found.log())
    if as_json:
        print(json.dumps(found.as_json()))
    elif not update:
        sys.stdout.write(found.log())
    if update:
        for text in (*found.violations, *found.unmet):
            print(f"vmha-simulate: {path}: {text}", file=sys.stderr)
    return HELD if found.held else BROKEN


if __name__ == "__main__":
    sys.exit(main())
