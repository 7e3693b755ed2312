"""What runs on this host, and what a condemned host says and does about it (P5 of safety.md section 2)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vmha.core.model import Word
from vmha.errors import HypervisorUnavailable
from vmha.ports import Domain, Hypervisor, Processes

LOG = logging.getLogger(__name__)

AT_ONCE = 4  # domains destroyed at the same time; libvirtd takes five calls of one client


@dataclass(frozen=True, slots=True)
class Look:
    """One fresh look, begun at clock time ``began``.  ``domains`` is None when libvirt did not answer, ``why`` tells."""

    began: float
    domains: tuple[Domain, ...] | None
    processes: Mapping[str, int]
    why: str = ""


def look(hypervisor: Hypervisor | None, processes: Processes, began: float) -> Look:
    """libvirt's list and /proc, now.  Processes are looked at last: what libvirt starts meanwhile is in one of the two."""
    if hypervisor is None:
        return Look(began, (), {})
    try:
        domains = hypervisor.domains()
    except HypervisorUnavailable as e:
        return Look(began, None, processes.running(), str(e))
    return Look(began, domains, processes.running())


def word(seen: Look, unprotected: Collection[str], revision: int) -> Word | None:
    """What the condemned host says after the look; None when it cannot say."""
    if seen.domains is None:
        return None
    protected = [d for d in seen.domains if d.uuid not in unprotected]
    return Word(
        condemned_revision=revision,
        active=tuple(sorted(d.uuid for d in protected if d.active)),
        processes=tuple(sorted(uuid for uuid in seen.processes if uuid not in unprotected)),
        defined=tuple(sorted(d.uuid for d in protected)),
    )


def clear(hypervisor: Hypervisor, destroy: Collection[str], undefine: Collection[str]) -> None:
    """Destroy and undefine; what fails is logged and stands in the next look."""

    def one(uuid: str) -> None:
        try:
            if uuid in destroy:
                hypervisor.destroy(uuid)
                LOG.warning("this host is condemned: domain %s destroyed", uuid)
            else:
                hypervisor.undefine(uuid)
                LOG.warning("this host is condemned: stale domain %s undefined", uuid)
        except HypervisorUnavailable as e:
            LOG.error("this host is condemned, but a domain is still there: %s; trying again", e)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="clear") as pool:
        list(pool.map(one, [*destroy, *undefine]))
