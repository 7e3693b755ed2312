"""Values the core decides about.  All are frozen; seconds are floats of a monotonic clock unless a name ends in ``_wall``.

Words are those of the design's glossary.  A value that is not known is ``None`` or ``UNKNOWN``, never a default that
reads as "no".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class HostState(StrEnum):
    """State of a host; each word with the sentence that operators read."""

    UNKNOWN = "unknown"  # we cannot see it: do nothing
    ONLINE = "online"  # beats are heard, nothing is wrong
    SUSPECT = "suspect"  # silent or sick, may still run
    CONDEMNED = "condemned"  # decided and written down, being fenced
    FENCED = "fenced"  # proof of death is held
    RECOVERING = "recovering"  # forced down, its instances are being started elsewhere
    RECOVERED = "recovered"  # nothing left to do there
    RETURNING = "returning"  # back, disabled, being reconciled
    MAINTENANCE = "maintenance"  # an operator works on it: not judged


class PowerState(StrEnum):
    """What a fencing device read back; UNKNOWN is never OFF."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class Protect(StrEnum):
    """How much of vmha's care an instance gets."""

    NONE = "none"  # never touched
    RESTART = "restart"  # restarted on its host, not evacuated
    HOST = "host"  # evacuated, not restarted locally
    FULL = "full"  # both
    FT = "ft"  # lock-step pair


EVACUATED = frozenset({Protect.HOST, Protect.FULL, Protect.FT})


class Proof(StrEnum):
    """Kinds of proof of death (safety.md section 2)."""

    POWER = "P1"
    SELF_FENCE = "P2"
    STORAGE = "P3"
    PERSON = "P4"
    WORD = "P5"


class CallKind(StrEnum):
    """Outside calls that cannot be taken back (safety.md section 4)."""

    POWER_OFF = "power_off"
    FORCE_DOWN = "force_down"
    UNFORCE = "unforce"  # forced_down back to false
    DISABLE = "disable"  # disable the compute service, with our reason
    ENABLE = "enable"
    EVACUATE = "evacuate"
    START = "start"  # of an instance that arrived stopped, in its turn
    RESET_STATE = "reset_state"  # clear the task state of an attempt whose target is proven dead, or the error of a stopped instance


class Outcome(StrEnum):
    """How an outside call ended."""

    DONE = "done"  # the other side said so
    FAILED = "failed"  # the other side refused: nothing happened
    UNKNOWN = "unknown"  # no answer: it may have happened, or still happen within its limit
    NOT_STARTED = "not_started"  # never sent, and never will be


@dataclass(frozen=True, slots=True)
class Word:
    """What a condemned host says of itself: gate shut, then this is all that still ran there (safety.md P5)."""

    condemned_revision: int
    active: tuple[str, ...] = ()  # uuids of protected domains still active
    processes: tuple[str, ...] = ()  # uuids of protected QEMU processes still there
    defined: tuple[str, ...] = ()  # uuids of protected domains still defined


