"""The lines that doc/source/operate.rst shows are what the engine says: an operator finds in the book what stands in the log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.unit.core.harness import World
from vmha.core import actions as act

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "doc" / "source" / "operate.rst"
RECOVERY = re.compile(r"h1-[0-9a-f]+-\d+-\d+")


def shown() -> list[list[str]]:
    """The blocks of decision lines in the book."""
    blocks = re.findall(r"\.\. code-block:: none\n\n((?:   h1: .*\n)+)", BOOK.read_text())
    return [[RECOVERY.sub("ID", line.strip()) for line in block.splitlines()] for block in blocks]


def said(actions: list[act.Action]) -> list[str]:
    return [RECOVERY.sub("ID", f"{a.subject}: {a.text}") for a in actions if isinstance(a, act.Say)]


def test_the_book_shows_what_the_engine_says() -> None:
    world = World()
    world.add_instance("a", "h1")
    world.add_instance("b", "h1", vm_state="stopped", status="SHUTOFF", power_state=4)
    world.run(4)
    before = len(world.log)
    world.cut_power("h1")
    world.run(20)
    down = len(world.log)
    world.boot("h1")
    world.run(100)
    death, back = shown()
    assert said(world.log[before:down]) == death
    assert [line for line in said(world.log[down:]) if line in back] == back


def literal(text: ast.expr) -> str:
    """The longest fixed part of a sentence."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    fixed = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    return max(fixed, key=len, default="").strip(" :;,()")


def waiting() -> Iterator[str]:
    """The fixed part of every sentence by which the core holds or pages."""
    position = {"Hold": 0, "hold": 2, "page": 1}
    for name in (
        "gates",
        "judge",
        "recovery",
        "moving",
        "schedule",
        "reserved",
        "seek",
        "upkeep",
        "outcomes",
        "engine",
        "silence",
        "commands",
    ):
        for node in ast.walk(ast.parse((ROOT / "vmha" / "core" / f"{name}.py").read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in position and len(node.args) > position[called]:
                    yield literal(node.args[position[called]])
    for node in ast.walk(ast.parse((ROOT / "vmha" / "core" / "returning.py").read_text())):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            yield literal(node.value)


def test_every_hold_and_page_stands_in_the_book() -> None:
    book = " ".join(BOOK.read_text().split())
    sentences = [s for s in waiting() if len(s) > 8]
    assert len(sentences) > 25
    assert [s for s in sentences if " ".join(s.split()) not in book] == []
