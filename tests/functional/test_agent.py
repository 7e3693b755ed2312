"""vmha-agent with a real etcd, a real libvirtd and real QEMUs."""

import os
import signal
import subprocess

import pytest

from tests.functional.agent_host import REPOSITORY, AgentHost
from tests.functional.etcd_cluster import EtcdCluster
from tests.functional.libvirt_host import until
from vmha.adapters.processes import ProcProcesses
from vmha.core.model import FENCED, InstanceSeen, Voters, Word
from vmha.wire import keys, records

pytestmark = pytest.mark.functional


@pytest.fixture
def cluster():
    with EtcdCluster(1) as cluster:
        yield cluster


@pytest.fixture
def one(tmp_path, cluster):
    with AgentHost(tmp_path, cluster) as one:
        yield one


def published(one, uuid, *wanted):
    until(lambda: one.instances().get(uuid) == wanted, says=f"{uuid} is published as {wanted}")


def test_a_life(one):
    domain = one.host.define("one")
    assert one.host.virsh("start", "one", check=False).returncode == 1
    one.start()
    until(one.gate_open)
    one.until_says(gate="open", hook=True, beating=True, boot=one.host.boot_id, addresses={"management": "127.0.0.1"})
    until(one.heard.fresh)
    published(one, domain, "shutoff", "failed")
    one.host.virsh("start", "one")
    published(one, domain, "running", "booted")
    os.kill(ProcProcesses().running()[domain], signal.SIGKILL)
    published(one, domain, "shutoff", "crashed")
    one.host.virsh("undefine", "one")
    until(lambda: one.instances() == {})


def test_nothing_is_written_while_nothing_changes(one):
    one.host.define("one")
    one.start()
    one.until_says(gate="open", hook=True, beating=True)
    until(lambda: len(one.instances()) == 1)
    before = one.store.list("/").revision
    until(one.heard.fresh)
    heard = one.heard.last()[5]
    until(lambda: one.heard.last()[5] > heard + 3, says="three seconds of beats")
    assert one.store.list("/").revision == before


def test_nova_compute_is_restarted_when_the_leader_asks_and_that_is_told(tmp_path, cluster):
    done = tmp_path / "restarts"
    with AgentHost(tmp_path, cluster, options=f"restart_compute = sh -c 'echo restarted >> {done}'") as one:
        one.start()
        until(one.gate_open)
        one.condemn()
        until(lambda: one.says(gate="shut", compute_restarts=0))
        one.condemn(restart_compute=1)
        until(lambda: one.says(compute_restarts=1), says="how many were carried out")
        one.condemn(restart_compute=2)
        until(lambda: one.says(compute_restarts=2))
        assert done.read_text().split() == ["restarted", "restarted"]
        one.release()
        until(lambda: one.says(gate="open", compute_restarts=0))


def test_keys_of_domains_that_are_gone_are_deleted_at_start_and_others_kept(one):
    domain, stale_uuid = one.host.define("one"), "11111111-2222-3333-4444-555555555555"
    stale, others = keys.instance("compute1", stale_uuid), keys.instance("compute10", domain)
    record = records.encode(InstanceSeen("compute1", stale_uuid, "earlier", "running"))
    one.store.commit({stale: record, others: record})
    one.start()
    published(one, domain, "shutoff", "")
    until(lambda: one.store.get(stale) is None)
    assert one.store.get(others) is not None


def test_a_condemned_host_clears_itself_says_so_and_opens_after_the_release(one):
    kept, free = one.host.define("kept"), one.host.define("free")
    one.start()
    until(one.gate_open)
    one.unprotect(free)
    for name in ("kept", "free"):
        one.host.virsh("start", name)
    one.store.commit({keys.condemned("compute10"): b"not ours"})
    revision = one.condemn(undefine=(kept, free))
    until(lambda: one.says(gate="shut", word=Word(revision)), says="the word, with nothing left")
    assert not one.gate_open() and one.host.active() == {"free"} and kept not in ProcProcesses().running()
    assert one.host.virsh("list", "--all", "--name").stdout.split() == ["free"]
    assert set(one.instances()) == {free}
    one.release()
    one.until_says(gate="open", word=None)
    assert one.gate_open() and one.host.active() == {"free"}


