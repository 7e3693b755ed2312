"""Nova, as the ``Compute`` port needs it: complete reads, and calls that are made at most once.

Reads: a list is complete or an error.  Nova leaves the servers and migrations of a cell that is down out of filtered
lists without a word ([api]list_records_by_skipping_down_cells), so an empty list counts only once the host's own
service record, which lives in the same cell, could be read.

Calls: see ``nova_calls`` and ``nova_worker``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from keystoneauth1 import exceptions
from keystoneauth1.session import Session

from vmha.adapters import nova_views
from vmha.adapters.nova_access import (
    KEYSTONE_TIMEOUT,
    Access,
    Keeper,
    Ticket,
    password_plugin,
    session_of_cloud,
    translated,
)
from vmha.adapters.nova_calls import Pool, judge, message_of
from vmha.core.model import Call, CallKind, Instance, Migration, Outcome, Service
from vmha.errors import BadConfig, BadRecord, ComputeError, ComputeUnknown
from vmha.ports import Clock

REASON_LIMIT = 255  # Nova's limit of disabled_reason
PAGE = 1000  # Nova's own default of [api]max_limit; a lower one there is followed

T = TypeVar("T")
Request = tuple[str, str, dict[str, Any]]


class _Boottime:
    """The clock when none is given."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()


def request_of(call: Call) -> Request:
    """Method, path and body of a journalled call; BadRecord when the record does not say enough."""
    match call.kind:
        case CallKind.FORCE_DOWN:
            return _service_request(call, {"forced_down": True})
        case CallKind.UNFORCE:
            return _service_request(call, {"forced_down": False})
        case CallKind.DISABLE:
            return _service_request(call, {"status": "disabled", "disabled_reason": call.reason[:REASON_LIMIT]})
        case CallKind.ENABLE:
            return _service_request(call, {"status": "enabled"})
        case CallKind.EVACUATE:
            return _action_request(call, {"evacuate": {"host": call.target} if call.target else {}})
        case CallKind.START:
            return _action_request(call, {"os-start": None})
        case CallKind.RESET_STATE:
            return _action_request(call, {"os-resetState": {"state": call.state}})
        case _:
            raise BadRecord(f"call {call.id} ({call.kind}) is not one for Nova")


def _service_request(call: Call, body: dict[str, Any]) -> Request:
    if not call.service:
        raise BadRecord(f"call {call.id} ({call.kind}, host {call.host}) names no service of Nova")
    return "PUT", f"/os-services/{quote(call.service, safe='')}", body


def _action_request(call: Call, body: dict[str, Any]) -> Request:
    if not call.instance:
        raise BadRecord(f"call {call.id} ({call.kind}, host {call.host}) names no instance")
    return "POST", f"/servers/{quote(call.instance, safe='')}/action", body


