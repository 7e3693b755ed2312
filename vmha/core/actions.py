"""The closed set of the engine's outputs: data that says what the shell must do, in order.

Every read is answered by exactly one event of its kind, also when the other side is silent.  Every Commit is answered by
Committed or NotCommitted, every StartCall by CallEnded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmha.core.events import Stored
from vmha.core.model import Call, Recovery


@dataclass(frozen=True, slots=True)
class ReadPower:
    host: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Probe:
    host: str
    addresses: Mapping[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class ReadService:
    host: str
    timeout: float


@dataclass(frozen=True, slots=True)
class ReadInventory:
    host: str
    timeout: float


@dataclass(frozen=True, slots=True)
class ReadInstance:
    uuid: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Commit:
    """Write these records in one transaction that compares the epoch.

    ``fresh`` names a host whose ``condemned`` key must be absent; ``release`` one whose condemnation is deleted.
    ``once``: try a single time (a decision that may be stale later); else retried until written or deposed.
    """

    token: str
    puts: tuple[Stored, ...] = ()
    fresh: str = ""
    release: str = ""
    unprotected: tuple[str, tuple[str, ...]] | None = None
    forget: tuple[tuple[str, str], ...] = ()  # (recovery, call) records to delete; call "" deletes the recovery
    commands: tuple[tuple[str, str], ...] = ()  # (target, id) of commands that this carries out: deleted with it
    disarmed: bool | None = None  # write the global switch
    once: bool = False


@dataclass(frozen=True, slots=True)
class StartCall:
    """Commit the record of the call (with its recovery when given), then make the call, by safety.md section 4."""

    call: Call
    recovery: Recovery | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """One line for the operator's log: a decision with its evidence.  ``level``: info, warning, error.

    ``do`` names what was done, in the words of scenario files (suspect, hold, fence_confirmed, evacuate_done ...), where the line is
    all that tells it.
    """

    level: str
    subject: str
    text: str
    do: str = ""
    instance: str = ""
    to: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A person is needed."""

    subject: str
    text: str


Action = ReadPower | Probe | ReadService | ReadInventory | ReadInstance | Commit | StartCall | Say | Page
