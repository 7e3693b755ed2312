"""Two leaders that both believe they lead, one instance X, three hosts, and calls to Nova and to power devices that nobody takes back.

A call: asked (its commit is on its way; the facts were read before), open (committed), checked (last look at the clock), sent, landed or
lost.  The lease may end at any time; a leader may stop between any two steps; a predecessor's call lands late.  Nova's own guards are as
they are: an evacuation is refused while a task is in flight; a rebuild waits in its target's queue; Nova changes the instance's host only
after the spawn.  Bad: X runs twice, or a healthy host is forced down or switched off.

The core decides what may be started and when a record that is open may be given up: ``calls.conflicts``, ``calls.waited_out``.  The
rest of rule 4 stands here as ``vmha.core.moving`` has it: only a call's own trace closes it before its wait, the state is read after
the wait, an attempt is given up only on proof of death of its target, a host returns only when nothing about it is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vmha.core.calls import OpenCall, conflicts, waited_out
from vmha.core.model import Call, CallKind
from vmha.core.settings import Settings

START = LAND = 1
SETTINGS = Settings(start_limit=float(START), call_limit=float(LAND), fence_limit=float(START + LAND), drift=0.0)
KINDS = {
    "down": CallKind.FORCE_DOWN,
    "off": CallKind.POWER_OFF,
    "evacuate": CallKind.EVACUATE,
    "reset": CallKind.RESET_STATE,
}
HOSTS = (0, 1, 2)
OLDEST = START + LAND + 1  # ages are kept up to this


class C(NamedTuple):
    """One call.  ``age``: since it was asked for, once sent since it was sent; ``open``: its record has no outcome yet."""

    epoch: int
    action: str
    host: int
    stage: str
    age: int = 0
    open: bool = True


class S(NamedTuple):
    """Host 0 was forced down, proven dead, before the story begins; X was there."""

    leader: int = 1
    age: int = 0  # since the present leader's election
    dead: tuple[bool, bool] = (False, False)  # leaders that their timer has ended
    calls: tuple[C, ...] = ()
    host: int = 0  # Nova's record of X
    task: int = -1  # target of the rebuild in flight
    queue: tuple[int, ...] = ()
    builds: tuple[int, ...] = ()
    runs: tuple[bool, bool, bool] = (False, False, False)
    power: tuple[bool, bool, bool] = (False, True, True)
    forced: tuple[bool, bool, bool] = (True, False, False)
    proven: tuple[bool, bool, bool] = (True, False, False)
    condemned: tuple[bool, bool, bool] = (True, False, False)
    made: int = 0
    died: bool = False
    hurt: bool = False


def bad(s: S) -> str:
    where = [h for h in HOSTS if s.runs[h] and s.power[h]]
    if len(where) > 1:
        return f"X runs on {where}"
    if any(s.forced[h] and not s.condemned[h] for h in HOSTS):
        return "a healthy host is forced down"
    return "a healthy host is switched off" if s.hurt else ""


def put(values: tuple[bool, bool, bool], at: int, value: bool) -> tuple[bool, bool, bool]:
    return (*values[:at], value, *values[at + 1 :])  # type: ignore[return-value]


def less(values: tuple[int, ...], one: int) -> tuple[int, ...]:
    at = values.index(one)
    return values[:at] + values[at + 1 :]


def with_calls(s: S, calls: Iterable[C]) -> S:
    kept = [c for c in calls if c.open or c.stage not in ("landed", "lost")]
    return s._replace(calls=tuple(sorted(kept)))


def swap(s: S, old: C, *new: C) -> S:
    at = s.calls.index(old)
    return with_calls(s, (*s.calls[:at], *s.calls[at + 1 :], *new))


def record(c: C) -> OpenCall:
    """As a leader sees it: an inherited one counts from the election (time 0 here)."""
    instance = "X" if c.action in ("evacuate", "reset") else ""
    return OpenCall(Call("c", "r", KINDS[c.action], str(c.host), c.epoch, instance), since=0.0, ended=True)


class Model:
    """``limit``: calls that are made at the most.  ``gap``: ticks by which a leader waits less than the rule says."""

    def __init__(self, limit: int, gap: float = 0.0) -> None:
        self.limit, self.gap = limit, gap

    def successors(self, s: S) -> Iterator[tuple[str, S]]:
        if s.calls or s.age < OLDEST + LAND:
            yield "tick", self._tick(s)
        if s.leader < 2:  # what the old one asked for and is not committed is refused from now on
            calls = [c for c in s.calls if c.stage != "asked"]
            yield "leader 2 elected", with_calls(s._replace(leader=2, age=0), calls)
        yield from self._leader(s)
        yield from self._calls(s)
        yield from self._nova(s)
        yield from self._world(s)

    def _tick(self, s: S) -> S:
        """A stopped leader dies when a call that is not sent is older than START: its timer."""
        dead = [
            s.dead[e] or any(c.epoch == e + 1 and c.stage == "checked" and c.age >= START for c in s.calls)
            for e in (0, 1)
        ]
        calls = []
        for c in s.calls:
            stage = c.stage
            if (stage == "sent" and c.age >= LAND) or (stage in ("asked", "open", "checked") and dead[c.epoch - 1]):
                stage = "lost"
            age = 0 if stage in ("landed", "lost") else min(c.age + 1, OLDEST)
            calls.append(c._replace(stage=stage, age=age))
        aged = s._replace(dead=(dead[0], dead[1]), age=min(s.age + 1, OLDEST + LAND))
        return with_calls(aged, calls)

    # --- the leader --------------------------------------------------------------------------------------------------

    def _wanted(self, s: S) -> list[tuple[str, int]]:
        """What a leader would do, by what it reads now (rules 3 and 5)."""
        want = [("down", h) for h in HOSTS if s.condemned[h] and s.proven[h] and not s.forced[h]]
        want += [("off", h) for h in HOSTS if s.condemned[h] and s.power[h]]
        if s.proven[s.host] and s.forced[s.host] and s.task < 0:
            want.append(("evacuate", s.host))
        if s.task >= 0 and s.proven[s.task]:
            want.append(("reset", s.host))
        return want

    def _leader(self, s: S) -> Iterator[tuple[str, S]]:
        e = s.leader
        if s.dead[e - 1]:
            return
        known = [record(c) for c in s.calls if c.open]
        for action, h in self._wanted(s) if s.made < self.limit else ():
            instance = "X" if action in ("evacuate", "reset") else ""
            if conflicts(known, KINDS[action], str(h), instance) is None:
                asked = C(e, action, h, "asked")
                yield f"leader {e} asks: {action} {h}", with_calls(s, (*s.calls, asked))._replace(made=s.made + 1)
        for c in s.calls:
            if not c.open:
                continue
            if c.epoch == e and c.stage in ("open", "landed", "lost"):
                yield f"leader {e} writes the outcome of {c.action} {c.host}", swap(s, c)
            elif c.epoch < e and (c.stage == "landed" or waited_out(record(c), SETTINGS, s.age + self.gap)):
                yield f"leader {e} closes {c.action} {c.host}", swap(s, c, c._replace(open=False))
        yield from self._return(s, known)

    def _return(self, s: S, known: list[OpenCall]) -> Iterator[tuple[str, S]]:
        for h in HOSTS:
            clear = not s.runs[h] and h not in s.builds and h not in s.queue and s.host != h and s.task < 0
            about = conflicts(known, CallKind.ENABLE, str(h)) is None and not any(o.call.host == str(h) for o in known)
            if s.power[h] and s.condemned[h] and clear and about:
                yield (
                    f"host {h} returns",
                    s._replace(
                        condemned=put(s.condemned, h, False),
                        proven=put(s.proven, h, False),
                        forced=put(s.forced, h, False),
                    ),
                )

    # --- calls on their way ----------------------------------------------------------------------------------------------

    def _calls(self, s: S) -> Iterator[tuple[str, S]]:
        for c in s.calls:
            name = f"{c.action} {c.host} of {c.epoch}"
            alive = not s.dead[c.epoch - 1]
            if c.stage == "asked" and c.epoch == s.leader:
                yield f"{name} committed", swap(s, c, c._replace(stage="open"))
            elif c.stage == "open" and c.age <= START and alive:
                yield f"{name} checked", swap(s, c, c._replace(stage="checked"))
            elif c.stage == "checked":
                yield f"{name} sent", swap(s, c, c._replace(stage="sent", age=0))
            elif c.stage == "sent":
                yield from self._lands(swap(s, c, c._replace(stage="landed", age=0)), c)

    def _lands(self, s: S, c: C) -> Iterator[tuple[str, S]]:
        match c.action:
            case "down":
                yield f"down {c.host} lands", s._replace(forced=put(s.forced, c.host, True))
            case "reset":
                yield "reset lands", s._replace(task=-1)
            case "off":
                yield f"off {c.host} lands", self._off(s, c.host)._replace(hurt=not s.condemned[c.host])
            case _ if s.task >= 0 or s.host != c.host:
                yield "evacuate refused by Nova", s
            case _:
                for to in HOSTS:
                    if to != s.host and s.power[to] and not s.forced[to]:
                        yield (
                            f"evacuate lands, X goes {s.host} -> {to}",
                            s._replace(task=to, queue=tuple(sorted((*s.queue, to)))),
                        )

    def _off(self, s: S, h: int) -> S:
        """It loses its power, and that is read back."""
        builds = tuple(b for b in s.builds if b != h)
        return s._replace(
            power=put(s.power, h, False), runs=put(s.runs, h, False), builds=builds, proven=put(s.proven, h, True)
        )

    # --- Nova, hosts, users ------------------------------------------------------------------------------------------------

    def _nova(self, s: S) -> Iterator[tuple[str, S]]:
        for to in {q for q in s.queue if s.power[q]}:
            rest = s._replace(queue=less(s.queue, to))
            if s.condemned[to]:
                yield f"gated host {to} refuses to rebuild X", rest._replace(task=-1 if s.task == to else s.task)
            elif s.task < 0:
                yield f"host {to} drops an old rebuild", rest
            else:
                yield f"host {to} spawns X", rest._replace(builds=tuple(sorted((*s.builds, to))))
        for to in set(s.builds):
            built = s._replace(builds=less(s.builds, to), runs=put(s.runs, to, True))
            yield f"X runs on {to}", built._replace(host=to, task=-1) if s.task == to else built

    def _world(self, s: S) -> Iterator[tuple[str, S]]:
        for h in HOSTS:
            if not s.power[h]:
                gated = s.condemned[h]
                yield (
                    f"host {h} boots",
                    s._replace(
                        power=put(s.power, h, True),
                        proven=put(s.proven, h, gated),
                        runs=put(s.runs, h, s.host == h and not gated),
                    ),
                )
            elif not s.died and h == 1:  # 1 and 2 are alike
                yield (
                    f"host {h} dies, condemned and proven",
                    self._off(s, h)._replace(condemned=put(s.condemned, h, True), died=True),
                )
            quiet = s.task < 0 and not s.queue and not s.builds and s.made < self.limit
            if quiet and h != s.host and s.power[h] and not s.condemned[h] and s.runs[s.host]:
                moved = put(put(s.runs, s.host, False), h, True)
                yield f"a user migrates X {s.host} -> {h}", s._replace(runs=moved, host=h)
