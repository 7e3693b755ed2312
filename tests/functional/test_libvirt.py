"""The libvirt adapter and the look at /proc against a real libvirtd 9 with QEMU (TCG)."""

import os
import queue
import signal
import subprocess
import time

import pytest

from tests.functional.libvirt_host import LibvirtHost, until
from vmha.adapters.libvirt import LibvirtHypervisor
from vmha.adapters.processes import ProcProcesses, hook_fault
from vmha.errors import HypervisorUnavailable

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with LibvirtHost(tmp_path_factory.mktemp("host")) as host:
        host.open_gate()
        yield host


class Changes:
    """What the adapter told, in order."""

    def __init__(self):
        self.queue = queue.SimpleQueue()
        self.last = {}
        self.all = []

    def __call__(self, domain, uuid):
        self.queue.put((domain, uuid))

    def wait(self, wanted, seconds=10.0):
        """Until a change that ``wanted`` accepts came."""
        end = time.monotonic() + seconds
        while True:
            domain, uuid = self.queue.get(timeout=max(0.01, end - time.monotonic()))
            self.all.append((domain, uuid))
            if wanted(domain, uuid):
                return domain


@pytest.fixture
def seen():
    return Changes()


@pytest.fixture
def libvirt(host, seen):
    hypervisor = LibvirtHypervisor(host.uri, call_timeout=2.0)
    hypervisor.subscribe(seen)
    seen.wait(lambda d, u: u == "")
    yield hypervisor
    hypervisor.close()


@pytest.fixture
def domain(host):
    uuid = host.define("one")
    yield uuid
    host.virsh("destroy", "one", check=False)
    host.virsh("undefine", "one", check=False)


def stands(libvirt, uuid):
    return next(((d.state, d.active, d.reason) for d in libvirt.domains() if d.uuid == uuid), None)


def told(uuid, *wanted):
    return lambda d, u: u == uuid and d is not None and (d.state, d.active, d.reason) == wanted


def test_a_life(host, libvirt, seen, domain):
    assert stands(libvirt, domain) == ("shutoff", False, "")
    host.virsh("start", "one")
    seen.wait(told(domain, "running", True, "booted"))
    assert stands(libvirt, domain) == ("running", True, "booted")
    host.virsh("suspend", "one")
    seen.wait(told(domain, "paused", True, "user"))
    host.virsh("resume", "one")
    seen.wait(told(domain, "running", True, "unpaused"))
    libvirt.destroy(domain)
    seen.wait(told(domain, "shutoff", False, "destroyed"))
    libvirt.undefine(domain)
    seen.wait(lambda d, u: (d, u) == (None, domain))
    assert libvirt.domains() == ()
    libvirt.destroy(domain)  # both are done when there is nothing left to do
    libvirt.undefine(domain)


def test_a_killed_qemu_is_told_at_once_and_as_a_crash(host, libvirt, seen, domain):
    host.virsh("start", "one")
    seen.wait(told(domain, "running", True, "booted"))
    pid = ProcProcesses().running()[domain]
    os.kill(pid, signal.SIGKILL)
    seen.wait(told(domain, "shutoff", False, "crashed"))
    assert stands(libvirt, domain) == ("shutoff", False, "crashed")
    until(lambda: domain not in ProcProcesses().running())


def test_a_stopped_qemu_can_be_destroyed(host, libvirt, seen, domain):
    host.virsh("start", "one")
    os.kill(ProcProcesses().running()[domain], signal.SIGSTOP)
    libvirt.destroy(domain)  # takes libvirt's 10 s from SIGTERM to SIGKILL
    seen.wait(told(domain, "shutoff", False, "destroyed"))
    assert domain not in ProcProcesses().running()


def test_a_transient_domain_is_gone_when_it_stops(host, libvirt, seen, domain):
    host.virsh("undefine", "one")
    host.virsh("create", str(host.directory / "one.xml"))
    seen.wait(told(domain, "running", True, "booted"))
    host.virsh("destroy", "one")
    seen.wait(lambda d, u: (d, u) == (None, domain))
    with pytest.raises(queue.Empty):
        seen.wait(lambda d, u: u == domain, seconds=0.3)