@dataclass(frozen=True, slots=True)
class HostAlive:
    """Value of ``hosts/<host>/alive``: the agent's registration, on its lease.

    ``boot`` is the kernel's boot id, ``agent`` names one run of the agent.  ``addresses`` maps network to IPv4/6
    address.  ``gate`` is "open" or "shut".  ``watchdog_timeout`` is seconds as read back from the armed device, ``None`` while
    none is armed.
    """

    host: str
    boot: str
    agent: str
    addresses: Mapping[str, str]
    gate: str = "shut"
    hook: bool = False  # the libvirt hook is installed; without it the host is not protected
    word: Word | None = None
    beating: bool = False  # a beat process answered the agent
    watches_domains: bool = True  # the agent publishes what its domains do; else Nova's word must do for them
    watchdog: str | None = None
    watchdog_timeout: float | None = None
    watchdog_held: bool = False
    voters_revision: int = 0
    condemned_applied: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    colo: bool = False
    compute_restarts: int = (
        0  # of the requests of its condemnation to restart nova-compute, the last that was carried out
    )
    memory_mib: int = 0  # of the machine; 0: not told
    vcpus: int = 0


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Value of ``settings/hosts/<host>``: what outlives boots.  Made by the leader on first sight of the host.

    ``last_boot`` and ``addresses`` let a new leader judge a host that died before the leader was born.
    """

    host: str
    last_boot: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    segment: str = "default"
    failure_domain: str = ""
    maintenance: bool = False
    reserved: bool = False
    watchdog: str | None = (
        None  # as registered in ``last_boot``: its kind, its time-out, whether its descriptor is held
    )
    watchdog_timeout: float | None = None
    watchdog_held: bool = False
    release: int = 0  # revision of the condemnation that an operator allows to end (where return_to_service is off)


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """Value of ``settings/segments/<name>``: defaults for the hosts of one failover group."""

    name: str
    protect: Protect = Protect.FULL
    enabled: bool = True  # false: its hosts are watched, but none is condemned before a person enables it


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """Value of ``settings/instances/<uuid>``: the admin's word about one instance; the nearest word wins.

    ``group`` is its start group (``[recovery] groups``); ``ready``: later groups wait until its guest answers.
    """

    uuid: str
    protect: Protect | None = None
    priority: int | None = None
    group: str | None = None
    ready: bool | None = None


@dataclass(frozen=True, slots=True)
class Voters:
    """Value of ``voters``: who answers for others when the store is away (``vmha.core.voters``).

    ``names``: hosts, and the arbiter where it votes.  ``previous``: the list before, while both must agree.  ``keys``: voter to
    Ed25519 public key in hex.  ``revision`` is the store's revision of the record (modified); it is not in the bytes.
    """

    names: tuple[str, ...] = ()
    arbiter: str = ""
    previous: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0


class Verb(StrEnum):
    """What an operator may order (``vmha.core.commands`` says what each does)."""

    APPROVE = "approve"
    RETRY = "retry"
    ABORT = "abort"
    RESOLVE = "resolve"
    CONDEMN = "condemn"
    CONFIRM_DEAD = "confirm_dead"
    MAINTAIN = "maintain"
    RELEASE = "release"
    DISARM = "disarm"
    ARM = "arm"


@dataclass(frozen=True, slots=True)
class Command:
    """Value of ``commands/<target>/<id>``: an operator's order, carried out once by id and then deleted.

    ``target`` is a host, or ``cloud``.  ``epoch`` is the leader's that the operator saw, 0 where none was looked at: an order that
    was given to an earlier leader is refused.
    """

    id: str
    verb: Verb
    target: str
    by: str
    reason: str = ""
    epoch: int = 0
    at_wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Value of ``answers/<target>``: what became of the last command about it, in one sentence."""

    id: str
    target: str
    verb: Verb
    done: bool
    text: str
    at_wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Condemnation:
    """Value of ``condemned/<host>``: this boot of the host must not come back by itself.

    ``revision`` is the etcd create revision of the key and identifies the condemnation; it is not in the bytes.
    ``undefine`` is written by the leader once Nova has cleaned up the returned host: instances that live elsewhere, whose
    domains still defined there must be undefined.  ``restart_compute`` counts the leader's requests to restart nova-compute there:
    only a start of it closes Nova's records of what left the host.
    """

    host: str
    boot: str
    recovery: str
    reason: str
    at_wall: float
    undefine: tuple[str, ...] = ()
    restart_compute: int = 0
    revision: int = 0


FENCED = "fenced"  # why a domain is not running any more: its own agent destroyed it, as its host is condemned


@dataclass(frozen=True, slots=True)
class InstanceSeen:
    """Value of ``instances/<host>/<uuid>``: what the agent of ``host`` saw last of the domain, in boot ``boot``.

    ``state``: running, paused, shutoff, crashed, gone.  ``reason`` is libvirt's word for the last change, or FENCED: it ran when its
    host was condemned and the agent destroyed it for that.  Nova may take such an instance for one that its user has stopped.
    """

    host: str
    uuid: str
    boot: str
    state: str
    reason: str = ""
    restarts: int = 0
    guest: str = "unknown"


@dataclass(frozen=True, slots=True)
class Instance:
    """A Nova server as the last read of the compute API told it."""

    uuid: str
    name: str
    host: str
    status: str  # ACTIVE, SHUTOFF, ERROR, ...
    vm_state: str  # active, stopped, error, ...
    task_state: str | None = None
    power_state: int = 0  # Nova's number: 1 running, 4 shutdown
    locked: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    project: str = ""
    memory_mib: int = 0
    vcpus: int = 0
    image: str = ""  # empty: booted from a volume
    flavor: Mapping[str, str] = field(default_factory=dict)  # extra specs of its flavor: an admin's words
    affinity: str = ""  # its server group, where that has the hard policy "affinity"
    anti_affinity: str = ""  # the same for "anti-affinity"


@dataclass(frozen=True, slots=True)
class Migration:
    """One of Nova's migration records of type evacuation.  ``status`` done/completed/failed/error are final."""

    id: int
    instance: str
    status: str
    source: str
    target: str = ""  # empty until the scheduler has chosen
    user: str = ""


FINAL_GOOD = frozenset({"done", "completed"})
FINAL_BAD = frozenset({"failed", "error", "cancelled"})


