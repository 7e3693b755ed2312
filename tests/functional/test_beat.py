"""vmha-beat and the receiver over real UDP: what is forged, replayed or foreign never counts, and beats outlive everything."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.functional.agent_host import KEY, Heard
from tests.functional.libvirt_host import until
from vmha.adapters.beats import BeatReceiver
from vmha.adapters.etcd import BootClock
from vmha.agent.attach import PROGRAM, BeatProcess, ask
from vmha.agent.gate import boot_id
from vmha.errors import BadConfig
from vmha.wire import beat as wire
from vmha.wire import sessions

pytestmark = pytest.mark.functional


class Controller:
    """A receiver on loopback; ``port`` 0 takes a free one."""

    def __init__(self, port=0, network="management", key=KEY):
        self.heard = Heard()
        self.receiver = BeatReceiver([(network, "127.0.0.1", port)], key, BootClock(), self.heard)
        self.port = self.receiver.ports[0][2]

    def refusals(self):
        return self.receiver.counts()[1]


class Tap:
    """Between beat process and controller: passes datagrams both ways and keeps those of the host."""

    def __init__(self, port):
        self.kept = []
        self.front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.front.bind(("127.0.0.1", 0))
        self.back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.back.connect(("127.0.0.1", port))
        self.port = self.front.getsockname()[1]
        self.host = None

    def until(self, fact, seconds=10.0):
        end = time.monotonic() + seconds
        while not fact():
            assert time.monotonic() < end, "not true in time"
            for s in select.select([self.front, self.back], [], [], 0.05)[0]:
                if s is self.front:
                    datagram, self.host = s.recvfrom(2048)
                    self.kept.append(datagram)
                    self.back.send(datagram)
                else:
                    self.front.sendto(s.recv(2048), self.host)

    def replay(self, datagrams):
        for datagram in datagrams:
            self.back.send(datagram)

    def close(self):
        self.front.close()
        self.back.close()


def configuration(*ports, host="compute1", network="management", source="127.0.0.1", **more):
    return {
        "host": host,
        "deployment": wire.deployment_id(KEY).hex(),
        "key": wire.host_key(KEY, host).hex(),
        "period": 0.1,
        "networks": {network: {"source": source, "controllers": [["127.0.0.1", p] for p in ports]}},
    } | more


class Beat:
    """A beat process run by hand, and one connection to it."""

    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.process = self.spawn()
        until((run_dir / "beat.sock").exists)
        self.connection = self.connect()

    def spawn(self):
        return subprocess.Popen([sys.executable, "-I", "-S", PROGRAM, str(self.run_dir)], stderr=subprocess.PIPE)

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        until(lambda: connection.connect_ex(str(self.run_dir / "beat.sock")) == 0)
        return connection

    def ask(self, **question):
        return ask(self.connection, question)

    def configure(self, *ports, **more):
        assert self.ask(op="configure", **configuration(*ports, **more)) == {"ok": True}

    def progress(self):
        self.connection.sendall(b'{"op": "progress"}\n')

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.connection.close()


@pytest.fixture
def beat(tmp_path):
    beat = Beat(tmp_path)
    yield beat
    beat.end()


@pytest.fixture
def controller():
    controller = Controller()
    yield controller
    controller.receiver.close()


def test_beats_arrive_on_time_after_one_challenge(beat, controller):
    beat.configure(controller.port)
    beat.progress()
    until(lambda: len(controller.heard.beats) >= 30)
    times = [b[5] for b in controller.heard.beats]
    assert 0.08 < (times[29] - times[1]) / 28 < 0.15
    assert {b[:3] for b in controller.heard.beats} == {("compute1", "management", boot_id())}
    assert controller.refusals() == {"new session": 1}
    assert controller.heard.last()[3] == 1 and 1 < controller.heard.last()[4] < 30


def test_a_restarted_controller_hears_only_after_its_own_challenge(beat, controller):
    beat.configure(controller.port)
    until(lambda: controller.heard.beats)
    controller.receiver.close()
    again = Controller(controller.port)
    until(lambda: len(again.heard.beats) >= 5)
    assert sum(again.refusals().values()) <= 2 and "new session, wrong nonce" in again.refusals()
    again.receiver.close()


def test_a_recording_never_counts(beat, controller):
    tap = Tap(controller.port)
    beat.configure(tap.port)
    tap.until(lambda: len(controller.heard.beats) >= 10)
    beat.end()
    tap.until(lambda: not select.select([tap.front], [], [], 0.2)[0])
    heard = len(controller.heard.beats)
    tap.replay(tap.kept)
    until(lambda: controller.refusals().get(sessions.REPLAYED, 0) == len(tap.kept))
    controller.receiver.close()
    again = Controller(controller.port)
    tap.replay(tap.kept)
    until(lambda: sum(again.refusals().values()) == len(tap.kept))
    assert len(controller.heard.beats) == heard and again.heard.beats == []
    again.receiver.close()
    tap.close()


def test_forged_foreign_and_broken_datagrams_are_counted_and_disturb_nothing(beat, controller):
    tap = Tap(controller.port)
    beat.configure(tap.port)
    tap.until(lambda: len(controller.heard.beats) >= 3)
    good = tap.kept[-1]
    foreign = wire.identity(wire.BEAT, wire.deployment_id(b"other"), bytes(16), 1, "compute1", "management")
    tap.replay([
        good[:-1] + bytes((good[-1] ^ 1,)),
        good[:-1],
        good[:20],
        b"",
        good + b"x",
        good.ljust(60_000, b"x"),
        b"GET / HTTP/1.1\r\n\r\n".ljust(100),
        wire.beat(foreign, wire.Key(wire.host_key(b"other", "compute1")), 1, 1, 1, 1),
        good,
    ])  # fmt: skip
    before = len(controller.heard.beats)
    tap.until(lambda: len(controller.heard.beats) >= before + 5)
    refused = {k: v for k, v in controller.refusals().items() if not k.startswith("new session")}
    assert refused == {
        wire.BAD_MAC: 1, wire.TRUNCATED: 3, wire.OVERSIZED: 2, wire.WRONG_MAGIC: 1, wire.OTHER_DEPLOYMENT: 1,
        sessions.REPLAYED: 1,
    }  # fmt: skip
    tap.close()


def test_a_new_beat_process_is_a_new_session_and_ends_the_old_one(tmp_path, controller):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    old, new = Beat(tmp_path / "a"), Beat(tmp_path / "b")
    try:
        old.configure(controller.port)
        until(lambda: controller.heard.beats)
        new.configure(controller.port)
        until(lambda: controller.refusals().get(sessions.SUPERSEDED, 0) >= 3)
        new.progress()
        until(lambda: controller.heard.last()[3] == 1)
    finally:
        old.end()
        new.end()


def test_several_controllers_and_networks_are_told_each_by_itself(beat, controller):
    storage, silent = Controller(network="storage"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    networks = {
        "management": {
            "source": "127.0.0.1",
            "controllers": [["127.0.0.1", controller.port], ["127.0.0.1", silent.getsockname()[1]]],
        },
        "storage": {"source": "127.0.0.2", "controllers": [["127.0.0.1", storage.port]]},
        "broken": {"source": "203.0.113.7", "controllers": [["203.0.113.1", 7410]]},
    }
    beat.configure(networks=networks)
    until(lambda: len(controller.heard.beats) > 5 and len(storage.heard.beats) > 5)
    status = beat.ask(op="status")
    assert status["networks"]["broken"]["bound"] is False
    assert status["networks"]["broken"]["errors"]["EADDRNOTAVAIL"] >= 1
    assert silent.recv(2048)
    silent.close()
    storage.receiver.close()


def test_beats_of_another_network_do_not_count(beat):
    storage = Controller(network="storage")
    beat.configure(storage.port, network="management")
    until(lambda: storage.refusals().get(sessions.WRONG_NETWORK, 0) >= 3)
    assert storage.heard.beats == []
    storage.receiver.close()


def test_a_new_configuration_applies_at_once_and_a_wrong_one_not_at_all(beat, controller):
    other = Controller()
    beat.configure(controller.port)
    until(controller.heard.fresh)
    wrong = configuration(other.port)
    for change in (
        {"host": ""}, {"host": "h" * 200}, {"key": "00"}, {"key": "zz" * 32}, {"deployment": None}, {"period": 0},
        {"period": "x"}, {"networks": []}, {"networks": {"m": {"source": "localhost", "controllers": []}}},
        {"networks": {"m": {"source": "127.0.0.1", "controllers": [["127.0.0.1", 0]]}}},
        {"networks": {"m": {"source": "127.0.0.1", "controllers": ["127.0.0.1:1"]}}}, {"networks": {"m": 1}},
    ):  # fmt: skip
        answer = beat.ask(op="configure", **(wrong | change))
        assert answer["ok"] is False and answer["error"] and "zz" * 32 not in answer["error"], change
    assert beat.ask(op="dance")["ok"] is False
    beat.connection.sendall(b"not json\n")
    assert json.loads(beat.connection.recv(4096))["ok"] is False
    before = len(controller.heard.beats)
    until(lambda: len(controller.heard.beats) > before + 3)
    beat.configure(other.port, host="compute2")
    until(lambda: other.heard.beats and other.heard.last()[0] == "compute2")
    other.receiver.close()


def test_what_the_agent_has_applied_goes_out_on_every_network(beat, controller):
    other = Controller(network="storage")
    networks = {
        name: {"source": "127.0.0.1", "controllers": [["127.0.0.1", port]]}
        for name, port in (("management", controller.port), ("storage", other.port))
    }
    beat.configure(networks=networks)
    until(lambda: controller.heard.lists == {"management": (0, 0)} and other.heard.lists == {"storage": (0, 0)})
    beat.connection.sendall(b'{"op": "progress", "voters": 7, "condemned": 4294967299}\n')
    told = (7, 4294967299)
    until(lambda: controller.heard.lists["management"] == other.heard.lists["storage"] == told)
    assert controller.heard.last()[2] == other.heard.last()[2] == boot_id()
    assert beat.ask(op="status")["lists"] == list(told)
    assert "revision" in beat.ask(op="progress", voters=-1)["error"]
    assert beat.ask(op="status")["lists"] == list(told)
    other.receiver.close()


def test_a_second_one_by_mistake_refuses(beat):
    second = beat.spawn()
    assert second.wait(timeout=10) == 3
    assert second.stderr.read().decode().count("\n") == 1
    second.stderr.close()
    assert beat.ask(op="status")["ok"]


def test_a_lost_one_is_started_again_by_the_agent(tmp_path, controller):
    agent = BeatProcess(str(tmp_path), configuration(controller.port))
    assert agent.progress() is False
    assert agent.attach() == "" and agent.progress()
    until(controller.heard.fresh)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(tmp_path / "beat.sock"))
        first = ask(s, {"op": "status"})["pid"]
    assert os.getsid(first) == first, "a session of its own"
    os.kill(first, signal.SIGKILL)
    until(lambda: not agent.progress(), says="the agent notices")
    assert agent.attach() == ""
    before = len(controller.heard.beats)
    until(lambda: len(controller.heard.beats) > before + 3)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(tmp_path / "beat.sock"))
        os.kill(ask(s, {"op": "status"})["pid"], signal.SIGKILL)


def test_its_socket_is_for_its_user_only_and_it_stays_small(beat, controller):
    beat.configure(controller.port)
    until(controller.heard.fresh)
    assert (beat.run_dir / "beat.sock").stat().st_mode & 0o777 == 0o600
    lines = Path(f"/proc/{beat.process.pid}/status").read_text().splitlines()
    size = {name: int(value.split()[0]) for name, value in (x.split(":") for x in lines if x.startswith("Vm"))}
    assert size["VmRSS"] <= 16 * 1024 and size["VmLck"] <= 16 * 1024, size
    status = beat.ask(op="status")
    assert status["realtime"] and status["locked"]
    loaded = {
        line.split()[-1] for line in Path(f"/proc/{beat.process.pid}/maps").read_text().splitlines() if ".so" in line
    }
    assert not [x for x in loaded if "ssl" in x or "crypto" in x or "site-packages" in x], loaded


def test_an_address_in_use_is_a_clear_error(controller):
    with pytest.raises(BadConfig, match=f"127.0.0.1 port {controller.port}.*correct the address"):
        Controller(controller.port)
