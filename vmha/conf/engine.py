"""The core's settings as options: each field of ``vmha.core.settings.Settings`` that an operator may change, in groups.

Defaults and types come from ``Settings`` itself; ``settings`` refuses every set that breaks a relation of safety.md with
all the sentences that say what to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any

from oslo_config import cfg

from vmha.core.model import Protect
from vmha.core.settings import Settings, check
from vmha.errors import BadConfig

DETECTION = {
    "silence": "Seconds without a beat on any network after which a host is suspect. Suspicion alone only asks: nothing is fenced by it.",
    "start_grace": "Seconds that a host which this controller has never heard gets before it is suspect.",
    "power_every": "Seconds between two readings of a suspect's power.",
    "power_timeout": "Seconds after which a reading of a fencing device counts as unknown.",
    "probe_every": "Seconds between two ICMP questions to a suspect's kernel.",
    "probe_timeout": "Seconds to wait for the answers to such a question.",
    "icmp_answer_holds": "A silent host whose kernel still answers ICMP is held and a person paged, instead of condemned.",
    "host_lease": "Seconds of a host's lease in etcd; the agents' lease_ttl must be the same.",
    "leader_lease": "Seconds of the leader's lease in etcd: how long a leader whose machine died is still waited for. etcd grants no "
    "less than 2.",
    "leader_renew": "Seconds between two renewals of the leader's lease.",
}
SELF_FENCING = {
    "word": "Seconds for which an answer holds that a host is not condemned (T of the safety page); then its watchdog is not fed any more.",
    "ask_every": "Seconds between two such questions of a host.",
    "feed_every": "Seconds between two feeds of a watchdog.",
    "agent_restart": "Seconds from the death of an agent to the first feed of the next one, at the worst. A watchdog of less than three "
    "feeds and this counts for nothing.",
    "settle": "Seconds added before a host counts as stopped by its watchdog: the device's tick, and I/O that is in flight.",
}
CALLS = {
    "start_limit": "Seconds within which a call to Nova must have been sent after its record was. A kernel timer ends it otherwise.",
    "call_limit": "Seconds within which a call that was sent takes effect or never does. It must exceed the time-outs of every proxy before Nova.",
    "fence_limit": "Seconds after which a fence agent is killed, with all its children.",
    "drift": "Largest relative drift between two clocks.",
    "read_timeout": "Seconds to wait for an answer to a read of Nova.",
    "read_fresh": "A call follows a read of its instance or service that began at most this many seconds ago.",
    "fence_recheck": "Seconds between two readings of a condemned host's power.",
    "fence_again": "Seconds between two orders to power off that did not help.",
}
RECOVERY = {
    "evacuate_first": "Evacuations in flight at the start of a recovery; the number rises with each success and is halved by each failure.",
    "evacuate_most": "Evacuations in flight at the most.",
    "poll": "Seconds between two looks at Nova's migration records while instances are moving.",
    "retry_first": "Seconds until a failed evacuation is tried again; doubled each time.",
    "retry_most": "Seconds between two tries at the most.",
    "evacuate_retries": "Tries after which a person is paged; trying goes on.",
    "verify_page": "Seconds after which a person is paged about an instance that Nova calls moved and no agent sees running, or whose task in Nova does not end.",
    "evacuate_patience": "Seconds after which a person is paged about an evacuation that Nova has not ended.",
    "nova_patience": "Seconds without an answer of Nova during a recovery after which a person is paged; it is asked on.",
    "instances_path_shared": "Whether disks under Nova's instances_path are on storage that all hosts share: yes, no or unknown. Unless it "
    "is yes, instances with such a disk are left on their dead host, because Nova would rebuild the disk from its image.",
    "rebuild_local_disks": "Evacuate such instances all the same: what was on their disks is lost.",
    "recover_errors": "Evacuate instances too that were in error before their host died.",
    "save_every": "Seconds between two writes of a recovery's progress.",
    "disabled_reason": "Why a fenced host's service is disabled in Nova: only with this reason does vmha enable it.",
    "return_to_service": "Put a fenced host that came back and was reconciled in service by itself; else run vmha-manage host release.",
    "compute_restart_every": "Seconds between two requests to a returned host to restart nova-compute, where evacuations ended after its start.",
    "compute_restarts": "Such requests before a person is paged.",
    "flap_limit": "Recoveries of one host within flap_window after which it stays out until an operator releases it.",
    "flap_window": "Seconds of that window.",
    "stability_delay": "Seconds that a returned host must stay up before it is put in service.",
}
START_ORDER = {
    "groups": "Start groups in their order. Instances name theirs in vmha:group of their flavor, or by an admin's word. With any on a dead "
    "host, its instances arrive stopped (Nova's microversion 2.95) and are started in order: the next group when each instance of the "
    "one before runs, and answers where vmha:ready is set.",
    "ready_timeout": "Seconds without progress after which a start group no longer holds back the next ones.",
    "start_limit_per_host": "Instances started on one destination within start_limit_window; 0: no limit.",
    "start_limit_window": "Seconds of that window.",
}
PREFLIGHT = {
    "memory_ratio": "Nova's ram_allocation_ratio. With both set, each plan says which instances would find no host, by the memory and "
    "processors that the agents registered; 0: it does not.",
    "cpu_ratio": "Nova's cpu_allocation_ratio.",
}
RESERVED = {
    "reserved_only": "Evacuate to reserved hosts of the segment only, instead of using them only when Nova finds no other host.",
    "reserved_reason": "Why the service of an idle reserved host is disabled in Nova: only with this reason does vmha enable it.",
}
GATES = {
    "max_down": "Hosts that may be down or being fenced at once; more are held as a storm. The smallest cap wins, one host is always allowed.",
    "max_down_percent": "The same as a percentage of all hosts, those already down counted.",
    "max_down_per_domain": "The same for one failure domain; 0: no cap of its own.",
    "max_fences_per_window": "Hosts with power on that may be ordered off within fence_window.",
    "fence_window": "Seconds of that window.",
    "storm_cooldown": "Seconds for which the caps must have been kept again after a storm before anything is fenced.",
    "approval": "Condemn nothing without an operator's approval.",
    "hold_page_every": "Seconds between two pages about a hold that lasts.",
    "hold_max": "Seconds after which a hold that still lasts is told as overdue with each page.",
    "dry_run": "Say what would be condemned, and condemn nothing.",
}
POLICY = {
    "protect_default": "Protection of instances for which nothing nearer says otherwise: none, restart, host, full.",
    "metadata_key": "Server metadata in which a tenant asks for a protection.",
    "tenant_may_set": "What tenants may set in the metadata of their servers: protect, priority, group, ready (vmha:protect ...), or single "
    "protections that they may choose. Empty: nothing. What a flavor's extra specs say, a tenant cannot widen.",
    "exclude_services": "Projects (by id), or patterns of server names, whose instances are left alone, unless an admin says otherwise of one: "
    "amphora-* for Octavia's load balancers.",
    "inventory_every": "Seconds between two reads of living hosts' instances (one host after another), to know which are unprotected.",
    "keep_recoveries": "Ended recoveries kept in etcd; the oldest are deleted.",
}
GROUPS: Mapping[str, Mapping[str, str]] = {
    "detection": DETECTION,
    "self_fencing": SELF_FENCING,
    "calls": CALLS,
    "recovery": RECOVERY,
    "start_order": START_ORDER,
    "preflight": PREFLIGHT,
    "reserved_hosts": RESERVED,
    "gates": GATES,
    "policy": POLICY,
}
# settings that stand in other sections, because agents need them: field to (section, option)
ELSEWHERE: Mapping[str, tuple[str, str]] = {"beat_period": ("beat", "period"), "host_renew": ("agent", "lease_renew")}
_TYPES: dict[type, Any] = {float: cfg.FloatOpt, int: cfg.IntOpt, bool: cfg.BoolOpt, str: cfg.StrOpt}
_DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in fields(Settings)}


def _option(name: str, text: str) -> cfg.Opt:
    default = _DEFAULTS[name]
    if name == "tenant_may_set":
        return cfg.ListOpt(name, default=["protect"], help=text)
    if isinstance(default, tuple):
        return cfg.ListOpt(name, default=list(default), help=text)
    if isinstance(default, StrEnum):
        return cfg.StrOpt(name, default=str(default), choices=[str(p) for p in Protect], help=text)
    option: cfg.Opt = _TYPES[type(default)](name, default=default, help=text)
    return option


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """(group, options) of every group of the core's settings."""
    return [(group, [_option(name, text) for name, text in names.items()]) for group, names in GROUPS.items()]


def settings(conf: cfg.ConfigOpts, **fixed: Any) -> Settings:
    """The checked settings; ``fixed`` ones come from elsewhere.  BadConfig with every reason."""
    values: dict[str, Any] = {name: conf[group][name] for group, names in GROUPS.items() for name in names}
    values |= {name: conf[group][option] for name, (group, option) in ELSEWHERE.items()}
    values["protect_default"] = Protect(values["protect_default"])
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    found = Settings(**values, **fixed)
    wrong = list(check(found))
    if wrong:
        raise BadConfig("unsafe settings: " + "; ".join(wrong))
    return found
