"""The Nova adapter against the stub: the contract, reads that must not be partial, and calls under every kind of trouble."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional import compute_contract as contract
from tests.functional.compute_contract import now, wait_for
from tests.stubs.nova_stub import NovaStub
from vmha.adapters import nova_worker
from vmha.adapters.nova import Nova
from vmha.core.model import Call, CallKind, Outcome
from vmha.errors import BadConfig, ComputeError, ComputeUnknown

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.functional


@pytest.fixture
def stub() -> Iterator[NovaStub]:
    with NovaStub() as one:
        for host in ("compute1", "compute2", "compute3"):
            one.add_host(host)
        yield one


@contextmanager
def client(stub: NovaStub, **more: Any) -> Iterator[Nova]:
    one = Nova(stub.auth, **{"workers": 2, **more})
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def nova(stub: NovaStub) -> Iterator[Nova]:
    with client(stub) as one:
        one.check(10)
        wait_for("the workers", lambda: len(one.worker_pids()) == 2)
        yield one


@pytest.fixture
def uuid(stub: NovaStub) -> str:
    """An instance that can be evacuated at once."""
    uuid = stub.add_instance("compute1")
    stub.host_dies("compute1")
    return str(uuid)


def evacuate(nova: Nova, uuid: str, start_limit: float = 2.0, call_limit: float = 3.0) -> tuple[Outcome, str]:
    call = Call(id="c1", recovery="r1", kind=CallKind.EVACUATE, host="compute1", epoch=1, instance=uuid)
    return nova.call(call, now(), start_limit, call_limit)


def force_down(nova: Nova) -> None:
    assert contract.service_order(nova, CallKind.FORCE_DOWN, "compute1")[0] is Outcome.DONE


def arrivals(stub: NovaStub) -> list[dict[str, Any]]:
    """Evacuate requests that reached Nova."""
    return [one for one in stub.requests("/action", "POST") if one["body"] == {"evacuate": {}}]


class Backlog:
    """A listener whose queue is full: a connection to it hangs until ``open`` is called."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(0)
        self.port = self.sock.getsockname()[1]
        self._fillers = [socket.socket() for _ in range(3)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
        self.received: list[bytes] = []

    def open(self) -> None:
        """Take the waiting connections; what each sends until its end is in ``received``."""
        for filler in self._fillers:
            filler.close()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        got = b""
        try:
            while chunk := connection.recv(4096):
                got += chunk
        except OSError:
            pass
        self.received.append(got)

    def close(self) -> None:
        self.sock.close()


# --- the contract ---------------------------------------------------------------------------------------------------


def test_contract(stub: NovaStub, nova: Nova) -> None:
    uuid, other = stub.add_instance("compute1", "t1"), stub.add_instance("compute1", "t2")
    for phase in (contract.reads, contract.refusals, contract.switches):
        phase(nova, "compute1", uuid)
    stub.host_dies("compute1")
    contract.evacuation(nova, "compute1", uuid)
    contract.by_turns(nova, "compute1", other)
    stub.host_returns("compute1")
    contract.coming_back(nova, "compute1", uuid)
    assert len(stub.dump()["servers"][uuid]["arrivals"]) == 2


def test_a_second_evacuation_spoils_the_first_as_in_nova(stub: NovaStub, nova: Nova, uuid: str) -> None:
    """Seen with nova 34 in the lab: taken, the instance ends in error on the target, the second record stays open."""
    force_down(nova)
    assert [evacuate(nova, uuid)[0] for _ in range(2)] == [Outcome.DONE] * 2
    wait_for("the end", lambda: {one.status for one in nova.migrations("compute1", 5)} == {"failed", "accepted"})
    one = nova.instance(uuid, 5)
    assert one is not None and one.host != "compute1"
    assert (one.status, one.vm_state, one.task_state) == ("REBUILD", "error", "rebuild_block_device_mapping")


# --- reads ----------------------------------------------------------------------------------------------------------


def test_all_pages_or_an_error(stub: NovaStub, nova: Nova) -> None:
    stub.configure(max_limit=50)
    uuids = stub.add_instances("compute1", 120)
    assert {one.uuid for one in nova.instances("compute1", 10)} == set(uuids)
    stub.fail("status", path="marker=", status=503, count=1)
    with pytest.raises(ComputeUnknown):
        nova.instances("compute1", 10)


def test_pages_of_migrations(stub: NovaStub, nova: Nova) -> None:
    stub.configure(max_limit=10, rebuild_seconds=0.0, schedule_seconds=0.0)
    uuids = stub.add_instances("compute1", 25)
    stub.host_dies("compute1")
    force_down(nova)
    for uuid in uuids:
        assert evacuate(nova, uuid)[0] is Outcome.DONE
    assert {one.instance for one in nova.migrations("compute1", 10)} == set(uuids)


def test_a_cell_that_is_down_is_not_an_empty_host(stub: NovaStub, nova: Nova) -> None:
    uuid = stub.add_instance("compute1")
    stub.configure(cell_down=True)
    for read in (nova.service, nova.instances, nova.migrations):
        with pytest.raises(ComputeUnknown):
            read("compute1", 5)
    with pytest.raises(ComputeUnknown):
        nova.instance(uuid, 5)


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 503}, {"kind": "status", "status": 500}, {"kind": "drop_before"}, {"kind": "hang"}],
)
def test_no_answer_is_unknown(stub: NovaStub, nova: Nova, fault: dict[str, Any]) -> None:
    stub.add_instance("compute1")
    stub.fail(path="^/compute/v2.1/", **fault)
    for read in (nova.service, nova.instances, nova.migrations):
        began = now()
        with pytest.raises(ComputeUnknown):
            read("compute1", 0.5)
        assert now() - began < 3
    with pytest.raises(ComputeUnknown):
        nova.instance("x", 0.5)


