"""What other settings would have decided, told the same facts at the same times."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from oslo_config import cfg

from vmha.cmd.decisions import Decision, decisions
from vmha.conf import engine as options
from vmha.core import checkpoint
from vmha.core import events as ev
from vmha.core.engine import Engine
from vmha.core.model import Protect
from vmha.core.settings import Settings, check
from vmha.errors import BadConfig
from vmha.wire import trace

GRAIN = 0.005  # of the controller's loop, in seconds
LATE = 0.1  # seconds after which a deadline that the journal does not know is stepped
AGE = re.compile(r"\b\d+(\.\d+)? s\b")


def settings(recorded: Settings, path: str) -> Settings:
    """The recorded settings with those of the file in their place.  BadConfig, also for an option that is none."""
    given = _given(path)
    conf = cfg.ConfigOpts()
    for group, found in options.options():
        conf.register_opts(found, group=group)
    try:
        conf([], project="vmha", prog="vmha-replay", default_config_files=[path], default_config_dirs=[])
        values = {name: conf[group][name] for group, name in given}
    except (cfg.Error, ValueError) as e:
        raise BadConfig(f"{path}: {e}") from None
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    if "protect_default" in values:
        values["protect_default"] = Protect(values["protect_default"])
    found_settings = replace(recorded, **values)
    wrong = list(check(found_settings))
    if wrong:
        raise BadConfig(f"{path}: unsafe settings: " + "; ".join(wrong))
    return found_settings


def _given(path: str) -> list[tuple[str, str]]:
    """(group, option) of each of ours in the file; one that does not exist in its group is a typo."""
    sections: dict[str, Any] = {}
    try:
        cfg.ConfigParser(path, sections).parse()
    except (cfg.ParseError, OSError) as e:
        raise BadConfig(f"{path} cannot be read: {e}") from None
    given = [(group, name) for group in options.GROUPS for name in sections.get(group, {})]
    for group, name in given:
        if name not in options.GROUPS[group]:
            like = difflib.get_close_matches(name, options.GROUPS[group], 1)
            raise BadConfig(f"{path}: [{group}] has no option {name}" + (f": is {like[0]} meant?" if like else ""))
    return given


class Comparison:
    """Two lists of decisions: the recorded ones, and those of an engine with other settings."""

    def __init__(self, settings: Settings, start: trace.Start) -> None:
        self._settings, self._recorded = settings, start.settings
        self._before: list[Decision] = []
        self._now: list[Decision] = []
        self._last = 0.0
        self.restart(start)

    def restart(self, start: trace.Start) -> None:
        """A checkpoint.  After a start or a gap both go on from it; where only the file was full, ours goes on as it is."""
        if start.why == "full" and self._last:
            return
        self._engine = Engine(self._settings)
        checkpoint.restore(self._engine, start.engine)

    def step(self, line: trace.Step) -> None:
        """One fact, with the deadlines that came before it under the other settings."""
        self._before += decisions(line.wall, line.actions)
        ahead = line.wall - line.now
        while self._last and (due := self._engine.next_deadline()) is not None and due + LATE < line.now:
            self._last = max(due, self._last + GRAIN)
            self._take(ev.Tick(), self._last, self._last + ahead)
        self._take(line.event, line.now, line.wall)
        self._last = line.now
        due = self._engine.next_deadline()
        if due is not None and due <= line.now:
            self._take(ev.Tick(), line.now, line.wall)

    def _take(self, event: ev.Event, now: float, wall: float) -> None:
        self._now += decisions(wall, self._engine.step(event, now, wall))

    def told(self) -> Iterator[str]:
        """What was changed, then the differences in their order; ages in the texts may differ and are not compared."""
        before, now = asdict(self._recorded), asdict(self._settings)
        yield from (f"# {name}: {before[name]} -> {now[name]}" for name in before if before[name] != now[name])
        pairs = difflib.SequenceMatcher(None, _keys(self._before), _keys(self._now), autojunk=False).get_opcodes()
        differing = [(a, b, c, d) for word, a, b, c, d in pairs if word != "equal"]
        for a, b, c, d in differing:
            signed = [(x.wall, f"- {x.text}") for x in self._before[a:b]] + [
                (x.wall, f"+ {x.text}") for x in self._now[c:d]
            ]
            yield from (text for _, text in sorted(signed, key=lambda s: s[0]))
        if not differing:
            yield f"{len(self._before)} decisions, none would have been another"
        else:
            yield "# after the first difference the facts are answers to what was done then, not to what would have been"


def _keys(told: list[Decision]) -> list[str]:
    return [AGE.sub("# s", d.key) for d in told]
