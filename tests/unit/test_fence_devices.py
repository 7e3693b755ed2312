"""The fencing devices' file is refused with the host and the field that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vmha.adapters import fence_devices
from vmha.errors import BadConfig


@pytest.fixture
def search(tmp_path: Path) -> str:
    agent = tmp_path / "fence_one"
    agent.write_text("#!/bin/sh\n")
    agent.chmod(0o755)
    return str(tmp_path)


def one(**options: Any) -> dict[str, Any]:
    return {"compute1": {"agent": "fence_one", "options": options}}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "object of hosts"),
        ({"compute1": "fence_one"}, "compute1.*object"),
        ({"compute1": {"options": {}}}, "compute1.*agent"),
        ({"compute1": {"agent": "../bin/sh"}}, "compute1.*agent"),
        ({"compute1": {"agent": "fence_none"}}, "compute1.*fence_none is not installed"),
        ({"compute1": {"agent": "fence_one", "option": {}}}, "compute1.*'option'"),
        ({"compute1": {"agent": "fence_one", "options": []}}, "compute1.*options"),
        (one(action="reboot"), "compute1.*action is set by vmha"),
        (one(ip=["a"]), "compute1.*option ip"),
        (one(ip=None), "compute1.*option ip"),
        (one(password="a\nb"), "compute1.*password has a line end"),
        (one(**{"a b": "c"}), "compute1.*'a b'"),
    ],
)
def test_refusals(search: str, raw: Any, words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        fence_devices.devices(raw, search)


def test_the_action_comes_first_and_values_survive(search: str) -> None:
    found = fence_devices.devices(
        one(ip="10.0.0.1", lanplus=True, ipport=6230, password="a=b c", passwd=' "q" '), search
    )
    assert found["compute1"].input("status").splitlines() == [
        "action=status",
        "power_wait=0",
        "ip=10.0.0.1",
        "lanplus=1",
        "ipport=6230",
        "password=a=b c",
        'passwd=" "q" "',
    ]
    assert found["compute1"].address == "10.0.0.1:6230"


def test_secrets_are_not_shown(search: str) -> None:
    device = fence_devices.devices(one(password="hush", snmp_community="quiet", ip="10.0.0.1"), search)["compute1"]
    assert "hush" not in repr(device) and "quiet" not in repr(device)
    said = device.without_secrets("login hush at 10.0.0.1 failed for quiet; Ignoring unknown option 'pw=other words'")
    assert "hush" not in said and "quiet" not in said and "other words" not in said and "10.0.0.1" in said


def test_a_file_that_others_can_read_is_refused(tmp_path: Path, search: str) -> None:
    path = tmp_path / "fencing.json"
    path.write_text(json.dumps(one()))
    path.chmod(0o644)
    with pytest.raises(BadConfig, match="chmod o="):
        fence_devices.load(str(path), search)
    path.chmod(0o600)
    assert set(fence_devices.load(str(path), search)) == {"compute1"}


def test_a_broken_file_does_not_show_its_text(tmp_path: Path) -> None:
    path = tmp_path / "fencing.json"
    path.write_text('{"compute1": {"password": hush}}')
    path.chmod(0o600)
    with pytest.raises(BadConfig, match="line 1") as refused:
        fence_devices.load(str(path))
    assert "hush" not in str(refused.value)
    with pytest.raises(BadConfig, match="cannot be read"):
        fence_devices.load(str(tmp_path / "none.json"))