def test_a_refused_start_sends_no_event(host, libvirt, seen, domain):
    (host.root / "run/vmha/gate").unlink()
    assert host.virsh("start", "one", check=False).returncode == 1
    host.open_gate()
    host.virsh("start", "one")
    seen.wait(told(domain, "running", True, "booted"))
    assert not [d for d, u in seen.all if u == domain and d is not None and d.reason == "failed"]


def test_a_starting_domain_is_never_left_out(host, libvirt, domain):
    """While its prepare hook runs a listing waits; then it shows the domain as active (safety.md P5 relies on it)."""
    fifo = host.directory / "etc/hooks/go"
    os.mkfifo(fifo)
    slow = host.directory / "etc/hooks/qemu.d/aaa"
    slow.write_text("#!/bin/sh\n[ $2 != prepare ] || { : > /run/preparing; cat /etc/libvirt/hooks/go; }\n")
    slow.chmod(0o755)
    start = subprocess.Popen(host.inside(["virsh", "-q", "-c", "qemu:///system", "start", "one"]))
    try:
        until((host.root / "run/preparing").exists)
        with pytest.raises(HypervisorUnavailable, match="did not answer within 2 s"):
            libvirt.domains()
        slow.unlink()
    finally:
        fifo.write_text("")
    until(lambda: stands(libvirt, domain) is not None and stands(libvirt, domain)[1])
    assert start.wait(timeout=10) == 0


def test_a_hung_libvirtd_is_unknown_and_then_known_again(host, libvirt, domain):
    host.freeze_libvirtd()
    try:
        began = time.monotonic()
        for _ in range(7):  # more than there are threads
            with pytest.raises(HypervisorUnavailable, match="did not answer"):
                libvirt.domains()
        assert time.monotonic() - began < 7 * 2.0 + 5
    finally:
        host.thaw_libvirtd()
    until(lambda: _answers(libvirt))
    assert stands(libvirt, domain) == ("shutoff", False, "")


def _answers(libvirt):
    try:
        libvirt.domains()
    except HypervisorUnavailable:
        return False
    return True


def test_a_restarted_libvirtd_says_list_again(host, libvirt, seen, domain):
    host.virsh("start", "one")
    seen.wait(told(domain, "running", True, "booted"))
    pid = ProcProcesses().running()[domain]
    host.stop_libvirtd()
    seen.wait(lambda d, u: u == "")
    with pytest.raises(HypervisorUnavailable):
        libvirt.domains()
    os.kill(pid, signal.SIGKILL)  # nobody tells of this
    host.start_libvirtd()
    seen.wait(lambda d, u: u == "")
    assert stands(libvirt, domain) == ("shutoff", False, "crashed")


def test_libvirt_that_was_never_there(tmp_path):
    hypervisor = LibvirtHypervisor(f"qemu:///system?socket={tmp_path}/none", call_timeout=1.0)
    with pytest.raises(HypervisorUnavailable, match="libvirt at qemu:///system"):
        hypervisor.domains()
    assert hypervisor.version() == ""
    hypervisor.close()


def test_hook_in_effect(host, tmp_path):
    proc, hook, run_dir = str(host.root / "proc"), str(host.root / "etc/libvirt/hooks/qemu.d/vmha"), str(tmp_path)
    assert hook_fault(hook, run_dir, proc) == ""
    os.utime(hook)  # changed after libvirtd started: it may never have been called ...
    assert "restart libvirtd" in hook_fault(hook, run_dir, proc)
    (tmp_path / "hook").touch()  # ... but it was
    assert hook_fault(hook, run_dir, proc) == ""
    os.chmod(hook, 0o644)
    assert "chmod 755" in hook_fault(hook, run_dir, proc)
    os.chmod(hook, 0o755)
    assert "install it" in hook_fault(hook + "x", run_dir, proc)
