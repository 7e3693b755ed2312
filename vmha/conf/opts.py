"""All options of vmha: the one list that processes register and oslo-config-generator reads."""

from __future__ import annotations

from types import ModuleType

from oslo_config import cfg

from vmha.conf import agent, base, beat, etcd

GROUPS: tuple[ModuleType, ...] = (base, etcd, beat, agent)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """(group, options) of every group, for oslo-config-generator."""
    return [(module.GROUP, list(module.OPTS)) for module in GROUPS]


def register(conf: cfg.ConfigOpts) -> None:
    """Register every group with ``conf``."""
    for module in GROUPS:
        conf.register_opts(module.OPTS, group=None if module.GROUP == "DEFAULT" else module.GROUP)
