"""Settings: what is right is taken, what is wrong is refused with the sentence that says what to change."""

from dataclasses import fields

import pytest
from oslo_config import cfg

from vmha.conf import agent, base, beat, engine, etcd, opts
from vmha.core.settings import Settings
from vmha.errors import BadConfig

BEAT = """
[beat]
networks = management:10.77.0.11, storage:fd00::11
controllers = management:10.77.0.2:7410,management:10.77.0.3:7410,storage:[fd00::2]:7410
"""


@pytest.fixture
def conf(tmp_path):
    def read(text):
        path = tmp_path / "vmha.conf"
        path.write_text(text)
        conf = cfg.ConfigOpts()
        opts.register(conf)
        conf(["--config-file", str(path)], project="vmha")
        return conf

    return read


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "deployment.key"
    path.write_text("ab" * 32 + "\n")
    path.chmod(0o600)
    return path


def test_base(conf, key):
    s = base.settings(conf(f"[DEFAULT]\nhost = compute1\ndeployment_key_file = {key}\n"))
    assert (s.host, s.deployment_key, s.run_dir, s.state_dir) == (
        "compute1",
        b"\xab" * 32,
        "/run/vmha",
        "/var/lib/vmha",
    )
    assert "ab" * 4 not in repr(s) and r"\xab" not in repr(s)


@pytest.mark.parametrize(("host", "says"), [("a/b", "without slashes"), ("h" * 129, "short host name")])
def test_wrong_host(conf, key, host, says):
    with pytest.raises(BadConfig, match=says):
        base.settings(conf(f"[DEFAULT]\nhost = {host}\ndeployment_key_file = {key}\n"))


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("ab" * 32, 0o644, "chmod 600"),
        ("ab" * 31, 0o600, "64 hexadecimal"),
        ("xy" * 32, 0o600, "64 hexadecimal"),
        (None, 0o600, "openssl rand -hex 32"),
    ],
)
def test_wrong_key_file(key, text, mode, says):
    key.unlink()
    if text is not None:
        key.write_text(text)
        key.chmod(mode)
    with pytest.raises(BadConfig, match=says) as e:
        base.deployment_key(str(key))
    assert text is None or text not in str(e.value)


def test_beat(conf):
    s = beat.settings(conf(BEAT))
    assert s.networks == {"management": "10.77.0.11", "storage": "fd00::11"}
    assert s.controllers["management"] == (("10.77.0.2", 7410), ("10.77.0.3", 7410))
    assert s.controllers["storage"] == (("fd00::2", 7410),) and s.period == 0.2


@pytest.mark.parametrize(
    ("networks", "controllers", "says"),
    [
        ("", "", "networks is empty"),
        ("management:nohost", "management:10.0.0.2:7410", "not an IP address"),
        ("management", "management:10.0.0.2:7410", "not an IP address"),
        (":10.0.0.1", "management:10.0.0.2:7410", "NAME:ADDRESS"),
        ("a:10.0.0.1,a:10.0.0.2", "a:10.0.0.2:7410", "twice"),
        ("a:10.0.0.1", "a:10.0.0.2", "must look like"),
        ("a:10.0.0.1", "a:10.0.0.2:0", "must look like"),
        ("a:10.0.0.1", "b:10.0.0.2:7410", "is not in"),
        ("a:10.0.0.1,b:10.0.1.1", "a:10.0.0.2:7410", "no controller is set on network b"),
        ("a:10.0.0.1", "a:10.0.0.2:7410,a:10.0.0.2:7410", "twice"),
    ],
)
def test_wrong_beat(conf, networks, controllers, says):
    with pytest.raises(BadConfig, match=says):
        beat.settings(conf(f"[beat]\nnetworks = {networks}\ncontrollers = {controllers}\n"))


def test_etcd(conf):
    s = etcd.settings(
        conf("[etcd]\nendpoints = http://10.0.0.1:2379, https://[fd00::1]:2379/\nuser = u\npassword = p\n")
    )
    assert s.endpoints == ("http://10.0.0.1:2379", "https://[fd00::1]:2379") and "'p'" not in repr(s)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("endpoints =", "endpoints is empty"),
        ("endpoints = 10.0.0.1:2379", "must look like"),
        ("endpoints = http://10.0.0.1", "must look like"),
        ("endpoints = http://10.0.0.1:x", "must look like"),
        ("user = u", "together"),
        ("cert = /x", "together"),
        ("ca = /does/not/exist", "cannot be read"),
    ],
)
def test_wrong_etcd(conf, text, says):
    with pytest.raises(BadConfig, match=says):
        etcd.settings(conf(f"[etcd]\n{text}\n"))


def test_agent(conf):
    s = agent.settings(conf(""))
    assert (s.hypervisor, s.connection_uri, s.lease_ttl, s.lease_renew) == ("libvirt", "qemu:///system", 9.0, 3.0)
    with pytest.raises(BadConfig, match="raise lease_ttl"):
        agent.settings(conf("[agent]\nlease_ttl = 4\nlease_renew = 3\n"))


def test_every_option_has_a_help_text():
    assert all(len(o.help) > 20 for _, group in opts.list_opts() for o in group)


def test_every_setting_of_the_core_has_an_option(conf):
    named = {name for names in engine.GROUPS.values() for name in names} | set(engine.ELSEWHERE)
    assert {f.name for f in fields(Settings)} == named
    assert engine.settings(conf("")) == Settings(tenant_may_set=("protect",))
    assert engine.settings(conf("[beat]\nperiod = 0.3\n[agent]\nlease_renew = 2\n")).beat_period == 0.3
    with pytest.raises(BadConfig, match="set host_renew to at most 3"):
        engine.settings(conf("[agent]\nlease_renew = 4\n"))
