"""How we get at Nova: the account, a token that is always fresh, the endpoint and its microversion.

One lasting thread (``Keeper``) takes the token before it is needed and renews it long before it ends, so that a call
never waits for Keystone.  A call that finds no valid token waits for that thread, within its own limit.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keystoneauth1 import adapter, exceptions
from keystoneauth1.access import AccessInfo
from keystoneauth1.identity import v3
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session

from vmha.errors import BadConfig, ComputeError, ComputeUnknown, VmhaError
from vmha.ports import Clock

LOG = logging.getLogger(__name__)

# From 2.95 Nova leaves evacuated servers stopped; 2.53 has services by uuid, 2.80 migrations with user_id.
HIGHEST = (2, 94)
LOWEST = (2, 80)
ARRIVE_STOPPED = (2, 95)
RENEW_BEFORE = 600  # seconds before its end at which a token is renewed
UNUSABLE_BEFORE = 20  # seconds before its end at which a token is no longer handed out
TEND_EVERY = 15.0
RETRY_EVERY = 0.5
KEYSTONE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a request to Nova needs.  The token stays out of the repr.

    ``arrive_stopped`` is the microversion for evacuations that are to arrive stopped; where Nova has none (before 2023.1) the usual
    one: then they arrive running, since to recover comes before order.
    """

    access: AccessInfo
    endpoint: str
    microversion: str
    arrive_stopped: str

    def __repr__(self) -> str:
        return f"Ticket(endpoint={self.endpoint!r}, microversion={self.microversion!r})"

    @property
    def token(self) -> str:
        return str(self.access.auth_token)

    def usable(self) -> bool:
        return not self.access.will_expire_soon(UNUSABLE_BEFORE)


def password_plugin(auth: Mapping[str, str]) -> BaseIdentityPlugin:
    """A Keystone v3 plugin from the keys of ``auth`` (auth_url, username, password, project_name, ...); BadConfig."""
    if not auth.get("auth_url"):
        raise BadConfig("the Nova account has no auth_url: set it to Keystone's address, as in http://keystone:5000/v3")
    kind: Callable[..., BaseIdentityPlugin] = (
        v3.ApplicationCredential if "application_credential_secret" in auth else v3.Password
    )
    try:
        return kind(**auth)
    except TypeError as error:
        raise BadConfig(f"the Nova account is incomplete or has an unknown setting: {error}") from None


def session_of_cloud(cloud: str, region: str | None) -> Session:
    """The session of a cloud of clouds.yaml; BadConfig when there is none of that name."""
    # imported here: it costs half a second and 20 MiB that a service with its own account needs not pay
    import openstack.config
    import openstack.exceptions

    try:
        found = openstack.config.OpenStackConfig().get_one(cloud=cloud, region_name=region)
        return found.get_session()
    except (openstack.exceptions.ConfigException, exceptions.ClientException) as error:
        raise BadConfig(f"cloud {cloud!r} cannot be used: {error}; correct clouds.yaml or the cloud's name") from None


def choose_microversion(low: tuple[int, ...], high: tuple[int, ...]) -> str:
    """The highest usable microversion; BadConfig when Nova is too old, or so new that it dropped what we use."""
    if high < LOWEST:
        raise BadConfig(
            f"Nova offers at most {'.'.join(map(str, high))}, vmha needs 2.80 or later (Train): upgrade Nova"
        )
    if low > HIGHEST:
        raise BadConfig(f"Nova no longer offers microversion 2.94 (its lowest is {'.'.join(map(str, low))})")
    return ".".join(map(str, min(high, HIGHEST)))


def translated(error: exceptions.ClientException) -> VmhaError:
    """Our error for one of keystoneauth's."""
    if isinstance(error, exceptions.Unauthorized):
        return ComputeError(f"Keystone refused our account: {error}; correct user, password or project", 401)
    if isinstance(error, exceptions.HttpError) and error.http_status < 500:
        return ComputeError(f"Keystone or Nova refused: {error}", error.http_status)
    if isinstance(error, (exceptions.CatalogException, exceptions.AuthorizationFailure)):
        return ComputeError(f"no compute endpoint: {error}; correct region or interface")
    return ComputeUnknown(f"no answer: {error}")


