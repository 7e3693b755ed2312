"""What operators read of the engine's actions: lines said, pages, outside calls, condemnations and their end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from vmha.core import actions as act
from vmha.core import explain
from vmha.core.model import Condemnation


@dataclass(frozen=True, slots=True)
class Decision:
    """One line.  ``key`` is its text without the time; ``host`` and ``recovery`` are what it is about, where known."""

    wall: float
    key: str
    host: str
    recovery: str = ""
    instance: str = ""

    @property
    def text(self) -> str:
        at = datetime.fromtimestamp(self.wall, UTC)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z {self.key}"

    def about(self, name: str, hosts: set[str]) -> bool:
        """Whether it is about that recovery (of one of these hosts), host or instance."""
        return name in (self.host, self.recovery, self.instance) or self.host in hosts or name in self.key.split()


def decisions(wall: float, actions: Iterable[act.Action]) -> Iterator[Decision]:
    """The lines of these actions; reads, and records that follow from others, are none."""
    for action in actions:
        match action:
            case act.Say(level, subject, text, _, instance):
                yield Decision(wall, f"{level} {subject}: {text}", subject, instance=instance)
            case act.Page(subject, text):
                yield Decision(wall, f"PAGE {subject}: {text}", subject)
            case act.StartCall(call):
                yield Decision(wall, f"call {call.host}: {explain.what(call)}", call.host, call.recovery, call.instance)
            case act.Commit():
                yield from _written(wall, action)


def _written(wall: float, action: act.Commit) -> Iterator[Decision]:
    for value in action.puts:
        if isinstance(value, Condemnation) and action.fresh:
            yield Decision(wall, f"write {value.host}: condemn: {value.reason}", value.host, value.recovery)
    if action.release:
        yield Decision(wall, f"write {action.release}: release", action.release)
