"""Journals recorded from the simulator and the harness are decided again, byte for byte, by another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.core.harness import World
from vmha.cmd import replay
from vmha.controller import recorder
from vmha.controller.recorder import Recorder, nothing_due
from vmha.core import events as ev
from vmha.core.actions import Action
from vmha.core.engine import Engine
from vmha.core.settings import Settings
from vmha.sim import scenario
from vmha.sim.run import simulate
from vmha.wire import trace

SCENARIOS = Path(__file__).parents[2] / "scenarios"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "engine.journal"


def wait_written(r: Recorder) -> None:
    r.close()
    assert not r._thread.is_alive()


def step(r: Recorder, engine: Engine, event: ev.Event, now: float, wall: float) -> list[Action]:
    """One step, with the writer not far behind: in production the time between two steps is real."""
    actions = r.step(engine, event, now, wall)
    deadline = time.monotonic() + 10
    while not r._queue.empty() and time.monotonic() < deadline:
        time.sleep(0)
    return actions


def host_death(path: Path, size: int = 1 << 30, settings: Settings | None = None) -> World:
    """A host of three dies and is recovered; two instances."""
    world = World(settings=settings)
    r = Recorder(str(path), size, "con1")
    engine, world.engine = Engine(world.settings), Engine(world.settings)

    class Remembering:
        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        def step(self, event: ev.Event, now: float, wall: float) -> object:
            return step(r, engine, event, now, wall)

    world.engine = Remembering()  # type: ignore[assignment]
    world.give(ev.Elected(500, world.world()))
    world.add_instance("i1", "h1")
    world.add_instance("i2", "h1")
    world.run(4)
    world.cut_power("h1")
    world.lease_ends("h1")
    world.run(30)
    wait_written(r)
    assert "evacuate i1" in world.did()
    return world


def run(*arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    """The command, in a process whose sets have an order of their own."""
    return subprocess.run(
        [sys.executable, "-m", "vmha.cmd.replay", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_a_recorded_death_is_decided_the_same_by_other_processes(journal: Path) -> None:
    host_death(journal)
    for seed in ("1", "2", "77"):
        done = run(str(journal), seed=seed)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        assert "decided the same again" in done.stdout
        assert "call h1: evacuate i1 from h1" in done.stdout


def test_ticks_that_decide_nothing_are_not_recorded(journal: Path) -> None:
    host_death(journal)
    ticks = [line for line in steps(journal) if isinstance(line.event, ev.Tick)]
    assert 0 < len(ticks) < 34 / 0.05 / 2


def steps(path: Path) -> list[trace.Step]:
    return [line for _, line in replay.lines(path) if isinstance(line, trace.Step)]


def simulated(name: str, path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> list[Path]:
    """A scenario with the journal of each engine that it makes."""
    from vmha.sim import controllers

    made: list[tuple[Path, Recorder]] = []

    class Remembering(Engine):
        def __init__(self, settings: Settings) -> None:
            super().__init__(settings)
            file = path.with_name(f"engine{len(made)}.journal")
            made.append((file, Recorder(str(file), size, file.stem)))
            self_journals[id(self)] = made[-1][1]

        def step(self, event: ev.Event, now: float, wall: float = 0.0) -> list:  # type: ignore[type-arg]
            return step(self_journals[id(self)], Plain(self), event, now, wall)  # type: ignore[arg-type]

    class Plain:
        """The engine's own step."""

        def __init__(self, engine: Engine) -> None:
            object.__setattr__(self, "_engine", engine)

        @property
        def __dict__(self) -> dict[str, object]:  # type: ignore[override]
            return vars(object.__getattribute__(self, "_engine"))

        def __getattr__(self, name: str) -> object:
            return getattr(object.__getattribute__(self, "_engine"), name)

        def step(self, event: ev.Event, now: float, wall: float) -> object:
            return Engine.step(object.__getattribute__(self, "_engine"), event, now, wall)

    self_journals: dict[int, Recorder] = {}
    monkeypatch.setattr(controllers, "Engine", Remembering)
    simulate(scenario.read(SCENARIOS / f"{name}.yaml"))
    for _, r in made:
        wait_written(r)
    return [file for file, _ in made]


