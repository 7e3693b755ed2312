"""When a host counts as proven dead (safety.md section 2): pure rules, one function for each proof.

A proof is about one boot of one host, and about the time after its condemnation was committed.

=====  ==========  =====================================================================================================
P1     power       "off", read back by a reading begun after the commit (scenario ``blip_then_boot``)
P2     self-fence  a majority of voters, the host not counted, has acknowledged this very condemnation, seen by this leader;
                   since then, by its own clock, strictly longer than ``settings.self_fence_wait``; hardware watchdogs only
P3     storage     the storage says that it can write no more *and* its networks are cut, in one reading begun after the commit
P4     person      a named one, with a reason, refused while anything at all speaks against it
P5     word        the host itself, for this very condemnation: gate shut, nothing active, no process; its hook in place
=====  ==========  =====================================================================================================

P1 to P4 say that the boot is silent: while its signed beats are heard none of them is granted, and one after it refutes them (``spoke``).
"""

from __future__ import annotations

from dataclasses import dataclass

from vmha.core.events import CutRead, PowerRead
from vmha.core.model import HostAlive, PowerState, Voters
from vmha.core.settings import Settings, least_watchdog, self_fence_wait
from vmha.core.voters import agreed, can_do_without

SOFT = frozenset({"softdog", "software watchdog"})


def by_power(reading: PowerRead | None, committed_at: float) -> bool:
    """P1, when ``reading`` says off and began after ``committed_at``; an unknown reading proves nothing."""
    return reading is not None and reading.state is PowerState.OFF and reading.began > committed_at


# --- P2 ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watchdog:
    """What the condemned boot registered of its watchdog; ``boot`` is the boot that did."""

    boot: str
    kind: str | None
    timeout: float | None
    held: bool


def self_fence_off(voters: Voters | None, host: str, boot: str, dog: Watchdog, settings: Settings) -> str:
    """Why no proof P2 can come for this boot of this host, in words for an operator; empty when it can."""
    if voters is None or not voters.revision:
        return "there is no list of voters: run vmha-manage voters init"
    if not can_do_without(voters, host):
        return "without it no majority of the voters is left: add a host or an arbiter"
    if not boot or dog.boot != boot or dog.timeout is None:
        return "no watchdog was armed in that boot"
    if dog.kind is None or dog.kind.lower() in SOFT:
        return (
            f"its watchdog ({dog.kind or 'of unknown kind'}) is not hardware: it stops with a stuck CPU, guests may not"
        )
    if dog.timeout < least_watchdog(settings):
        return (
            f"its watchdog's {dog.timeout:g} s are shorter than the {least_watchdog(settings):g} s that feeding needs"
        )
    return ""


def acknowledged(voters: Voters, host: str, by: frozenset[str]) -> bool:
    """Whether those who acknowledged the condemnation, ``host`` not counted, are a majority of every list in force."""
    return agreed(voters, by - {host})


def by_self_fence(since: float, dog: Watchdog, settings: Settings, now: float) -> bool:
    """P2, when strictly more than the wait has passed ``since`` the acknowledgement; intervals are closed."""
    return dog.timeout is not None and now > since + self_fence_wait(settings, dog.timeout, dog.held)


# --- P3, P4, P5 ----------------------------------------------------------------------------------------------------


def by_storage(reading: CutRead | None, committed_at: float) -> bool:
    """P3: no write *and* no packet of it gets out any more; either alone, or an older reading, proves nothing."""
    return reading is not None and reading.storage is True and reading.networks is True and reading.began > committed_at


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that can be seen of a host whose death a person confirms."""

    beats: tuple[str, ...] = ()  # networks on which its beats come
    kernel: tuple[str, ...] = ()  # networks on which its kernel answers
    power: PowerState = PowerState.UNKNOWN
    leased: bool = False  # its registration still stands in the store


def against_person(by: str, reason: str, seen: Observed) -> str:
    """Why P4 is refused, in words for the person who confirmed; empty when nothing speaks against it."""
    if not by or not reason:
        return "a confirmation needs a name and a reason"
    if seen.beats:
        return f"its beats come on {', '.join(seen.beats)}: it is alive"
    if seen.kernel:
        return f"its kernel answers on {', '.join(seen.kernel)}: it is alive"
    if seen.power is PowerState.ON:
        return "its power reads on: switch it off first"
    if seen.leased:
        return "its lease in etcd is not gone: its agent was alive a moment ago, wait for it and confirm again"
    return ""


def by_word(alive: HostAlive | None, condemned_revision: int) -> bool:
    """P5, from the registration of the condemned boot or a later one; the word names the condemnation that it is about."""
    word = alive.word if alive is not None else None
    if alive is None or word is None or not condemned_revision or word.condemned_revision != condemned_revision:
        return False
    return alive.gate == "shut" and alive.hook and not word.active and not word.processes


# --- refutation ----------------------------------------------------------------------------------------------------


def spoke(
    boot: str, since: float, heard_boot: str, last: float, still: bool, silence: float, now: float
) -> bool | None:
    """Whether the boot sent a signed beat after ``since``; None when that is not known yet.

    Only edges are told: ``still`` says that beats of ``heard_boot`` come now (the last at most ``silence`` ago), else ``last`` is
    when the last one came.  A boot that is not known may be any.
    """
    if boot and heard_boot != boot:
        return False
    if last > since:
        return True
    if not still:
        return False
    return True if now > since + silence else None
