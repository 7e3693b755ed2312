"""Labs for functional tests: they need root and what ``lab/lab install`` installs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The full lab: the one that is up, or one that is started for the tests and ended after them."""
    one = Lab()
    was_up = one.is_up()
    if not was_up:
        one.up(say=print)
    yield one
    if not was_up:
        one.down()


@pytest.fixture(scope="session")
def light_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A light lab of the tests' own, without vmha; it must leave nothing behind."""
    one = Lab(state=tmp_path_factory.mktemp("lab"), light=True, prefix="labtest-")
    one.up(vmha=False)
    yield one
    one.down()
    assert one.leftovers() == []


@pytest.fixture
def healed(light_lab: Lab) -> Iterator[Lab]:
    """The light lab, put right again after a test that broke something of it."""
    yield light_lab
    for host in light_lab.machines:
        light_lab.power(host, "on")
        for network in light_lab.settings.networks(host):
            light_lab.heal(host, network)
    for host in light_lab.hosts:
        light_lab.heal(host, "oob")
        light_lab.bmc_delay(host, 0)
        light_lab.service(light_lab.bmc(host), "ipmi", "start")
    for machine in ("ctl", "con1", "con2"):
        light_lab.await_boot(machine)
        light_lab.service(machine, "etcd", "start")
