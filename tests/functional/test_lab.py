"""The lab is the ground that other tests stand on: what it cuts is really cut, what it says is really so."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from lab import Exempt, Lab, LabError
from lab.processes import wait_until

pytestmark = pytest.mark.functional

QEMU = "qemu-system-x86_64"


def fence(lab: Lab, host: str, action: str, machine: str = "con1") -> subprocess.CompletedProcess[str]:
    """Run the real fence agent in a controller, with its options on standard input."""
    options = lab.fencing(host)["options"] | {"action": action}
    text = "".join(f"{name}={value}\n" for name, value in options.items())
    return lab.exec(machine, ["fence_ipmilan"], input=text, capture_output=True, text=True)


def boot_id(lab: Lab, host: str) -> str:
    done = lab.exec(host, ["cat", "/proc/sys/kernel/random/boot_id"], capture_output=True, text=True, check=True)
    return str(done.stdout.strip())


def reaches(lab: Lab, machine: str, address: str) -> bool:
    return lab.exec(machine, ["ping", "-c", "1", "-W", "1", address], capture_output=True).returncode == 0


def start_qemu(lab: Lab, host: str, instance: str) -> subprocess.Popen[bytes]:
    """A tiny paused QEMU without a disk: nothing in it would stop a second copy."""
    quiet = ["-S", "-nodefaults", "-display", "none", "-machine", "none", "-m", "16"]
    return lab.popen(host, [QEMU, *quiet, "-uuid", instance], stdin=subprocess.DEVNULL)


def end_qemu(process: subprocess.Popen[bytes]) -> None:
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
    process.kill()
    process.wait(10)


def runs_of(lab: Lab, instance: str) -> list[str]:
    return [
        f"{run.host} {'on' if run.end == float('inf') else 'ended'}"
        for run in lab.witness_runs()
        if run.uuid == instance
    ]


class TestFencing:
    def test_status_is_the_power_of_the_host(self, healed: Lab) -> None:
        assert fence(healed, "compute1", "status").returncode == 0
        healed.power("compute1", "off")
        assert fence(healed, "compute1", "status").returncode == 2

    def test_off_ends_every_process_of_the_host(self, healed: Lab) -> None:
        sleeper = healed.popen("compute1", ["sleep", "600"])
        assert fence(healed, "compute1", "off").returncode == 0
        assert not healed.has_power("compute1")
        assert sleeper.wait(5) != 0
        event = healed.events()[-1]
        assert (event["event"], event["machine"], event["by"]) == ("power-off", "compute1", "ipmi")

    def test_off_when_already_off_succeeds_and_says_so(self, healed: Lab) -> None:
        healed.power("compute1", "off")
        done = fence(healed, "compute1", "off")
        assert done.returncode == 0
        assert "Already OFF" in done.stdout

    def test_on_starts_a_new_boot(self, healed: Lab) -> None:
        before = boot_id(healed, "compute1")
        assert fence(healed, "compute1", "off").returncode == 0
        assert fence(healed, "compute1", "on").returncode == 0
        assert healed.has_power("compute1")
        assert boot_id(healed, "compute1") != before

    def test_a_wrong_password_is_refused(self, healed: Lab) -> None:
        options = healed.fencing("compute1")["options"] | {"action": "off", "password": "wrong"}
        text = "".join(f"{name}={value}\n" for name, value in options.items())
        assert healed.exec("con1", ["fence_ipmilan"], input=text, capture_output=True, text=True).returncode != 0
        assert healed.has_power("compute1")

    def test_a_late_device_says_on_until_it_is_off(self, healed: Lab) -> None:
        healed.bmc_delay("compute1", 1.5)
        options = healed.fencing("compute1")["options"]
        tool = ["ipmitool", "-I", "lanplus", "-C", "3", "-H", options["ip"], "-U", options["username"]]
        healed.exec("con1", [*tool, "-P", options["password"], "power", "off"], check=True, capture_output=True)
        assert healed.has_power("compute1")
        wait_until(lambda: not healed.has_power("compute1"), 10, "the late power-off")

    def test_a_cut_or_dead_device_cannot_be_asked(self, healed: Lab) -> None:
        healed.cut("compute1", "oob")
        assert not reaches(healed, "con1", healed.fencing("compute1")["options"]["ip"])
        assert reaches(healed, "con1", healed.fencing("compute2")["options"]["ip"])
        healed.heal("compute1", "oob")
        assert fence(healed, "compute1", "status").returncode == 0
        healed.service(healed.bmc("compute1"), "ipmi", "kill")
        assert healed.services(healed.bmc("compute1")) == {"ipmi": False}

    def test_compute_hosts_are_not_on_the_out_of_band_network(self, healed: Lab) -> None:
        assert not reaches(healed, "compute2", healed.fencing("compute1")["options"]["ip"])


class TestPower:
    def test_disk_survives_and_run_is_lost(self, healed: Lab) -> None:
        healed.exec("compute2", ["sh", "-c", "echo kept > /var/lib/vmha/test; echo lost > /run/test"], check=True)
        machine_id = healed.exec("compute2", ["cat", "/etc/machine-id"], capture_output=True).stdout
        healed.power("compute2", "off")
        healed.power("compute2", "on")
        assert healed.exec("compute2", ["cat", "/var/lib/vmha/test"], capture_output=True).stdout == b"kept\n"
        assert healed.exec("compute2", ["test", "-e", "/run/test"]).returncode != 0
        assert healed.exec("compute2", ["cat", "/etc/machine-id"], capture_output=True).stdout == machine_id

    def test_a_dead_host_sends_no_goodbye(self, healed: Lab) -> None:
        """A peer's connection to a host that lost power stays open: neither FIN nor RST reached it."""
        server = "import socket; s=socket.create_server(('', 7000)); print('up', flush=True); s.accept()[0].recv(1)"
        client = "import socket; c=socket.create_connection(('10.77.0.11', 7000)); print('up', flush=True)\n"
        client += "c.settimeout(2)\ntry: print('heard', c.recv(1), flush=True)\nexcept TimeoutError: print('silence', flush=True)"
        listening = healed.popen("compute1", ["/usr/bin/python3", "-c", server], stdout=subprocess.PIPE)
        assert listening.stdout and listening.stdout.readline() == b"up\n"
        connected = healed.popen("con1", ["/usr/bin/python3", "-c", client], stdout=subprocess.PIPE)
        assert connected.stdout and connected.stdout.readline() == b"up\n"
        healed.power("compute1", "off")
        assert connected.stdout.readline() == b"silence\n"
        connected.wait(5)
        listening.wait(5)

    def test_exec_in_a_dead_host_says_what_to_do(self, healed: Lab) -> None:
        healed.power("compute1", "off")
        with pytest.raises(LabError, match="lab power on compute1"):
            healed.exec("compute1", ["true"])

    def test_a_power_cycle_takes_less_than_a_second(self, healed: Lab) -> None:
        begin = time.monotonic()
        healed.power("compute3", "off")
        healed.power("compute3", "on")
        assert time.monotonic() - begin < 1


