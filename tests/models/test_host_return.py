"""A proof about one boot is not undone by the next."""

from __future__ import annotations

from tests.models.explore import explore
from tests.models.host_return import bad, starts, successors


def test_x_never_runs_twice_over_any_number_of_boots() -> None:
    found = explore(starts(), successors, bad)
    assert found.trace is None, found
    wanted = {
        "X runs elsewhere",
        "released",
        "proven by P1",
        "proven by P5",
        "undefines X",
        "watch: released",
        "gate opens",
    }
    assert wanted <= found.labels
