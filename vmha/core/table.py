"""What the store holds, as the engine keeps it: the same tables, but its own to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmha.core.events import World
from vmha.core.model import InstanceSeen
from vmha.core.seen import Seen


def own(world: World) -> World:
    """The same world in dicts that the engine may change."""
    return World(
        commands=dict(world.commands),
        voters=world.voters,
        alive=dict(world.alive),
        hosts=dict(world.hosts),
        segments=dict(world.segments),
        instances=dict(world.instances),
        condemned=dict(world.condemned),
        seen=own_seen(world.seen),
        recoveries=dict(world.recoveries),
        calls=dict(world.calls),
        disarmed=world.disarmed,
        unprotected=dict(world.unprotected),
        revision=world.revision,
    )


def own_seen(seen: Mapping[tuple[str, str], InstanceSeen]) -> Mapping[tuple[str, str], InstanceSeen]:
    """A large table is handed over to the engine, not copied."""
    return seen if isinstance(seen, Seen) else dict(seen)


def put(mapping: Mapping[Any, Any], key: Any, value: Any) -> None:
    """Keep a value, or forget it where it is None."""
    if value is None:
        mapping.pop(key, None)  # type: ignore[attr-defined]
    else:
        mapping[key] = value  # type: ignore[index]
