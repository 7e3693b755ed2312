"""Settings of the controller: where it listens, how it reaches power and Nova."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from oslo_config import cfg

from vmha.conf.beat import endpoints
from vmha.errors import BadConfig

GROUP = "controller"
OPTS = [
    cfg.StrOpt(
        "name",
        default=socket.gethostname(),
        sample_default="<the machine's host name>",
        help="Name of this controller in logs and in etcd; each controller has its own.",
    ),
    cfg.ListOpt(
        "listen",
        default=[],
        help="Where beats are received, one address on each network, as NAME:ADDRESS:PORT: "
        "management:10.77.0.2:7410,storage:10.77.1.2:7410. Names and ports are those of [beat] controllers on the hosts.",
    ),
    cfg.StrOpt(
        "fencing_file",
        default="/etc/vmha/fencing.json",
        help="File that says by which fence agent each host's power is reached, readable by its owner only: "
        '{"compute1": {"agent": "fence_ipmilan", "options": {"ip": "...", "username": "...", "password": "..."}}}.',
    ),
    cfg.StrOpt(
        "journal_file",
        default="/var/lib/vmha/engine.journal",
        help="File in which every fact that this controller was told and every decision are written, for vmha-replay. Empty: none.",
    ),
    cfg.IntOpt(
        "journal_size",
        default=128,
        min=2,
        help="MiB that the journal takes, about: at half of it the file becomes FILE.1 and a new one is begun.",
    ),
]
NOVA_GROUP = "nova"
NOVA_OPTS = [
    cfg.StrOpt("cloud", help="Name of the account in clouds.yaml; or set auth_url and the options below."),
    cfg.StrOpt("auth_url", help="Keystone's URL, as http://10.77.0.1:5000/v3."),
    cfg.StrOpt("username", default="vmha", help="User with Nova's admin role."),
    cfg.StrOpt("password", secret=True, help="Password of that user."),
    cfg.StrOpt("project_name", default="service", help="Project in which that user acts."),
    cfg.StrOpt("user_domain_name", default="Default", help="Keystone domain of the user."),
    cfg.StrOpt("project_domain_name", default="Default", help="Keystone domain of the project."),
    cfg.StrOpt("region_name", help="Region, where the catalog has several."),
    cfg.StrOpt("interface", default="internal", help="Which of Nova's endpoints is used: internal, public or admin."),
    cfg.StrOpt("ca", help="File with the certificates that sign the APIs', for https."),
    cfg.IntOpt("workers", default=4, min=1, max=64, help="Calls to Nova that can be under way at once."),
]


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Settings of [controller] and [nova], checked."""

    name: str
    listen: tuple[tuple[str, str, int], ...]
    fencing_file: str
    nova: Mapping[str, object] = field(repr=False)  # arguments of the Nova adapter
    journal_file: str = ""
    journal_size: int = 128  # MiB


def settings(conf: cfg.ConfigOpts) -> ControllerSettings:
    """The checked settings.  BadConfig."""
    group = conf[GROUP]
    listen = endpoints("[controller] listen", group.listen)
    if not listen:
        raise BadConfig("[controller] listen is empty: set an address on each network, as management:10.77.0.2:7410")
    if group.journal_file and not group.journal_file.startswith("/"):
        raise BadConfig(f"[controller] journal_file = {group.journal_file!r} must be an absolute path, or empty")
    journal = (group.journal_file, group.journal_size)
    return ControllerSettings(group.name, tuple(listen), group.fencing_file, _nova(conf[NOVA_GROUP]), *journal)


def _nova(group: cfg.ConfigOpts.GroupAttr) -> Mapping[str, object]:
    if bool(group.cloud) == bool(group.auth_url):
        raise BadConfig("[nova] needs either cloud (a name in clouds.yaml) or auth_url: set one of them")
    common = {"region": group.region_name, "interface": group.interface, "workers": group.workers, "ca": group.ca}
    if group.cloud:
        return {"cloud": group.cloud, **common}
    if not group.password:
        raise BadConfig("[nova] password is not set: give the password of the user that vmha acts as")
    names = ("auth_url", "username", "password", "project_name", "user_domain_name", "project_domain_name")
    return {"auth": {name: group[name] for name in names}, **common}
