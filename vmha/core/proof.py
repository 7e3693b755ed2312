"""When a host counts as proven dead (safety.md section 2).  This slice: P1, power read back off.

A proof is about one boot of one host.  A reading proves only when it began after the answer to the commit of the condemnation: a host
can boot between an older reading and the decision (scenario ``blip_then_boot``).
"""

from __future__ import annotations

from vmha.core.events import PowerRead
from vmha.core.model import PowerState, Proof


def by_power(reading: PowerRead | None, committed_at: float) -> Proof | None:
    """P1, when ``reading`` says off and began after ``committed_at``; an unknown reading proves nothing."""
    if reading is None or reading.state is not PowerState.OFF or reading.began <= committed_at:
        return None
    return Proof.POWER


def refuted(proof_began: float, boot: str, heard_boot: str, heard_at: float) -> bool:
    """A signed beat of the very boot that was proven dead, heard after the proving reading began: the device lies."""
    return heard_boot == boot and heard_at > proof_began
