"""Run in ctl: carries API requests from standard input to the cloud, one JSON line each, answers on standard output.

The APIs' addresses exist only inside the lab's networks; this is how a program outside asks them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lab import settings as settings_
from lab.errors import LabError
from lab.inside import catalog


def main() -> None:
    cloud = catalog.connect(settings_.load(Path(sys.argv[1])))
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            version = {"OpenStack_API_Version": "compute 2.94"}
            answer = {"ok": cloud.call(asked["service"], asked["path"], asked["body"], asked["method"], **version)}
        except LabError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
