"""Leases and leadership against a real etcd: what is told when a process stands still, etcd is away, or a leader dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.functional.etcd_cluster import EtcdCluster, wait_until
from vmha.adapters.etcd import EtcdStore
from vmha.adapters.etcd_election import Election
from vmha.errors import LeadershipLost, StoreRefused, StoreUnavailable
from vmha.wire.keys import LEADER

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster() as made:
        yield made


@pytest.fixture
def store(cluster: EtcdCluster) -> Iterator[EtcdStore]:
    made = EtcdStore(cluster.urls)
    yield made
    made.close()
    for index in cluster.running():
        cluster.cont(index)
    cluster.start_all()


NEVER = threading.Event()


class Child:
    """Another process with a store; it prints lines and can be stopped, continued, killed."""

    def __init__(self, cluster: EtcdCluster, code: str) -> None:
        prologue = (
            "import sys, threading, time\n"
            "from vmha.adapters.etcd import EtcdStore\n"
            "from vmha.adapters.etcd_election import Election\n"
            f"store = EtcdStore({cluster.urls!r})\n"
            "def say(*a): print(*a, flush=True)\n"
        )
        self.process = subprocess.Popen([sys.executable, "-c", prologue + code], stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def test_a_renewed_lease_outlives_its_ttl(store: EtcdStore) -> None:
    lease = store.lease(2, 0.5)
    store.commit({"/l1/a": b"1"}, lease=lease.id)
    first = lease.valid_until()
    wait_until(lambda: lease.valid_until() > first + 3, 10, "renewed for longer than its TTL")
    assert store.get("/l1/a") is not None and not lease.lost()
    assert lease.valid_until() - store._clock.now() <= lease.ttl
    lease.revoke()
    assert lease.lost() and store.get("/l1/a") is None


def test_etcd_grants_its_shortest(store: EtcdStore) -> None:
    lease = store.lease(1, 0.4)
    assert lease.ttl == 2 and lease.valid_until() > store._clock.now() + 1
    lease.revoke()


def test_a_lease_ended_by_another_is_lost(store: EtcdStore) -> None:
    lease = store.lease(5, 0.2)
    store.revoke(lease.id)
    wait_until(lease.lost, 3, "the loss noticed")
    store.revoke(lease.id)  # already gone: done


def test_a_lease_outlives_a_member(cluster: EtcdCluster, store: EtcdStore) -> None:
    lease = store.lease(5, 0.5)
    for index in (store._gateway.first, cluster.leader()):
        if index in cluster.running():
            cluster.kill(index)
            goal = lease.valid_until() + 1
            wait_until(lambda goal=goal: lease.valid_until() > goal, 10, "renewed at another member")
            cluster.start(index)
    assert not lease.lost()
    lease.revoke()


def test_a_lease_is_lost_by_our_own_clock_when_etcd_is_away(cluster: EtcdCluster, store: EtcdStore) -> None:
    lease = store.lease(2, 0.5)
    for index in range(3):
        cluster.kill(index)
    until = lease.valid_until()
    wait_until(lease.lost, 4, "lost without an answer")
    assert until <= store._clock.now() < until + 1
    cluster.start_all()
    assert lease.lost(), "once lost it stays lost"


def test_our_own_stop_loses_the_lease(cluster: EtcdCluster, store: EtcdStore) -> None:
    code = (
        "lease = store.lease(2, 0.5)\nstore.commit({'/stop/a': b'1'}, lease=lease.id)\nsay('up')\n"
        "sys.stdin.readline()\nsay(lease.lost())\n"
    )
    with Child(cluster, code.replace("sys.stdin.readline()", "time.sleep(0.5)")) as child:
        assert child.line() == "up"
        child.signal(signal.SIGSTOP)
        wait_until(lambda: store.get("/stop/a") is None, 10, "etcd ended the lease")
        child.signal(signal.SIGCONT)
        assert child.line() == "True"


# --- leadership ----------------------------------------------------------------------------------------------------


def test_one_leads_the_next_follows_at_once(store: EtcdStore, cluster: EtcdCluster) -> None:
    one, two = Election(store, "c1"), Election(EtcdStore(cluster.urls), "c2")
    epoch = one.campaign(NEVER)
    assert epoch and epoch == one.epoch and not one.lost() and two.lost()
    found = store.get(LEADER)
    assert found is not None and found.created == epoch and found.lease == one.lease_id
    assert found.value == f'{{"v":1,"member":"c1","pid":{os.getpid()}}}'.encode()
    got: list[tuple[int | None, float]] = []
    waiting = threading.Thread(target=lambda: got.append((two.campaign(NEVER), time.monotonic())))
    waiting.start()
    wait_until(lambda: two._claim._sink.state()[0] == epoch, 5, "the second sees the first")
    resigned = time.monotonic()
    one.resign()
    waiting.join(5)
    assert got and got[0][0] and got[0][0] > epoch and one.lost() and one.epoch == 0
    print(f"take-over after resign: {(got[0][1] - resigned) * 1000:.0f} ms")
    assert got[0][1] - resigned < 1
    with pytest.raises(LeadershipLost):
        store.commit({"/lead/a": b"1"}, epoch=epoch)
    store.commit({"/lead/a": b"2"}, epoch=two.epoch)
    one.close()
    two.close()


def test_a_stopped_campaign_returns(store: EtcdStore, cluster: EtcdCluster) -> None:
    one, two = Election(store, "c1"), Election(EtcdStore(cluster.urls), "c2")
    one.campaign(NEVER)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert two.campaign(stop) is None
    assert two.campaign(stop) is None, "a stop that is already set"
    two.close()
    one.close()


def test_a_dead_leaders_lease_ends_and_the_follower_takes_over(store: EtcdStore, cluster: EtcdCluster) -> None:
    with Child(cluster, "e = Election(store, 'dead')\nsay(e.campaign(threading.Event()))\ntime.sleep(100)\n") as child:
        epoch = int(child.line())
        child.signal(signal.SIGKILL)
        died = time.monotonic()
        follower = Election(store, "c2")
        assert (follower.campaign(NEVER) or 0) > epoch
        print(f"take-over after death: {time.monotonic() - died:.2f} s")
        assert time.monotonic() - died < 6
        follower.close()


def test_a_parent_gives_the_dead_leaders_lease_back(store: EtcdStore, cluster: EtcdCluster) -> None:
    code = "e = Election(store, 'dead')\ne.campaign(threading.Event())\nsay(e.lease_id)\ntime.sleep(100)\n"
    follower = Election(store, "c2")
    with Child(cluster, code) as child:
        lease = int(child.line())
        child.signal(signal.SIGKILL)
        child.process.wait()
        died = time.monotonic()
        store.revoke(lease)
        assert follower.campaign(NEVER)
        print(f"take-over after a parent's revoke: {(time.monotonic() - died) * 1000:.0f} ms")
        assert time.monotonic() - died < 1
    follower.close()


def test_a_leader_that_was_stopped_knows_it_has_lost(store: EtcdStore, cluster: EtcdCluster) -> None:
    code = (
        "e = Election(store, 'slow')\nsay(e.campaign(threading.Event()))\ntime.sleep(0.5)\nsay(e.lost())\n"
        "try:\n    store.commit({'/slow/a': b'1'}, epoch=e.epoch)\nexcept Exception as x:\n    say(type(x).__name__)\n"
    )
    follower = Election(store, "c2")
    with Child(cluster, code) as child:
        child.line()
        child.signal(signal.SIGSTOP)
        assert follower.campaign(NEVER)
        child.signal(signal.SIGCONT)
        assert child.line() == "True" and child.line() == "LeadershipLost"
    follower.close()


def test_a_deleted_leader_key_is_noticed(store: EtcdStore) -> None:
    one = Election(store, "c1")
    one.campaign(NEVER)
    store.commit({}, [LEADER])
    wait_until(one.lost, 5, "the deletion seen by the leader")
    one.close()


def test_leadership_over_dying_members(store: EtcdStore, cluster: EtcdCluster) -> None:
    """A follower of etcd that dies costs nobody the leadership."""
    one = Election(store, "c1")
    epoch = one.campaign(NEVER)
    index = next(i for i in range(3) if i != cluster.leader())
    cluster.kill(index)
    until = one.valid_until() + 2
    wait_until(lambda: one.valid_until() > until, 10, "renewed all along")
    assert not one.lost() and one.epoch == epoch
    one.close()


def test_a_campaign_begun_while_etcd_is_away_ends_in_leadership(store: EtcdStore, cluster: EtcdCluster) -> None:
    for index in range(3):
        cluster.kill(index)
    with pytest.raises(StoreUnavailable) as e:
        store.lease(2, 0.5)
    assert not isinstance(e.value, StoreRefused)
    one = Election(store, "c1")
    waiting = threading.Thread(target=one.campaign, args=(NEVER,))
    waiting.start()
    cluster.start_all()
    waiting.join(15)
    assert not one.lost()
    one.close()


def test_many_candidates_one_leader(store: EtcdStore, cluster: EtcdCluster) -> None:
    """Each leads once, resigns, and no two epochs are the same or lead at once."""
    epochs: list[int] = []
    leading = threading.Lock()
    faults: list[str] = []

    def candidate(name: str) -> None:
        own = EtcdStore(cluster.urls)
        election = Election(own, name)
        epoch = election.campaign(NEVER)
        if not leading.acquire(blocking=False):
            faults.append("two lead at once")
        own.commit({"/many/epoch": str(epoch).encode()}, epoch=epoch)
        epochs.append(epoch or 0)
        if leading.locked():
            leading.release()
        election.close()
        own.close()

    threads = [threading.Thread(target=candidate, args=(f"c{i}",)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert not faults and len(epochs) == 8 and epochs == sorted(set(epochs))
