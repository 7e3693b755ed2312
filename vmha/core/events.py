"""The closed set of the engine's inputs.  Each is a fact with the time at which it was true; none is an opinion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmha.core.model import (
    Answer,
    Call,
    Command,
    Condemnation,
    HostAlive,
    HostSettings,
    Instance,
    InstanceSeen,
    InstanceSettings,
    Migration,
    Outcome,
    PowerState,
    Recovery,
    SegmentSettings,
    Service,
    Voters,
)

# What the store holds about one thing; None in a change means the key is gone.
Stored = (
    HostAlive
    | HostSettings
    | SegmentSettings
    | InstanceSettings
    | Condemnation
    | InstanceSeen
    | Recovery
    | Call
    | Voters
    | Command
    | Answer
)


@dataclass(frozen=True, slots=True)
class World:
    """Everything the store holds, decoded, at one revision.  ``unreadable`` names keys whose bytes were refused.

    ``seen`` may be left out where a new leader reads the store: the watch tells it.
    """

    alive: Mapping[str, HostAlive] = field(default_factory=dict)
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    segments: Mapping[str, SegmentSettings] = field(default_factory=dict)
    instances: Mapping[str, InstanceSettings] = field(default_factory=dict)
    condemned: Mapping[str, Condemnation] = field(default_factory=dict)
    seen: Mapping[tuple[str, str], InstanceSeen] = field(default_factory=dict)
    recoveries: Mapping[str, Recovery] = field(default_factory=dict)
    calls: Mapping[tuple[str, str], Call] = field(default_factory=dict)
    commands: Mapping[tuple[str, str], Command] = field(default_factory=dict)
    voters: Voters | None = None
    disarmed: bool = False
    unprotected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Elected:
    """This controller leads; ``world`` was read linearizably after the election."""

    epoch: int
    world: World


@dataclass(frozen=True, slots=True)
class Deposed:
    """Another leads, or our lease is gone: no action from now on."""


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """The watched cache listed everything afresh."""

    world: World


@dataclass(frozen=True, slots=True)
class StoreChanged:
    """One key changed at ``revision``.  ``kind`` is the model's class, ``key`` its identity within the kind."""

    kind: type
    key: tuple[str, ...]
    value: Stored | None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Disarm:
    """The global switch changed."""

    disarmed: bool


@dataclass(frozen=True, slots=True)
class StoreDoubt:
    """The watch is not fresh: what it told may be old."""

    reason: str


@dataclass(frozen=True, slots=True)
class Heard:
    """First signed beat of a host on a network after silence or in a new boot.  ``at``: when it came."""

    host: str
    network: str
    boot: str
    at: float


@dataclass(frozen=True, slots=True)
class Silent:
    """No beat of the host on the network for the settings' silence; ``last`` is when the last one came."""

    host: str
    network: str
    last: float


@dataclass(frozen=True, slots=True)
class AgentStuck:
    """Beats come, but the agent's progress stands still for ``age`` seconds (0: it moves again)."""

    host: str
    age: float


@dataclass(frozen=True, slots=True)
class Acked:
    """A signed beat told at ``at`` which lists the voter has applied, by revision; of an arbiter its record in the store (``at`` 0)."""

    host: str
    boot: str
    voters_revision: int
    condemned_applied: int
    at: float


@dataclass(frozen=True, slots=True)
class CutRead:
    """A reading of what a host is cut off from, begun and ended at these times; None is unknown.

    ``storage``: the storage itself says that the host can write no more (lock lost, blocklisted).  ``networks``: all its
    ports are shut at the switch.
    """

    host: str
    storage: bool | None
    networks: bool | None
    began: float
    ended: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PowerRead:
    """A reading of the host's fencing device, begun and ended at these times."""

    host: str
    state: PowerState
    began: float
    ended: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Probed:
    """ICMP: network to True (answered), False (silent), None (could not be asked)."""

    host: str
    answers: Mapping[str, bool | None]
    began: float


@dataclass(frozen=True, slots=True)
class ServiceRead:
    """Nova's compute service record of the host; ``known`` False when Nova did not answer (``detail`` says how)."""

    host: str
    known: bool
    service: Service | None
    began: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InventoryRead:
    """Nova's servers and evacuation records of the host; ``known`` False when either did not answer."""

    host: str
    known: bool
    instances: tuple[Instance, ...]
    migrations: tuple[Migration, ...]
    began: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InstanceRead:
    """One server as Nova tells it; ``instance`` None with ``known``: deleted."""

    uuid: str
    known: bool
    instance: Instance | None
    began: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction of that token was written at ``revision``."""

    token: str
    revision: int


@dataclass(frozen=True, slots=True)
class NotCommitted:
    """It was refused (``conflict``), or its answer was lost (unknown)."""

    token: str
    conflict: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """An outside call ended, or was never started."""

    call: Call
    outcome: Outcome
    detail: str = ""


Event = (
    Tick
    | Elected
    | Deposed
    | StoreSnapshot
    | StoreChanged
    | StoreDoubt
    | Disarm
    | Heard
    | Silent
    | AgentStuck
    | Acked
    | CutRead
    | PowerRead
    | Probed
    | ServiceRead
    | InventoryRead
    | InstanceRead
    | Committed
    | NotCommitted
    | CallEnded
)