class TestNetworks:
    @pytest.mark.parametrize("link", [False, True])
    def test_a_cut_is_of_one_network_and_heals(self, healed: Lab, link: bool) -> None:
        healed.cut("compute1", "management", link)
        assert not reaches(healed, "con1", "10.77.0.11")
        assert reaches(healed, "con1", "10.77.1.11")
        healed.heal("compute1", "management")
        wait_until(lambda: reaches(healed, "con1", "10.77.0.11"), 10, "the healed network")

    def test_a_cut_outlives_a_power_cycle(self, healed: Lab) -> None:
        healed.cut("compute1", "storage")
        healed.power("compute1", "off")
        healed.power("compute1", "on")
        assert not reaches(healed, "con1", "10.77.1.11")
        healed.heal("compute1", "storage")
        wait_until(lambda: reaches(healed, "con1", "10.77.1.11"), 10, "the healed network")

    def test_an_unknown_network_is_named(self, healed: Lab) -> None:
        with pytest.raises(LabError, match="management, storage, oob"):
            healed.cut("compute1", "backup")


class TestWitness:
    def test_start_and_end_are_recorded(self, healed: Lab) -> None:
        instance = str(uuid.uuid4())
        qemu = start_qemu(healed, "compute1", instance)
        wait_until(lambda: runs_of(healed, instance) == ["compute1 on"], 10, "the witness to see the start")
        healed.power("compute1", "off")
        wait_until(lambda: runs_of(healed, instance) == ["compute1 ended"], 10, "the witness to see the end")
        qemu.wait(5)
        cut = next(event for event in reversed(healed.events()) if event["event"] == "power-off")
        end = next(run.end for run in healed.witness_runs() if run.uuid == instance)
        assert 0 < end - cut["boot"] < 1

    def test_a_move_is_no_double_run(self, healed: Lab) -> None:
        instance = str(uuid.uuid4())
        for host in ("compute1", "compute2"):
            qemu = start_qemu(healed, host, instance)
            wait_until(lambda h=host: f"{h} on" in runs_of(healed, instance), 10, "the start")  # type: ignore[misc]
            end_qemu(qemu)
            wait_until(lambda h=host: f"{h} ended" in runs_of(healed, instance), 10, "the end")  # type: ignore[misc]
        assert not [one for one in healed.witness_overlaps() if one.first.uuid == instance]

    def test_a_double_run_is_found_and_an_ordered_migration_is_exempt(self, healed: Lab) -> None:
        instance, since = str(uuid.uuid4()), time.clock_gettime(time.CLOCK_BOOTTIME)
        both = [start_qemu(healed, host, instance) for host in ("compute1", "compute2")]
        wait_until(lambda: len(runs_of(healed, instance)) == 2, 10, "the witness to see both")
        found = healed.witness_overlaps(since)
        assert [{one.first.host, one.second.host} for one in found] == [{"compute1", "compute2"}]
        assert healed.witness_overlaps(since, exempt=[Exempt(instance, since)]) == []
        for qemu in both:
            end_qemu(qemu)
        wait_until(lambda: runs_of(healed, instance).count("compute1 on") == 0, 10, "the ends")
        assert healed.witness_overlaps(since), "an overlap that is over stays found"


