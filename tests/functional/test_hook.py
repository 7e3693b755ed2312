"""The gate's hook: by itself under sh, and called by a real libvirtd."""

import subprocess
import uuid
from pathlib import Path

import pytest

from tests.functional.libvirt_host import DOMAIN, HOOK, LibvirtHost, until

pytestmark = pytest.mark.functional

UUID = "0a1b2c3d-0000-4000-8000-00000000000f"
BOOT = "11111111-2222-3333-4444-555555555555"
NOVA_XML = DOMAIN.format(name="instance-00000001 &lt;uuid&gt;x&lt;/uuid&gt;", uuid=UUID).replace(
    "<memory",
    "<metadata><other><uuid>ffffffff-ffff-ffff-ffff-ffffffffffff</uuid></other></metadata>\n  <memory",
)


class Hook:
    def __init__(self, directory: Path) -> None:
        self.run_dir, self.state_dir, self.boot = directory / "run", directory / "state", directory / "boot_id"
        self.run_dir.mkdir()
        self.state_dir.mkdir()
        self.boot.write_text(BOOT + "\n")

    def __call__(self, op="prepare", xml=NOVA_XML, shell="sh"):
        return subprocess.run(
            [shell, str(HOOK), "instance-00000001", op, "begin", "-"],
            check=False, input=xml, capture_output=True, text=True, timeout=10,
            env={"PATH": "/usr/bin:/bin", "VMHA_RUN_DIR": str(self.run_dir), "VMHA_STATE_DIR": str(self.state_dir),
                 "VMHA_BOOT_ID_FILE": str(self.boot)},
        )  # fmt: skip

    def open(self, boot=BOOT):
        (self.run_dir / "gate").write_text(boot + "\n")

    def unprotect(self, *uuids):
        (self.state_dir / "unprotected").write_text("".join(u + "\n" for u in uuids))

    def deny(self, domain=UUID):
        (self.state_dir / "denied").mkdir(exist_ok=True)
        (self.state_dir / "denied" / domain).touch()


@pytest.fixture
def hook(tmp_path):
    return Hook(tmp_path)


def refused(result, says):
    return result.returncode == 1 and result.stdout == "" and says in result.stderr and result.stderr.count("\n") == 1


def passed(result):
    return result.returncode == 0 and result.stdout == "" and result.stderr == ""


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shut_gate_refuses_prepare_only(hook, shell):
    result = hook(shell=shell)
    assert refused(result, "the gate is shut") and UUID in result.stderr
    for op in ("reconnect", "start", "started", "stopped", "release", "migrate", "restore", "attach"):
        assert passed(hook(op, shell=shell))


def test_an_open_gate_passes(hook):
    hook.open()
    assert passed(hook())


def test_a_gate_of_another_boot_is_shut(hook):
    hook.open("99999999-2222-3333-4444-555555555555")
    assert refused(hook(), "the gate is shut")
    hook.open("")
    assert refused(hook(), "the gate is shut")
    hook.boot.write_text("")
    assert refused(hook(), "the gate is shut")


def test_known_unprotected_domains_pass_a_shut_gate(hook):
    hook.unprotect(str(uuid.uuid4()), UUID.upper())
    assert passed(hook())
    hook.unprotect(UUID[:-1], UUID + "0", ".*")
    assert refused(hook(), "the gate is shut")


def test_denied_domains_never_pass(hook):
    hook.open()
    hook.unprotect(UUID)
    hook.deny()
    assert refused(hook(), "is denied on this host")
    assert passed(hook("reconnect"))


@pytest.mark.parametrize(
    "xml", ["", "<domain>", "<uuid>", "<uuid>../../etc/passwd</uuid>", "<uuid>x</uuid>", "\0\n<uuid>"]
)
def test_xml_without_a_uuid_counts_as_protected(hook, xml):
    hook.unprotect("")
    assert refused(hook(xml=xml), "no readable uuid")
    hook.open()
    assert passed(hook(xml=xml))
    hook.deny()
    assert refused(hook(xml=xml), "no readable uuid")


