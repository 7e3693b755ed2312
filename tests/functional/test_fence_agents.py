"""Fence agents: the real fence_ipmilan against an IPMI device on loopback, and runs that must not outlive their limit."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vmha.adapters import fence_devices
from vmha.adapters.fence_agents import FenceAgents
from vmha.core.model import Outcome, PowerState

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "pass-word-4711"
pytestmark = pytest.mark.functional

BMC = """
import sys
import pyghmi.cmd.fakebmc
bmc = pyghmi.cmd.fakebmc.FakeBmc({"admin": sys.argv[2]}, port=int(sys.argv[1]))
bmc.powerstate = "on"
print("ready", flush=True)
bmc.listen()
"""


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_for(what: str, fact: Callable[[], Any], seconds: float = 10.0) -> Any:
    until = now() + seconds
    while not (value := fact()):
        assert now() < until, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def bmc_port() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", BMC, str(port), PASSWORD], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield port
    process.kill()
    process.wait()
    process.stdout.close()


def ipmi(port: int, **more: Any) -> dict[str, Any]:
    options = {"ip": "127.0.0.1", "ipport": port, "username": "admin", "password": PASSWORD, "lanplus": True, **more}
    return {"agent": "fence_ipmilan", "options": options}


@contextmanager
def fencer(devices: dict[str, Any], search: str = fence_devices.SEARCH) -> Iterator[FenceAgents]:
    one = FenceAgents(fence_devices.devices(devices, search))
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def own_agents(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a fence agent of our own into the folder given to ``fencer`` as search."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- a real agent, a real protocol ----------------------------------------------------------------------------------


def test_on_off_and_read_back(bmc_port: int) -> None:
    with fencer({"compute1": ipmi(bmc_port)}) as one:
        assert one.has_device("compute1") and not one.has_device("compute2")
        reading = one.status("compute1", 10)
        assert reading.state is PowerState.ON
        assert reading.began <= reading.ended <= now()
        assert (
            "compute1" in reading.detail
            and f"127.0.0.1:{bmc_port}" in reading.detail
            and "Status: ON" in reading.detail
        )
        outcome, detail = one.off("compute1", 30)
        assert outcome is Outcome.DONE and "compute1" in detail
        assert one.status("compute1", 10).state is PowerState.OFF
        assert one.off("compute1", 30)[0] is Outcome.DONE, "already off counts"


def test_no_device() -> None:
    with fencer({}) as one:
        assert one.status("compute1", 1).state is PowerState.UNKNOWN
        assert one.off("compute1", 1)[0] is Outcome.NOT_STARTED


def test_wrong_password_is_unknown_and_not_shown(bmc_port: int) -> None:
    with fencer({"compute1": ipmi(bmc_port, password="not-this-one")}) as one:
        reading = one.status("compute1", 10)
        outcome, detail = one.off("compute1", 10)
    assert reading.state is PowerState.UNKNOWN and outcome is Outcome.UNKNOWN
    assert "not-this-one" not in reading.detail + detail


def test_a_silent_device_is_unknown_within_the_time() -> None:
    with fencer({"compute1": ipmi(free_port())}) as one:
        began = now()
        reading = one.status("compute1", 2)
        assert reading.state is PowerState.UNKNOWN and now() - began < 4
        assert "limit" in reading.detail


def test_an_unknown_option_does_not_show_its_value(bmc_port: int) -> None:
    with fencer({"compute1": ipmi(bmc_port, pasword="typo-secret")}) as one:
        reading = one.status("compute1", 10)
    assert reading.state is not PowerState.UNKNOWN and "typo-secret" not in reading.detail


def test_too_late_is_never_started(bmc_port: int) -> None:
    with fencer({"compute1": ipmi(bmc_port)}) as one:
        assert one.off("compute1", 60, sent=now() - 61)[0] is Outcome.NOT_STARTED


# --- what answers mean ----------------------------------------------------------------------------------------------

SHELL = "#!/bin/sh\ncat > {seen}\n{what}\n"


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ("echo 'Status: ON'", PowerState.ON),
        ("echo 'Status: OFF'; exit 2", PowerState.OFF),
        ("exit 2", PowerState.UNKNOWN),
        ("exit 0", PowerState.UNKNOWN),
        ("echo 'Status: OFF'", PowerState.UNKNOWN),
        ("echo 'Status: OFF' >&2; exit 2", PowerState.UNKNOWN),
        ("echo 'Status: ON'; echo 'Status: OFF'; exit 2", PowerState.UNKNOWN),
        ("echo 'Status: OFF'; exit 1", PowerState.UNKNOWN),
        ("kill -9 $$", PowerState.UNKNOWN),
        ("yes | head -c 1000000; exit 2", PowerState.UNKNOWN),
    ],
)
def test_only_exit_and_words_together_count(
    tmp_path: Path, own_agents: Callable[[str, str], Path], what: str, state: PowerState
) -> None:
    own_agents("fence_shell", SHELL.format(seen=tmp_path / "seen", what=what))
    with fencer(
        {"h": {"agent": "fence_shell", "options": {"password": ' "x ', "switch": False}}}, str(tmp_path)
    ) as one:
        assert one.status("h", 10).state is state
    assert (tmp_path / "seen").read_text() == 'action=status\npower_wait=0\npassword=" "x "\nswitch=0\n'


def test_options_are_never_on_a_command_line(tmp_path: Path, own_agents: Callable[[str, str], Path]) -> None:
    own_agents(
        "fence_shell", f"#!/bin/sh\ncat /proc/$$/cmdline /proc/$$/environ > {tmp_path}/seen\necho 'Status: ON'\n"
    )
    with fencer({"h": {"agent": "fence_shell", "options": {"password": PASSWORD}}}, str(tmp_path)) as one:
        assert one.status("h", 10).state is PowerState.ON
    assert PASSWORD not in (tmp_path / "seen").read_text()


# --- nothing outlives its limit, or the leader ----------------------------------------------------------------------

# starts a grandchild in a session of its own, which notes its pid as seen from outside and then goes on for a minute
STUBBORN = """#!{python}
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdin.read()
subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM HUP; echo $(readlink /proc/self) > {pids}; sleep 61 & wait; touch {late}"])
time.sleep(60)
"""


def stubborn(own_agents: Callable[[str, str], Path], tmp_path: Path, python: str) -> tuple[Path, Path]:
    pids, late = tmp_path / "pids", tmp_path / "late"
    own_agents("fence_stubborn", STUBBORN.format(python=python, pids=pids, late=late))
    return pids, late


def running(marker: str) -> list[int]:
    """Processes with a word in their command line, in any PID namespace below ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in words and int(entry.name) != os.getpid() and lives(int(entry.name)):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("python", ["/usr/bin/python3", "/bin/sh"])