def test_a_stopped_domain_stays_defined_until_the_leader_says_that_it_lives_elsewhere(tmp_path, cluster):
    with AgentHost(tmp_path, cluster) as one:
        domain = one.host.define("one")
        one.start()
        until(one.gate_open)
        one.host.virsh("start", "one")
        revision = one.condemn()
        until(lambda: one.says(word=Word(revision, defined=(domain,))))
        until(
            lambda: one.instances().get(domain) == ("shutoff", FENCED), says="that it ran, for who starts it elsewhere"
        )
        assert one.condemn(undefine=(domain,)) == revision
        until(lambda: one.says(word=Word(revision)))


def test_a_host_that_returns_condemned_stays_shut_in_its_next_boot(one):
    domain = one.host.define("one")
    one.host.virsh("autostart", "one")
    one.start()
    until(one.gate_open)
    one.host.virsh("start", "one")
    first = one.host.boot_id
    one.host.crash()
    one.agent.wait()
    revision = one.condemn(first, undefine=(domain,))
    one.host.boot()
    one.host.start_libvirtd()
    one.start()
    until(lambda: one.says(boot=one.host.boot_id, gate="shut", word=Word(revision)), says="the word of the next boot")
    assert one.host.boot_id != first and not one.gate_open() and domain not in ProcProcesses().running()
    one.release()
    until(one.gate_open)


def test_etcd_away_changes_nothing_and_loses_nothing(one, cluster):
    a, b = one.host.define("a"), one.host.define("b")
    one.start()
    until(one.gate_open)
    one.host.virsh("start", "a")
    published(one, a, "running", "booted")
    cluster.kill(0)
    one.host.virsh("start", "b")
    one.host.virsh("destroy", "a")
    one.host.virsh("undefine", "a")
    assert one.gate_open() and one.host.active() == {"b"} and one.heard.fresh()
    cluster.start(0)
    published(one, b, "running", "booted")
    until(lambda: set(one.instances()) == {b})
    one.until_says(gate="open")


def test_a_boot_without_etcd_stays_shut_until_it_answers(one, cluster):
    cluster.kill(0)
    one.start()
    until(one.heard.fresh, says="beats without etcd")
    until(lambda: "is not known" in one.log_file.read_text(), says="the question was not answered")
    assert not one.gate_open()
    cluster.start(0)
    until(one.gate_open)


def test_an_agent_killed_is_not_missed_by_domains_gate_or_beats(one):
    domain = one.host.define("one")
    one.start()
    until(one.gate_open)
    one.host.virsh("start", "one")
    one.until_says(gate="open", beating=True)
    beat, run = one.beat_status(), one.alive().agent
    one.signal_agent(signal.SIGKILL)
    until(lambda: one.heard.fresh() and one.heard.age() > 2.5, says="beats whose age of progress grows")
    assert one.gate_open() and one.host.active() == {"one"}
    one.start()
    until(lambda: one.alive() is not None and one.alive().agent != run)
    until(lambda: one.heard.age() < 1.5, says="progress again")
    again = one.beat_status()
    assert (again["pid"], again["start"]) == (beat["pid"], beat["start"]) and again["progress"] > beat["progress"]
    published(one, domain, "running", "booted")
    assert one.gate_open()


def voters(one, *names):
    one.store.commit({keys.VOTERS: records.encode(Voters(names))})
    return one.store.get(keys.VOTERS).modified


def test_a_voter_acknowledges_what_it_has_applied_and_knows_it_after_a_restart_without_etcd(one, cluster):
    lists = lambda: one.heard.lists.get("management")  # noqa: E731
    one.start()
    one.until_says(gate="open", beating=True)
    until(one.heard.fresh)
    assert lists() == (0, 0), "nobody votes"
    revision = voters(one, "compute1", "compute2", "compute3")
    until(lambda: lists() is not None and lists()[0] == revision)
    one.store.commit({keys.condemned("compute2"): b"its bytes do not matter"})
    condemned = one.store.get(keys.condemned("compute2")).created
    until(lambda: lists() == (revision, condemned))
    one.signal_agent(signal.SIGKILL)
    cluster.kill(0)
    progress = one.heard.last()[3]
    one.start()
    until(lambda: one.heard.last()[3] >= progress + 2, says="the new agent tells vmha-beat what it knows")
    assert lists() == (revision, condemned)
    cluster.start(0)
    voters(one, "compute2", "compute3", "compute4")
    until(lambda: lists() == (0, 0), says="it does not vote any more")


