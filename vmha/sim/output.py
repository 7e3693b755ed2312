"""What a world tells: vmha's actions in the contract's words, and the lines that operators read.

``before`` and ``done`` are called around every action; ``hooks`` lets a scenario act at either moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vmha.core import actions as act
from vmha.core.model import Call, CallKind, Condemnation
from vmha.sim.clock import Clock

ACTIONS = (
    *("suspect", "condemn", "fence", "fence_confirmed", "self_fence", "force_down", "evacuate", "evacuate_done"),
    *(
        "evacuate_failed",
        "start",
        "resume",
        "migrate",
        "promote",
        "destroy",
        "disable",
        "enable",
        "hold",
        "page",
        "close",
    ),
)
CALLS: dict[str, str] = {
    CallKind.POWER_OFF: "fence",
    CallKind.FORCE_DOWN: "force_down",
    CallKind.DISABLE: "disable",
    CallKind.ENABLE: "enable",
    CallKind.EVACUATE: "evacuate",
    **{kind: kind for kind in ("start", "resume", "migrate", "promote")},
}


@dataclass(frozen=True, slots=True)
class Word:
    """One action of vmha.  Empty: does not apply."""

    do: str
    host: str = ""
    instance: str = ""
    to: str = ""
    reason: str = ""


def of_action(action: act.Action) -> tuple[Word, ...]:
    """The actions, in the contract's words, that an action of the engine is; a call is one when it is sent."""
    match action:
        case act.Say() if getattr(action, "do", ""):
            return (Word(action.do, action.subject, action.instance, action.to, action.text),)
        case act.Page(subject, text):
            return (Word("page", subject, getattr(action, "instance", ""), "", text),)
        case act.Commit() if action.fresh:
            return tuple(Word("condemn", c.host, reason=c.reason) for c in action.puts if isinstance(c, Condemnation))
        case act.StartCall(call):
            return of_call(call)
    return ()


def of_call(call: Call) -> tuple[Word, ...]:
    do = CALLS.get(call.kind)
    to = getattr(call, "target", "")
    return (Word(do, call.host, call.instance, to, call.reason),) if do else ()


class Output:
    """Everything that was done and said, in order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.actions: list[tuple[float, Word]] = []
        self.lines: list[str] = []
        self.hooks: dict[tuple[str, str], Callable[[int], None]] = {}  # (before or after, do) -> called with its number
        self._counts: dict[tuple[str, str], int] = {}

    def before(self, word: Word) -> None:
        self._hook("before", word.do)

    def done(self, word: Word) -> None:
        self.actions.append((self._clock.now, word))
        self._hook("after", word.do)

    def _hook(self, moment: str, do: str) -> None:
        hook = self.hooks.get((moment, do))
        if hook is not None:
            self._counts[moment, do] = number = self._counts.get((moment, do), 0) + 1
            hook(number)

    def line(self, subject: str, text: str, level: str = "info") -> None:
        """One line of the operators' log."""
        mark = {"info": "", "warning": "! ", "error": "!! ", "PAGE": "PAGE "}.get(level, "")
        self.lines.append(f"{self._clock.now:9.3f} {mark}{subject}: {text}")

    def event(self, text: str) -> None:
        """What the world did, for the reader of the log."""
        self.lines.append(f"{self._clock.now:9.3f} -- {text}")

    def as_json(self) -> list[dict[str, Any]]:
        """The contract's ``actions``; what does not apply is null."""
        return [{"at": round(at, 3), **{k: v or None for k, v in asdict(w).items()}} for at, w in self.actions]