def test_a_refusal_has_its_status(stub: NovaStub, nova: Nova) -> None:
    stub.fail("status", path="/os-services", status=403, message="Policy doesn't allow it.")
    with pytest.raises(ComputeError, match="Policy") as refused:
        nova.service("compute1", 5)
    assert refused.value.status == 403


def test_a_404_of_something_else_is_not_absence(stub: NovaStub, nova: Nova) -> None:
    stub.set(endpoint=f"http://127.0.0.1:{stub.port}/elsewhere")
    with client(stub, workers=1) as other, pytest.raises(ComputeUnknown):
        other.instance("11111111-1111-1111-1111-111111111111", 1)
    assert len(stub.requests("/v3/auth/tokens")) < 8, "Keystone is not hammered while Nova is away"


# --- the account ----------------------------------------------------------------------------------------------------


def test_too_old_a_nova_is_refused(stub: NovaStub) -> None:
    stub.set(highest="2.60")
    with client(stub) as nova, pytest.raises(BadConfig, match=r"2\.60.*2\.80"):
        nova.check(5)


def test_an_older_nova_is_used_as_it_is(stub: NovaStub) -> None:
    stub.set(highest="2.90")
    with client(stub) as nova:
        assert nova.check(5) == "2.90"


def test_where_nova_cannot_let_them_arrive_stopped_they_arrive_running(stub: NovaStub) -> None:
    stub.set(highest="2.90")
    uuid = stub.add_instance("compute1", "t1")
    with client(stub) as nova:
        force_down(nova)
        assert (
            contract.order(nova, CallKind.EVACUATE, "compute1", instance=uuid, arrive_stopped=True)[0] is Outcome.DONE
        )
        wait_for(
            "the arrival", lambda: (one := nova.instance(uuid, 5)) and one.host != "compute1" and one.task_state is None
        )
        one = nova.instance(uuid, 5)
        assert one is not None and one.vm_state == "active"


def test_wrong_password(stub: NovaStub) -> None:
    one = Nova({**stub.auth, "password": "wrong-word"}, workers=1)
    try:
        with pytest.raises(ComputeError, match="refused our account") as refused:
            one.check(5)
        assert refused.value.status == 401 and "wrong-word" not in str(refused.value)
        outcome, detail = evacuate(one, "u", start_limit=0.5)
        assert outcome is Outcome.NOT_STARTED and "account" in detail
    finally:
        one.close()


def test_no_secret_on_a_command_line(nova: Nova) -> None:
    for pid in nova.worker_pids():
        assert b"secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()


# --- calls: outcomes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "took_effect"),
    [
        ({"kind": "status", "status": 503}, False),
        ({"kind": "drop_before"}, False),
        ({"kind": "drop_after"}, True),
        ({"kind": "hang"}, False),
        ({"kind": "hang_after"}, True),
    ],
)
def test_no_answer_is_unknown_and_sent_once(
    stub: NovaStub, nova: Nova, uuid: str, fault: dict[str, Any], took_effect: bool
) -> None:
    force_down(nova)
    stub.fail(path="/action", **fault)
    began = now()
    outcome, detail = evacuate(nova, uuid, start_limit=1.0, call_limit=1.5)
    assert outcome is Outcome.UNKNOWN and detail
    assert now() - began < 5
    stub.clear_faults()
    assert len(arrivals(stub)) == 1
    assert bool(nova.migrations("compute1", 5)) is took_effect
    assert len(arrivals(stub)) == 1


