"""Settings that every vmha process has: who this host is, where it keeps its files, and the deployment's key."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass, field

from oslo_config import cfg

from vmha.errors import BadConfig, BadRecord
from vmha.wire import keys
from vmha.wire.beat import HOST_MAX

GROUP = "DEFAULT"
OPTS = [
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<the machine's host name>",
        help="Name of this host. On compute hosts it must be the name that nova-compute uses (its own 'host' option).",
    ),
    cfg.StrOpt(
        "deployment_key_file",
        default="/etc/vmha/deployment.key",
        help="File with the deployment's key: 64 hexadecimal digits (32 random bytes), the same on all hosts and controllers "
        "of one deployment, readable by its owner only. Make one with: openssl rand -hex 32",
    ),
    cfg.StrOpt(
        "run_dir",
        default="/run/vmha",
        help="Directory for what must not outlive a boot (the gate, locks, sockets): on a tmpfs. The libvirt hook reads "
        "/run/vmha; change this only in tests.",
    ),
    cfg.StrOpt(
        "state_dir",
        default="/var/lib/vmha",
        help="Directory for what must outlive a boot (lists of unprotected and denied instances): on a disk. The libvirt "
        "hook reads /var/lib/vmha; change this only in tests.",
    ),
]


@dataclass(frozen=True, slots=True)
class BaseSettings:
    """Settings of [DEFAULT], checked."""

    host: str
    deployment_key: bytes = field(repr=False)
    run_dir: str
    state_dir: str


def settings(conf: cfg.ConfigOpts) -> BaseSettings:
    """The checked settings.  BadConfig."""
    try:
        host = keys.part(conf.host)
    except BadRecord as e:
        raise BadConfig(f"[DEFAULT] host: {e}") from None
    if len(host.encode()) > HOST_MAX:
        raise BadConfig(f"[DEFAULT] host is longer than {HOST_MAX} bytes: use the short host name")
    for name in ("run_dir", "state_dir"):
        if not os.path.isabs(conf[name]):
            raise BadConfig(f"[DEFAULT] {name} = {conf[name]!r} must be an absolute path")
    return BaseSettings(host, deployment_key(conf.deployment_key_file), conf.run_dir, conf.state_dir)


def deployment_key(path: str) -> bytes:
    """The 32 bytes of the key in ``path``.  BadConfig, which never holds a part of the key."""
    name = f"[DEFAULT] deployment_key_file = {path}"
    try:
        with open(path, encoding="ascii") as f:
            mode = os.fstat(f.fileno()).st_mode
            text = f.read(200).strip()
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not text"
        raise BadConfig(
            f"{name} cannot be read ({why}): copy the deployment's key there, or make one: openssl rand -hex 32"
        ) from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise BadConfig(f"{name} can be read or changed by others: chmod 600 {path}")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32 or len(text) != 64:
        raise BadConfig(f"{name} must hold 64 hexadecimal digits: copy the deployment's key there again")
    return key
