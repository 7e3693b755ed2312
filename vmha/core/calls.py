"""When an outside call may start or be repeated (safety.md section 4; explored in model/c_calls.py).

Rules, each with the words that matter there:
1. a call starts only after the answer to the commit of its record, within ``start_limit`` of the sending of that commit (the shell
   and a kernel timer see to it);
3. one call at a time per host and per instance: a call about a host excludes every call about it and about its instances' leaving it;
4. an open record of any predecessor blocks like an own one.  It is closed by the trace of that very call, or after a wait
   strictly longer than the longest time in which it can still land, counted from the own election; the state is read after the wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vmha.core.model import Call, CallKind, Outcome
from vmha.core.settings import Settings, wait_out

ABOUT_INSTANCE = frozenset({CallKind.EVACUATE, CallKind.START, CallKind.RESET_STATE})


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A record without an outcome and the time from which its wait is counted: its start, or our election if inherited."""

    call: Call
    since: float
    ended: bool = False  # its end is known to be unknown: only the wait can close it


def conflicts(open_calls: Iterable[OpenCall], kind: CallKind, host: str, instance: str = "") -> OpenCall | None:
    """The open record that forbids such a call now, if any."""
    about_host = kind not in ABOUT_INSTANCE
    for o in open_calls:
        if instance and o.call.instance == instance:
            return o
        if o.call.host == host and (about_host or o.call.kind not in ABOUT_INSTANCE):
            return o
    return None


def landed_by(open_call: OpenCall, settings: Settings) -> float:
    """After this time the call has landed or never will; a read that begins later tells which."""
    limit = (
        settings.fence_limit * (1 + 2 * settings.drift)
        if open_call.call.kind is CallKind.POWER_OFF
        else wait_out(settings)
    )
    return open_call.since + limit


def waited_out(open_call: OpenCall, settings: Settings, now: float) -> bool:
    """Strictly later than anything the call can still do."""
    return now > landed_by(open_call, settings)


def settles(outcome: Outcome) -> bool:
    """Whether this outcome closes the record at once; an unknown one waits."""
    return outcome is not Outcome.UNKNOWN
