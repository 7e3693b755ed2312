"""One contract for membership and locks, on every backend: etcd, tooz with files, tooz with etcd."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.functional.etcd_cluster import EtcdCluster, wait_until
from vmha.adapters.etcd import EtcdStore
from vmha.adapters.etcd_coordination import EtcdCoordination
from vmha.adapters.tooz import ToozCoordination
from vmha.errors import BadConfig, BadRecord, StoreConflict, StoreUnavailable
from vmha.ports import Coordination
from vmha.wire.keys import MEMBERS

pytestmark = pytest.mark.functional
ETCD, FILE, TOOZ_ETCD = "etcd", "tooz-file", "tooz-etcd3"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster() as made:
        yield made


@dataclass
class Backend:
    """Makes coordinations of one kind, here or as the source of another process."""

    kind: str
    source: str  # an expression; {me!r} is the member
    made: list[Coordination] = field(default_factory=list)

    def coordination(self, me: str) -> Coordination:
        names = {"EtcdStore": EtcdStore, "EtcdCoordination": EtcdCoordination, "ToozCoordination": ToozCoordination}
        self.made.append(eval(self.source.format(me=me), names))
        return self.made[-1]

    def process(self, me: str, code: str) -> "subprocess.Popen[str]":
        prologue = (
            "import sys, time\n"
            "from vmha.adapters.etcd import EtcdStore\n"
            "from vmha.adapters.etcd_coordination import EtcdCoordination\n"
            "from vmha.adapters.tooz import ToozCoordination\n"
            f"c = {self.source.format(me=me)}\n"
        )
        return subprocess.Popen([sys.executable, "-c", prologue + code], stdout=subprocess.PIPE, text=True)


@pytest.fixture(params=[ETCD, FILE, TOOZ_ETCD])
def backend(request: pytest.FixtureRequest, cluster: EtcdCluster, tmp_path: Path) -> Iterator[Backend]:
    address = cluster.urls[0].removeprefix("http://")
    options = "timeout=2&membership_timeout=2&lock_timeout=2&api_version=v3"
    made = Backend(
        request.param,
        {
            ETCD: f"EtcdCoordination(EtcdStore({cluster.urls!r}), ttl=2, renew_every=0.5)",
            FILE: f"ToozCoordination('file://{tmp_path}?timeout=2', {{me!r}})",
            TOOZ_ETCD: f"ToozCoordination('etcd3+http://{address}?{options}', {{me!r}})",
        }[request.param],
    )
    yield made
    for one in made.made:
        one.close()
    for index in cluster.running():
        cluster.cont(index)
    cluster.start_all()


def test_members_come_change_and_go(backend: Backend) -> None:
    group = f"g-{time.monotonic_ns()}"
    one, two = backend.coordination("m1").membership(group), backend.coordination("m2").membership(group)
    assert one.members() == {}
    one.join("m1", b"\x00first")
    two.join("m2", b"second")
    assert one.members() == two.members() == {"m1": b"\x00first", "m2": b"second"}
    one.update(b"changed")
    assert two.members()["m1"] == b"changed"
    one.leave()
    one.leave()
    assert two.members() == {"m2": b"second"}
    with pytest.raises(StoreConflict, match="join first"):
        one.update(b"x")


def test_groups_are_apart(backend: Backend) -> None:
    group = f"g-{time.monotonic_ns()}"
    c = backend.coordination("m1")
    c.membership(group).join("m1", b"")
    c.membership(group + "x").join("m1", b"1")
    assert c.membership(group).members() == {"m1": b""}


def test_a_member_stays_for_longer_than_its_time(backend: Backend) -> None:
    group = f"g-{time.monotonic_ns()}"
    one, two = backend.coordination("m1").membership(group), backend.coordination("m2").membership(group)
    one.join("m1", b"1")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert two.members() == {"m1": b"1"}
        time.sleep(0.2)


def test_a_dead_member_goes(backend: Backend) -> None:
    group = f"g-{time.monotonic_ns()}"
    two = backend.coordination("m2").membership(group)
    child = backend.process("m1", f"c.membership({group!r}).join('m1', b'1')\nprint('up', flush=True)\ntime.sleep(100)")
    _up(child)
    assert two.members() == {"m1": b"1"}
    _end(child)
    wait_until(lambda: two.members() == {}, 10, "the dead member gone")


def test_a_restart_within_the_time_takes_its_membership_over(backend: Backend) -> None:
    group = f"g-{time.monotonic_ns()}"
    child = backend.process(
        "m1", f"c.membership({group!r}).join('m1', b'old')\nprint('up', flush=True)\ntime.sleep(100)"
    )
    _up(child)
    _end(child)
    one = backend.coordination("m1").membership(group)
    one.join("m1", b"new")
    until = time.monotonic() + 6  # beyond the old lease's end
    while time.monotonic() < until:
        assert one.members() == {"m1": b"new"}
        time.sleep(0.2)


def test_a_member_that_stood_still_joins_again(backend: Backend) -> None:
    group = f"g-{time.monotonic_ns()}"
    two = backend.coordination("m2").membership(group)
    child = backend.process("m1", f"c.membership({group!r}).join('m1', b'1')\nprint('up', flush=True)\ntime.sleep(100)")
    _up(child)
    child.send_signal(signal.SIGSTOP)
    wait_until(lambda: two.members() == {}, 10, "its time ran out")
    child.send_signal(signal.SIGCONT)
    wait_until(lambda: two.members() == {"m1": b"1"}, 10, "joined again")
    _end(child)


def test_a_lock_has_one_holder(backend: Backend) -> None:
    name = f"l-{time.monotonic_ns()}"
    one, two = backend.coordination("m1").lock(name), backend.coordination("m2").lock(name)
    assert not one.held()
    assert one.acquire(5) and one.held() and one.acquire(0)
    assert not two.acquire(0) and not two.acquire(0.5) and not two.held()
    one.release()
    assert not one.held() and two.acquire(5) and two.held() and not one.acquire(0)
    two.release()
    two.release()


def test_a_lock_stays_for_longer_than_its_time(backend: Backend) -> None:
    name = f"l-{time.monotonic_ns()}"
    one, two = backend.coordination("m1").lock(name), backend.coordination("m2").lock(name)
    assert one.acquire(5)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert one.held() and not two.acquire(0)
        time.sleep(0.3)


def test_a_waiting_one_gets_the_lock(backend: Backend) -> None:
    name = f"l-{time.monotonic_ns()}"
    one, two = backend.coordination("m1").lock(name), backend.coordination("m2").lock(name)
    assert one.acquire(5)
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(two.acquire(10)))
    waiting.start()
    one.release()
    waiting.join(12)
    assert got == [True] and two.held()


def test_a_dead_holders_lock_is_free(backend: Backend) -> None:
    name = f"l-{time.monotonic_ns()}"
    child = backend.process("m1", f"print('up' if c.lock({name!r}).acquire(5) else 'no', flush=True)\ntime.sleep(100)")
    two = backend.coordination("m2").lock(name)
    _up(child)
    assert not two.acquire(0)
    _end(child)
    assert two.acquire(10)


def test_a_holder_that_stood_still_does_not_hold(backend: Backend) -> None:
    if backend.kind == FILE:
        pytest.skip("a file lock is the kernel's: it is not lost while the process lives")
    name = f"l-{time.monotonic_ns()}"
    code = (
        f"l = c.lock({name!r})\nl.acquire(5)\nprint('up', flush=True)\ntime.sleep(0.5)\nprint(l.held(), flush=True)\n"
    )
    child = backend.process("m1", code)
    two = backend.coordination("m2").lock(name)
    _up(child)
    child.send_signal(signal.SIGSTOP)
    assert two.acquire(15)
    child.send_signal(signal.SIGCONT)
    assert child.stdout is not None and child.stdout.readline().strip() == "False"
    assert two.held()
    _end(child)
    assert two.held()


def test_no_answer_is_unknown(backend: Backend, cluster: EtcdCluster) -> None:
    if backend.kind == FILE:
        pytest.skip("files always answer")
    c = backend.coordination("m1")
    group, lock = c.membership(f"g-{time.monotonic_ns()}"), c.lock(f"l-{time.monotonic_ns()}")
    group.join("m1", b"1")
    assert lock.acquire(5)
    for index in range(3):
        cluster.kill(index)
    with pytest.raises(StoreUnavailable):
        group.members()
    wait_until(lambda: not lock.held(), 6, "the lock can no longer be proven")
    with pytest.raises(StoreUnavailable):
        group.update(b"2")
    cluster.start_all()
    wait_until(
        lambda: _members(c.membership(group_name(group)).members) == {"m1": b"2"}, 15, "joined again with the new value"
    )


def group_name(membership: object) -> str:
    name = getattr(membership, "_name", None) or getattr(membership, "_prefix", "").removeprefix(MEMBERS).rstrip("/")
    return str(name)


def _members(question: Callable[[], object]) -> object:
    try:
        return question()
    except StoreUnavailable:
        return None


@pytest.mark.parametrize("bad", ["", "a/b", "a b", ".."])
def test_bad_names(backend: Backend, bad: str) -> None:
    c = backend.coordination("m1")
    with pytest.raises(BadRecord):
        c.membership(bad)
    with pytest.raises(BadRecord):
        c.lock(bad)


@pytest.mark.parametrize("url", ["nonsense://x", "nothing", "etcd3+http://127.0.0.1:notaport"])
def test_a_wrong_url_is_bad_config(url: str) -> None:
    with pytest.raises(BadConfig, match="coordination URL"):
        ToozCoordination(url, "m1")


def test_nobody_answers_tooz() -> None:
    with pytest.raises(StoreUnavailable):
        ToozCoordination("etcd3+http://127.0.0.1:9?timeout=1&api_version=v3", "m1")


def _up(child: "subprocess.Popen[str]") -> None:
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "up"


def _end(child: "subprocess.Popen[str]") -> None:
    child.kill()
    child.wait()
    if child.stdout:
        child.stdout.close()
