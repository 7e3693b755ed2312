"""Render every configuration file of a lab into its ``etc`` folder, and make its keys once.

Templates hold @NAME@ placeholders. A name that nothing fills is an error, so that a typing mistake in a template does
not reach a service.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from pathlib import Path

from lab.errors import LabError
from lab.processes import run, write_atomically
from lab.settings import HOME, PASSWORD, REPO, Settings

TEMPLATES = HOME / "templates"
IPMI_USER = "vmha"


def values(settings: Settings, machine: str) -> dict[str, str]:
    """What the placeholders of a machine's templates stand for."""
    authtoken = (TEMPLATES / "authtoken.inc").read_text().strip()
    return {
        "AUTHTOKEN": authtoken,
        "AUTHTOKEN_NOWWW": "\n".join(line for line in authtoken.splitlines() if not line.startswith("www_")),
        "HOST": machine,
        "MGMT_IP": settings.address(machine, "management"),
        "STOR_IP": settings.address(machine, "storage"),
        "CTL_IP": settings.address("ctl", "management"),
        "ETCD_ENDPOINTS": ",".join(settings.etcd_endpoints),
        "HOSTS": ",".join(settings.computes),
        "ROOT": str(settings.state),
        "ETC": str(settings.etc),
        "VENV": str(settings.venv),
        "VMHA_VENV": str(settings.vmha_venv),
        "REPO": str(REPO),
        "PASS": PASSWORD,
        "SHARED": "no" if settings.local_disks else "yes",
        "NOVA_STATE": str(settings.disk(machine) / "nova"),
    }


def render(settings: Settings, machine: str, template: str, target: Path) -> None:
    """Fill one template; LabError names a placeholder that has no value."""
    known = {**values(settings, machine), "CONF": str(target)}

    def fill(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise LabError(
                f"template {template} has an unknown placeholder @{match[1]}@; known: {', '.join(sorted(known))}"
            )
        return known[match[1]]

    text, pattern = (TEMPLATES / template).read_text(), re.compile(r"@([A-Z_]+)@")
    while pattern.search(text):
        text = pattern.sub(fill, text)
    write_atomically(target, text)


def configure(settings: Settings) -> None:
    """All files of all machines. What was there is replaced; keys are kept."""
    etc = settings.etc
    _make_key(etc / "deployment.key", secrets.token_hex(32) + "\n")
    write_atomically(etc / "fencing.json", json.dumps(fencing(settings), indent=1))
    (etc / "fencing.json").chmod(0o600)
    for machine in settings.controllers:
        _render_vmha(settings, machine, "vmha-controller.conf")
    for machine in settings.computes:
        _render_vmha(settings, machine, "vmha-agent-light.conf" if settings.light else "vmha-agent.conf")
    if not settings.light:
        _configure_openstack(settings)


def fencing(settings: Settings) -> dict[str, dict[str, object]]:
    """How each compute host is fenced: agent and options, as vmha's controllers read them.

    ``cipher`` 3 is named because ipmi_sim does not answer ipmitool's question which suites it has (10 s lost).
    """
    fixed = {"username": IPMI_USER, "password": PASSWORD, "lanplus": "1", "cipher": "3", "power_wait": "0"}
    devices = {host: {"ip": settings.address(settings.bmc(host), "oob"), **fixed} for host in settings.computes}
    return {host: {"agent": "fence_ipmilan", "options": options} for host, options in devices.items()}


def _render_vmha(settings: Settings, machine: str, template: str) -> None:
    if (TEMPLATES / template).exists():
        render(settings, machine, template, settings.etc / machine / "vmha.conf")


def _configure_openstack(settings: Settings) -> None:
    etc = settings.etc
    for service, name in (
        ("keystone", "keystone"),
        ("placement", "placement"),
        ("glance", "glance-api"),
        ("neutron", "neutron"),
    ):
        render(settings, "ctl", f"{name}.conf", etc / service / f"{name}.conf")
    render(settings, "ctl", "clouds.yaml", etc / "clouds.yaml")
    for name in ("nova.conf", "nova-database.conf", "rabbitmq.conf", "rabbitmq-definitions.json"):
        render(settings, "ctl", name, etc / "ctl" / name)
    (etc / "ctl" / "api-paste.ini").write_bytes((settings.venv / "etc/nova/api-paste.ini").read_bytes())
    for host in settings.computes:
        render(settings, host, "nova.conf", etc / host / "nova.conf")
        render(settings, host, "nova-compute.conf", etc / host / "nova-compute.conf")
    for kind in ("fernet", "credential"):
        for number in "01":
            _make_key(etc / "keystone" / kind / number, base64.urlsafe_b64encode(os.urandom(32)).decode())
    _make_ssh_keys(etc / "ssh")


def _make_key(path: Path, text: str) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)


def _make_ssh_keys(folder: Path) -> None:
    if (folder / "config").exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("host_key", "id_ed25519"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)])
    (folder / "authorized_keys").write_bytes((folder / "id_ed25519.pub").read_bytes())
    options = "StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR"
    (folder / "config").write_text(f"Host *\n {options}\n")
