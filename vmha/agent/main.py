"""Wires the agent: settings in, adapters made, the engine run until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from importlib import metadata

from oslo_config import cfg

from vmha.adapters.etcd import BootClock, EtcdStore
from vmha.adapters.libvirt import LibvirtHypervisor
from vmha.adapters.processes import ProcProcesses, hook_fault
from vmha.agent.attach import BeatProcess
from vmha.agent.gate import AgentLock, GateFile, UnprotectedList, boot_id
from vmha.agent.lists import Lists
from vmha.agent.loop import Agent, Settings
from vmha.conf import agent as agent_conf
from vmha.conf import base as base_conf
from vmha.conf import beat as beat_conf
from vmha.conf import engine as engine_conf
from vmha.conf import etcd as etcd_conf
from vmha.errors import BadConfig
from vmha.wire import beat as wire

LOG = logging.getLogger(__name__)


def run(conf: cfg.ConfigOpts) -> None:
    """The agent, until SIGTERM or SIGINT.  BadConfig when a setting is wrong or another agent runs here."""
    base = base_conf.settings(conf)
    beat = beat_conf.settings(conf)
    settings = agent_conf.settings(conf)
    etcd = etcd_conf.settings(conf)
    for directory in (base.run_dir, base.state_dir):
        _make(directory)
    lock = AgentLock(base.run_dir)
    clock = BootClock()
    store = EtcdStore(
        etcd.endpoints, user=etcd.user, password=etcd.password, ca=etcd.ca, cert=etcd.cert, key=etcd.key, clock=clock
    )
    libvirt = (
        LibvirtHypervisor(settings.connection_uri, settings.call_timeout) if settings.hypervisor == "libvirt" else None
    )
    boot = boot_id()
    agent = Agent(
        Settings(
            host=base.host,
            boot=boot,
            addresses=beat.networks,
            lease_ttl=settings.lease_ttl,
            lease_renew=settings.lease_renew,
            word=engine_conf.settings(conf).word,
            versions={"vmha": _version()},
            memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
            vcpus=os.cpu_count() or 0,
            restart_compute=settings.restart_compute,
        ),
        store,
        libvirt,
        ProcProcesses(),
        BeatProcess(base.run_dir, beat_configuration(base, beat)),
        GateFile(base.run_dir, boot),
        UnprotectedList(base.state_dir),
        Lists(base.host, base.run_dir, boot),
        (lambda: "") if libvirt is None else (lambda: hook_fault(settings.hook, base.run_dir)),
        clock,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: agent.stop())
    LOG.info("vmha-agent of host %s, boot %s", base.host, boot)
    agent.run(lambda: tell_systemd("READY=1"))
    if libvirt is not None:
        libvirt.close()
    store.close()
    os.close(lock.file)
    LOG.info("vmha-agent ends; vmha-beat goes on, the gate stays as it is")


def beat_configuration(base: base_conf.BaseSettings, beat: beat_conf.BeatSettings) -> dict[str, object]:
    """What vmha-beat is told: this host's own key, never the deployment's."""
    return {
        "host": base.host,
        "deployment": wire.deployment_id(base.deployment_key).hex(),
        "key": wire.host_key(base.deployment_key, base.host).hex(),
        "period": beat.period,
        "networks": {
            name: {"source": source, "controllers": [list(c) for c in beat.controllers[name]]}
            for name, source in beat.networks.items()
        },
    }


def tell_systemd(state: str, environ: Callable[[str], str | None] = os.environ.get) -> None:
    """sd_notify(3): one datagram to the socket that systemd names; nothing where there is none."""
    path = environ("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        try:
            s.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
        except OSError as e:
            LOG.warning("systemd was not told %s: %s", state, e)


def _make(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
    except OSError as e:
        raise BadConfig(f"{directory} cannot be made ({e.strerror}): make it, or run vmha-agent as root") from None


def _version() -> str:
    try:
        return metadata.version("vmha")
    except metadata.PackageNotFoundError:
        return "unknown"
