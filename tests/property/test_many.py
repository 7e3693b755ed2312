"""The runner of the nightly worlds: what it did is told, whatever ended it."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

from tests.property.compiled import without_slots
from tests.property.many import Run
from tests.property.worker import tally

COMMAND = [sys.executable, "-m", "tests.property.many", "--plain", "--processes", "2"]
ROOT = Path(__file__).resolve().parent.parent.parent


def _rows(table: Path) -> dict[str, str]:
    return {line[:44].strip(): line[45:] for line in table.read_text().splitlines()}


def test_all_seeds_are_run_once_and_counted(tmp_path: Path) -> None:
    table = tmp_path / "table"
    subprocess.run([*COMMAND, "--first", "7", "--worlds", "110", "--table", table], cwd=ROOT, check=True, timeout=120)
    rows = _rows(table)
    assert rows["random worlds, each judged after every step"] == "110"
    assert rows["their seeds"] == "7 to 116"
    assert rows["worlds that were wrong"] == "0"
    assert int(rows["steps judged"].replace(",", "")) > 110 * 200


def test_an_interruption_writes_the_table_and_where_to_go_on(tmp_path: Path) -> None:
    table = tmp_path / "table"
    command = [*COMMAND, "--worlds", "1000000", "--table", str(table)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it has begun
        child.send_signal(signal.SIGTERM)
        child.stdout.read()
        assert child.wait(60) == 130
    rows = _rows(table)
    worlds = int(rows["random worlds, each judged after every step"].replace(",", ""))
    assert rows["their seeds"] == f"0 to {worlds - 1} (interrupted)"
    assert rows["to go on from there"] == f"tools/nightly --first {worlds}"


def test_wrong_worlds_and_dead_workers_are_in_the_table() -> None:
    run = Run(0, 200, 60.0)
    run.add({**tally(0, 1), "wrong": {"0": ["I2: v1 runs twice"]}})
    run.broken = "a worker ended at seeds 0 to 99"
    assert "1: [0]" in run.table("plain Python") and "BROKEN" in run.table("plain Python")


def test_what_is_compiled_is_python_still() -> None:
    for path in [p for part in ("core", "sim") for p in (ROOT / "vmha" / part).glob("*.py")]:
        text = without_slots(path.read_text())
        ast.parse(text, str(path))
        assert "slots=True" not in text
