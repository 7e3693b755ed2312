"""Boot of a compute host: libvirtd, the guests' bridge, sshd, vmha-agent, nova-compute. A light one has only vmha-agent."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

from lab import services
from lab.inside import mounts
from lab.inside.common import Say, await_consumer, conductor_mark, environment, start_vmha
from lab.processes import run, wait_until
from lab.settings import HOME, REPO, Settings

LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
auth_unix_rw = "none"
host_uuid = "{host_uuid}"
log_outputs = "2:stderr"
"""

QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
migration_address = "0.0.0.0"
migration_host = "{address}"
"""


def boot(settings: Settings, machine: str, say: Say) -> None:
    if settings.light:
        start_vmha(settings, machine, "vmha-agent", say)
        return
    env = environment(settings, machine)
    _configure_libvirt(settings, machine)
    _install_hook(settings)
    if settings.local_disks:
        mounts.bind(settings.disk(machine) / "instances", str(settings.state / "instances"))
    say("starting libvirtd")
    shared = {"LD_PRELOAD": str(settings.base / "fakenfs.so"), "VMHA_LAB_SHARED_FS": str(settings.state / "instances")}
    libvirt_env = env if settings.local_disks else env | shared
    services.launch(settings, machine, "libvirtd", ["/usr/sbin/libvirtd", "--listen"], libvirt_env)
    _make_guest_bridge(settings, machine, env)
    _start_sshd(settings, machine, env)
    wait_until(_libvirt_answers, 30, f"libvirtd of {machine} to answer (see {settings.log(machine) / 'libvirtd.log'})")
    start_vmha(settings, machine, "vmha-agent", say)
    _start_nova(settings, machine, env, say)


def _configure_libvirt(settings: Settings, machine: str) -> None:
    """libvirt's files on the host's disk; host_uuid is kept, as a mainboard would keep it."""
    Path("/etc/libvirt/qemu").mkdir(exist_ok=True)
    Path("/var/lib/libvirt/qemu").mkdir(exist_ok=True)
    host_uuid = settings.disk(machine) / "host-uuid"
    if not host_uuid.exists():
        host_uuid.write_text(str(uuid.uuid4()))
    Path("/etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=host_uuid.read_text()))
    Path("/etc/libvirt/qemu.conf").write_text(QEMU_CONF.format(address=settings.address(machine, "management")))


def _install_hook(settings: Settings) -> None:
    """vmha's gate must be there before libvirtd starts: libvirt looks for hooks only then.

    Without vmha it must not be there: nobody would open it, and no guest would start.
    """
    source, target = REPO / "etc/libvirt/hooks/qemu.d/vmha", Path("/etc/libvirt/hooks/qemu.d/vmha")
    if not settings.vmha or not source.exists():
        target.unlink(missing_ok=True)
        return
    if target.exists() and target.read_bytes() == source.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _make_guest_bridge(settings: Settings, machine: str, env: dict[str, str]) -> None:
    """Guests share the storage/tenant cable: a bridge takes over its address, and each tap Nova makes joins it."""
    address = f"{settings.address(machine, 'storage')}/24"
    lines = ["link add br-ten type bridge", "link set stor master br-ten", f"addr del {address} dev stor"]
    lines += [f"addr add {address} dev br-ten", "link set br-ten up"]
    run(["ip", "-batch", "-"], "\n".join(lines))
    services.launch(settings, machine, "tapjoin", ["bash", str(HOME / "inside" / "tapjoin")], env)


def _start_sshd(settings: Settings, machine: str, env: dict[str, str]) -> None:
    """ssh between the hosts, which Nova uses for cold migration and resize."""
    keys = settings.etc / "ssh"
    mounts.bind(keys, "/root/.ssh")
    options = ["UsePAM=no", "StrictModes=no", "PermitRootLogin=yes", f"AuthorizedKeysFile={keys / 'authorized_keys'}"]
    argv = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", str(keys / "host_key")]
    services.launch(settings, machine, "sshd", [*argv, *(word for option in options for word in ("-o", option))], env)


def _libvirt_answers() -> bool:
    return (
        subprocess.run(["virsh", "-c", "qemu:///system", "version"], capture_output=True, check=False).returncode == 0
    )


def _start_nova(settings: Settings, machine: str, env: dict[str, str], say: Say) -> None:
    say("waiting for nova-conductor")
    wait_until(conductor_mark(settings).exists, 300, f"nova-conductor to listen (see {settings.log('ctl')})")
    config = settings.etc / machine
    argv = [
        "nova-compute",
        "--config-file",
        str(config / "nova.conf"),
        "--config-file",
        str(config / "nova-compute.conf"),
    ]
    services.launch(settings, machine, "nova-compute", [str(settings.venv / "bin" / argv[0]), *argv[1:]], env)
    say("waiting for nova-compute")
    await_consumer(settings, f"compute.{machine}", 180, f"nova-compute of {machine} (see {settings.log(machine)})")
