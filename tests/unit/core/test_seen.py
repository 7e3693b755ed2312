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


def test_bytes_of_two_neighbours_are_no_uuid() -> None:
    first, second = bytes(range(16)), bytes(range(16, 32))
    between = (first + second)[5:21]
    seen = Seen()
    for one in (first, second):
        seen.put("h1", str(uuid.UUID(bytes=one)), InstanceSeen("h1", "", "boot", "running"))
    assert seen.get(("h1", str(uuid.UUID(bytes=between)))) is None
    seen.put("h1", str(uuid.UUID(bytes=between)), InstanceSeen("h1", "", "boot", "running"))
    assert len(seen) == 3 and seen["h1", str(uuid.UUID(bytes=between))].state == "running"


def test_it_is_small() -> None:
    seen = Seen()
    for n in range(1000):
        seen.put("h1", str(uuid.UUID(int=n)), InstanceSeen("h1", str(uuid.UUID(int=n)), "boot", "running"))
    (uuids,) = seen._hosts["h1"].values()
    assert sys.getsizeof(uuids) < 20_000
