"""vmha-manage with a real etcd, a real controller and a real agent: what an operator says reaches the leader and is carried out.

Nova cannot be reached here and no fencing device is known: nothing gets further than a condemnation.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.functional.agent_host import KEY, REPOSITORY, AgentHost
from tests.functional.etcd_cluster import EtcdCluster, free_ports
from tests.functional.libvirt_host import until
from vmha.cmd import manage
from vmha.core.model import HostAlive, HostSettings, InstanceSettings, Protect, Recovery, SegmentSettings, Voters
from vmha.wire import keys, records

pytestmark = pytest.mark.functional

CONFIGURATION = """
[DEFAULT]
deployment_key_file = {key}
[etcd]
endpoints = {endpoints}
[controller]
name = con1
listen = management:127.0.0.1:{port}
fencing_file = {fencing}
journal_file =
[nova]
auth_url = http://127.0.0.1:9/v3
password = none
[policy]
inventory_every = 0.5
[gates]
max_down_percent = 100
[calls]
read_timeout = 1
"""


class Cloud:
    """One controller, one real host, and hosts that have only registered."""

    def __init__(self, directory, cluster):
        self.host = AgentHost(directory, cluster)
        self.store = self.host.store
        (port,) = free_ports(1)
        text = self.host.configuration.read_text()
        before = f"management:127.0.0.1:{self.host.receiver.ports[0][2]}"
        self.host.configuration.write_text(text.replace(before, f"{before},management:127.0.0.1:{port}"))
        fencing = directory / "fencing.json"
        fencing.write_text("{}")
        fencing.chmod(0o600)
        self.configuration = directory / "controller.conf"
        self.configuration.write_text(
            CONFIGURATION.format(
                key=directory / "deployment.key", endpoints=",".join(cluster.urls), port=port, fencing=fencing
            )
        )
        self.log = directory / "controller.log"

    def __enter__(self):
        self.host.__enter__()
        command = [sys.executable, "-m", "vmha.cmd.controller", "--config-file", str(self.configuration)]
        with open(self.log, "ab") as log:
            self.controller = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        self.host.start()
        self.register("compute2")
        until(lambda: {"compute1", "compute2"} <= set(self.known()), says="both hosts are known")
        return self

    def __exit__(self, *error):
        os.kill(self.controller.pid, signal.SIGTERM)
        self.controller.wait(timeout=20)
        self.host.__exit__(*error)

    def register(self, name):
        self.store.commit({keys.alive(name): records.encode(HostAlive(name, f"{name}-boot", "a", {}, "open", True))})

    def known(self):
        prefix = keys.SETTINGS + "hosts/"
        items = self.store.list(prefix).items.values()
        found = [records.decode(HostSettings, i.key, i.value) for i in items]
        return {h.host: h for h in found if h.last_boot}

    def read(self, kind, key, **outside):
        item = self.store.get(key)
        return None if item is None else records.decode(kind, key, item.value, **outside)

    def voters(self):
        return self.read(Voters, keys.VOTERS, revision=0)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    assert KEY
    with EtcdCluster(1) as cluster, Cloud(tmp_path_factory.mktemp("orders"), cluster) as cloud:
        yield cloud


@pytest.fixture
def order(cloud, capsys):
    def give(*words, status=0):
        assert manage.main(["--config-file", str(cloud.configuration), *words]) == status
        printed = capsys.readouterr()
        return printed.out + printed.err

    return give


def test_the_voters_are_made_and_a_changed_list_counts_once_agent_and_arbiter_have_acknowledged_it(cloud, order):
    assert "name a controller with --arbiter" in order("voters", "init", "--yes", status=1)
    assert "make it with vmha-manage voters init" in order("voters", "show", status=1)
    assert "3 voters: compute1, compute2, con1" in order("voters", "init", "--arbiter", "con1", "--yes")
    assert "arbiter: con1" in order("voters", "show")
    assert "follows the hosts by itself" in order("voters", "init", "--yes", status=1)
    cloud.register("compute3")
    settled = Voters(("compute1", "compute2", "compute3"), "con1")
    until(lambda: cloud.voters() == settled, says="two of the three old voters know of the change")
    assert "the changed list counts alone now: 3 voters" in cloud.log.read_text()
    assert json.loads(cloud.store.get(keys.acknowledged("con1")).value)["voters"] > 0


def test_what_is_said_of_hosts_instances_and_segments_keeps_what_was_said_before(cloud, order):
    order("host", "set", "compute2", "--segment", "gold", "--failure-domain", "rack1", "--reserved", "yes")
    order("host", "set", "compute2", "--reserved", "no")
    host = cloud.known()["compute2"]
    assert (host.segment, host.failure_domain, host.reserved, host.last_boot) == (
        "gold",
        "rack1",
        False,
        "compute2-boot",
    )
    order("instance", "set", "u1", "--protect", "host", "--group", "db")
    order("instance", "set", "u1", "--priority", "7", "--ready", "yes")
    wanted = InstanceSettings("u1", Protect.HOST, 7, "db", True)
    assert cloud.read(InstanceSettings, keys.instance_settings("u1")) == wanted
    order("instance", "set", "u1", "--clear")
    assert cloud.store.get(keys.instance_settings("u1")) is None
    order("segment", "set", "gold", "--enabled", "no")
    order("segment", "set", "gold", "--protect", "none")
    assert cloud.read(SegmentSettings, keys.segment_settings("gold")) == SegmentSettings("gold", Protect.NONE, False)
    assert "nothing to set" in order("segment", "set", "gold", status=1)
    assert "knows no host nowhere" in order("host", "set", "nowhere", "--segment", "x", status=1)


def test_maintenance_and_the_switch(cloud, order):
    assert "not judged any more" in order("host", "maintain", "compute2", "--reason", "disk")
    assert cloud.known()["compute2"].maintenance
    assert "in maintenance already" in order("host", "maintain", "compute2", status=1)
    assert "its maintenance is over" in order("host", "maintain", "compute2", "--off")
    assert not cloud.known()["compute2"].maintenance
    assert "disarmed, no fence is running" in order("disarm")
    assert "refused: vmha is disarmed" in order("host", "condemn", "compute2", "--reason", "sick", status=1)
    assert "vmha acts again" in order("arm")
    assert not json.loads(cloud.store.get(keys.switches()).value)["disarmed"]


def test_every_order_about_a_recovery_reaches_the_leader(cloud, order):
    for verb in ("approve", "retry", "abort"):
        assert "refused: " in order("recovery", verb, "compute1", status=1)
    assert "refused: vmha knows no host" in order("recovery", "retry", "nowhere", status=1)
    assert "nothing to release" in order("host", "release", "compute2", status=1)
    assert "it is condemned" in order("host", "condemn", "compute2", "--reason", "it smokes")
    assert cloud.store.get(keys.condemned("compute2")) is not None
    revision = cloud.store.get(keys.condemned("compute2")).created
    until(lambda: cloud.host.heard.lists["management"][1] >= revision, says="compute1 acknowledges the condemnation")
    assert "no new calls" in order("recovery", "abort", "compute2", "--reason", "wait")
    assert "everything that failed is tried now" in order("recovery", "retry", "compute2")
    refused = order("host", "confirm", "compute2", "--reason", "I pulled the plug", status=1)
    assert "refused: " in refused and "lease" in refused
    order("recovery", "abort", "compute2")
    assert "settled" in order("recovery", "resolve", "compute2", "--reason", "it was a drill")
    assert "it may come back" in order("host", "release", "compute2")
    (found,) = [records.decode(Recovery, i.key, i.value) for i in cloud.store.list(keys.RECOVERIES).items.values()]
    assert "drill" in found.resolved and cloud.known()["compute2"].release == revision
    assert list(cloud.store.list(keys.COMMANDS).items) == [], "every order was answered, and is gone"
