"""Operators' orders: what each verb means, and why one is refused.

A command is carried out once by its id: its effect, its answer and its deletion are one transaction of the leader.  Until then it
stays in the store, so a leader's death loses none.  One that was given to an earlier leader (``epoch``) is refused.

============  ==========================================================================================================
approve       stands in for caps, observer's doubt and approval mode, until the host is condemned or heard again; on a
              refuted recovery it is a retry
retry         the person has looked: what failed or holds is tried now, a refuted proof is sought anew
abort         no new outside calls; running ones finish; the host stays condemned until retry or resolve
resolve       the case is settled: nothing more is done for its instances; the host comes back as any fenced host does
condemn       condemn now (caps apply, an approval stands in for them), then fence; needs a reason
confirm_dead  P4: the person says that the condemned host is dead; refused while anything observable speaks against it
maintain      not judged from now on
release       ends a maintenance; lets a fenced host back that waits for it
disarm        no new fence from now on, running ones finish first
arm           act again
============  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from vmha.core import judge, proof
from vmha.core.actions import Commit, Probe
from vmha.core.events import Stored
from vmha.core.gates import Hold, may_order
from vmha.core.model import (
    CLOSED_STEPS,
    Answer,
    CallKind,
    Command,
    HostState,
    PowerState,
    Proof,
    Stage,
    StepState,
    Verb,
)
from vmha.core.seek import prove
from vmha.core.view import NEVER, Case, HostView, Turn

CLOUD = "cloud"  # target of orders about all hosts


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an order: its sentence, and what is written with it."""

    text: str
    done: bool = True
    puts: tuple[Stored, ...] = ()
    disarmed: bool | None = None


Outcome = Result | None  # None: not yet, look again


def refused(text: str) -> Result:
    return Result(text, done=False)


def pending(turn: Turn, target: str) -> list[Command]:
    """Orders about the target that are not answered yet, oldest first."""
    if not turn.world.commands:
        return []
    found = [c for key, c in turn.world.commands.items() if key[0] == target and key not in turn.brakes.answered]
    return sorted(found, key=lambda c: (c.at_wall, c.id))


def strangers(turn: Turn) -> set[str]:
    """Targets of unanswered orders that no host's turn would look at."""
    return {k[0] for k in turn.world.commands if k[0] not in turn.views and k not in turn.brakes.answered}


def carry_out(target: str, turn: Turn) -> None:
    """Take up every order about the target."""
    for command in pending(turn, target):
        key = (target, command.id)
        turn.brakes.ordered.setdefault(key, turn.now)
        result = _carry_out(command, turn)
        if result is not None:
            _answer(command, result, turn)


def _carry_out(command: Command, turn: Turn) -> Outcome:
    if command.epoch and command.epoch != turn.epoch:
        return refused("it was given to an earlier leader: look at the present state, then give it again")
    if command.verb in _CLOUD:
        return _CLOUD[command.verb](command, turn)
    view = turn.views.get(command.target)
    if view is None:
        return refused(f"vmha knows no host {command.target}")
    return _HOST[command.verb](command, view, _case(view, turn), turn)


def _case(view: HostView, turn: Turn) -> Case | None:
    mine = [c for c in turn.cases.values() if c.record.host == view.name and c.stage() is not Stage.ENDED]
    return max(mine, key=lambda c: c.record.condemned_revision, default=None)


def _answer(command: Command, result: Result, turn: Turn) -> None:
    key = (command.target, command.id)
    turn.brakes.answered.add(key)
    turn.brakes.ordered.pop(key, None)
    answer = Answer(command.id, command.target, command.verb, result.done, result.text, turn.wall)
    token = f"command/{command.target}"
    turn.out.append(Commit(token, (*result.puts, answer), commands=(key,), disarmed=result.disarmed))
    text = f"{_words(command)}: {result.text}" if result.done else f"{_words(command)} is refused: {result.text}"
    turn.say(command.target, text, "info" if result.done else "warning")


def _words(command: Command) -> str:
    tail = f" ({command.reason})" if command.reason else ""
    return f"{command.verb.replace('_', ' ')} by {command.by or 'nobody'}{tail}"


