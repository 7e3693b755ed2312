"""Where etcd is and how to log in to it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from oslo_config import cfg

from vmha.errors import BadConfig

GROUP = "etcd"
OPTS = [
    cfg.ListOpt(
        "endpoints",
        default=["http://127.0.0.1:2379"],
        help="URLs of all etcd members (their client ports), separated by commas. Name all of them: another one is taken when "
        "one does not answer.",
    ),
    cfg.StrOpt("user", help="etcd user name. Leave empty where etcd has no authentication."),
    cfg.StrOpt("password", secret=True, help="Password of the etcd user."),
    cfg.StrOpt("ca", help="File with the certificates that sign etcd's, for https endpoints."),
    cfg.StrOpt("cert", help="File with this host's client certificate, where etcd asks for one."),
    cfg.StrOpt("key", help="File with the key of the client certificate."),
]


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Settings of [etcd], checked; the names of EtcdStore's arguments."""

    endpoints: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def settings(conf: cfg.ConfigOpts) -> EtcdSettings:
    """The checked settings.  BadConfig."""
    group = conf[GROUP]
    endpoints = tuple(e.strip().rstrip("/") for e in group.endpoints if e.strip())
    if not endpoints:
        raise BadConfig("[etcd] endpoints is empty: list the URLs of the etcd members")
    for endpoint in endpoints:
        _check_endpoint(endpoint)
    if bool(group.user) != bool(group.password):
        raise BadConfig("[etcd] user and password must be set together")
    if bool(group.cert) != bool(group.key):
        raise BadConfig("[etcd] cert and key must be set together")
    for name in ("ca", "cert", "key"):
        if group[name] and not os.access(group[name], os.R_OK):
            raise BadConfig(f"[etcd] {name} = {group[name]} cannot be read: correct the path or its mode")
    return EtcdSettings(
        endpoints, group.user or None, group.password or None, group.ca or None, group.cert or None, group.key or None
    )


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        right = False
    if not right or parts.path or parts.query:
        raise BadConfig(f"[etcd] endpoints: {endpoint!r} must look like http://10.0.0.1:2379 or https://...")
