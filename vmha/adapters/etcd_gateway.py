"""Questions to etcd's HTTP gateway: which member is asked, how long, as whom, and what an answer or its absence means.

Rules.
* A question that changes nothing goes round all members within its time-out.  A transaction goes to the next member only
  when it surely was not carried out (no connection, no leader, bad token); once its answer is lost the outcome is unknown.
* All members are tried at most once a call: with every member down the answer is StoreUnavailable at once.
* The member that answered last is asked first by every thread; one that failed is left for the next.

etcd3gw gives the client of one member; each thread has its own, so its connections are never shared.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3

from vmha.errors import BadConfig, StoreRefused, StoreUnavailable

# etcd3gw imports eventlet when it finds it (20 MiB, for a case that is never ours): keep it out while importing.
_guarded = "eventlet" not in sys.modules
if _guarded:
    sys.modules["eventlet"] = None  # type: ignore[assignment]
try:
    from etcd3gw.client import Etcd3Client
    from etcd3gw.exceptions import Etcd3Exception as Etcd3Exception  # for tooz.py as well
finally:
    if _guarded:
        del sys.modules["eventlet"]

API = "/v3/"
Timeout = tuple[float, float]  # seconds to connect, seconds without an answer
ELECTION_PAUSE = 0.1  # seconds between rounds while etcd elects its leader
SHORTEST_TRY = 0.1  # seconds one member gets at least, however little is left
# gRPC codes in the gateway's error bodies (google.golang.org/grpc/codes).
DEADLINE, UNAVAILABLE, INTERNAL, UNKNOWN, CANCELLED, UNAUTHENTICATED = 4, 14, 13, 2, 1, 16
# Texts of etcd's rpctypes/error.go that say the request was refused before it was proposed to the others.
NO_LEADER = "etcdserver: no leader"
NOT_PROPOSED = ("etcdserver: too many requests", "etcdserver: not capable")
LEADER_CHANGED = "etcdserver: leader changed"  # the request may have been proposed before
STALE_TOKEN = (
    "etcdserver: invalid auth token",
    "auth: revision of auth store is old",
    "etcdserver: revision of auth store is old",
)
NOT_ETCD = "is this an etcd client port, and is http or https right?"
NO_USER = "etcdserver: user name is empty"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member's client address."""

    protocol: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach etcd: members, account, TLS files.  Made by ``access()``, which checks it."""

    endpoints: tuple[Endpoint, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def access(
    endpoints: Sequence[str],
    user: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
) -> Access:
    """The settings, checked without asking etcd: BadConfig names the setting that is wrong and what to change."""
    if isinstance(endpoints, str) or not endpoints:
        raise BadConfig("etcd endpoints: a list of at least one URL is needed, such as http://10.0.0.1:2379")
    found = tuple(_endpoint(url) for url in endpoints)
    if len(set(found)) != len(found):
        raise BadConfig(f"etcd endpoints: the same address stands twice in {', '.join(endpoints)}: remove one")
    if (user is None) != (password is None):
        raise BadConfig("etcd account: give both user and password, or neither")
    _check_tls(found, ca, cert, key)
    return Access(found, user, password, ca, cert, key)


def _endpoint(url: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise BadConfig(f"etcd endpoint {url!r}: {e}: write it as http://10.0.0.1:2379") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadConfig(f"etcd endpoint {url!r} is not a URL of http or https: write it as http://10.0.0.1:2379")
    if parts.username or parts.password:
        raise BadConfig(f"etcd endpoint of {host}: give user and password as settings of their own, not in the URL")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise BadConfig(f"etcd endpoint {url!r}: leave out everything after the port")
    return Endpoint(parts.scheme, host, port or 2379)


def _check_tls(endpoints: Sequence[Endpoint], ca: str | None, cert: str | None, key: str | None) -> None:
    if (cert is None) != (key is None):
        raise BadConfig("etcd TLS: give both the client certificate and its key, or neither")
    if (ca or cert) and any(e.protocol == "http" for e in endpoints):
        raise BadConfig("etcd TLS: certificates are given, but an endpoint begins with http: write https")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as e:
        raise BadConfig(f"etcd TLS: CA certificates cannot be loaded from {ca}: {e}: correct the file") from None
    try:
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as e:
        raise BadConfig(f"etcd TLS: {cert} with key {key} cannot be loaded: {e}: correct the files") from None


class _Untaken(Exception):
    """A request was surely not carried out: another member may be asked, a transaction too."""


class _NoLeader(_Untaken):
    """The member knows no leader at the moment (etcd is electing one): ask again in a moment."""


class _Unanswered(Exception):
    """No answer to a request that was sent: whether it was carried out is unknown."""


class _LeaderChanged(_Unanswered):
    """etcd has elected a leader while the request was under way: whether it was carried out is unknown, the next will be answered."""


class _BadToken(Exception):
    """The member does not know our token: take a new one and ask again."""


class Compacted(StoreUnavailable):
    """The revision asked for is compacted away: list again."""


class TooLarge(StoreRefused):
    """The answer is larger than the gateway passes on: ask for less at once."""


class Gateway:
    """Asks etcd's members over HTTP; every error leaves as StoreUnavailable or a child of it.  For use by any thread."""

    def __init__(self, settings: Access) -> None:
        self.settings = settings
        # index of the member asked first: not the same for all processes of all hosts
        self._first = zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode()) % len(settings.endpoints)
        self._local = threading.local()
        self._auth_lock = threading.Lock()
        self._token: str | None = None

    # --- members ---------------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """Index of the member that is asked first."""
        return self._first

    def blame(self, index: int) -> None:
        """The member ``index`` failed: others are asked first from now on."""
        if self._first == index:
            self._first = (index + 1) % len(self.settings.endpoints)

    def endpoint(self, index: int) -> Endpoint:
        return self.settings.endpoints[index]

    def _client(self, index: int) -> Etcd3Client:
        clients: dict[int, Etcd3Client] = self._local.__dict__.setdefault("clients", {})
        if index not in clients:
            clients[index] = self._new_client(self.settings.endpoints[index])
        return clients[index]

    def _new_client(self, endpoint: Endpoint) -> Etcd3Client:
        session = requests.Session()
        session.trust_env = False  # neither proxies nor .netrc of whoever started us
        session.headers["Accept-Encoding"] = "identity"
        session.mount(endpoint.protocol + "://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=1))
        if self.settings.ca:
            session.verify = self.settings.ca
        if self.settings.cert and self.settings.key:
            session.cert = (self.settings.cert, self.settings.key)
        return Etcd3Client(endpoint.host, endpoint.port, endpoint.protocol, session=session, api_path=API)

    def disconnect(self) -> None:
        """Close the calling thread's connections."""
        for client in self._local.__dict__.pop("clients", {}).values():
            client.session.close()

    # --- requests --------------------------------------------------------------------------------------------------

    def ask(self, path: str, question: Mapping[str, Any], timeout: float, *, repeatable: bool) -> dict[str, Any]:
        """The gateway's answer to one POST, from whichever member gives one within ``timeout`` seconds.

        ``repeatable``: asking twice does no harm (a read, a renewal).  StoreUnavailable: nobody answered, or (not
        ``repeatable``) it may or may not have been carried out.  StoreRefused: etcd refused, nothing was done.
        """
        deadline = time.monotonic() + timeout
        while True:
            failures: list[str] = []
            answer, electing = self._ask_round(path, question, deadline, repeatable, failures)
            if answer is not None:
                return answer
            if not electing or deadline - time.monotonic() < ELECTION_PAUSE:
                raise StoreUnavailable(
                    f"no etcd member answered {path} ({'; '.join(failures)}): nothing is known; "
                    "check that etcd runs and is reachable"
                )
            time.sleep(ELECTION_PAUSE)

    def _ask_round(
        self, path: str, question: Mapping[str, Any], deadline: float, repeatable: bool, failures: list[str]
    ) -> tuple[dict[str, Any] | None, bool]:
        """Asks each member once: the first answer, and whether a member said that etcd is electing a leader."""
        electing = False
        for tries_left in range(len(self.settings.endpoints), 0, -1):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            index = self._first
            share = max(left / tries_left, SHORTEST_TRY)
            try:
                return self._ask_member(index, path, question, (share, share if repeatable else left)), electing
            except (_Untaken, _Unanswered) as e:
                failures.append(f"{self.endpoint(index)}: {e}")
                self.blame(index)
                electing = electing or isinstance(e, _NoLeader | _LeaderChanged)
                if isinstance(e, _Unanswered) and not repeatable:
                    raise StoreUnavailable(
                        f"etcd did not answer {path} ({failures[-1]}): it may or may not be written; read before writing again"
                    ) from None
        return None, electing

    def _ask_member(self, index: int, path: str, question: Mapping[str, Any], timeout: Timeout) -> dict[str, Any]:
        token = self._token or self._authenticate(index, timeout, None)
        try:
            return self._post(index, path, question, timeout, token)
        except _BadToken:
            token = self._authenticate(index, timeout, token)
        try:
            return self._post(index, path, question, timeout, token)
        except _BadToken as e:
            raise _Untaken(str(e)) from None

    def _post(
        self, index: int, path: str, question: Mapping[str, Any], timeout: Timeout, token: str | None
    ) -> dict[str, Any]:
        client = self._client(index)
        client.timeout = cast(float, timeout)  # handed to requests as it is
        try:
            answer = client.post(client.get_url(path), json=question, headers=_headers(token))
        except Etcd3Exception as e:
            if isinstance(e.__context__, requests.RequestException):
                raise _transport_error(e.__context__) from None
            raise _refusal(path, e.detail_text or str(e)) from None
        except (requests.RequestException, ValueError) as e:  # cut off in the middle, or not JSON
            raise _Unanswered(_short(e)) from None
        if not isinstance(answer, dict):
            raise _Unanswered(f"the answer is not a JSON object: {NOT_ETCD}")
        return answer

    def _authenticate(self, index: int, timeout: Timeout, stale: str | None) -> str | None:
        """A token of our account (None without one); a token newer than ``stale`` that another thread got is taken."""
        if self.settings.user is None:
            return None
        with self._auth_lock:
            if self._token is None or self._token == stale:
                question = {"name": self.settings.user, "password": self.settings.password}
                try:
                    answer = self._post(index, "/auth/authenticate", question, timeout, None)
                except _Unanswered as e:  # a login changes nothing: whatever it was for is still undone
                    raise _Untaken(str(e)) from None
                self._token = str(answer.get("token", ""))
            return self._token

    def open_stream(
        self, index: int, path: str, question: Mapping[str, Any], connect_timeout: float, silence: float
    ) -> requests.Response:
        """A streamed POST to one member; reading it raises when nothing comes for ``silence`` seconds.

        StoreUnavailable when the member does not answer or refuses.  The stream is cancelled by etcd when the member
        has had no leader for three election time-outs (metadata ``hasleader``, v3rpc/interceptor.go).
        """
        client = self._client(index)
        try:
            response = client.session.post(
                client.get_url(path),
                json=question,
                headers=_headers(self._token),
                stream=True,
                timeout=(connect_timeout, silence),
            )
            if response.status_code != 200:
                text = response.text[:300]
                response.close()
                raise StoreUnavailable(f"{self.endpoint(index)} refused {path}: {text}")
        except requests.RequestException as e:
            raise StoreUnavailable(f"{self.endpoint(index)} did not open {path}: {_short(e)}") from None
        return response

    def check(self, timeout: float) -> None:
        """Asks every member: BadConfig when one's TLS or our account is refused, or one is no etcd client port.

        StoreUnavailable when none answers.  For the start of a process: later the same faults are StoreUnavailable.
        """
        silent = [text for i in range(len(self.settings.endpoints)) if (text := self._check_member(i, timeout))]
        if len(silent) == len(self.settings.endpoints):
            raise StoreUnavailable(
                f"no etcd member answers ({'; '.join(silent)}): check that etcd runs there and whether it wants http or https"
            )

    def _check_member(self, index: int, timeout: float) -> str:
        """Why the member does not answer; empty when it does."""
        where = f"etcd member {self.endpoint(index)}"
        try:
            self._ask_member(index, "/kv/range", {"key": "AA==", "count_only": True}, (timeout, timeout))
        except StoreRefused as e:
            if "permission denied" not in str(e):  # our account may well be barred from this key: it exists
                raise BadConfig(f"{where}: {e}") from None
        except (_Untaken, _Unanswered) as e:
            if "SSL" in str(e):
                raise BadConfig(f"{where}: {e}: correct http/https, the CA or the client certificate") from None
            if NOT_ETCD in str(e):
                raise BadConfig(f"{where}: {e}") from None
            return f"{self.endpoint(index)}: {e}"
        return ""


def _headers(token: str | None) -> dict[str, str]:
    """A member without a leader refuses at once what carries ``hasleader`` (v3rpc/interceptor.go): a sure "not done"."""
    headers = {"Grpc-Metadata-hasleader": "true"}
    return headers if token is None else {**headers, "Authorization": token}


def _short(error: BaseException) -> str:
    """The innermost cause in a few words, without urllib3's wrapping."""
    cause: Any = error
    while True:
        inner = getattr(cause, "reason", None) or next(
            (a for a in getattr(cause, "args", ()) if isinstance(a, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            break
        cause = inner
    return f"{type(cause).__name__}: {str(cause).rpartition('): ')[2]}"[:200]


def _transport_error(error: requests.RequestException) -> Exception:
    """_Untaken when no connection came about, so that nothing can have been sent; else _Unanswered."""
    if isinstance(error, requests.exceptions.ConnectTimeout) or "CERTIFICATE_VERIFY_FAILED" in str(error):
        return _Untaken(_short(error))
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return _Untaken(_short(error))
    return _Unanswered(_short(error))


def _refusal(path: str, body: str) -> Exception:
    """The exception for an error that etcd or its gateway answered with."""
    try:
        fields = json.loads(body)
        code, text = (
            int(fields.get("code", fields.get("grpc_code", UNKNOWN))),
            str(fields.get("message") or fields.get("error")),
        )
    except (ValueError, AttributeError, TypeError):
        return _Unanswered(f"answered {body[:120].strip()!r}: {NOT_ETCD}")
    if text.startswith(STALE_TOKEN) or code == UNAUTHENTICATED:
        return _BadToken(text)
    if text.startswith(NO_LEADER):
        return _NoLeader(text)
    if text.startswith(LEADER_CHANGED):
        return _LeaderChanged(text)
    if text.startswith(NOT_PROPOSED):
        return _Untaken(text)
    if "required revision has been compacted" in text:
        return Compacted(f"etcd: {text}: list again")
    if "received message larger than max" in text or "trying to send message larger than max" in text:
        return TooLarge(f"etcd {path}: {text}")
    if code in (DEADLINE, UNAVAILABLE, INTERNAL, UNKNOWN, CANCELLED):
        return _Unanswered(text)
    return StoreRefused(f"etcd refused {path}: {text}{_advice(text)}")


def _advice(text: str) -> str:
    for part, advice in (
        (NO_USER, "set user and password of an etcd account"),
        ("authentication failed", "correct user or password of the etcd account"),
        ("permission denied", "grant the etcd account's role this key range"),
        ("database space exceeded", "compact and defragment etcd, then disarm its NOSPACE alarm"),
        ("too many operations", "split the transaction, or raise etcd's --max-txn-ops"),
        ("request is too large", "write less at once, or raise etcd's --max-request-bytes"),
        ("requested lease not found", "the lease has expired: take a new one and write again"),
        ("authentication is not enabled", "leave user and password out, or enable authentication in etcd"),
    ):
        if part in text:
            return f": {advice}"
    return ""
