"""Restarts nova-compute by the operator's command, when the leader asks for it."""

from __future__ import annotations

import shlex
import subprocess

LIMIT = 60.0  # seconds


def restart(command: str) -> str:
    """Run the command; the fault in a sentence, "" when it ended well.  Blocks for at most LIMIT seconds."""
    if not command:
        return "[agent] restart_compute is empty: restart it by hand"
    try:
        ran = subprocess.run(
            shlex.split(command), check=False, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:
        return f"{command}: {e}"
    return f"{command} ended with status {ran.returncode}: {ran.stderr.strip()[-200:]}" if ran.returncode else ""
