"""The host state machine: theory first, then the table.

A host is judged from evidence; only a *cause* named in the table moves it, and a cause that does not apply to its state raises
IllegalMove and changes nothing.  ``condemned`` and the states after it belong to one boot of the host and end only by
``released``: a host that comes back by itself is ``returning``, never ``online``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from vmha.core.model import HostState as S


class Cause(StrEnum):
    """What moves a host from state to state."""

    HEARD = "heard"  # a signed beat came, and nothing else is wrong
    SILENT = "silent"  # no beat on any network
    SICK = "sick"  # beats come, but the agent or its lease is gone
    CONDEMNED = "condemned"  # the condemnation is committed
    PROVEN = "proven"  # proof of death is held
    FORCED_DOWN = "forced down"
    RECOVERED = "recovered"  # the recovery is closed
    BACK = "back"  # a later boot of the condemned host registered
    LOST = "lost"  # the returning host went silent again
    RELEASED = "released"  # reconciled, condemnation deleted, back in service
    MAINTAIN = "maintain"
    RESUME = "resume"  # maintenance ended


class IllegalMove(Exception):
    """The cause does not apply in this state; nothing changed."""


_ALIVE = (S.UNKNOWN, S.ONLINE, S.SUSPECT)
_DOWN = (S.CONDEMNED, S.FENCED, S.RECOVERING, S.RECOVERED, S.RETURNING)

TABLE: Mapping[tuple[S, Cause], S] = {
    **{(s, Cause.HEARD): S.ONLINE for s in _ALIVE},
    **{(s, Cause.SILENT): S.SUSPECT for s in _ALIVE},
    **{(s, Cause.SICK): S.SUSPECT for s in _ALIVE},
    **{(s, Cause.CONDEMNED): S.CONDEMNED for s in (*_ALIVE, *_DOWN)},
    (S.CONDEMNED, Cause.PROVEN): S.FENCED,
    (S.FENCED, Cause.FORCED_DOWN): S.RECOVERING,
    (S.RECOVERING, Cause.RECOVERED): S.RECOVERED,
    (S.RECOVERED, Cause.BACK): S.RETURNING,
    (S.RETURNING, Cause.LOST): S.RECOVERED,
    (S.RETURNING, Cause.RELEASED): S.UNKNOWN,
    **{(s, Cause.MAINTAIN): S.MAINTENANCE for s in _ALIVE},
    (S.MAINTENANCE, Cause.RESUME): S.UNKNOWN,
}


def advance(state: S, cause: Cause) -> S:
    """The next state.  IllegalMove when the table has no such row."""
    try:
        return TABLE[state, cause]
    except KeyError:
        raise IllegalMove(f"a host that is {state} cannot move by {cause!s}") from None
