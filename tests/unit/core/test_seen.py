"""The compact table of what agents saw behaves like the mapping that it stands for."""

from __future__ import annotations

import sys
import uuid

from hypothesis import given
from hypothesis import strategies as st

from vmha.core.model import InstanceSeen
from vmha.core.seen import Seen

NAMES = st.sampled_from(
    [
        "v1",
        str(uuid.UUID(int=7)),
        str(uuid.UUID(int=7)).upper(),
        "0" * 36,
        "g" * 8 + "-aaaa-bbbb-cccc-" + "0" * 12,
        "é" * 36,
    ]
)


@given(st.lists(st.tuples(st.sampled_from("ab"), NAMES, st.sampled_from(["running", "shutoff", ""]))))
def test_it_is_the_mapping_that_it_stands_for(steps: list[tuple[str, str, str]]) -> None:
    plain: dict[tuple[str, str], InstanceSeen] = {}
    seen = Seen()
    for host, name, state in steps:
        if state:
            plain[host, name] = InstanceSeen(host, name, "boot", state)
            seen.put(host, name, plain[host, name])
        else:
            plain.pop((host, name), None)
            seen.pop((host, name), None)  # type: ignore[arg-type]
        assert len(seen) == len(plain)
    assert dict(seen) == plain
    assert all(seen.get(key) == value for key, value in plain.items())
    assert dict(Seen(plain)) == plain and seen.get(("c", "v1")) is None


def test_values_that_are_alike_are_one() -> None:
    seen = Seen()
    for n in range(1000):
        seen.put("h1", str(uuid.UUID(int=n)), InstanceSeen("h1", str(uuid.UUID(int=n)), "boot", "running"))
    held = {id(v) for v in seen._hosts["h1"].values()}
    assert len(held) == 1 and sys.getsizeof(next(iter(seen._hosts["h1"]))) < 64
