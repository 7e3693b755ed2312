"""What is refused, with which line; what the command prints and returns."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from vmha.cmd import simulate
from vmha.core.settings import Settings
from vmha.sim import scenario
from vmha.sim.happenings import Happenings
from vmha.sim.output import ACTIONS
from vmha.sim.physics import Physics

GOOD: dict[str, Any] = {
    "hosts": {"h1": {}, "h2": None},
    "instances": {"v1": {"host": "h1"}},
    "events": [{"at": 5, "do": "power_off", "host": "h1"}],
    "until": 60,
}


def event(**given: Any) -> dict[str, Any]:
    return {**GOOD, "events": [{"at": 5, **given}]}


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({**GOOD, "event": []}, "the file: unknown field 'event', did you mean 'events'?"),
        ({k: v for k, v in GOOD.items() if k != "until"}, "the file: until is missing"),
        (
            {**GOOD, "hosts": {"h1": {"watchdgo": 5}, "h2": {}}},
            "hosts.h1: unknown field 'watchdgo', did you mean 'watchdog'?",
        ),
        (
            {**GOOD, "hosts": {"h1": {"watchdog": "5"}, "h2": {}}},
            "hosts.h1.watchdog: '5' must be of type number or null",
        ),
        ({**GOOD, "settings": {"max_dwon": 3}}, "settings: unknown field 'max_dwon', did you mean 'max_down'?"),
        ({**GOOD, "settings": {"max_down": 2.5}}, "settings.max_down: 2.5 must be of type integer"),
        ({**GOOD, "settings": {"silence": 0.3}}, "settings: silence (0.3 s) is shorter than three beats"),
        ({**GOOD, "instances": {"v1": {"host": "h3"}}}, "instances.v1.host: there is no host 'h3', did you mean 'h2'?"),
        (
            {**GOOD, "instances": {"v1": {"host": "h1", "protect": "ful"}}},
            "instances.v1.protect: 'ful' is none of none, restart, host, full, ft, did you mean 'full'?",
        ),
        ({**GOOD, "instances": {"v1": {"protect": "full"}}}, "instances.v1: host is missing"),
        (event(do="power_of", host="h1"), "events[0].do: unknown event 'power_of', did you mean 'power_off'?"),
        (event(do="power_off"), "events[0]: host is missing"),
        (event(do="power_off", host="h1", mode="x"), "events[0]: unknown field 'mode'"),
        (event(do="power_off", host="h9"), "events[0].host: there is no host 'h9'"),
        (event(do="net_cut", host="h1", networks=["managment"]), "events[0].networks[0]: 'managment' is none of"),
        (
            event(do="controller_kill", which="leadr"),
            "events[0].which: there is no controller 'leadr', did you mean 'leader'?",
        ),
        (event(do="stop", instance="v2"), "events[0].instance: there is no instance 'v2', did you mean 'v1'?"),
        (
            event(do="link_cut", **{"from": "h1", "to": "stor"}),
            "events[0].from/to: there is no host or controller 'stor'",
        ),
        ({**GOOD, "events": [{"do": "arm"}]}, "events[0]: give either at or when"),
        (event(do="arm", when={"before": "fence"}), "events[0]: give either at or when"),
        ({**GOOD, "events": [{"do": "arm", "when": {"before": "fense"}}]}, "events[0].when.before: 'fense' is none of"),
        (event(do="set", host="h1", priority=3), "events[0]: unknown field 'priority' of the host"),
        ({**GOOD, "expect": {"never": [{"do": "evacuat"}]}}, "expect.never[0].do: 'evacuat' is none of"),
        ({**GOOD, "expect": {"hosts": {"h8": {}}}}, "expect.hosts: there is no host 'h8'"),
        ([], "a scenario is a mapping"),
        ({**GOOD, "hosts": {"h1": {}}}, "hosts: "),
    ],
)
def test_refused_with_one_line_that_names_it(
    data: Any, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(data))
    assert simulate.main([str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith(f"vmha-simulate: {path}: {line}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hosts: {h1: {}, h2: {}}\nuntil: 5\nuntil: 6\n", "line 3: 'until' stands there twice"),
        ("hosts: [\n", "it is not YAML"),
    ],
)
def test_yaml_is_read_without_mercy(text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert simulate.main([str(path)]) == 2
    assert line in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main([str(tmp_path / "no.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_json_has_the_contracts_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.yaml"
    path.write_text(json.dumps(GOOD))
    assert simulate.main(["--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["name", "actions", "final", "violations", "unmet"] and found["name"] == "cut"
    assert list(found["actions"][0]) == ["at", "do", "host", "instance", "to", "reason"]
    assert {a["do"] for a in found["actions"]} <= set(ACTIONS)
    assert found["final"]["instances"] == {"v1": {"host": "h2", "state": "active"}}
    assert found["final"]["hosts"]["h1"] == {"state": "recovered", "in_service": False}


def test_an_expectation_that_does_not_hold_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.yaml"
    path.write_text(
        json.dumps({**GOOD, "expect": {"never": [{"do": "evacuate"}], "hosts": {"h1": {"state": "online"}}}})
    )
    assert simulate.main(["--json", str(path)]) == 1
    unmet = json.loads(capsys.readouterr().out)["unmet"]
    assert len(unmet) == 2 and unmet[0].startswith("evacuate must never happen")


def test_the_schema_is_one_and_lists_everything_there_is() -> None:
    schema = scenario.schema()
    Draft202012Validator.check_schema(schema)
    settings = schema["$defs"]["settings"]["properties"]
    assert {f.name for f in fields(Settings)} <= set(settings), "add the new setting to scenario.schema.json"
    world = {*schema["$defs"]["world"]["properties"], "word", "ask_every", "feed_every"}
    assert world == {f.name for f in fields(Physics)}
    for do in schema["$defs"]["event"]["properties"]["do"]["enum"]:
        assert hasattr(Happenings, "_" + do) and do in schema["$defs"]


def test_the_whole_schema_agrees_on_the_scenarios_here() -> None:
    validator = Draft202012Validator(scenario.schema())
    for path in (Path(__file__).parents[2] / "scenarios").glob("*.yaml"):
        assert list(validator.iter_errors(dict(scenario.read(path).data))) == [], path.name