class Access:
    """Tickets for Nova, renewed by ``refresh`` (one thread), read by any thread."""

    def __init__(
        self, session: Session, region: str | None, interface: str, clock: Clock, wake: threading.Event
    ) -> None:
        self.session = session
        self._clock, self._wake = clock, wake
        self._nova = adapter.Adapter(
            session,
            service_type="compute",
            interface=interface,
            region_name=region,
            min_version="2.1",
            max_version="2.latest",
            connect_retries=0,
        )
        self._where = f"region {region or 'default'}, interface {interface}"
        self._changed = threading.Condition()
        self._ticket: Ticket | None = None
        self._refused = ""
        self.error: VmhaError | None = None

    def ticket(self, until: float) -> Ticket | None:
        """A usable ticket, waiting for one until clock time ``until``; None: see ``error``.

        A refusal ends the waiting, it would not get better.
        """
        with self._changed:
            if not self._is_good():
                self._wake.set()
            while not self._is_good():
                left = until - self._clock.now()
                if left <= 0 or not self._changed.wait(left) or isinstance(self.error, (ComputeError, BadConfig)):
                    return None
            return self._ticket

    def _is_good(self) -> bool:
        return self._ticket is not None and self._ticket.usable()

    def refuse(self, token: str) -> None:
        """Nova said 401 to this token: take another."""
        with self._changed:
            if self._ticket and self._ticket.token == token:
                self._ticket = None
                self._wake.set()

    def due(self) -> bool:
        """Whether ``refresh`` has something to do."""
        with self._changed:
            return self._ticket is None or self._ticket.access.will_expire_soon(RENEW_BEFORE)

    def refresh(self) -> None:
        """Take a new token and look the endpoint up; an old ticket stays until a new one is there."""
        try:
            ticket = self._take()
        except exceptions.ClientException as error:
            self._failed(translated(error))
        except VmhaError as error:
            self._failed(error)
        else:
            with self._changed:
                self._ticket, self.error = ticket, None
                self._changed.notify_all()

    def _take(self) -> Ticket:
        plugin = self.session.auth
        if not isinstance(plugin, BaseIdentityPlugin):
            raise BadConfig(
                "the account's auth_type has no Keystone token: use a password or an application credential"
            )
        access = plugin.get_auth_ref(self.session)
        plugin.auth_ref = access
        found = self._nova.get_endpoint_data()
        if found is None or not found.url:
            raise ComputeError(f"the catalog has no compute endpoint for {self._where}: correct region or interface")
        if not found.min_microversion or not found.max_microversion:
            raise ComputeUnknown(f"Nova's version document at {found.url} could not be read")
        version = choose_microversion(_numbers(found.min_microversion), _numbers(found.max_microversion))
        able = _numbers(found.max_microversion) >= ARRIVE_STOPPED
        stopped = ".".join(map(str, ARRIVE_STOPPED)) if able else version
        return Ticket(access, str(found.url).rstrip("/"), version, stopped)

    def _failed(self, error: VmhaError) -> None:
        if _REQUEST.sub("", str(error)) != _REQUEST.sub("", str(self.error)):
            LOG.warning("no access to Nova: %s", error)
        with self._changed:
            self.error = error
            self._changed.notify_all()


_REQUEST = re.compile(r"req-[0-9a-f-]+")


def _numbers(version: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in version)


class Keeper(threading.Thread):
    """The lasting thread that keeps the ticket fresh and the worker pool full."""

    def __init__(self, access: Access, tend_pool: Callable[[], None], wake: threading.Event) -> None:
        super().__init__(name="nova-keeper", daemon=True)
        self._access, self._tend_pool = access, tend_pool
        self._wake = wake
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()
        self._wake.set()
        self.join(KEYSTONE_TIMEOUT + 1)

    def run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            try:
                self._tend_pool()
                if self._access.due():
                    self._access.refresh()
            except Exception:
                LOG.exception("the Nova keeper failed, and goes on")
            self._rest()

    def _rest(self) -> None:
        """Until something is due.  After a failure not at once, however many callers wait: Keystone is not hammered."""
        if self._access.due() and self._access.error:
            self._ended.wait(RETRY_EVERY)
        else:
            self._wake.wait(TEND_EVERY)
