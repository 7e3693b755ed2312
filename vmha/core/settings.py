"""Settings of the core, read once from the configuration, and the relations that make them safe.

``check`` names every relation of safety.md section 2 and 4 that this slice relies on; a set of settings that breaks one is
refused at start with the sentence that says what to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vmha.core.model import Protect


@dataclass(frozen=True, slots=True)
class Settings:
    """All in seconds unless said otherwise; defaults are those of safety.md section 2."""

    # detection
    beat_period: float = 0.2
    silence: float = 1.2  # no beat on any network for this long: suspect
    start_grace: float = 3.0  # a host never heard is judged this long after we first knew of it
    power_every: float = 1.0  # between two readings of a suspect's power
    probe_every: float = 1.0
    probe_timeout: float = 0.8
    power_timeout: float = 10.0  # one reading; longer is unknown
    icmp_answer_holds: bool = True  # a kernel that answers is not condemned (safety.md section 6)
    # leases
    host_lease: float = 9.0
    host_renew: float = 3.0
    leader_lease: float = 2.0
    leader_renew: float = 0.5
    # self-fencing (safety.md sections 1 and 2)
    word: float = 9.0  # T: how long an answer holds
    ask_every: float = 3.0
    feed_every: float = 1.0
    agent_restart: float = 2.0  # from the death of an agent to the first feed of the next one, at the worst
    settle: float = 3.0  # added to every self-fence: the watchdog's tick and I/O that is in flight
    # calls
    start_limit: float = 2.0
    call_limit: float = 8.0
    fence_limit: float = 60.0
    drift: float = 0.001
    read_timeout: float = 10.0
    read_fresh: float = 5.0  # a call follows a read that began at most this long ago
    # fencing
    fence_again: float = 5.0  # between two orders of "off" that did not help
    fence_recheck: float = 0.5  # between readings after an order
    # recovery
    evacuate_first: int = 16  # evacuations in flight at the start; adapts between 1 and evacuate_most
    evacuate_most: int = 64
    poll: float = 0.5
    retry_first: float = 2.0
    retry_most: float = 60.0
    evacuate_retries: int = 5  # attempts before a person is paged; retrying goes on at retry_most
    verify_page: float = 60.0  # arrived but not seen running for this long: page
    evacuate_patience: float = 600.0  # an evacuation that Nova has not ended for this long: page
    nova_patience: float = 60.0  # Nova has not answered during a recovery for this long: page
    instances_path_shared: str = "unknown"  # yes: disks under Nova's instances_path are on storage that all hosts share
    rebuild_local_disks: bool = False  # evacuate even where that rebuilds a disk from its image, losing what was on it
    recover_errors: bool = False  # instances that were in error before the death
    save_every: float = 1.0
    inventory_every: float = 5.0  # one living host after another is asked for, to know which instances are unprotected
    keep_recoveries: int = 200  # ended ones, the oldest are deleted
    # gates
    max_down: int = 10  # hosts down or being fenced at once
    max_down_percent: float = 40.0  # of all hosts, those already down counted; one host is always allowed
    max_down_per_domain: int | Mapping[str, int] = 0  # in one failure domain; 0: no cap of its own
    max_fences_per_window: int = 10  # hosts ordered off whose power was on
    fence_window: float = 600.0
    storm_cooldown: float = 10.0  # after a storm the caps must have been kept for this long
    hold_page_every: float = 600.0
    hold_max: float = 3600.0  # a hold that lasts longer is told as overdue with each page
    approval: bool = False  # every condemnation needs an operator's approval
    dry_run: bool = False
    # start order
    groups: tuple[
        str, ...
    ] = ()  # start groups in their order; with any the instances arrive stopped and are started in order
    ready_timeout: float = 300.0  # a group that makes no progress for this long no longer holds back the next ones
    start_limit_per_host: int = 0  # starts on one destination within start_limit_window; 0: no limit
    start_limit_window: float = 60.0
    # pre-flight
    memory_ratio: float = 0.0  # Nova's allocation ratios, for the count of who would find no host; 0: no count
    cpu_ratio: float = 0.0
    # reserved hosts
    reserved_only: bool = False  # evacuate to reserved hosts only, instead of using them only when Nova finds no host
    reserved_reason: str = "vmha: reserved"  # why the service of an idle reserved host is disabled
    # policy
    protect_default: Protect = Protect.FULL
    metadata_key: str = "vmha:protect"
    tenant_may_set: bool | tuple[str, ...] = True  # true: protect; else which of protect, priority, group, ready
    exclude_services: bool | tuple[str, ...] = ()  # projects, or patterns of names, whose instances are left alone
    # return
    return_to_service: bool = True
    stability_delay: float = 10.0
    compute_restart_every: float = 30.0  # between two requests to restart nova-compute on a returned host
    compute_restarts: int = 3  # requests before a person is paged
    flap_limit: int = 3  # recoveries of one host within flap_window after which it is not put back by itself
    flap_window: float = 86400.0
    disabled_reason: str = "vmha: host was fenced"


# what tenants can be allowed to set in the metadata of their servers
TENANT_KEYS = ("protect", "priority", "group", "ready")
STORE_ELECTION = 3.0  # seconds in which etcd has a leader again
TICK_AND_IO = 3.0  # seconds: a watchdog's tick, and I/O that is in flight when the host stops
WATCHDOG_FEEDS = 3  # feeds that may be missed

POSITIVE = (
    *(
        "beat_period",
        "silence",
        "host_lease",
        "host_renew",
        "leader_lease",
        "leader_renew",
        "start_limit",
        "call_limit",
    ),
    *(
        "fence_limit",
        "word",
        "ask_every",
        "feed_every",
        "power_every",
        "probe_every",
        "power_timeout",
        "poll",
        "retry_first",
        "read_timeout",
        "fence_again",
        "nova_patience",
    ),
)


def wait_out(settings: Settings) -> float:
    """The longest time after which a call that was committed can still take effect (safety.md section 4, rule 4)."""
    return (settings.start_limit + settings.call_limit) * (1 + 2 * settings.drift)


def self_fence_wait(settings: Settings, timeout: float, held: bool) -> float:
    """Seconds from the majority's acknowledgement until a host has surely stopped by itself (safety.md section 2, P2).

    The check may pass just before the word ends, the process may stand still for nearly W before the feed lands, then W runs; where
    the descriptor is not held, its closing is one more feed.
    """
    feeds = 2 if held else 3
    return (settings.word + feeds * timeout) * (1 + 2 * settings.drift) + settings.settle


def least_watchdog(settings: Settings) -> float:
    """The shortest time-out of a watchdog that a healthy host never meets."""
    return WATCHDOG_FEEDS * settings.feed_every + settings.agent_restart


def _self_fencing(s: Settings) -> Iterator[str]:
    if s.word < 3 * s.ask_every:
        yield (
            f"word ({s.word:g} s) is shorter than three questions: one lost answer would stop a healthy host; set ask_every to at most"
            f" {s.word / 3:g} or word to at least {3 * s.ask_every:g}"
        )
    if s.word <= s.ask_every + STORE_ELECTION:
        yield (
            f"word ({s.word:g} s) does not outlast an election of etcd ({STORE_ELECTION:g} s) after the last question: set it above"
            f" {s.ask_every + STORE_ELECTION:g}"
        )
    if s.settle < TICK_AND_IO:
        yield f"settle is {s.settle:g} s: a watchdog's tick and I/O in flight take up to {TICK_AND_IO:g} s, set it to that at least"
    if s.agent_restart < 0:
        yield f"agent_restart is {s.agent_restart:g} s: give the seconds that an agent needs at the worst to feed again"


def check(settings: Settings) -> Iterator[str]:
    """One sentence for each unsafe or impossible setting, saying what to change."""
    s = settings
    yield from _self_fencing(s)
    yield from (f"{name} is {getattr(s, name):g} s: set it above 0" for name in POSITIVE if getattr(s, name) <= 0)
    if s.silence < 3 * s.beat_period:
        yield (
            f"silence ({s.silence:g} s) is shorter than three beats (3 x beat_period {s.beat_period:g} s): one lost packet would"
            f" raise a suspicion; set silence to at least {3 * s.beat_period:g}"
        )
    for name in ("host", "leader"):
        ttl, renew = getattr(s, name + "_lease"), getattr(s, name + "_renew")
        if ttl < 3 * renew:
            yield f"{name}_lease ({ttl:g} s) is shorter than three renewals: set {name}_renew to at most {ttl / 3:g}"
    if s.leader_lease < 2:
        yield f"leader_lease is {s.leader_lease:g} s, etcd grants no lease below 2 s: set it to 2 or more"
    if not 0 <= s.drift < 0.1:
        yield f"drift is {s.drift:g}: give the largest relative clock drift as a fraction, for example 0.001"
    if s.power_timeout > s.fence_limit:
        yield f"power_timeout ({s.power_timeout:g} s) exceeds fence_limit ({s.fence_limit:g} s): lower it"
    if s.read_fresh < s.poll:
        yield f"read_fresh ({s.read_fresh:g} s) is shorter than poll ({s.poll:g} s): no call could ever follow a read; raise it"
    if s.max_down < 1:
        yield f"max_down is {s.max_down}: 1 is the least; disarm vmha to stop all fencing"
    if not 0 < s.max_down_percent <= 100:
        yield f"max_down_percent is {s.max_down_percent:g}: give a percentage above 0 and up to 100"
    caps = s.max_down_per_domain.values() if isinstance(s.max_down_per_domain, Mapping) else (s.max_down_per_domain,)
    if any(cap < 0 for cap in caps):
        yield "max_down_per_domain has a negative cap: give hosts per failure domain, 0 for none"
    if s.max_fences_per_window < 1:
        yield f"max_fences_per_window is {s.max_fences_per_window}: 1 is the least; disarm vmha to stop all fencing"
    if not 1 <= s.evacuate_first <= s.evacuate_most:
        yield f"evacuate_first ({s.evacuate_first}) must be between 1 and evacuate_most ({s.evacuate_most})"
    if s.ready_timeout <= 0 or s.start_limit_window <= 0:
        yield "ready_timeout and start_limit_window must be above 0"
    if s.start_limit_per_host < 0:
        yield f"start_limit_per_host is {s.start_limit_per_host}: give the starts allowed on one host, 0 for no limit"
    if len(set(s.groups)) != len(s.groups):
        yield f"groups names a group twice ({', '.join(s.groups)}): each has one place in the order"
    yield from _tenant_words(s)
    if s.retry_most < s.retry_first:
        yield f"retry_most ({s.retry_most:g} s) is shorter than retry_first ({s.retry_first:g} s): raise it"
    if s.instances_path_shared not in ("yes", "no", "unknown"):
        yield f"instances_path_shared is {s.instances_path_shared!r}: say yes, no or unknown (which counts as no)"
    if s.protect_default is Protect.FT:
        yield "protect_default cannot be ft: lock-step protection is asked for per instance"


def _tenant_words(settings: Settings) -> Iterator[str]:
    if isinstance(settings.tenant_may_set, bool):
        return
    known = (*TENANT_KEYS, *Protect)
    for word in settings.tenant_may_set:
        if word not in known:
            yield f"tenant_may_set has {word!r}: name {', '.join(TENANT_KEYS)}, or single protections ({', '.join(Protect)})"
