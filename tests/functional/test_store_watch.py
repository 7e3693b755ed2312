"""The watched cache against a real etcd: nothing missed over dying, stopped and cut-off members, compaction and split streams."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.functional.etcd_cluster import EtcdCluster, wait_until
from tests.functional.etcd_proxy import Rechunk
from tests.functional.store_contract import Recorder
from vmha.adapters.etcd import EtcdStore
from vmha.adapters.etcd_watch import EtcdWatch
from vmha.errors import StoreUnavailable

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


@pytest.fixture
def watch(store: EtcdStore) -> Iterator[Callable[[str], tuple[Recorder, EtcdWatch]]]:
    running: list[tuple[Recorder, EtcdWatch]] = []

    def start(prefix: str, of: EtcdStore | None = None) -> tuple[Recorder, EtcdWatch]:
        sink = Recorder()
        running.append((sink, (of or store).watch(prefix, sink)))
        wait_until(lambda: sink.ready, 10, "the first snapshot")
        return running[-1]

    yield start
    for sink, made in running:
        made.stop()
        assert not sink.faults


def persist(store: EtcdStore, puts: dict[str, bytes], deletes: tuple[str, ...] = (), seconds: float = 30) -> None:
    """Writes again until it is surely written (writing the same again does no harm)."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            store.commit(puts, deletes, timeout=2)
            return
        except StoreUnavailable:
            assert time.monotonic() < deadline, "etcd does not come back"


def agrees(store: EtcdStore, sink: Recorder, prefix: str) -> bool:
    return sink.ready and sink.state == dict(store.list(prefix).items)


