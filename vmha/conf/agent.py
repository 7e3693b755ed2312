"""How the agent reaches its hypervisor and how long its lease lasts."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

from vmha.errors import BadConfig

GROUP = "agent"
OPTS = [
    cfg.StrOpt(
        "hypervisor",
        default="libvirt",
        choices=[("libvirt", "domains of the local libvirt"), ("none", "a host without instances, for measurements")],
        help="What runs the instances of this host.",
    ),
    cfg.StrOpt(
        "connection_uri", default="qemu:///system", help="libvirt's URI, as in nova-compute's [libvirt] section."
    ),
    cfg.FloatOpt(
        "call_timeout",
        default=5.0,
        min=0.5,
        help="Seconds after which an unanswered libvirt call counts as 'libvirt does not answer'.",
    ),
    cfg.StrOpt(
        "hook",
        default="/etc/libvirt/hooks/qemu.d/vmha",
        help="Where the libvirt hook is installed; without it a host is not protected.",
    ),
    cfg.StrOpt(
        "restart_compute",
        default="systemctl restart nova-compute",
        help="Command that restarts nova-compute, run when the leader asks for it: nova-compute cleans up after evacuations only when it "
        "starts, and a host that was back before its evacuations ended needs that once more. Empty: a person is paged instead.",
    ),
    cfg.FloatOpt("lease_ttl", default=9.0, min=2.0, help="Seconds after which the host's lease ends without renewal."),
    cfg.FloatOpt("lease_renew", default=3.0, min=0.5, help="Seconds between renewals of the lease."),
]


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of [agent], checked; seconds."""

    hypervisor: str
    connection_uri: str
    call_timeout: float
    hook: str
    restart_compute: str
    lease_ttl: float
    lease_renew: float


def settings(conf: cfg.ConfigOpts) -> AgentSettings:
    """The checked settings.  BadConfig."""
    group = conf[GROUP]
    if group.lease_ttl < 2 * group.lease_renew:
        raise BadConfig(
            f"[agent] lease_ttl = {group.lease_ttl} must be at least twice lease_renew = {group.lease_renew}, "
            "or one lost renewal ends the lease: raise lease_ttl or lower lease_renew"
        )
    return AgentSettings(
        hypervisor=group.hypervisor,
        connection_uri=group.connection_uri,
        call_timeout=group.call_timeout,
        hook=group.hook,
        restart_compute=group.restart_compute,
        lease_ttl=group.lease_ttl,
        lease_renew=group.lease_renew,
    )