class Nova:
    """``Compute`` over Nova's API.

    Either ``auth`` (Keystone v3: auth_url, username, password, project_name, user_domain_name, project_domain_name,
    or an application credential) or ``cloud``, a name in clouds.yaml.  The account needs Nova's admin role.
    ``interface`` and ``region`` choose the endpoint, ``ca`` is a file of authorities, ``workers`` the number of calls
    that can be under way at once.  Raises BadConfig for an account that cannot be used; does not wait for Nova
    (``check`` does).  HTTP proxies of the environment are not used for calls.
    """

    def __init__(
        self,
        auth: Mapping[str, str] | None = None,
        *,
        cloud: str | None = None,
        region: str | None = None,
        interface: str = "public",
        workers: int = 4,
        clock: Clock | None = None,
        ca: str | None = None,
        insecure: bool = False,
    ) -> None:
        if (auth is None) == (cloud is None):
            raise BadConfig("the Nova account is not set: give either the Keystone account or the name of a cloud")
        if workers < 1:
            raise BadConfig("the number of Nova workers must be 1 or more")
        self._clock: Clock = clock or _Boottime()
        self._session = _session(auth, cloud, region, ca, insecure)
        self._wake = threading.Event()
        self._access = Access(self._session, region, interface, self._clock, self._wake)
        self._pool = Pool(workers, self._tls, self._wake, self._clock)
        self._keeper = Keeper(self._access, self._pool.tend, self._wake)
        self._keeper.start()

    # --- state ---

    def check(self, timeout: float) -> str:
        """The microversion that is used.  BadConfig: Nova is too old; ComputeError: account or endpoint refused;
        ComputeUnknown: no answer in time."""
        return self._ticket(timeout).microversion

    def user_id(self, timeout: float = 5.0) -> str:
        """Our own user: migrations made by us carry it.  Errors as ``check``."""
        return str(self._ticket(timeout).access.user_id)

    def worker_pids(self) -> tuple[int, ...]:
        return self._pool.pids()

    def close(self) -> None:
        """Stop the keeper and end the workers."""
        self._keeper.stop()
        self._pool.close()

    # --- reads ---

    def service(self, host: str, timeout: float) -> Service | None:
        until = self._clock.now() + timeout
        query = urlencode({"host": host, "binary": "nova-compute"})
        found = self._get(f"/os-services?{query}", until).get("services")
        if not isinstance(found, list):
            raise ComputeUnknown(f"Nova's answer about the service of {host} has no list of services")
        if len(found) > 1:
            raise ComputeError(f"Nova has {len(found)} nova-compute services named {host}: delete the stale ones")
        return _parsed(nova_views.service, found[0]) if found else None

    def instances(self, host: str, timeout: float) -> tuple[Instance, ...]:
        until = self._clock.now() + timeout
        query = {"all_tenants": "1", "host": host}
        found = [
            _parsed(nova_views.instance, raw) for raw in self._pages("/servers/detail", "servers", query, "id", until)
        ]
        strays = [one.uuid for one in found if one.host != host]
        if strays:
            raise ComputeError(
                f"Nova did not filter its servers by host {host} (as {strays[0]}): the account needs the admin role",
                403,
            )
        return tuple(found) if found else self._surely_empty(host, until)

    def instance(self, uuid: str, timeout: float) -> Instance | None:
        until = self._clock.now() + timeout
        try:
            raw = self._get(f"/servers/{quote(uuid, safe='')}", until).get("server")
        except ComputeError as error:
            if error.status == 404:
                return None
            raise
        return _parsed(nova_views.instance, raw)

    def migrations(self, host: str, timeout: float) -> tuple[Migration, ...]:
        until = self._clock.now() + timeout
        query = {"host": host, "migration_type": "evacuation"}
        raws = self._pages("/os-migrations", "migrations", query, "uuid", until)
        found = tuple(_parsed(nova_views.migration, raw) for raw in raws)
        if any(not one.source for one in found):
            raise ComputeError("Nova hides the hosts of migrations from us: the account needs the admin role", 403)
        return found or self._surely_empty(host, until)

    def _surely_empty(self, host: str, until: float) -> tuple[()]:
        """Nothing, and the host's cell answers (ComputeUnknown otherwise)."""
        self.service(host, max(0.0, until - self._clock.now()))
        return ()

    def _pages(self, path: str, name: str, query: Mapping[str, str], marker: str, until: float) -> Iterator[Any]:
        """All items of a paged list; an error rather than a part of them."""
        following: dict[str, str] = {}
        while True:
            answer = self._get(f"{path}?{urlencode({**query, 'limit': str(PAGE), **following})}", until)
            items = answer.get(name)
            if not isinstance(items, list):
                raise ComputeUnknown(f"Nova's answer to {path} has no list of {name}")
            yield from items
            links = answer.get(f"{name}_links") or []
            if not any(link.get("rel") == "next" for link in links):
                return
            last = items[-1].get(marker) if items else None
            if not last or following.get("marker") == last:
                raise ComputeUnknown(f"Nova's pages of {name} do not end")
            following = {"marker": str(last)}

    def _get(self, path: str, until: float) -> dict[str, Any]:
        """One GET: the JSON object of a 2xx answer."""
        ticket = self._ticket(until - self._clock.now())
        left = until - self._clock.now()
        if left <= 0:
            raise ComputeUnknown(f"no time left to ask Nova for {path}")
        try:
            answer = self._session.get(
                ticket.endpoint + path,
                headers={"Accept": "application/json"},
                microversion=ticket.microversion,
                microversion_service_type="compute",
                timeout=left,
                raise_exc=False,
                redirect=False,
                connect_retries=0,
            )
        except exceptions.ClientException as error:
            raise translated(error) from None
        return _object_of(path, answer.status_code, answer.text)

    # --- calls ---

    def call(self, call: Call, sent: float, start_limit: float, call_limit: float) -> tuple[Outcome, str]:
        try:
            method, path, body = request_of(call)
        except BadRecord as error:
            return Outcome.NOT_STARTED, str(error)
        deadline = sent + start_limit
        ticket = self._access.ticket(deadline)
        if ticket is None:
            return (
                Outcome.NOT_STARTED,
                f"never sent to Nova: no valid token in time: {self._access.error or 'Keystone is slow'}",
            )
        worker = self._pool.take(deadline)
        if worker is None:
            return Outcome.NOT_STARTED, "never sent to Nova: all workers were busy until its time to start had passed"
        job = {
            "deadline": deadline,
            "answer_limit": call_limit - min(1.0, call_limit / 10),
            "method": method,
            "url": ticket.endpoint + path,
            "headers": _call_headers(ticket, ticket.arrive_stopped if call.arrive_stopped else ticket.microversion),
            "body": body,
        }
        try:
            facts = worker.run(job, call_limit, self._clock)
        finally:
            self._pool.give_back(worker)
        if facts.status == 401:
            self._access.refuse(ticket.token)
        return judge(facts)

    # --- parts ---

    def _ticket(self, timeout: float) -> Ticket:
        ticket = self._access.ticket(self._clock.now() + timeout)
        if ticket is None:
            raise self._access.error or ComputeUnknown(f"no token from Keystone within {timeout:.1f} s")
        return ticket

    def _tls(self) -> dict[str, Any]:
        """How workers check the endpoint's certificate: as the session does."""
        verify, cert = self._session.verify, self._session.cert
        pair = cert if isinstance(cert, tuple) else (cert, None)
        ca = verify if isinstance(verify, str) else None
        return {"ca": ca, "insecure": verify is False, "cert": pair[0], "key": pair[1]}


