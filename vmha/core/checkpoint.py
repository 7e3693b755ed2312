"""Everything that an engine holds, as one value: a journal that begins with it can be replayed by itself.

``take`` copies what the engine changes in place and shares what is frozen, so that another thread may write it down while the engine
goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar, cast

from vmha.core.engine import Engine
from vmha.core.events import Acked, World
from vmha.core.seen import Seen
from vmha.core.view import Brakes, Case, HostView

CHANGED_IN_PLACE: tuple[type[Any], ...] = (World, HostView, Case, Brakes)
CHANGING = frozenset({*CHANGED_IN_PLACE, Seen, dict, set, list})
_VALUES = {kind: attrgetter(*(f.name for f in fields(kind))) for kind in CHANGED_IN_PLACE}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The engine's attributes, without its settings.  A leading underscore of theirs is left out."""

    epoch: int
    views: dict[str, HostView]
    cases: dict[str, Case]
    world: World
    seen_revision: int
    brakes: Brakes
    acks: dict[str, Acked]
    doubt: str
    wakes: list[tuple[float, str]]
    wake_at: dict[str, float]
    next_inventory: float
    rotation: int


def attributes(engine: Engine) -> dict[str, str]:
    """Field of a checkpoint to the engine's attribute."""
    return {name.lstrip("_"): name for name in vars(engine) if name != "settings"}


def take(engine: Engine) -> Checkpoint:
    """What the engine holds now."""
    return Checkpoint(**{field: copied(getattr(engine, name)) for field, name in attributes(engine).items()})


def restore(engine: Engine, checkpoint: Checkpoint) -> None:
    """Put a fresh engine in that state; the checkpoint stays as it is."""
    for field, name in attributes(engine).items():
        setattr(engine, name, copied(getattr(checkpoint, field)))


def copied(value: T) -> T:
    """The same value, in containers of its own where they can change.  Ten thousand hosts take less than a few beats."""
    found: Any = value
    if isinstance(value, Seen):
        found = value.copy()
    elif isinstance(value, dict):
        found = {k: copied(v) if type(v) in CHANGING else v for k, v in value.items()}
    elif isinstance(value, set):
        found = set(value)
    elif isinstance(value, list):
        found = [copied(v) if type(v) in CHANGING else v for v in value]
    elif type(value) in _VALUES:
        kind: Any = type(value)
        found = kind(*(copied(v) if type(v) in CHANGING else v for v in _VALUES[kind](value)))
    return cast(T, found)