def test_a_quick_restart_leaves_no_gap(one):
    one.start()
    one.until_says(gate="open", beating=True)
    one.signal_agent(signal.SIGTERM)
    assert one.agent.returncode == 0 and one.alive() is not None and one.gate_open()
    one.start()
    lease = one.store.get(keys.alive("compute1")).lease
    until(lambda: one.store.get(keys.alive("compute1")).lease != lease, says="the new agent's own lease")
    assert one.gate_open() and one.heard.fresh()


def test_an_agent_that_stays_away_is_missed_after_its_lease(one):
    one.start()
    one.until_says(gate="open", beating=True)
    one.signal_agent(signal.SIGTERM)
    until(lambda: one.alive() is None)
    assert one.heard.fresh()


def test_a_stuck_agent_shows_in_its_beats(one):
    one.start()
    one.until_says(gate="open", beating=True)
    one.signal_agent(signal.SIGSTOP)
    until(lambda: one.heard.fresh() and one.heard.age() > 2.5)
    one.signal_agent(signal.SIGCONT)
    until(lambda: one.heard.age() < 1.5)


def test_a_lost_lease_is_replaced(one, cluster):
    one.start()
    one.until_says(gate="open")
    lease = one.store.get(keys.alive("compute1")).lease
    assert cluster.etcdctl("lease", "revoke", f"{lease:x}").returncode == 0
    assert one.alive() is None
    one.until_says(gate="open")


def test_libvirtd_away_is_survived_and_what_happened_meanwhile_is_found(one):
    domain = one.host.define("one")
    one.start()
    until(one.gate_open)
    one.host.virsh("start", "one")
    published(one, domain, "running", "booted")
    pid = ProcProcesses().running()[domain]
    one.host.stop_libvirtd()
    os.kill(pid, signal.SIGKILL)
    progress = one.heard.last()[3]
    until(lambda: one.heard.last()[3] > progress + 2, says="the engine goes on without libvirtd")
    one.host.start_libvirtd()
    published(one, domain, "shutoff", "crashed")


def test_a_hung_libvirtd_gives_no_word_and_does_not_stop_the_engine(one):
    domain = one.host.define("one")
    one.start()
    until(one.gate_open)
    one.host.virsh("start", "one")
    one.until_says(gate="open", beating=True)
    one.host.freeze_libvirtd()
    revision = one.condemn(undefine=(domain,))
    one.until_says(gate="shut")
    progress = one.heard.last()[3]
    until(lambda: one.heard.last()[3] > progress + 4)
    assert one.alive().word is None
    one.host.thaw_libvirtd()
    until(lambda: one.says(word=Word(revision)))


def test_a_second_agent_is_refused_in_one_line(one):
    one.start()
    until(one.gate_open)
    second = subprocess.run(one.command(), check=False, capture_output=True, text=True, timeout=30, cwd=REPOSITORY)
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith("vmha-agent: another vmha-agent runs on this host")
    assert one.gate_open()


def test_a_wrong_configuration_is_told_in_one_line(one):
    text = one.configuration.read_text()
    one.configuration.write_text(text.replace("networks = management:127.0.0.1", "networks = management:compute1"))
    wrong = subprocess.run(one.command(), check=False, capture_output=True, text=True, timeout=30, cwd=REPOSITORY)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        "vmha-agent: [beat] networks: 'compute1' in 'management:compute1' is not an IP address (host names are not looked up)"
    ]


def test_a_missing_hook_is_told(one):
    os.unlink(one.host.directory / "etc/hooks/qemu.d/vmha")
    one.start()
    one.until_says(gate="open", hook=False)
    assert "install it and restart libvirtd" in one.log_file.read_text()


def test_a_host_without_a_hypervisor(tmp_path, cluster):
    with AgentHost(tmp_path, cluster, options="[agent]\nhypervisor = none") as one:
        one.host.stop_libvirtd()
        one.start()
        one.until_says(gate="open", hook=True, beating=True)
        revision = one.condemn()
        until(lambda: one.says(gate="shut", word=Word(revision)))
