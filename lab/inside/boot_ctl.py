"""Boot of ctl: etcd, MariaDB, RabbitMQ, and the control services of OpenStack. A light lab's ctl has only etcd."""

from __future__ import annotations

import os

from lab import services
from lab.inside import catalog, database
from lab.inside.common import (
    Say,
    await_consumer,
    await_etcd,
    conductor_mark,
    environment,
    start_etcd,
    wait_for_port,
)
from lab.processes import write_atomically
from lab.settings import HOME, Settings

ERLANG = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


def boot(settings: Settings, machine: str, say: Say) -> None:
    start_etcd(settings, machine)
    if settings.light:
        await_etcd(settings, machine, say)
        return
    env = environment(settings, machine) | _service_folders(settings)
    _start_rabbit(settings, env)
    database.start(settings, env, say)
    say("starting Keystone, Placement, Glance and Neutron")
    _serve(settings, env, "keystone", "keystone.wsgi.api", 5000)
    _serve(settings, env, "placement", "placement.wsgi.api", 8778)
    _serve(settings, env, "glance", "glance.wsgi.api", 9292)
    # Nova's services end at once when the catalog is not there, so: catalog first
    catalog.make(settings)
    say("waiting for RabbitMQ")
    wait_for_port("RabbitMQ", settings.address("ctl", "management"), 5672, 120)
    say("starting Nova and Neutron")
    config = [f"--config-file={settings.etc / 'ctl' / name}" for name in ("nova.conf", "nova-database.conf")]
    for name in ("nova-conductor", "nova-scheduler"):
        services.launch(settings, machine, name, [str(settings.venv / "bin" / name), *config], env)
    _serve(settings, env, "neutron", "neutron.wsgi.api", 9696)
    _serve(settings, env, "nova-api", "nova.wsgi.osapi_compute", 8774)
    # lets the compute hosts start nova-compute: a message sent before the conductor listens is lost, and waited for
    await_consumer(settings, "conductor", 180, "nova-conductor")
    conductor_mark(settings).touch()
    say("waiting for the services to answer")
    catalog.make_resources(settings)
    await_etcd(settings, machine, say)


def _start_rabbit(settings: Settings, env: dict[str, str]) -> None:
    home = settings.state / "rabbit"
    for name in ("mnesia", "log"):
        (home / name).mkdir(parents=True, exist_ok=True)
    write_atomically(home / "enabled_plugins", "[].")
    rabbit = {
        "HOME": str(home),
        "RABBITMQ_NODENAME": "rabbit@ctl",
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(settings.etc / "ctl" / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
        "RABBITMQ_PID_FILE": "/run/rabbit.pid",
    }
    services.launch(settings, "ctl", "rabbitmq", ["/usr/lib/rabbitmq/bin/rabbitmq-server"], env | rabbit)


def _service_folders(settings: Settings) -> dict[str, str]:
    """Where the WSGI applications look for their configuration. Nova takes the first file as its paste file."""
    folders = {name: str(settings.etc / name) for name in ("keystone", "placement", "glance", "neutron")}
    variables = {f"OS_{name.upper()}_CONFIG_DIR": folder for name, folder in folders.items()}
    return {
        **variables,
        "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
        "OS_NOVA_CONFIG_DIR": str(settings.etc / "ctl"),
        "OS_NOVA_CONFIG_FILES": "api-paste.ini;nova.conf;nova-database.conf",
    }


def _serve(settings: Settings, env: dict[str, str], name: str, module: str, port: int) -> None:
    python, script = str(settings.venv / "bin" / "python"), os.fspath(HOME / "inside" / "wsgi.py")
    address = f"{settings.address('ctl', 'management')}:{port}"
    services.launch(settings, "ctl", name, [python, "-P", script, f"{module}:application", address], env)
