"""Run in con1 and con2 by ``lab up`` once the cloud works: start vmha-controller."""

from __future__ import annotations

import sys
from pathlib import Path

from lab import settings
from lab.inside.common import start_vmha

if __name__ == "__main__":
    start_vmha(settings.load(Path(sys.argv[1])), sys.argv[2], "vmha-controller", print)
