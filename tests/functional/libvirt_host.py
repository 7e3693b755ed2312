"""A private libvirtd with real QEMU (TCG) in own mount and PID namespaces: own /run, /etc/libvirt, /var/lib/libvirt, /var/lib/vmha.

``with LibvirtHost(directory) as host``: everything it started ends with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

HOOK = Path(__file__).parents[2] / "etc/libvirt/hooks/qemu.d/vmha"

INIT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/libvirt
echo "$BOOT" > /run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
for pair in etc:/etc/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt vmha:/var/lib/vmha; do
    mkdir -p "$DIR/${pair%%:*}" "${pair#*:}"
    mount --bind "$DIR/${pair%%:*}" "${pair#*:}"
done
mkdir -p /etc/libvirt/qemu /var/lib/libvirt/qemu
touch "$DIR/up"
exec python3 -c 'import os, signal
signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True: signal.pause()'
"""

LIBVIRTD_CONF = """
listen_tls = 0
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
QEMU_CONF = """
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""

DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>8</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def until(what: Callable[[], object], seconds: float = 20.0, says: str = "") -> None:
    """Wait for a fact; AssertionError when it does not come true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not true after {seconds} s: {says or what}"
        time.sleep(0.02)


class LibvirtHost:
    """One host; ``boot()`` again after ``crash()`` is a new boot with the same disks."""

    def __init__(self, directory: Path, hook: bool = True) -> None:
        self.directory = directory
        self.boot_id = ""
        self._hook = hook
        self._init: subprocess.Popen[bytes] | None = None
        self._libvirtd: subprocess.Popen[bytes] | None = None
        self._write_configuration()

    def _write_configuration(self) -> None:
        etc = self.directory / "etc"
        (etc / "hooks/qemu.d").mkdir(parents=True)
        (self.directory / "vmha").mkdir()
        (etc / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
        (etc / "qemu.conf").write_text(QEMU_CONF)
        if self._hook:
            self.install_hook()

    def install_hook(self) -> None:
        shutil.copy2(HOOK, self.directory / "etc/hooks/qemu.d/vmha")

    # --- boots

    def __enter__(self) -> LibvirtHost:
        self.boot()
        self.start_libvirtd()
        return self

    def __exit__(self, *_: object) -> None:
        self.crash()

    def boot(self) -> None:
        self.boot_id = str(uuid.uuid4())
        (self.directory / "up").unlink(missing_ok=True)
        self._init = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INIT],
            env={**os.environ, "DIR": str(self.directory), "BOOT": self.boot_id},
        )
        until((self.directory / "up").exists, says="the host's namespaces are up")

    def crash(self) -> None:
        """Every process of the host dies at once."""
        if self._libvirtd is not None:
            self._libvirtd.send_signal(signal.SIGCONT)  # a stopped nsenter would not reap, and hold the namespace
        if self._init is not None:
            os.kill(self.pid, signal.SIGKILL)
            self._init.wait()
        if self._libvirtd is not None:
            self._libvirtd.wait()
        self._init = self._libvirtd = None

    @property
    def pid(self) -> int:
        """The pid of the host's pid 1, seen from here."""
        assert self._init is not None
        with open(f"/proc/{self._init.pid}/task/{self._init.pid}/children") as f:
            return int(f.read().split()[0])

    @property
    def root(self) -> Path:
        """The host's file system, seen from here."""
        return Path(f"/proc/{self.pid}/root")

    def inside(self, command: Sequence[str]) -> list[str]:
        """``command`` as it must be run to happen on the host."""
        return ["nsenter", "-t", str(self.pid), "-m", "-p", "--", *command]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(self.inside(command), check=False, capture_output=True, text=True, timeout=60)
        assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result

    # --- libvirtd

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.root}/run/libvirt/libvirt-sock"

    def start_libvirtd(self) -> None:
        self._libvirtd = subprocess.Popen(
            self.inside(["/usr/sbin/libvirtd"]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: self.virsh("version", check=False).returncode == 0, says="libvirtd answers")

    @property
    def libvirtd_pid(self) -> int:
        """libvirtd's pid seen from here (nsenter forks: it is its child)."""
        assert self._libvirtd is not None
        with open(f"/proc/{self._libvirtd.pid}/task/{self._libvirtd.pid}/children") as f:
            return int(f.read().split()[0])

    def stop_libvirtd(self, number: int = signal.SIGTERM) -> None:
        assert self._libvirtd is not None
        os.kill(self.libvirtd_pid, number)
        self._libvirtd.wait(timeout=30)
        self._libvirtd = None

    def freeze_libvirtd(self) -> None:
        """libvirtd takes connections and answers nothing."""
        os.kill(self.libvirtd_pid, signal.SIGSTOP)

    def thaw_libvirtd(self) -> None:
        os.kill(self.libvirtd_pid, signal.SIGCONT)
        assert self._libvirtd is not None
        self._libvirtd.send_signal(signal.SIGCONT)  # nsenter stops itself along with its child

    def virsh(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("virsh", "-q", "-c", "qemu:///system", *words, check=check)

    # --- domains, gate

    def define(self, name: str, domain_uuid: str = "") -> str:
        """Define a tiny diskless domain; its uuid."""
        domain_uuid = domain_uuid or str(uuid.uuid4())
        path = self.directory / f"{name}.xml"
        path.write_text(DOMAIN.format(name=name, uuid=domain_uuid))
        self.virsh("define", str(path))
        return domain_uuid

    def active(self) -> set[str]:
        """Names of the active domains, by virsh."""
        return set(self.virsh("list", "--name").stdout.split())

    def open_gate(self) -> None:
        gate = self.root / "run/vmha/gate"
        gate.parent.mkdir(exist_ok=True)
        gate.write_text(self.boot_id + "\n")