def test_connection_refused_is_not_started(stub: NovaStub, uuid: str) -> None:
    with client(stub) as nova:
        nova.check(5)
        stub.stop()
        outcome, detail = evacuate(nova, uuid)
        assert outcome is Outcome.NOT_STARTED and "refused" in detail


def test_many_at_once_each_sent_once(stub: NovaStub) -> None:
    uuids = stub.add_instances("compute1", 60)
    stub.host_dies("compute1")
    with client(stub, workers=4) as nova, ThreadPoolExecutor(12) as threads:
        force_down(nova)
        outcomes = list(threads.map(lambda uuid: evacuate(nova, uuid, start_limit=10.0)[0], uuids))
    assert outcomes == [Outcome.DONE] * 60
    assert sorted(one["path"].split("/")[-2] for one in arrivals(stub)) == sorted(uuids)


def test_a_refused_token_is_replaced(stub: NovaStub, nova: Nova, uuid: str) -> None:
    force_down(nova)
    stub.revoke_tokens()
    outcome, detail = evacuate(nova, uuid)
    assert outcome is Outcome.FAILED and "fresh" in detail
    assert evacuate(nova, uuid)[0] is Outcome.DONE
    assert [one["status"] for one in arrivals(stub)] == [401, 200]


def test_a_slow_keystone_within_the_limit(stub: NovaStub, nova: Nova, uuid: str) -> None:
    force_down(nova)
    stub.revoke_tokens()
    stub.fail("slow", path="/v3/auth/tokens", delay=0.8)
    assert evacuate(nova, uuid)[0] is Outcome.FAILED
    began = now()
    assert evacuate(nova, uuid, start_limit=3.0)[0] is Outcome.DONE
    assert arrivals(stub)[-1]["at"] < began + 3.0


def test_a_keystone_slower_than_the_limit(stub: NovaStub, nova: Nova, uuid: str) -> None:
    force_down(nova)
    stub.revoke_tokens()
    stub.fail("slow", path="/v3/auth/tokens", delay=1.5)
    assert evacuate(nova, uuid)[0] is Outcome.FAILED
    began = now()
    outcome, detail = evacuate(nova, uuid, start_limit=0.5)
    assert outcome is Outcome.NOT_STARTED and "token" in detail
    assert now() - began < 1.5
    nova.user_id(10)  # the token has arrived by now; the call must not go out with it
    assert len(arrivals(stub)) == 1


# --- calls: the timer -----------------------------------------------------------------------------------------------


def test_slow_connect_is_not_started(stub: NovaStub, uuid: str) -> None:
    backlog = Backlog()
    with client(stub) as nova:
        force_down(nova)
        _point_at(nova, backlog.port)
        began = now()
        outcome, _ = evacuate(nova, uuid, start_limit=0.7)
        assert outcome is Outcome.NOT_STARTED
        assert 0.6 < now() - began < 3
        wait_for("a new worker", lambda: len(nova.worker_pids()) == 2 and all(map(_lives, nova.worker_pids())))
    backlog.close()


def _point_at(nova: Nova, port: int) -> None:
    """Let calls go to another port than reads."""
    from dataclasses import replace

    access = nova._access
    assert access._ticket is not None
    access._ticket = replace(access._ticket, endpoint=f"http://127.0.0.1:{port}/compute/v2.1")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_for("the stop", lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def test_stopped_before_the_send(stub: NovaStub, uuid: str) -> None:
    """The leader gives the job, its worker stands still: nothing is ever sent."""
    with client(stub, workers=1) as nova:
        force_down(nova)
        wait_for("the worker", nova.worker_pids)
        _stop(nova.worker_pids()[0])
        outcome, _ = evacuate(nova, uuid, start_limit=0.5)
        assert outcome is Outcome.NOT_STARTED
        assert arrivals(stub) == []
        wait_for("a new worker", nova.worker_pids)
        assert evacuate(nova, uuid)[0] is Outcome.DONE


def test_stopped_between_connect_and_send_then_continued_too_late() -> None:
    """No parent helps here: the kernel ends the worker before it can send."""
    backlog = Backlog()
    worker = _bare_worker()
    deadline = now() + 3.0
    _give(worker, backlog.port, deadline)
    wait_for("the connect", lambda: _is_connecting(worker.pid, backlog.port))
    _stop(worker.pid)
    backlog.open()
    wait_for("the deadline", lambda: now() > deadline + 0.2, 10)
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.wait(5) == -signal.SIGALRM
    time.sleep(0.2)  # anything sent would have arrived on loopback long before
    assert b"".join(backlog.received) == b""
    assert b"sending" not in _said(worker)
    backlog.close()


def test_stopped_before_the_job_is_read_then_continued_too_late(stub: NovaStub) -> None:
    worker = _bare_worker()
    _stop(worker.pid)
    deadline = now() + 0.5
    _give(worker, stub.port, deadline)
    wait_for("the deadline", lambda: now() > deadline + 0.1)
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.wait(5) == -signal.SIGALRM
    assert stub.requests("/servers") == [] and b"sending" not in _said(worker)


def _bare_worker() -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-I", "-S", nova_worker.__file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(b"{}\n")
    assert b"ready" in worker.stdout.readline()
    return worker


def _give(worker: subprocess.Popen[bytes], port: int, deadline: float) -> None:
    import json

    url = f"http://127.0.0.1:{port}/compute/v2.1/servers/u/action"
    job = {
        "deadline": deadline,
        "answer_limit": 5.0,
        "method": "POST",
        "url": url,
        "headers": {},
        "body": {"evacuate": {}},
    }
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(job).encode() + b"\n")