def _session(
    auth: Mapping[str, str] | None, cloud: str | None, region: str | None, ca: str | None, insecure: bool
) -> Session:
    verify: bool | str = False if insecure else (ca or True)
    if cloud is not None:
        session = session_of_cloud(cloud, region)
        if insecure or ca:
            session.verify = verify
        session.timeout = session.timeout or KEYSTONE_TIMEOUT
        return session
    assert auth is not None
    return Session(auth=password_plugin(auth), verify=verify, timeout=KEYSTONE_TIMEOUT)


def _call_headers(ticket: Ticket, version: str) -> dict[str, str]:
    return {
        "X-Auth-Token": ticket.token,
        "OpenStack-API-Version": f"compute {version}",
        "X-OpenStack-Nova-API-Version": version,
        "User-Agent": "vmha",
    }


def _object_of(path: str, status: int, text: str) -> dict[str, Any]:
    """The JSON object of an answer; ComputeError for a refusal by Nova itself, ComputeUnknown for anything else."""
    if 400 <= status < 500 and (status != 404 or "itemNotFound" in text):
        raise ComputeError(f"Nova refused {path} (HTTP {status}): {message_of(text)}", status)
    if not 200 <= status < 300:
        raise ComputeUnknown(f"HTTP {status} for {path}: {message_of(text)}")
    try:
        value = json.loads(text)
    except ValueError:
        raise ComputeUnknown(f"Nova's answer to {path} is not JSON") from None
    if not isinstance(value, dict):
        raise ComputeUnknown(f"Nova's answer to {path} is not a JSON object")
    return value


def _parsed(parse: Callable[[Any], T], raw: Any) -> T:
    try:
        return parse(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ComputeUnknown(f"Nova's answer lacks a field or has one of another type: {error!r}") from None
