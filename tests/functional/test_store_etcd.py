"""EtcdStore against a real three-member etcd: transactions, errors, members that die, accounts, TLS."""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.etcd_cluster import EtcdCluster, free_ports, wait_until
from vmha.adapters.etcd import EtcdStore
from vmha.errors import BadConfig, LeadershipLost, StoreConflict, StoreRefused, StoreUnavailable
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
    cluster.start_all()


def test_write_read_delete(store: EtcdStore) -> None:
    revision = store.commit({"/t/a": b"\x00\xff", "/t/ü": b""})
    first = store.get("/t/a")
    assert first is not None and (first.value, first.created, first.modified, first.lease) == (
        b"\x00\xff",
        revision,
        revision,
        0,
    )
    listing = store.list("/t/")
    assert set(listing.items) == {"/t/a", "/t/ü"} and listing.revision >= revision
    store.commit({}, ["/t/a"])
    assert store.get("/t/a") is None


def test_expect_refuses_and_writes_nothing(store: EtcdStore) -> None:
    revision = store.commit({"/e/a": b"1"}, expect={"/e/a": 0})
    with pytest.raises(StoreConflict, match=f"/e/a is at revision {revision}, expected absent"):
        store.commit({"/e/a": b"2", "/e/b": b""}, expect={"/e/a": 0})
    with pytest.raises(StoreConflict, match="/e/b is absent"):
        store.commit({"/e/a": b"2"}, expect={"/e/a": revision, "/e/b": 5})
    assert store.get("/e/b") is None
    store.commit({"/e/a": b"2"}, expect={"/e/a": revision})


def test_epoch_is_the_create_revision_of_the_leader_key(store: EtcdStore) -> None:
    epoch = store.commit({LEADER: b"one"})
    store.commit({LEADER: b"rewritten"})  # the create revision stays
    store.commit({"/p/a": b"1"}, epoch=epoch)
    with pytest.raises(LeadershipLost, match=f"epoch {epoch} leads"):
        store.commit({"/p/a": b"2"}, epoch=epoch - 1)
    with pytest.raises(StoreConflict, match="/p/a"):
        store.commit({"/p/a": b"2"}, epoch=epoch, expect={"/p/a": 0})
    with pytest.raises(LeadershipLost):  # both differ: leadership is the graver
        store.commit({"/p/a": b"2"}, epoch=epoch - 1, expect={"/p/a": 0})
    store.commit({}, [LEADER])
    with pytest.raises(LeadershipLost, match="nobody leads"):
        store.commit({"/p/a": b"2"}, epoch=epoch)
    assert getattr(store.get("/p/a"), "value", None) == b"1"


def test_a_list_of_many_pages_is_whole(store: EtcdStore) -> None:
    for start in range(0, 6000, 125):
        store.commit({f"/many/{i:05}": b"v" for i in range(start, start + 125)})
    assert len(store.list("/many/").items) == 6000


def test_large_values_are_listed(store: EtcdStore) -> None:
    for i in range(8):
        store.commit({f"/large/{i}": os.urandom(1_000_000)}, timeout=10)
    assert len(store.list("/large/", timeout=20).items) == 8
    store.commit({}, [f"/large/{i}" for i in range(8)])


def test_etcd_itself_refuses_what_our_limits_let_pass(cluster: EtcdCluster) -> None:
    with EtcdCluster(size=1, flags=["--max-txn-ops=10", "--max-request-bytes=10000"]) as small:
        store = EtcdStore(small.urls)
        with pytest.raises(StoreRefused, match="split the transaction"):
            store.commit({f"/k{i}": b"" for i in range(11)})
        with pytest.raises(StoreRefused, match="write less at once"):
            store.commit({"/k": b"x" * 20000})
        assert store.list("/k").items == {}


def test_a_lease_that_is_gone_is_refused(store: EtcdStore) -> None:
    with pytest.raises(StoreRefused, match="take a new one"):
        store.commit({"/l/a": b""}, lease=12345)


def test_members_killed_one_after_another_never_stop_reads(cluster: EtcdCluster, store: EtcdStore) -> None:
    store.commit({"/kill/a": b"1"})
    for index in range(3):
        cluster.kill(index)
        assert (
            getattr(store.get("/kill/a", timeout=20.0), "value", None) == b"1"
        )  # an election under load takes seconds
        cluster.start(index)


