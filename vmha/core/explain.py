"""One sentence for every decision, with its evidence: what operators read, and what the tests compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmha.core.events import PowerRead
from vmha.core.model import Call, CallKind, Outcome, Proof, Step, StepState

if TYPE_CHECKING:
    from vmha.core.view import Case, HostView

_LEVELS = {Outcome.DONE: "info", Outcome.FAILED: "warning", Outcome.UNKNOWN: "warning", Outcome.NOT_STARTED: "warning"}
_WORDS = {
    Outcome.DONE: "done",
    Outcome.FAILED: "refused",
    Outcome.UNKNOWN: "unknown whether it happened",
    Outcome.NOT_STARTED: "never sent",
}


def level(outcome: Outcome) -> str:
    """The log level of an outcome."""
    return _LEVELS[outcome]


def what(call: Call) -> str:
    """A call in words."""
    verb = call.kind.replace("_", " ")
    return (
        f"{verb} {call.instance} from {call.host}"
        if call.kind is CallKind.EVACUATE
        else f"{verb} {call.instance or call.host}"
    )


def call_ended(call: Call, outcome: Outcome, detail: str) -> str:
    return f"{what(call)}: {_WORDS[outcome]}" + (f" ({detail})" if detail else "")


def waited_out(call: Call) -> str:
    return f"call {call.id} ({what(call)}) can no longer take effect: its record is closed, the state is read again"


def power_reading(reading: PowerRead, now: float) -> str:
    tail = f" ({reading.detail})" if reading.detail else ""
    return f"power reads {reading.state}, asked {max(0.0, now - reading.began):.1f} s ago{tail}"


def suspected(view: HostView, now: float) -> str:
    last = (
        f"last beat {now - view.last_heard:.1f} s ago"
        if view.last_heard > float("-inf")
        else "never heard by this controller"
    )
    return f"suspect: silent on every network ({last}); reading its power"


def condemned(view: HostView, reason: str, now: float) -> str:
    return f"condemned (boot {view.boot()[:8] or 'unknown'}): {reason}"


def verdict(view: HostView, power_off: bool, now: float) -> str:
    """The reason that is written into the condemnation."""
    silent = f"silent for {now - view.last_heard:.1f} s" if view.last_heard > float("-inf") else "never heard"
    if power_off and view.power is not None:
        return f"{silent}, and its power reads off"
    power = f"power {view.power.state}" if view.power else "power not read"
    return f"{silent} on every network, lease gone, kernel does not answer, {power}"


def fencing(case: Case, view: HostView) -> str:
    return f"fence: ordering power off ({case.record.reason})"


def proven(case: Case, view: HostView, now: float) -> str:
    return f"proven dead by {case.record.proof}: {case.record.evidence}, after the condemnation"


def power_unknown(case: Case, view: HostView) -> str:
    detail = f": {view.power.detail}" if view.power and view.power.detail else ""
    if case.self_fence_off:
        why = f"no proof by self-fence: {case.self_fence_off}"
        return f"the power of {view.name} is unknown{detail}; nothing is evacuated before it reads off ({why})"
    return f"the power of {view.name} is unknown{detail}; nothing is evacuated before it reads off or its watchdog has stopped it"


def refuted(case: Case, view: HostView) -> str:
    """What speaks against the proof that was held."""
    order = f"then run vmha-manage recovery retry {view.name}"
    match case.record.proof:
        case Proof.POWER:
            return (
                f"{view.name} sent a signed beat after its power read off: the fencing device is wrong; stop, check it by hand,"
                f" {order}"
            )
        case Proof.WORD:
            return f"{view.name} took back its word that nothing runs there: stop, look what runs there, {order}"
        case kind:
            return f"{view.name} was heard in that boot after it was proven dead by {kind}: stop, check it by hand, {order}"


def disputed(view: HostView) -> str:
    return f"the power of {view.name} reads off but its signed beats still come: check the fencing device's wiring"


def overdue(reason: str, age: float, most: float) -> str:
    """The text of a page about a hold that lasts for ``age`` seconds."""
    return reason if age < most else f"overdue, for {age / 60:.0f} min: {reason}"


def deleted_by_hand(case: Case) -> str:
    return (
        "its condemnation was deleted by hand while its recovery is open: it is written again, as without it guests could start there; "
        f"to let the host back, run vmha-manage host release {case.record.host}"
    )


def outlived(view: HostView) -> str:
    return f"{view.name} sent signed beats after its watchdog must have stopped it: the watchdog does not work; switch it off by hand"


def acknowledged(by: str, timeout: float, wait: float) -> str:
    return f"{by} acknowledged the condemnation: its watchdog ({timeout:g} s) will have stopped it in {wait:.1f} s"


def aborted(case: Case) -> str:
    host = case.record.host
    return f"aborted by {case.record.aborted}: no new calls; run vmha-manage recovery retry {host}, or resolve {host}"


def planned(steps: Sequence[Step]) -> str:
    moving = [s for s in steps if s.state is not StepState.SKIPPED]
    stopped = sum(s.stopped for s in moving)
    left = len(steps) - len(moving)
    return f"plan: {len(moving)} instances to evacuate ({stopped} of them stopped), {left} left alone"


def closed(case: Case) -> str:
    steps = case.steps.values()
    back = sum(s.state is StepState.DONE for s in steps)
    gone = sum(s.state is StepState.GONE for s in steps)
    left = sum(s.state is StepState.SKIPPED for s in steps)
    return f"recovery {case.record.id} closed: {back} instances back elsewhere, {left} left alone, {gone} gone"
