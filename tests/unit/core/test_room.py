"""The pre-flight chooses what a scan of all hosts would choose."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from vmha.core.room import Space, room

Need = tuple[int, int, str, frozenset[str], str]
TAGS = st.frozensets(st.sampled_from(["ssd", "gpu"]))
SPACES = st.builds(Space, st.just(""), st.integers(0, 40), st.integers(0, 40), st.sampled_from("ab"), TAGS)
NEEDS = st.tuples(
    st.integers(0, 9), st.integers(1, 9), st.sampled_from(["", "a", "b"]), TAGS, st.sampled_from(["", "", "g", "k"])
)


def scan(needs: list[Need], spaces: list[Space], members: dict[str, set[str]]) -> list[str]:
    """The plain way: every host for every instance."""
    left = {s.host: s for s in spaces}
    found = []
    for memory, vcpus, zone, tags, apart in needs:
        fit = [
            s
            for s in left.values()
            if s.memory_mib >= memory
            and s.vcpus >= vcpus
            and zone in ("", s.zone)
            and tags <= s.tags
            and s.host not in members.get(apart, ())
        ]
        best = min(fit, key=lambda s: (-s.memory_mib, s.host), default=None)
        found.append(best.host if best else "")
        if best:
            left[best.host] = replace(best, memory_mib=best.memory_mib - memory, vcpus=best.vcpus - vcpus)
            if apart:
                members.setdefault(apart, set()).add(best.host)
    return found


@settings(max_examples=500)
@given(st.lists(SPACES, max_size=8), st.lists(NEEDS, max_size=40))
def test_it_chooses_what_a_scan_would(spaces: list[Space], needs: list[Need]) -> None:
    named = [replace(s, host=f"h{n}") for n, s in enumerate(spaces)]
    free = room(named, {"g": ["h0"]})
    assert [free.place(*need) for need in needs] == scan(needs, named, {"g": {"h0"}})


def test_a_group_that_stays_together() -> None:
    free = room([Space("h1", 10, 10), Space("h2", 90, 90)], {"pack": ["h1"]})
    groups = ("pack", "pack", "new", "new")
    assert [free.place(8, 1, together=group) for group in groups] == ["h1", "", "h2", "h2"]