def test_snapshot_then_changes_in_order(store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    store.commit({"/w1/a": b"1", "/w1x": b"outside"})
    sink, _ = watch("/w1/")
    assert set(sink.state) == {"/w1/a"}
    store.commit({"/w1/b": b"2"})
    revision = store.commit({"/w1/b": b"3"}, ["/w1/a"])
    wait_until(lambda: sink.revision == revision, 5, "all changes seen")
    assert [(c.key, c.item and c.item.value) for c in sink.all] == [("/w1/b", b"2"), ("/w1/b", b"3"), ("/w1/a", None)]
    assert sink.told[0] == "snapshot" and "not_ready" not in sink.told


def test_a_lease_that_ends_is_seen_as_deletion(store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    sink, made = watch("/w2/")
    lease = store.lease(2, 0.5)
    store.commit({"/w2/a": b"1"}, lease=lease.id)
    wait_until(lambda: "/w2/a" in sink.state, 5, "the key seen")
    assert sink.state["/w2/a"].lease == lease.id
    lease._stop.set()  # as if this process had died: nobody renews
    wait_until(lambda: "/w2/a" not in sink.state, 8, "the expiry seen")
    assert sink.all[-1].item is None
    wait_until(lambda: store._clock.now() - made.fresh_at() < 1, 5, "and the watch is fresh")


def test_2000_keys_while_members_die(cluster: EtcdCluster, store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    sink, _ = watch("/w3/")
    done = threading.Event()

    def kill_them() -> None:
        index = 0
        while not done.is_set():
            cluster.kill(index)
            done.wait(0.3)
            cluster.start(index)
            index = (index + 1) % 3

    chaos = threading.Thread(target=kill_them)
    chaos.start()
    try:
        for i in range(2000):
            persist(store, {f"/w3/{i % 700}": str(i).encode()}, (f"/w3/{(i + 350) % 700}",) if i % 3 == 0 else ())
    finally:
        done.set()
        chaos.join()
    wait_until(lambda: agrees(store, sink, "/w3/"), 20, "cache and store agree")
    print(
        f"over {sink.told.count('not_ready')} losses: {sink.told.count('snapshot')} snapshots, {len(sink.all)} changes"
    )


def test_compaction_while_disconnected(cluster: EtcdCluster, store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    proxy = Rechunk(cluster.urls[0], piece=1 << 16)
    sink, _ = watch("/w4/", EtcdStore([proxy.url]))
    proxy.freeze()
    for i in range(20):
        revision = store.commit({"/w4/a": str(i).encode()})
    assert cluster.etcdctl("compaction", str(revision), "--physical").returncode == 0
    proxy.cut()
    proxy.thaw()
    wait_until(lambda: agrees(store, sink, "/w4/"), 20, "listed again after compaction")
    assert "not_ready" in sink.told
    proxy.close()


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_split_chunks(cluster: EtcdCluster, store: EtcdStore, watch, piece: int) -> None:  # type: ignore[no-untyped-def]
    proxy = Rechunk(cluster.urls[0], piece)
    prefix = f"/w5-{piece}/"
    sink, _ = watch(prefix, EtcdStore([proxy.url]))
    for i in range(100):
        store.commit({f"{prefix}ключ-{i}": f"значение {i} 漢字".encode() * 3, f"{prefix}same": str(i).encode()})
    wait_until(lambda: agrees(store, sink, prefix), 20, "all seen through the proxy")
    assert sink.told.count("snapshot") == 1 and len(sink.all) == 200
    proxy.close()


def test_a_stream_cut_in_the_middle(cluster: EtcdCluster, store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    proxy = Rechunk(cluster.urls[0], 3)
    sink, _ = watch("/w6/", EtcdStore([proxy.url]))
    for i in range(60):
        store.commit({f"/w6/{i}": b"x" * 500})
        if i % 20 == 10:
            wait_until(lambda: sink.ready, 10, "ready before the next cut")
            proxy.cut()
            wait_until(lambda: sink.told[-1] != "changes", 10, "the cut noticed")
    wait_until(lambda: agrees(store, sink, "/w6/"), 20, "all seen over the cuts")
    assert sink.told.count("not_ready") >= 3
    proxy.close()


def test_more_than_one_message_can_hold(store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    """etcd sends the changes of a revision in fragments when they exceed 1.5 MiB together with what else waits."""
    sink, made = watch("/w7/")
    made.stop()
    for i in range(10):
        store.commit({f"/w7/{i}": b"x" * 700_000}, timeout=10)
    again, _ = watch("/w7/")
    assert len(again.state) == 10
    for i in range(10):
        store.commit({f"/w7/{i}": b"y" * 700_000}, timeout=10)
    wait_until(lambda: agrees(store, again, "/w7/"), 20, "large changes seen")
    store.commit({}, [f"/w7/{i}" for i in range(10)])


def watched_member(cluster: EtcdCluster, store: EtcdStore, made: EtcdWatch) -> int:
    """The member that serves the stream."""
    wait_until(lambda: made.member is not None, 10, "a stream is open")
    return cluster.index_of(str(made.member))


def test_silence_of_the_watched_member(cluster: EtcdCluster, store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    sink, made = watch("/w8/")
    index = watched_member(cluster, store, made)
    began = time.monotonic()
    cluster.stop_signal(index)
    try:
        persist(EtcdStore([u for u in cluster.urls if u != cluster.urls[index]]), {"/w8/a": b"1"})
        wait_until(lambda: "not_ready" in sink.told, 6, "silence noticed")
        print(f"silence noticed after {time.monotonic() - began:.1f} s: {sink.reasons}")
        wait_until(lambda: "/w8/a" in sink.state and sink.ready, 10, "a snapshot from another member")
        assert watched_member(cluster, store, made) != index
    finally:
        cluster.cont(index)


def test_a_member_without_majority_is_not_fresh_though_it_goes_on_sending(
    cluster: EtcdCluster,
    store: EtcdStore,
    watch,  # type: ignore[no-untyped-def]
) -> None:
    sink, made = watch("/w9/")
    index = watched_member(cluster, store, made)
    others = [i for i in range(3) if i != index]
    for i in others:
        cluster.stop_signal(i)
    stopped = store._clock.now()
    try:
        wait_until(lambda: "not_ready" in sink.told, 15, "the loss of the majority noticed")
        print(f"noticed after {store._clock.now() - stopped:.1f} s: {sink.reasons}")
        assert made.fresh_at() <= stopped + 0.5  # a question sent before may still have been answered
    finally:
        for i in others:
            cluster.cont(i)
    wait_until(lambda: sink.ready, 15, "ready again")
    wait_until(lambda: store._clock.now() - made.fresh_at() < 2, 10, "fresh again")


def test_a_stream_that_is_behind_is_not_fresh(cluster: EtcdCluster, store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    """Frozen on the way, with connections open: freshness stops at once, whatever the kernel acknowledges."""
    proxy = Rechunk(cluster.urls[0], 1 << 16)
    behind = EtcdStore([proxy.url])
    sink, made = watch("/w10/", behind)
    proxy.freeze()
    frozen = store._clock.now()
    store.commit({"/w10/a": b"1"})
    wait_until(lambda: "not_ready" in sink.told, 8, "silence noticed")
    assert made.fresh_at() <= frozen + 0.1
    proxy.thaw()
    wait_until(lambda: agrees(store, sink, "/w10/"), 20, "caught up")
    proxy.close()


def test_fresh_within_seconds_when_quiet_and_when_busy_elsewhere(store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    _, made = watch("/w11/")
    worst = 0.0
    for i in range(150):
        store.commit({f"/elsewhere/{i}": b"x"})
        worst = max(worst, store._clock.now() - made.fresh_at())
        time.sleep(0.02)
    assert worst < 4
    print(f"oldest proof while busy elsewhere: {worst:.2f} s")


def test_all_members_down_then_back(cluster: EtcdCluster, store: EtcdStore, watch) -> None:  # type: ignore[no-untyped-def]
    store.commit({"/w12/a": b"1"})
    sink, _ = watch("/w12/")
    for index in range(3):
        cluster.kill(index)
    wait_until(lambda: not sink.ready, 5, "the loss noticed")
    assert "/w12/a" in sink.state and sink.told.count("not_ready") == 1  # said once, and nothing taken as deleted
    cluster.start_all()
    wait_until(lambda: agrees(store, sink, "/w12/"), 20, "ready again")


def test_stop_is_prompt_and_final(store: EtcdStore) -> None:
    sink = Recorder()
    made = store.watch("/w13/", sink)
    wait_until(lambda: sink.ready and made.member is not None, 10, "ready")
    began = time.monotonic()
    made.stop()
    made._thread.join(5)
    assert not made._thread.is_alive() and time.monotonic() - began < 1
    told = list(sink.told)
    store.commit({"/w13/a": b"1"})
    assert sink.told == told


def test_stop_from_within_the_sink(store: EtcdStore) -> None:
    class Once(Recorder):
        def snapshot(self, snapshot) -> None:  # type: ignore[no-untyped-def]
            super().snapshot(snapshot)
            made.stop()

    holder = threading.Event()
    sink = Once()
    made = store.watch("/w14/", sink)
    holder.set()
    made._thread.join(5)
    assert not made._thread.is_alive() and sink.told == ["snapshot"]


def test_a_store_that_was_never_there() -> None:
    sink = Recorder()
    store = EtcdStore(["http://127.0.0.1:9"])
    made = store.watch("/x/", sink)
    wait_until(lambda: sink.told == ["not_ready"], 5, "said that it does not answer")
    made.stop()
    store.close()
    assert "check that etcd runs" in sink.reasons[0]