def test_a_call_leaves_its_time_for_the_agent(hook):
    hook("reconnect")
    assert (hook.run_dir / "hook").exists()


def test_a_large_xml_is_read_to_its_end(hook):
    hook.open()
    assert passed(hook(xml=NOVA_XML + "<!-- -->\n" * 100_000))


# --- called by libvirt 9.0.0 ---------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path):
    with LibvirtHost(tmp_path) as host:
        yield host


def test_libvirt_starts_nothing_while_the_gate_is_shut(host):
    domain = host.define("one")
    start = host.virsh("start", "one", check=False)
    assert start.returncode == 1 and "vmha: the gate is shut" in start.stderr and domain in start.stderr
    assert host.virsh("domstate", "--reason", "one").stdout.strip() == "shut off (failed)"
    create = host.virsh("create", str(host.directory / "one.xml"), check=False)
    assert create.returncode == 1 and "vmha: the gate is shut" in create.stderr
    host.open_gate()
    host.virsh("start", "one")
    assert host.active() == {"one"}


def test_autostart_is_held_after_a_new_boot(host):
    host.define("one")
    host.virsh("autostart", "one")
    host.open_gate()
    host.virsh("start", "one")
    host.crash()
    host.boot()
    host.start_libvirtd()
    until(lambda: "the gate is shut" in (host.directory / "log/libvirtd.log").read_text(), says="autostart was refused")
    assert host.active() == set()


def test_reconnect_passes_with_the_gate_shut(host):
    host.define("one")
    host.open_gate()
    host.virsh("start", "one")
    (host.root / "run/vmha/gate").unlink()
    host.stop_libvirtd()
    host.start_libvirtd()
    assert host.active() == {"one"}


def test_a_refused_reconnect_would_kill_the_domain(host):
    """Why the hook must let it pass: libvirt ends the QEMU (safety.md, last line)."""
    host.define("one")
    host.open_gate()
    host.virsh("start", "one")
    refusing = host.directory / "etc/hooks/qemu.d/zzz"
    refusing.write_text("#!/bin/sh\n[ $2 != reconnect ]\n")
    refusing.chmod(0o755)
    host.stop_libvirtd()
    host.start_libvirtd()
    until(lambda: host.active() == set())
    assert host.virsh("domstate", "--reason", "one").stdout.strip() == "shut off (daemon)"


def test_denied_and_unprotected_domains(host):
    denied, free = host.define("denied"), host.define("free")
    (host.root / "var/lib/vmha/unprotected").write_text(free + "\n")
    host.virsh("start", "free")
    host.open_gate()
    (host.root / "var/lib/vmha/denied").mkdir()
    (host.root / "var/lib/vmha/denied" / denied).touch()
    assert "is denied on this host" in host.virsh("start", "denied", check=False).stderr
    assert host.active() == {"free"}


def test_incoming_migration_is_prepared_and_so_held(host, tmp_path_factory):
    domain = host.define("one")
    host.open_gate()
    host.virsh("start", "one")
    with LibvirtHost(tmp_path_factory.mktemp("other")) as other:
        migrate = [
            "virsh", "-q", "-c", host.uri, "migrate", "one", "--live", "--desturi", other.uri,
            "--migrateuri", f"unix://{host.directory}/migration.sock",
        ]  # fmt: skip
        result = subprocess.run(migrate, check=False, capture_output=True, text=True, timeout=60)
        assert result.returncode == 1 and "vmha: the gate is shut" in result.stderr and domain in result.stderr
        assert host.active() == {"one"} and other.active() == set()
        other.open_gate()
        result = subprocess.run(migrate, check=False, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        assert host.active() == set() and other.active() == {"one"}


def test_a_hook_installed_after_libvirtd_started_is_not_called(tmp_path):
    """Why the agent checks it (vmha.adapters.processes.hook_fault)."""
    with LibvirtHost(tmp_path, hook=False) as host:
        host.define("one")
        host.install_hook()
        host.virsh("start", "one")
        host.virsh("destroy", "one")
        host.stop_libvirtd()
        host.start_libvirtd()
        assert "the gate is shut" in host.virsh("start", "one", check=False).stderr
