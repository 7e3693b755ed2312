"""Every scenario file gives its golden log, byte for byte, and holds.  ``vmha-simulate --update FILE...`` writes the logs anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmha.sim import scenario
from vmha.sim.run import simulate

FILES = sorted(Path(__file__).parent.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_scenario(path: Path) -> None:
    found = simulate(scenario.read(path))
    assert not found.violations
    assert not found.unmet
    assert found.log() == path.with_suffix(".log").read_text()


def test_the_same_file_gives_the_same_bytes() -> None:
    path = Path(__file__).with_name("lossy_link.yaml")
    assert simulate(scenario.read(path)).log() == simulate(scenario.read(path)).log()