def test_a_member_that_only_hangs_is_left_for_the_next(cluster: EtcdCluster, store: EtcdStore) -> None:
    store.commit({"/hang/a": b"1"})
    followers = [i for i in range(3) if i != cluster.leader()]
    for index in followers:
        cluster.stop_signal(index)
        try:
            started = time.monotonic()
            for _ in range(3):
                assert store.get("/hang/a", timeout=3.0) is not None
            assert time.monotonic() - started < 5
        finally:
            cluster.cont(index)


def test_an_unanswered_transaction_is_unknown_and_is_not_repeated(cluster: EtcdCluster) -> None:
    store = EtcdStore([cluster.urls[0]])
    store.commit({"/unknown/a": b"1"})
    cluster.stop_signal(0)
    try:
        with pytest.raises(StoreUnavailable, match="may or may not be written") as e:
            store.commit({"/unknown/a": b"2"}, timeout=0.5)
        assert not isinstance(e.value, StoreRefused)
    finally:
        cluster.cont(0)


def test_all_members_down_is_told_at_once_and_nothing_reads_as_absent(cluster: EtcdCluster, store: EtcdStore) -> None:
    store.commit({"/down/a": b"1"})
    for index in range(3):
        cluster.kill(index)
    started = time.monotonic()
    for question in (
        lambda: store.get("/down/a"),
        lambda: store.get("/down/never"),
        lambda: store.list("/down/"),
        lambda: store.commit({"/down/a": b"2"}),
        lambda: store.lease(2, 0.5),
        store.check,
    ):
        with pytest.raises(StoreUnavailable):
            question()
    assert time.monotonic() - started < 3
    cluster.start_all()
    assert getattr(store.get("/down/a", 10), "value", None) == b"1"


def test_no_quorum_is_unavailable_not_stale(cluster: EtcdCluster, store: EtcdStore) -> None:
    store.commit({"/quorum/a": b"1"})
    for index in (0, 1):
        cluster.stop_signal(index)
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            EtcdStore([cluster.urls[2]]).get("/quorum/a", timeout=1.0)
        with pytest.raises(StoreUnavailable):
            store.commit({"/quorum/a": b"2"}, timeout=1.0)
        assert time.monotonic() - started < 5
    finally:
        for index in (0, 1):
            cluster.cont(index)


def test_a_commit_outlives_the_election_of_etcds_leader(cluster: EtcdCluster, store: EtcdStore) -> None:
    """Each commit after the leader's death either succeeds or is unknown; soon they succeed again."""
    cluster.kill(cluster.leader())
    wait_until(lambda: _commits(store), 15, "commits succeed with a new etcd leader")


def _commits(store: EtcdStore) -> bool:
    try:
        store.commit({"/elect/a": b"1"}, timeout=1.0)
    except StoreUnavailable:
        return False
    return True


def test_many_threads_at_once(store: EtcdStore) -> None:
    failures: list[Exception] = []

    def work(name: int) -> None:
        try:
            for i in range(30):
                store.commit({f"/threads/{name}/{i}": b"x"})
                assert store.get(f"/threads/{name}/{i}") is not None
        except (StoreUnavailable, AssertionError) as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures and len(store.list("/threads/").items) == 180


def test_a_commit_takes_milliseconds(store: EtcdStore) -> None:
    taken = []
    for i in range(200):
        began = time.perf_counter()
        store.commit({f"/speed/{i % 10}": b"x" * 300})
        taken.append(time.perf_counter() - began)
    median = statistics.median(taken)
    print(f"commit: median {median * 1000:.2f} ms")
    assert median < 0.05


# --- accounts and TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdCluster]:
    """A cluster with accounts whose tokens live for one second."""
    with EtcdCluster(flags=["--auth-token-ttl=1"]) as made:
        for command in (
            ("user", "add", "root:rootpw"),
            ("user", "grant-role", "root", "root"),
            ("user", "add", "agent:agentpw"),
            ("role", "add", "agents"),
            ("role", "grant-permission", "agents", "--prefix=true", "readwrite", "/own/"),
            ("user", "grant-role", "agent", "agents"),
            ("auth", "enable"),
        ):
            result = made.etcdctl(*command, index=0)
            assert result.returncode == 0, result.stderr
        yield made


