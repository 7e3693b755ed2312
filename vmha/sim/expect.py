"""Conditions of a scenario's own: what must, must not, and in which order happen, and how it must end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vmha.sim.output import Word

EXACT = ("do", "host", "instance", "to")


def unmet(expect: Mapping[str, Any], actions: list[tuple[float, Word]], final: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each condition that did not hold."""
    for wanted in expect.get("happens", ()):
        yield from _happens(wanted, actions)
    for unwanted in expect.get("never", ()):
        for at, word in actions:
            if _matches(unwanted, at, word):
                yield f"{_words(unwanted)} must never happen, it did at {at:.3f}"
                break
    yield from _ordered(expect.get("order", ()), actions)
    yield from _ends(expect.get("hosts", {}), final["hosts"])
    yield from _ends(expect.get("instances", {}), final["instances"])


def _matches(wanted: Mapping[str, Any], at: float, word: Word) -> bool:
    return (
        all(getattr(word, name) == wanted[name] for name in EXACT if name in wanted)
        and wanted.get("reason", "") in word.reason
        and wanted.get("after", at) <= at <= wanted.get("by", at)
    )


def _words(wanted: Mapping[str, Any]) -> str:
    return " ".join(f"{v}" if k in EXACT else f"{k} {v}" for k, v in wanted.items())


def _happens(wanted: Mapping[str, Any], actions: list[tuple[float, Word]]) -> Iterator[str]:
    times = sum(_matches(wanted, at, word) for at, word in actions)
    if "times" in wanted and times != wanted["times"]:
        yield f"{_words(wanted)}: happened {times} times"
    elif "times" not in wanted and not times:
        yield f"{_words(wanted)}: did not happen"


def _ordered(wanted: list[Mapping[str, Any]], actions: list[tuple[float, Word]]) -> Iterator[str]:
    start = 0
    for w in wanted:
        place = next((n for n, (at, word) in enumerate(actions) if n >= start and _matches(w, at, word)), None)
        if place is None:
            yield f"{_words(w)}: did not happen after what stands before it in order"
            return
        start = place + 1


def _ends(wanted: Mapping[str, Mapping[str, Any]], final: Mapping[str, Any]) -> Iterator[str]:
    for name, fields in wanted.items():
        found = final.get(name)
        if fields.get("gone") is not None:
            if fields["gone"] == (found is not None):
                yield f"{name} {'is still there' if found else 'is gone'}"
            continue
        if found is None:
            yield f"{name} is gone"
            continue
        for field, value in fields.items():
            allowed = value if isinstance(value, list) else [value]
            if found[field] not in allowed:
                yield f"{name}: its {field} is {found[field]}, expected {' or '.join(map(str, allowed))}"
