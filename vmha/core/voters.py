"""Who answers for others when the store is away (safety.md section 1), and how that list changes.

Voters are the compute hosts that are not in maintenance (above ``PANEL``: that many, spread over failure domains), plus one named
controller as arbiter where their number is even.  A condemned host stays a voter until an operator retires it or puts it
in maintenance: who may vote must not depend on who is thought dead.

A change goes in two steps, each one record:  ``old`` -> ``old and new`` (joint: every decision needs a majority of both) -> ``new``, the
last one only once a majority of the old list has acknowledged the joint record, so that no majority is left that knows only the old.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from vmha.core.model import Voters

PANEL = 63


def majority(count: int) -> int:
    """How many of ``count`` are a majority."""
    return count // 2 + 1


def lists(voters: Voters) -> tuple[frozenset[str], ...]:
    """The lists in force: one, or two while a change is not settled."""
    both = (voters.names, voters.previous)
    return tuple(frozenset(names) for names in both if names)


def agreed(voters: Voters, names: Collection[str]) -> bool:
    """Whether ``names`` hold a majority of every list in force."""
    found = lists(voters)
    return bool(found) and all(len(one.intersection(names)) >= majority(len(one)) for one in found)


def can_do_without(voters: Voters, host: str) -> bool:
    """Whether a majority exists that does not need ``host``."""
    return agreed(voters, {name for one in lists(voters) for name in one} - {host})


def acknowledging(voters: Voters, host: str, applied: Mapping[str, int], revision: int) -> frozenset[str]:
    """Voters other than ``host`` that have applied a condemned list as new as ``revision``."""
    names = {name for one in lists(voters) for name in one} - {host}
    return frozenset(name for name in names if applied.get(name, 0) >= revision > 0)


def panel(domains: Mapping[str, str], kept: Collection[str] = ()) -> tuple[str, ...]:
    """At most PANEL of the hosts (name to failure domain), those of ``kept`` that are still there first, then evenly over domains."""
    if len(domains) <= PANEL:
        return tuple(sorted(domains))
    chosen = sorted(h for h in kept if h in domains)[:PANEL]
    per_domain = dict.fromkeys(domains.values(), 0)
    for host in chosen:
        per_domain[domains[host]] += 1
    left: dict[str, list[str]] = {d: [] for d in per_domain}
    for host in sorted(set(domains) - set(chosen), reverse=True):
        left[domains[host]].append(host)
    while len(chosen) < PANEL:
        domain = min((d for d in left if left[d]), key=lambda d: (per_domain[d], d))
        chosen.append(left[domain].pop())
        per_domain[domain] += 1
    return tuple(sorted(chosen))


def seats(domains: Mapping[str, str], arbiter: str, kept: Collection[str] = ()) -> tuple[str, ...]:
    """The names that should vote: the panel, and the arbiter where the panel is even and there is one."""
    hosts = panel(domains, kept)
    return (*hosts, arbiter) if arbiter and len(hosts) % 2 == 0 else hosts


def following(voters: Voters, domains: Mapping[str, str], seen: Mapping[str, int]) -> Voters | None:
    """The next record to write, None when nothing is to be changed.

    ``domains``: hosts that should vote now; ``seen``: voter to the revision of the voters' record that it acknowledged last.
    """
    if voters.previous:
        old = frozenset(voters.previous)
        aware = sum(seen.get(name, 0) >= voters.revision > 0 for name in old)
        return replace(voters, previous=()) if aware >= majority(len(old)) else None
    wanted = seats(domains, voters.arbiter, voters.names)
    if not wanted or set(wanted) == set(voters.names):
        return None
    return replace(voters, names=wanted, previous=voters.names)


def changed(old: Voters, new: Voters) -> str:
    """A step of a change, for people."""
    if old.previous:
        return f"the changed list counts alone now: {len(new.names)} voters"
    come, gone = set(new.names) - set(old.names), set(old.names) - set(new.names)
    parts = [f"{', '.join(sorted(names))} {verb}" for names, verb in ((come, "added"), (gone, "left out")) if names]
    return f"the list of voters changes to {len(new.names)}: {'; '.join(parts)}; both lists must agree until the old one knows"


def told(voters: Voters, names: Iterable[str]) -> str:
    """How many of which lists, for people: "3 of 5 voters"."""
    found = frozenset(names)
    return " and ".join(f"{len(one & found)} of {len(one)} voters" for one in lists(voters))