def _said(worker: subprocess.Popen[bytes]) -> bytes:
    assert worker.stdout is not None and worker.stdin is not None
    said = worker.stdout.read()
    worker.stdout.close()
    worker.stdin.close()
    return said


def _is_connecting(pid: int, port: int) -> bool:
    """A socket in SYN_SENT (02) to the port, in the kernel's table."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(
        line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "02" and line.split()[9] != "0"
        for line in lines
    )


def test_stopped_after_the_send_and_continued(stub: NovaStub, uuid: str) -> None:
    """The answer waits in the kernel: continued within the call's limit, the call is done."""
    with client(stub, workers=1) as nova:
        force_down(nova)
        stub.fail("slow", path="/action", delay=0.3)
        with ThreadPoolExecutor(1) as thread:
            call = thread.submit(evacuate, nova, uuid, 0.5, 5.0)
            wait_for("the request", lambda: arrivals(stub))
            _stop(nova.worker_pids()[0])
            wait_for("start_limit to pass", lambda: now() > arrivals(stub)[0]["at"] + 0.8)
            os.kill(nova.worker_pids()[0], signal.SIGCONT)
            outcome, detail = call.result(10)
        assert outcome is Outcome.DONE and detail.startswith("req-")
        assert len(arrivals(stub)) == 1


def test_stopped_after_the_send_for_good(stub: NovaStub, uuid: str) -> None:
    with client(stub, workers=1) as nova:
        force_down(nova)
        stub.fail("slow", path="/action", delay=0.3)
        with ThreadPoolExecutor(1) as thread:
            call = thread.submit(evacuate, nova, uuid, 0.5, 1.5)
            wait_for("the request", lambda: arrivals(stub))
            _stop(nova.worker_pids()[0])
            outcome, _ = call.result(10)
        assert outcome is Outcome.UNKNOWN
        assert len(arrivals(stub)) == 1


def test_a_worker_killed_after_the_send(stub: NovaStub, uuid: str) -> None:
    with client(stub, workers=1) as nova:
        force_down(nova)
        stub.fail("hang", path="/action")
        with ThreadPoolExecutor(1) as thread:
            call = thread.submit(evacuate, nova, uuid)
            wait_for("the request", lambda: arrivals(stub))
            os.kill(nova.worker_pids()[0], signal.SIGKILL)
            outcome, _ = call.result(10)
        assert outcome is Outcome.UNKNOWN
        stub.clear_faults()


def test_workers_die_with_the_leader(stub: NovaStub) -> None:
    script = (
        "import sys, json, time; from vmha.adapters.nova import Nova\n"
        "nova = Nova(json.loads(sys.argv[1]), workers=3); nova.check(10)\n"
        "while len(nova.worker_pids()) < 3: time.sleep(0.01)\n"
        "print(json.dumps(nova.worker_pids()), flush=True); time.sleep(60)"
    )
    import json

    leader = subprocess.Popen([sys.executable, "-c", script, json.dumps(stub.auth)], stdout=subprocess.PIPE, cwd=ROOT)
    assert leader.stdout is not None
    pids = json.loads(leader.stdout.readline())
    _stop(pids[0])
    leader.kill()
    leader.wait()
    leader.stdout.close()
    wait_for("the workers to be gone", lambda: not any(map(_lives, pids)), 5)


def test_the_kernel_keeps_nothing_to_send_late() -> None:
    import ssl
    import struct

    server = socket.create_server(("127.0.0.1", 0))
    sock = nova_worker.connect(f"http://127.0.0.1:{server.getsockname()[1]}/", 1.0, 4.0, ssl.create_default_context())
    assert sock.getsockopt(socket.IPPROTO_TCP, nova_worker.TCP_USER_TIMEOUT) == 4000
    assert struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
    sock.close()
    server.close()
