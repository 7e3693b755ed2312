"""Settings of etcd and transactions that cannot work are refused with the sentence that says what to change."""

import http.server
import threading
from pathlib import Path

import pytest

from vmha.adapters.etcd import EtcdStore
from vmha.adapters.etcd_gateway import (
    Compacted,
    Endpoint,
    TooLarge,
    _BadToken,
    _LeaderChanged,
    _NoLeader,
    _refusal,
    _Unanswered,
    _Untaken,
    access,
)
from vmha.errors import BadConfig, StoreRefused, StoreUnavailable

NOWHERE = ["http://127.0.0.1:9"]


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        ([], "at least one URL"),
        ("http://a:1", "a list of at least one URL"),
        (["10.0.0.1:2379"], "write it as http"),
        (["tcp://a:1"], "not a URL of http"),
        (["http://a:x"], "write it as http"),
        (["http://a:99999"], "write it as http"),
        (["http://:2379"], "not a URL"),
        (["http://a:1/v3"], "everything after the port"),
        (["http://u:secret@a:1"], "settings of their own"),
        (["http://a:1", "http://a:1/"], "stands twice"),
    ],
)
def test_endpoints_are_checked(endpoints: list[str], says: str) -> None:
    with pytest.raises(BadConfig, match=says) as e:
        access(endpoints)
    assert "secret" not in str(e.value)


def test_good_endpoints() -> None:
    got = access(["http://a", "https://[::1]:4001"])
    assert got.endpoints == (Endpoint("http", "a", 2379), Endpoint("https", "::1", 4001))
    assert str(got.endpoints[1]) == "https://[::1]:4001"


@pytest.mark.parametrize("account", [{"user": "u"}, {"password": "p"}, {"cert": "c"}, {"key": "k"}])
def test_half_an_account_or_certificate(account: dict[str, str]) -> None:
    with pytest.raises(BadConfig, match="or neither"):
        access(["https://a"], **account)


def test_a_password_is_not_shown() -> None:
    assert "pw" not in repr(access(["http://a"], "u", "pw"))


def test_certificates_need_https() -> None:
    with pytest.raises(BadConfig, match="write https"):
        access(["http://a"], ca="/etc/hosts")


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(BadConfig, match="CA certificates cannot be loaded"):
        access(["https://a"], ca=str(bad))
    with pytest.raises(BadConfig, match="No such file"):
        access(["https://a"], ca=str(tmp_path / "none.pem"))
    with pytest.raises(BadConfig, match="cannot be loaded"):
        access(["https://a"], cert=str(bad), key=str(bad))


def test_too_many_operations() -> None:
    with pytest.raises(StoreRefused, match="129 operations.*split it"):
        EtcdStore(NOWHERE).commit({f"/k{i}": b"" for i in range(129)})
    with pytest.raises(StoreRefused, match="129 operations.*split it"):
        EtcdStore(NOWHERE).commit({}, expect={f"/k{i}": 0 for i in range(129)})


def test_too_large() -> None:
    with pytest.raises(StoreRefused, match="largest: /big.*split it"):
        EtcdStore(NOWHERE).commit({"/big": b"x" * 1_600_000, "/small": b""})


def test_write_and_delete_of_one_key() -> None:
    with pytest.raises(StoreRefused, match="both writes and deletes /k"):
        EtcdStore(NOWHERE).commit({"/k": b""}, ["/k"])


def test_renewing_a_lease_too_seldom() -> None:
    with pytest.raises(BadConfig, match="renew at least twice as often"):
        EtcdStore(NOWHERE).lease(2.0, 2.0)


def body(code: int, text: str) -> str:
    return f'{{"error":"{text}","message":"{text}","code":{code}}}'


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (body(14, "etcdserver: no leader"), _NoLeader),
        (body(8, "etcdserver: too many requests"), _Untaken),
        (body(14, "etcdserver: leader changed"), _LeaderChanged),
        (body(14, "etcdserver: request timed out"), _Unanswered),
        (body(14, "transport is closing"), _Unanswered),
        (body(4, "context deadline exceeded"), _Unanswered),
        (body(16, "etcdserver: invalid auth token"), _BadToken),
        (body(3, "etcdserver: revision of auth store is old"), _BadToken),
        (body(3, "etcdserver: too many operations in txn request"), StoreRefused),
        (body(7, "etcdserver: permission denied"), StoreRefused),
        (body(11, "etcdserver: mvcc: required revision has been compacted"), Compacted),
        (body(8, "grpc: received message larger than max (5 vs. 4)"), TooLarge),
        ("<html>502 Bad Gateway</html>", _Unanswered),
        ("[]", _Unanswered),
    ],
)
def test_what_an_error_means(answer: str, kind: type[Exception]) -> None:
    assert type(_refusal("/kv/txn", answer)) is kind


class Electing(http.server.BaseHTTPRequestHandler):
    """A member that answers once that etcd has just elected, then well."""

    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked += 1
        first = self.asked == 1
        answer = body(14, "etcdserver: leader changed") if first else '{"header":{"revision":"7"},"succeeded":true}'
        self.send_response(503 if first else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_after_an_election_a_read_is_asked_again_and_a_write_is_not() -> None:
    Electing.asked = 0
    with http.server.HTTPServer(("127.0.0.1", 0), Electing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            store = EtcdStore([f"http://127.0.0.1:{server.server_port}"])
            assert store.get("/a", timeout=5.0) is None and Electing.asked == 2
            Electing.asked = 0
            with pytest.raises(StoreUnavailable, match="read before writing again"):
                store.commit({"/a": b"1"}, timeout=5.0)
            assert Electing.asked == 1
            store.close()
        finally:
            server.shutdown()