class TestServices:
    def test_etcd_lives_on_without_one_member(self, healed: Lab) -> None:
        healed.service("con1", "etcd", "kill")
        assert healed.services("con1")["etcd"] is False
        # the member may have been the leader: a write of that moment is lost, one after the election is not
        put = [
            "etcdctl",
            "--endpoints=http://10.77.0.1:2379,http://10.77.0.3:2379",
            "--command-timeout=2s",
            "put",
            "/test",
            "1",
        ]
        wait_until(lambda: healed.exec("con2", put, capture_output=True).returncode == 0, 20, "a write without con1")
        healed.service("con1", "etcd", "start")
        local = ["etcdctl", "--endpoints=http://127.0.0.1:2379", "get", "/test", "--print-value-only"]
        wait_until(
            lambda: healed.exec("con1", local, capture_output=True).stdout == b"1\n", 20, "the member to catch up"
        )

    def test_signals_and_pids_are_of_the_service(self, healed: Lab) -> None:
        pid = healed.pid("con1", "etcd")
        healed.signal("con1", "etcd", "SIGSTOP")
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 5, "etcd to stand still")
        healed.signal("con1", "etcd", "SIGCONT")
        assert healed.pid("con1", "etcd") == pid

    def test_an_unknown_service_is_named(self, healed: Lab) -> None:
        with pytest.raises(LabError, match="it has: etcd"):
            healed.service("con1", "etdc", "stop")


def test_nothing_is_left_after_down(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A lab that was used leaves no namespace, mount or process."""
    state = tmp_path_factory.mktemp("once")
    one = Lab(state=state, light=True, prefix="labonce-")
    one.up(hosts=1, vmha=False)
    one.cut("compute1", "management")
    one.power("compute1", "off")
    one.down()
    assert one.leftovers() == []
    assert not one.is_up()
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "labonce-" not in names
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(state) not in processes


@pytest.mark.lab
class TestFullLab:
    def test_every_compute_service_is_up(self, lab: Lab) -> None:
        command = ["openstack", "compute", "service", "list", "--service", "nova-compute", "-f", "json"]
        done = lab.exec("ctl", command, capture_output=True, text=True, check=True)
        assert {row["Host"]: row["State"] for row in json.loads(done.stdout)} == dict.fromkeys(lab.hosts, "up")

    def test_the_witness_sees_nothing_twice(self, lab: Lab) -> None:
        assert lab.witness_overlaps() == []
