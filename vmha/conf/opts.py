"""All options of vmha: the one list that processes register and oslo-config-generator reads."""

from __future__ import annotations

from types import ModuleType

from oslo_config import cfg

from vmha.conf import agent, base, beat, controller, engine, etcd

GROUPS: tuple[ModuleType, ...] = (base, etcd, beat, agent, controller)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """(group, options) of every group, for oslo-config-generator."""
    common = [(module.GROUP, list(module.OPTS)) for module in GROUPS]
    return [*common, (controller.NOVA_GROUP, list(controller.NOVA_OPTS)), *engine.options()]


def register(conf: cfg.ConfigOpts) -> None:
    """Register every group with ``conf``."""
    for group, options in list_opts():
        conf.register_opts(options, group=None if group == "DEFAULT" else group)