@dataclass(frozen=True, slots=True)
class Service:
    """A host's nova-compute service record.  ``updated_wall`` is the wall time of its last report."""

    id: str
    host: str
    up: bool
    forced_down: bool
    disabled: bool
    disabled_reason: str = ""
    updated_wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """The journal record of one outside call (safety.md section 4), key ``decisions/<recovery>/<id>``.

    Written before the call is sent, in a transaction that compares ``epoch``; open until ``outcome`` is set.
    ``known`` holds the ids of Nova's migrations that existed before the call, so that its own can be told.
    """

    id: str
    recovery: str
    kind: CallKind
    host: str
    epoch: int
    instance: str = ""
    condemned_revision: int = 0
    known: tuple[int, ...] = ()
    service: str = ""  # id of Nova's service record, for service calls
    reason: str = ""
    target: str = ""  # the host asked for in an evacuation, empty: Nova chooses; the host that starts the instance
    arrive_stopped: bool = False  # evacuate with a microversion >= 2.95 (Nova ignores it for an instance in error)
    state: str = "error"  # the vm_state that a reset leaves
    outcome: Outcome | None = None
    detail: str = ""  # request id, or what the other side said
    at_wall: float = 0.0


class StepState(StrEnum):
    """Where the recovery of one instance stands."""

    WAITING = "waiting"  # planned, not yet asked of Nova
    ASKED = "asked"  # the evacuate call's record is open
    MOVING = "moving"  # Nova took it, its migration record is not final
    ARRIVED = "arrived"  # Nova's record is final and good; not yet seen at the new host
    PLACED = "placed"  # arrived stopped, waits for its turn to be started
    STARTING = "starting"  # the start call's record is open or Nova took it; not yet seen running
    DONE = "done"  # verified
    RETRY = "retry"  # failed, will be asked again at a later time
    SKIPPED = "skipped"  # policy or Nova's state says leave it; the reason tells
    GONE = "gone"  # deleted, or moved by someone else


CLOSED_STEPS = frozenset({StepState.DONE, StepState.SKIPPED, StepState.GONE})


@dataclass(
    slots=True, unsafe_hash=True
)  # made by the ten thousand, and five times as slow when frozen (bench/planner.py)
class Step:
    """The recovery of one instance: a value, replaced and never changed.  ``stopped`` instances are moved too and stay stopped.

    ``ordered``: it arrives stopped and is started by us in its turn (``vmha.core.schedule``); ``owed``: its host died before that, so the
    recovery of that host starts it.
    """

    instance: str
    name: str = ""
    state: StepState = StepState.WAITING
    reason: str = ""
    stopped: bool = False
    attempts: int = 0
    target: str = ""
    migration: int = 0
    order: int = 0
    group: str = ""
    ready: bool = False
    ordered: bool = False
    owed: bool = False
    together: str = ""  # its hard server group: of one group one evacuation at a time
    starts: int = 0  # start calls made


class Stage(StrEnum):
    """Where a recovery stands."""

    CONDEMNED = "condemned"  # committed, proof of death is sought
    PROVEN = "proven"  # proof is held, the host is being forced down
    MOVING = "moving"  # forced down, instances are being evacuated
    CLOSED = "closed"  # nothing left to do for its instances; the host itself is still out of service
    RELEASED = "released"  # the host is back and reconciled, the condemnation deleted; being put back in service
    ENDED = "ended"  # in service again, or superseded by a later recovery


@dataclass(frozen=True, slots=True)
class Recovery:
    """The whole case of one boot of one host, key ``recoveries/<id>``.

    ``times_wall`` maps an event's name (suspected, condemned, power_read, fence_confirmed, proven, forced_down,
    first_evacuate, last_evacuate, closed ...) to wall time, for display only.  ``hold`` is the reason it waits for,
    which lasts for ``hold_age`` seconds, as rewritten now and again (safety.md section 4, 8).
    """

    id: str
    host: str
    boot: str
    stage: Stage
    reason: str
    condemned_revision: int = 0
    proof: Proof | None = None
    evidence: str = ""
    fence_delay: float = 0.0  # seconds that runs of the fence agent took between suspicion and proof
    refuted: bool = False  # that boot spoke after its proof: nothing more is done before a person decides
    aborted: str = ""  # who stopped it and why: no new calls until retry or resolve
    resolved: str = ""  # who declared it settled and why
    disabled_by_us: bool = False
    restart_needed: int = 0  # no return before this many requests to restart nova-compute were carried out
    reserved: tuple[str, ...] = ()  # reserved hosts that this recovery has put in service and not given back
    steps: tuple[Step, ...] = ()
    hold: str = ""
    hold_age: float = 0.0
    fence_counts: bool = False  # it ordered a host off, within the fence window of every leader since
    flap_counts: bool = True  # within the flap window of every leader since
    times_wall: Mapping[str, float] = field(default_factory=dict)