def test_children_of_children_end_at_the_limit(
    tmp_path: Path, own_agents: Callable[[str, str], Path], python: str
) -> None:
    pids, _ = stubborn(own_agents, tmp_path, "/usr/bin/python3")
    if python == "/bin/sh":  # by exec instead of in a warm process
        own_agents(
            "fence_stubborn",
            f"#!/bin/sh\ntrap '' TERM\ncat >/dev/null\nsetsid sh -c 'echo x > {pids}; sleep 61' &\nsleep 60\n",
        )
    with fencer({"h": {"agent": "fence_stubborn", "options": {}}}, str(tmp_path)) as one:
        began = now()
        outcome, detail = one.off("h", 2.0)
        assert outcome is Outcome.UNKNOWN and "limit" in detail
        assert 1.9 < now() - began < 4
        assert pids.exists(), "the grandchild did run"
        wait_for("all of the run to be gone", lambda: not running(str(pids)))


LEADER = """
import json, sys, threading, time
from vmha.adapters import fence_devices
from vmha.adapters.fence_agents import FenceAgents
fencer = FenceAgents(fence_devices.devices({"h": {"agent": "fence_stubborn", "options": {}}}, sys.argv[1]))
threading.Thread(target=fencer.off, args=("h", float(sys.argv[2])), daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


def leader(tmp_path: Path, limit: float) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(tmp_path), str(limit)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_everything_ends_with_the_leader(tmp_path: Path, own_agents: Callable[[str, str], Path]) -> None:
    pids, late = stubborn(own_agents, tmp_path, "/usr/bin/python3")
    process = leader(tmp_path, 50)
    wait_for("the grandchild", pids.exists)
    assert running(str(late))
    end(process)
    wait_for("all of the run to be gone", lambda: not running(str(late)))
    wait_for("the runner to be gone", lambda: not running(f"fence_runner.py\0{process.pid}"))


def test_a_stopped_leader_changes_nothing(tmp_path: Path, own_agents: Callable[[str, str], Path]) -> None:
    pids, late = stubborn(own_agents, tmp_path, "/usr/bin/python3")
    process = leader(tmp_path, 3.0)
    wait_for("the grandchild", pids.exists)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        wait_for("all of the run to be gone at its limit", lambda: not running(str(late)), 6)
    finally:
        end(process)


def test_a_stopped_leader_and_runner_change_nothing(tmp_path: Path, own_agents: Callable[[str, str], Path]) -> None:
    pids, late = stubborn(own_agents, tmp_path, "/usr/bin/python3")
    process = leader(tmp_path, 3.0)
    wait_for("the grandchild", pids.exists)
    (runner,) = [pid for pid in running("fence_runner.py") if parent_of(pid) == process.pid]
    for pid in (process.pid, runner):
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for("all of the run to be gone at its limit", lambda: not running(str(late)), 6)
    finally:
        end(process)
    wait_for("the stopped runner to be gone with the leader", lambda: not lives(runner))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_killed_runner_is_started_again(bmc_port: int) -> None:
    with fencer({"compute1": ipmi(bmc_port)}) as one:
        assert one.status("compute1", 10).state is not PowerState.UNKNOWN
        (runner,) = one._runners._runners.values()
        first = runner.pid
        os.kill(first, signal.SIGKILL)
        wait_for("a new runner", lambda: runner.pid not in (0, first))
        wait_for("an answer", lambda: one.status("compute1", 5).state is not PowerState.UNKNOWN)


def test_many_at_once(bmc_port: int) -> None:
    with fencer({"compute1": ipmi(bmc_port)}) as one, ThreadPoolExecutor(8) as threads:
        states = {reading.state for reading in threads.map(lambda _: one.status("compute1", 20), range(16))}
    assert PowerState.UNKNOWN not in states and len(states) == 1


def test_file_to_fencer(tmp_path: Path, bmc_port: int) -> None:
    path = tmp_path / "fencing.json"
    path.write_text(json.dumps({"compute1": ipmi(bmc_port)}))
    path.chmod(0o640)
    one = FenceAgents(fence_devices.load(str(path)))
    try:
        assert one.status("compute1", 10).state in (PowerState.ON, PowerState.OFF)
        assert PASSWORD not in repr(fence_devices.load(str(path)))
    finally:
        one.close()
