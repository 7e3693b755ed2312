"""Issue 8 on the real OpenStack: hosts die, vmha recovers; things that only look like death move nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from lab.cloud import HOST, LabCloud
from lab.processes import wait_until
from tests.functional.vmha_lab import PREFIX, VmhaLab

pytestmark = [pytest.mark.functional, pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cloud(lab: Lab) -> Iterator[LabCloud]:
    with LabCloud(lab) as one:
        yield one


@pytest.fixture
def v(lab: Lab, cloud: LabCloud) -> Iterator[VmhaLab]:
    one = VmhaLab(lab, cloud)
    one.ready()
    yield one
    cloud.delete(PREFIX) if all(cloud.in_service(h) for h in lab.hosts) else None


def boot_id(lab: Lab, host: str) -> str:
    ran = lab.exec(host, ["cat", "/proc/sys/kernel/random/boot_id"], capture_output=True, text=True, check=True)
    return str(ran.stdout).strip()


def test_power_cut_moves_running_and_stopped_guests_and_the_host_returns(v: VmhaLab) -> None:
    servers = v.guests(4, stopped=1)
    was = boot_id(v.lab, "compute1")
    v.lab.power("compute1", "off")
    moved = v.recovered(servers)
    assert {s["status"] for s in moved} == {"ACTIVE", "SHUTOFF"}
    record = v.recoveries("compute1")[0]
    assert record["proof"] == "P1" and record["stage"] == "closed"
    assert not v.cloud.in_service("compute1")
    v.back()
    assert boot_id(v.lab, "compute1") != was
    assert {s[HOST] for s in v.cloud.servers(PREFIX)} <= {"compute2", "compute3"}
    listed = v.lab.exec("compute1", ["virsh", "list", "--all", "--name"], capture_output=True, text=True).stdout
    assert listed.split() == [], "stale domains are still defined on the returned host"
    v.no_double_run(servers)


def test_a_returned_host_takes_guests_again(v: VmhaLab) -> None:
    v.guests(1, host="compute1")
    v.no_double_run(v.cloud.servers(PREFIX))


def test_agent_killed_is_an_alarm_not_a_death(v: VmhaLab) -> None:
    v.guests(1)
    v.lab.service("compute1", "vmha-agent", "kill")
    v.await_log("PAGE compute1: vmha-agent is stopped or stuck there", 30)
    v.quiet(15)
    v.lab.service("compute1", "vmha-agent", "start")
    v.await_log("hold is over", 30)
    assert v.cloud.servers(PREFIX)[0][HOST] == "compute1"


def test_agent_and_beat_killed_while_the_kernel_answers_is_held(v: VmhaLab) -> None:
    v.guests(1)
    v.lab.service("compute1", "vmha-agent", "kill")
    kill_beat(v.lab, "compute1")
    v.await_log("its beats stopped but its kernel answers ICMP", 30)
    v.quiet(15)
    v.lab.service("compute1", "vmha-agent", "start")
    v.await_log("heard again", 30)
    assert v.cloud.servers(PREFIX)[0][HOST] == "compute1"


def kill_beat(lab: Lab, host: str) -> None:
    """The beat process is in a session of its own: found by the command line of the host's own processes."""
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q 'agent/[b]eat.py' && kill -9 ${p#/proc/}; done; true"
    lab.exec(host, ["sh", "-c", script], check=True)


def test_management_network_cut_alone_moves_nothing(v: VmhaLab) -> None:
    v.guests(2)
    v.lab.cut("compute1", "management")
    v.await_log("its lease in etcd is gone", 40)
    v.quiet(10)
    assert "online: beats on storage" in v.log() or "its beats still come" in v.log()
    v.lab.heal("compute1", "management")
    v.await_log("hold is over", 40)
    assert {s[HOST] for s in v.cloud.servers(PREFIX)} == {"compute1"}
    v.lab.service("compute1", "nova-compute", "restart")  # its broken connection to RabbitMQ would last for minutes
    wait_until(lambda: v.cloud.in_service("compute1"), 120, "compute1 to be in service")


def test_a_host_dead_before_the_controllers_start_is_found(v: VmhaLab) -> None:
    servers = v.guests(2)
    for controller in v.lab.settings.controllers:
        v.lab.service(controller, "vmha-controller", "kill")
    v.lab.power("compute1", "off")
    for controller in v.lab.settings.controllers:
        v.lab.service(controller, "vmha-controller", "start")
    v.recovered(servers)
    v.back()
    v.no_double_run(servers)


MOMENTS = ["condemned (boot", "proven dead by P1", "evacuate t-0 (attempt 1)"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_leader_is_killed_in_the_middle(v: VmhaLab, moment: str) -> None:
    servers = v.guests(3)
    leader = v.leader()
    v.lab.power("compute1", "off")
    v.await_log(moment, 60)
    v.lab.service(leader, "vmha-controller", "kill")
    v.recovered(servers)
    v.lab.service(leader, "vmha-controller", "start")
    once_each(v)
    v.back()
    v.no_double_run(servers)


def once_each(v: VmhaLab) -> None:
    """Nova made one evacuation of each guest that was not refused or failed, whatever became of the leaders."""
    records = v.cloud.call("compute", "os-migrations?migration_type=evacuation&source_compute=compute1")["migrations"]
    ids = {s["id"] for s in v.cloud.servers(PREFIX)}
    done = [
        m["instance_uuid"]
        for m in records
        if m["instance_uuid"] in ids and m["status"] in ("done", "completed", "accepted")
    ]
    assert sorted(done) == sorted(ids)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_leader_that_goes_on_later_does_no_harm(v: VmhaLab, moment: str) -> None:
    servers = v.guests(2)
    leader = v.leader()
    v.lab.power("compute1", "off")
    v.await_log(moment, 60)
    v.lab.signal(leader, "vmha-controller", "SIGSTOP")
    try:
        v.recovered(servers)
    finally:
        v.lab.signal(leader, "vmha-controller", "SIGCONT")
    once_each(v)
    v.back()
    v.no_double_run(servers)


def test_an_etcd_member_dies_with_the_host(v: VmhaLab) -> None:
    servers = v.guests(2)
    v.lab.service("con1", "etcd", "kill")
    v.lab.power("compute1", "off")
    v.recovered(servers)
    v.lab.service("con1", "etcd", "start")
    v.back()
    v.no_double_run(servers)


ANSWERS_503 = """
import http.server, os, sys
print(os.getpid(), flush=True)
class H(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(503); self.send_header("Content-Length", "0"); self.end_headers()
    do_GET = do_POST = do_PUT = answer
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((sys.argv[1], 8774), H).serve_forever()
"""


def test_nova_answers_503_for_a_while(v: VmhaLab) -> None:
    servers = v.guests(2)
    v.lab.service("ctl", "nova-api", "stop")
    address = v.lab.settings.address("ctl", "management")
    sick = v.lab.popen("ctl", ["python3", "-c", ANSWERS_503, address], stdout=subprocess.PIPE, text=True)
    pid = sick.stdout.readline().strip()  # as seen in ctl
    try:
        v.lab.power("compute1", "off")
        v.await_log("Nova did not answer", 60)
    finally:
        v.lab.exec("ctl", ["kill", pid], check=True)
        sick.wait(timeout=20)
    v.lab.service("ctl", "nova-api", "start")
    v.recovered(servers)
    v.back()
    v.no_double_run(servers)


def test_an_unreachable_fencing_device_holds_loudly_and_goes_on_when_it_answers(v: VmhaLab) -> None:
    servers = v.guests(2)
    v.lab.service(v.lab.bmc("compute1"), "ipmi", "kill")
    v.lab.power("compute1", "off")
    v.await_log("PAGE compute1: the power of compute1 is unknown", 90)
    assert {s[HOST] for s in v.cloud.servers(PREFIX)} == {"compute1"}
    v.lab.service(v.lab.bmc("compute1"), "ipmi", "start")
    v.recovered(servers)
    v.back()
    v.no_double_run(servers)


def test_controllers_leave_nothing_when_they_stop(v: VmhaLab) -> None:
    follower = next(c for c in v.lab.settings.controllers if c != v.leader())
    v.lab.service(follower, "vmha-controller", "stop")
    script = "ls -d /proc/[0-9]* | while read p; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -E 'nova_worker|fence_runner' ; done; true"
    wait_until(
        lambda: (
            v.lab.exec(follower, ["sh", "-c", script], capture_output=True, text=True).stdout.count("vmha/adapters")
            == 0
        ),
        20,
        "the controller's children to be gone",
    )
    assert Path(v.lab.settings.log(follower)).exists()