def settled(orders: Iterable[Command], turn: Turn) -> None:
    """These were carried out by the condemnation that has just been written."""
    for c in orders:
        if (c.target, c.id) in turn.world.commands:  # its deletion is not seen yet
            turn.brakes.answered.add((c.target, c.id))
        turn.brakes.ordered.pop((c.target, c.id), None)
        answer = Answer(c.id, c.target, c.verb, True, "it is condemned", turn.wall)
        turn.out.append(Commit(f"answered/{c.target}", (answer,)))


# --- about a recovery ----------------------------------------------------------------------------------------------


def _approve(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    if view.condemning > NEVER:
        return None  # the answer to the commit is awaited
    if case is not None and case.record.refuted:
        return _retry(command, view, case, turn)
    if view.condemnation is not None or not view.silent() or view.settings.maintenance:
        turn.brakes.approved.discard(view.name)
        view.orders = tuple(c for c in view.orders if c.id != command.id)
        return refused(f"nothing waits for an approval: it is {view.state}")
    if command not in view.orders:
        turn.brakes.approved.add(view.name)
        view.orders = (*view.orders, command)
        turn.seen_fleet = None
        turn.say(view.name, f"{_words(command)}: it stands until the host is condemned or heard again")
    return None


def _retry(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    if case is None:
        return refused("it has no open recovery")
    if _over(case):
        return refused("its recovery is closed, nothing of it failed")
    text = "everything that failed is tried now"
    if case.record.refuted:
        case.change(refuted=False, proof=None, evidence="", stage=Stage.CONDEMNED)
        case.committed_at, case.acked_since, case.proven_at = turn.now, NEVER, NEVER
        case.outlived = False
        view.state, view.power, view.cut = HostState.CONDEMNED, None, None
        text = "proof of death is sought anew"
    case.change(aborted="", hold="")
    case.off_ordered = NEVER if not _power_off_open(case) else case.off_ordered
    case.host_retry, case.host_failures = NEVER, 0
    case.paged.clear()
    case.paged_at.clear()
    for step in [s for s in case.steps.values() if s.state is StepState.RETRY]:
        case.retry_at[step.instance] = turn.now
    case.dirty = False
    return Result(text, puts=(case.written(),))


def _over(case: Case) -> bool:
    """Closed, and nobody stopped it since."""
    stopped = case.record.aborted or case.record.refuted
    return case.stage() in (Stage.CLOSED, Stage.RELEASED) and not stopped


def _power_off_open(case: Case) -> bool:
    return any(o.call.kind is CallKind.POWER_OFF for o in case.open_calls.values())


def _abort(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    if case is None:
        return refused("it has no open recovery")
    if case.record.aborted:
        return refused(f"it is aborted already, by {case.record.aborted}")
    case.change(aborted=f"{command.by or 'nobody'}: {command.reason or 'no reason given'}")
    case.dirty = False
    running = len(case.open_calls)
    return Result(f"no new calls; {running} running finish; it stays condemned", puts=(case.written(),))


def _resolve(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    if case is None or _over(case):
        return refused("it has no recovery that is not closed")
    if not command.by or not command.reason:
        return refused("who declares a case settled gives a name and a reason")
    if case.open_calls:
        call = next(iter(case.open_calls.values())).call
        return refused(f"call {call.id} ({call.kind}) is not settled yet: abort, then resolve when it is")
    who = f"{command.by}: {command.reason}"
    for step in [s for s in case.steps.values() if s.state not in CLOSED_STEPS]:
        case.set(step, state=StepState.SKIPPED, reason=f"settled by {who}")
    case.change(resolved=who, aborted="", refuted=False, hold="")
    if case.stage() is not Stage.RELEASED:
        case.change(stage=Stage.CLOSED)
        case.closed_at, view.state = turn.now, HostState.RECOVERED
    case.stamp("closed", turn.wall)
    case.dirty = False
    return Result("settled; the host stays condemned until it is reconciled", puts=(case.written(),))


# --- about a host --------------------------------------------------------------------------------------------------


def _condemn(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    if view.condemning > NEVER:
        return None  # the answer to the commit is awaited
    if view.condemnation is not None:
        return refused(f"it is condemned already: {view.condemnation.reason}")
    if turn.now < view.condemn_again:
        turn.wake(view.name, view.condemn_again)
        return None
    if not command.by or not command.reason:
        return refused("who condemns a host gives a name and a reason")
    if view.settings.maintenance:
        return refused("it is in maintenance: release it first")
    verdict = may_order(view.name, turn.fleet(), turn.settings, turn.now)
    if isinstance(verdict, Hold):
        return refused(verdict.reason)
    view.orders = (*(c for c in view.orders if c.id != command.id), command)
    judge.condemn(view, f"ordered by {command.by}: {command.reason}", turn)
    return None


def _confirm_dead(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    """What is observable is observed anew, after the order, before the word of a person is taken."""
    if case is None or case.stage() is not Stage.CONDEMNED:
        return refused(f"no proof of its death is sought: it is {view.state}")
    asked = turn.brakes.ordered[command.target, command.id]
    if not _observed(view, asked, turn):
        return None
    why = proof.against_person(command.by, command.reason, _seen(view))
    if why:
        return refused(why)
    prove(
        case, view, turn, Proof.PERSON, f"{command.by} says so ({command.reason}), and nothing speaks against it", asked
    )
    case.dirty = False
    return Result("taken as proof of death", puts=(case.written(),))


def _observed(view: HostView, since: float, turn: Turn) -> bool:
    """Whether power and kernel were asked after ``since``; asks them."""
    power = view.power is not None and view.power.began > since
    if not power:
        turn.read_power(view)
    addresses = view.alive.addresses if view.alive else view.settings.addresses
    kernel = not addresses or (view.probe is not None and view.probe.began > since)
    if not kernel and not view.probing:
        view.probing = True
        turn.out.append(Probe(view.name, addresses, turn.settings.probe_timeout))
    listened = turn.now > since + turn.settings.silence
    if not listened:
        turn.wake(view.name, since + turn.settings.silence)
    return power and kernel and listened


def _seen(view: HostView) -> proof.Observed:
    answers = view.probe.answers if view.probe is not None else {}
    return proof.Observed(
        beats=tuple(sorted(view.heard)),
        kernel=tuple(sorted(n for n, a in answers.items() if a)),
        power=view.power.state if view.power is not None else PowerState.UNKNOWN,
        leased=view.lease_gone_at is None,
    )


def _maintain(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    if view.settings.maintenance:
        return refused("it is in maintenance already")
    return _settings(view, turn, "not judged any more", maintenance=True)


def _release(command: Command, view: HostView, case: Case | None, turn: Turn) -> Outcome:
    if view.settings.maintenance:
        return _settings(view, turn, "its maintenance is over", maintenance=False)
    if view.condemnation is None:
        return refused("it is neither in maintenance nor condemned")
    return _settings(view, turn, "it may come back once it is reconciled", release=view.condemnation.revision)


def _settings(view: HostView, turn: Turn, text: str, **fields: object) -> Result:
    view.settings = replace(view.settings, **fields)  # type: ignore[arg-type]
    turn.world.hosts[view.name] = view.settings  # type: ignore[index]
    turn.seen_fleet = None
    return Result(text, puts=(view.settings,))


# --- about the cloud -----------------------------------------------------------------------------------------------


def _disarm(command: Command, turn: Turn) -> Outcome:
    """At once for new fences; the order itself is done when the running ones have ended."""
    if not turn.brakes.disarmed:
        turn.brakes.disarmed = True
        turn.seen_fleet = None
        turn.out.append(Commit("disarm/", disarmed=True))
        turn.say(command.target, f"{_words(command)}: no new fence from now on")
    fencing = sorted({o.call.host for o in turn.open_calls() if o.call.kind is CallKind.POWER_OFF})
    return None if fencing else Result("disarmed, no fence is running", disarmed=True)


def _arm(command: Command, turn: Turn) -> Outcome:
    for other in [c for c in pending(turn, command.target) if c.verb is Verb.DISARM]:
        _answer(other, refused(f"armed again by {command.by or 'nobody'} before the running fences had ended"), turn)
    turn.brakes.disarmed = False
    turn.seen_fleet = None
    return Result("vmha acts again", disarmed=False)


_CLOUD: Mapping[Verb, Callable[[Command, Turn], Outcome]] = {Verb.DISARM: _disarm, Verb.ARM: _arm}
_HOST: Mapping[Verb, Callable[[Command, HostView, Case | None, Turn], Outcome]] = {
    Verb.APPROVE: _approve,
    Verb.RETRY: _retry,
    Verb.ABORT: _abort,
    Verb.RESOLVE: _resolve,
    Verb.CONDEMN: _condemn,
    Verb.CONFIRM_DEAD: _confirm_dead,
    Verb.MAINTAIN: _maintain,
    Verb.RELEASE: _release,
}
