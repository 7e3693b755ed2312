"""Nova does not answer: said at once, and a person is paged when it lasts, whatever stage the recovery is in."""

from __future__ import annotations

from vmha.core.events import InstanceRead, InventoryRead, ServiceRead
from vmha.core.model import Stage
from vmha.core.upkeep import hold, page_again
from vmha.core.view import Case, Turn

REASON = "Nova does not answer: its recovery waits until it does"

WAITING = frozenset({Stage.PROVEN, Stage.MOVING})  # other stages have holds of their own


def noted(case: Case, event: ServiceRead | InventoryRead | InstanceRead, turn: Turn) -> None:
    """Take whether Nova answered one read for this case; each kind of read is counted by itself."""
    kind, silent = type(event).__name__, case.nova_silent
    if event.known:
        if silent.pop(kind, None) is not None and not silent:
            turn.say(case.record.host, "Nova answers again")
            if case.record.hold == REASON:
                case.change(hold="")
        return
    if not silent:
        turn.say(case.record.host, f"Nova did not answer, asking again: {event.detail}", "warning")
    since = silent.setdefault(kind, event.began)
    if turn.now - since < turn.settings.nova_patience:
        return
    if case.stage() in WAITING and case.record.hold in ("", REASON):
        hold(case, turn, REASON)
    else:
        page_again(case, turn, REASON, REASON)