@pytest.mark.parametrize(
    "name", ["anti_affinity", "all_controllers_down", "bmc_lies_about_a_heard_host", "boot_store_down"]
)
def test_a_scenario_is_decided_the_same_from_every_file(
    name: str, journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = simulated(name, journal, monkeypatch, 3_000)
    kept = [f for file in files for f in recorder.paths(str(file)) if f.exists()]
    assert files and any(f.suffix == ".1" for f in kept)
    for file in kept:
        assert replay.main([str(file)]) == 0, capsys.readouterr().out[-2000:]


def test_a_file_that_begins_with_a_full_one_s_checkpoint_is_replayed_by_itself(journal: Path) -> None:
    host_death(journal, size=40_000)
    older, newer = recorder.paths(str(journal))
    assert older.stat().st_size < 60_000
    for file in (older, newer):
        done = run(str(file), seed="5")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    first = next(line for _, line in replay.lines(newer))
    assert isinstance(first, trace.Start) and first.why == "full" and first.engine.epoch == 500


def test_the_first_other_decision_is_shown(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host_death(journal)
    told = journal.read_text().splitlines()
    line = next(n for n, text in enumerate(told, 1) if "instances to evacuate" in text)
    told[line - 1] = told[line - 1].replace("instances to evacuate", "instances to eat")
    journal.write_text("\n".join(told) + "\n")
    assert replay.main([str(journal)]) == 1
    out = capsys.readouterr().out
    assert f"line {line}: decided otherwise" in out and "recorded:" in out and "replayed:" in out


def test_explain_tells_one_host_with_the_facts(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host_death(journal)
    assert replay.main([str(journal), "--explain", "h1"]) == 0
    out = capsys.readouterr().out
    assert "suspect: silent" in out and "told then: PowerRead" in out
    assert " h2: " not in out
    recovery = next(a.recovery for s in steps(journal) for a in s.actions if hasattr(a, "recovery") and a.recovery).id
    assert replay.main([str(journal), "--explain", recovery]) == 0
    assert "evacuate i1 from h1" in capsys.readouterr().out


def test_other_settings_show_what_they_would_have_decided(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host_death(journal)
    other = journal.with_name("other.conf")
    other.write_text("[etcd]\nendpoints = x\n[gates]\napproval = true\n")
    assert replay.main([str(journal), "--settings", str(other)]) == 0
    out = capsys.readouterr().out
    assert "# approval: False -> True" in out
    assert any(line.startswith("- ") and "condemn:" in line for line in out.splitlines())
    assert any(line.startswith("+ ") and "approv" in line for line in out.splitlines())


def test_the_same_settings_would_have_decided_the_same(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host_death(journal)
    other = journal.with_name("other.conf")
    other.write_text("[gates]\nmax_down = 10\n")
    assert replay.main([str(journal), "--settings", str(other)]) == 0
    assert "none would have been another" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gates]\nmax_dwn = 3\n", ("max_dwn", "max_down")),
        ("[gates]\nmax_down = 0\n", ("max_down is 0",)),
        ("[gates]\nmax_down = many\n", ("max_down",)),
        ("gates\n", ("other.conf",)),
    ],
)
def test_settings_that_are_none_are_refused(
    text: str, words: tuple[str, ...], journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host_death(journal)
    other = journal.with_name("other.conf")
    other.write_text(text)
    assert replay.main([str(journal), "--settings", str(other)]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words), err


def test_a_garbled_journal_is_refused_with_its_place(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host_death(journal)
    whole = journal.read_bytes().splitlines(keepends=True)
    for at, text, words in (
        (3, whole[3][:20] + b"\n", "line 4: not JSON"),
        (3, whole[3].replace(b'"now"', b'"nov"'), "line 4: field line.now is missing"),
        (0, b"", "line 1: a journal begins with its settings"),
    ):
        journal.write_bytes(b"".join([*whole[:at], text, *whole[at + 1 :]]))
        assert replay.main([str(journal)]) == 2
        assert words in capsys.readouterr().err
    journal.write_bytes(b"".join(whole)[:-5])
    assert replay.main([str(journal)]) == 0
    assert f"line {len(whole)} is cut short" in capsys.readouterr().err
    journal.write_bytes(b"")
    assert replay.main([str(journal)]) == 2
    assert "is empty" in capsys.readouterr().err
    assert replay.main([str(journal) + ".none"]) == 2


# --- the recorder ------------------------------------------------------------------------------------------------------


def test_an_idle_tick_changes_nothing(journal: Path) -> None:
    """What is left out of the journal changes nothing in the engine, at any moment of a whole recovery."""
    from vmha.core import checkpoint

    world = World()
    seen = 0

    def give(event: ev.Event, real=world.give) -> None:  # type: ignore[no-untyped-def]
        nonlocal seen
        if isinstance(event, ev.Tick) and nothing_due(world.engine, world.now):
            held = trace.encode(trace.Start("c", "", "", world.settings, checkpoint.take(world.engine)))
            if not world.engine.step(event, world.now, 1_700_000_000.0 + world.now):
                seen += 1
                now = trace.encode(trace.Start("c", "", "", world.settings, checkpoint.take(world.engine)))
                assert json.loads(now) == json.loads(held)
        else:
            real(event)

    world.give = give  # type: ignore[method-assign]
    world.add_instance("i1", "h1")
    world.run(2)
    world.cut_power("h1")
    world.lease_ends("h1")
    world.run(20)
    assert seen > 50 and "evacuate i1" in world.did()


def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(
    journal: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "AGAIN", 0.0)
    journal.mkdir()
    world = host_death(journal)
    assert "evacuate i2" in world.did()
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1


def test_a_full_disk_is_said_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    host_death(Path("/dev/full"))
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1


def test_a_restart_goes_on_in_the_same_file_and_takes_a_cut_line_off(journal: Path) -> None:
    host_death(journal)
    whole = len(journal.read_bytes().splitlines())
    with journal.open("ab") as f:
        f.write(b'{"v":1,"now":')
    host_death(journal)
    assert len(journal.read_bytes().splitlines()) > whole
    assert run(str(journal), seed="3").returncode == 0


def test_lines_that_were_lost_are_followed_by_a_checkpoint(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = Recorder(str(journal), 1 << 30, "con1")
    engine = Engine(Settings())
    r.step(engine, ev.Elected(7, ev.World()), 1.0, 2.0)
    r._why = "lost"
    monkeypatch.setattr(r, "_again", float("inf"))
    r.step(engine, ev.Disarm(True), 2.0, 3.0)
    monkeypatch.setattr(r, "_again", 0.0)
    r.step(engine, ev.Disarm(False), 3.0, 4.0)
    wait_written(r)
    found = [line for _, line in replay.lines(journal)]
    assert [type(line).__name__ for line in found] == ["Start", "Step", "Start", "Step"]
    assert isinstance(found[2], trace.Start) and found[2].why == "lost" and found[2].engine.brakes.disarmed
    assert replay.main([str(journal)]) == 0


def test_two_controllers_never_write_one_file(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Recorder(str(journal), 1 << 30, "con1"), Recorder(str(journal), 1 << 30, "con2")
    first.step(Engine(Settings()), ev.Disarm(True), 1.0, 2.0)
    while not journal.exists() or not journal.stat().st_size:
        assert first._thread.is_alive()
    second.step(Engine(Settings()), ev.Disarm(True), 1.0, 2.0)
    for r in (second, first):
        wait_written(r)
    assert {line.controller for _, line in replay.lines(journal) if isinstance(line, trace.Start)} == {"con1"}
    assert "cannot be written" in caplog.text
