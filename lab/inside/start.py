"""Start a recorded service again, inside its machine: python3 -m lab.inside.start STATE MACHINE SERVICE"""

from __future__ import annotations

import sys
from pathlib import Path

from lab import services, settings

if __name__ == "__main__":
    services.relaunch(settings.load(Path(sys.argv[1])), sys.argv[2], sys.argv[3])