def test_a_token_is_renewed_when_it_expires(guarded: EtcdCluster) -> None:
    store = EtcdStore(guarded.urls, user="root", password="rootpw")
    store.check()
    revision = store.commit({"/own/a": b"1"})
    first = store._gateway._token
    _token_expires(guarded, first)
    assert store.commit({"/own/a": b"2"}, expect={"/own/a": revision}) > revision
    assert store._gateway._token != first


def _token_expires(guarded: EtcdCluster, token: str | None) -> None:
    """Asks with another client, so that our token is not used (use prolongs it)."""
    probe = EtcdStore(guarded.urls, user="root", password="rootpw")
    began = time.monotonic()
    wait_until(
        lambda: time.monotonic() - began > 3.5 and probe.get("/own/a") is not None, 10, "the token's time is over"
    )


def test_a_restarted_member_has_forgotten_our_token(guarded: EtcdCluster) -> None:
    store = EtcdStore(guarded.urls, user="root", password="rootpw")
    store.commit({"/own/b": b"1"})
    for index in range(3):
        guarded.kill(index)
        guarded.start(index)
    assert store.get("/own/b", 5) is not None


def test_a_role_limits_to_its_prefix(guarded: EtcdCluster) -> None:
    store = EtcdStore(guarded.urls, user="agent", password="agentpw")
    store.check()
    store.commit({"/own/c": b"1"})
    with pytest.raises(StoreRefused, match="permission denied.*role"):
        store.commit({"/other/c": b"1"})
    with pytest.raises(StoreRefused, match="permission denied"):
        store.get("/other/c")


@pytest.mark.parametrize(
    ("account", "says"),
    [({"user": "root", "password": "wrong"}, "correct user or password"), ({}, "set user and password")],
)
def test_a_refused_account_is_bad_config_at_start_and_unavailable_later(
    guarded: EtcdCluster, account: dict[str, str], says: str
) -> None:
    store = EtcdStore(guarded.urls, **account)
    with pytest.raises(BadConfig, match=says):
        store.check()
    with pytest.raises(StoreUnavailable, match=says):
        store.get("/own/a")


def test_an_account_where_none_is_asked_for(cluster: EtcdCluster) -> None:
    with pytest.raises(BadConfig, match="leave user and password out"):
        EtcdStore(cluster.urls, user="root", password="x").check()


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def _certificates(directory: Path, name: str) -> tuple[str, str, str]:
    """A CA, and a certificate for 127.0.0.1 that serves members and clients."""
    subject = [
        "-subj",
        f"/CN={name}",
        "-days",
        "2",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]
    _openssl(directory, "req", "-x509", *subject, "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem")
    _openssl(directory, "req", *subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (directory / "ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    _openssl(
        directory, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", f"{name}.pem",
    )  # fmt: skip
    return tuple(str(directory / f) for f in (f"{name}-ca.pem", f"{name}.pem", f"{name}.key"))  # type: ignore[return-value]


def test_tls(tmp_path: Path) -> None:
    ca, cert, key = _certificates(tmp_path, "good")
    other_ca, _, _ = _certificates(tmp_path, "other")
    with EtcdCluster(size=1, tls=(ca, cert, key)) as secured:
        store = EtcdStore(secured.urls, ca=ca, cert=cert, key=key)
        store.check()
        store.commit({"/tls/a": b"1"})
        assert store.get("/tls/a") is not None
        for wrong in (
            EtcdStore(secured.urls, ca=other_ca, cert=cert, key=key),  # we do not trust it
            EtcdStore(secured.urls, ca=ca),  # it does not trust us
        ):
            with pytest.raises(BadConfig, match="http"):
                wrong.check()
            with pytest.raises(StoreUnavailable):
                wrong.get("/tls/a")
        with pytest.raises(StoreUnavailable, match="http or https"):  # etcd just hangs up
            EtcdStore([u.replace("https", "http") for u in secured.urls]).check()


def test_https_to_a_plain_port(cluster: EtcdCluster) -> None:
    with pytest.raises(BadConfig, match="correct http/https"):
        EtcdStore([u.replace("http", "https") for u in cluster.urls]).check()


def test_nobody_listens() -> None:
    with pytest.raises(StoreUnavailable, match="check that etcd runs there"):
        EtcdStore([f"http://127.0.0.1:{free_ports(1)[0]}"]).check()
