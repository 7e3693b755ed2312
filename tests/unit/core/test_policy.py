"""Who says what about an instance: the nearest word wins, and a tenant cannot widen what the operator allows."""

from __future__ import annotations

import pytest

from vmha.core import policy
from vmha.core.model import Instance, InstanceSettings, Protect, SegmentSettings
from vmha.core.settings import Settings, check

NONE_BY_DEFAULT = Settings(protect_default=Protect.NONE)


def instance(metadata: str = "", flavor: str = "", project: str = "p", name: str = "vm", **more: str) -> Instance:
    tenant = {"vmha:protect": metadata} if metadata else {}
    admin = {"vmha:protect": flavor} if flavor else {}
    return Instance("u", name, "h1", "ACTIVE", "active", metadata={**tenant, **more}, flavor=admin, project=project)


@pytest.mark.parametrize(
    ("one", "settings", "protect", "words"),
    [
        (instance(), Settings(), Protect.FULL, "default of the cloud"),
        (instance("none"), Settings(), Protect.NONE, "metadata"),
        (instance("full"), NONE_BY_DEFAULT, Protect.FULL, "metadata"),
        (instance("full"), Settings(protect_default=Protect.NONE, tenant_may_set=False), Protect.NONE, "default"),
        (instance("full"), Settings(protect_default=Protect.NONE, tenant_may_set=()), Protect.NONE, "default"),
        (instance("none"), Settings(tenant_may_set=("host",)), Protect.FULL, "default"),
        (instance("host"), Settings(tenant_may_set=("host",)), Protect.HOST, "metadata"),
        (instance("ft"), Settings(), Protect.FULL, "default"),
        (instance("ft"), Settings(tenant_may_set=("ft",)), Protect.FT, "metadata"),
        (instance("all"), Settings(), Protect.FULL, "none of"),
        (instance(flavor="none"), Settings(), Protect.NONE, "flavor"),
        (instance("full", flavor="host"), Settings(), Protect.HOST, "cannot widen"),
        (instance("none", flavor="host"), Settings(), Protect.NONE, "metadata"),
        (instance("restart", flavor="host"), Settings(), Protect.NONE, "cannot widen"),
        (instance("full", project="service"), Settings(exclude_services=True), Protect.NONE, "project service"),
        (instance("full", project="lb"), Settings(exclude_services=("lb",)), Protect.NONE, "project lb"),
        (instance(name="amphora-1"), Settings(exclude_services=("amphora-*",)), Protect.NONE, "like amphora-*"),
        (instance(project="service"), Settings(), Protect.FULL, "default"),
    ],
)
def test_the_nearest_word_wins(one: Instance, settings: Settings, protect: Protect, words: str) -> None:
    found, rule = policy.protection(one, None, None, settings)
    assert found is protect and words in rule


def test_an_admins_word_about_the_instance_is_the_nearest() -> None:
    asked, excluded = InstanceSettings("u", Protect.HOST), Settings(exclude_services=True)
    assert policy.protection(instance("none", project="service"), None, asked, excluded)[0] is Protect.HOST


def test_the_segment_comes_before_the_cloud() -> None:
    segment = SegmentSettings("lab", Protect.NONE)
    assert policy.protection(instance(), segment, None, Settings()) == (Protect.NONE, "default of segment lab")


def test_tenants_set_nothing_else_unless_it_is_allowed() -> None:
    one = instance(**{"vmha:priority": "7", "vmha:group": "db", "vmha:ready": "true"})
    shut, open_ = Settings(), Settings(tenant_may_set=("priority", "group", "ready"))
    assert (policy.priority(one, None, shut), policy.group(one, None, shut), policy.ready(one, None, shut)) == (
        0,
        "",
        False,
    )
    assert (policy.priority(one, None, open_), policy.group(one, None, open_)) == (7, "db")
    assert policy.ready(one, None, open_)
    word = InstanceSettings("u", priority=1, group="web", ready=False)
    assert (policy.priority(one, word, open_), policy.group(one, word, open_), policy.ready(one, word, open_)) == (
        1,
        "web",
        False,
    )


def test_a_priority_that_is_no_number_counts_for_nothing() -> None:
    assert policy.priority(instance(**{"vmha:priority": "high"}), None, Settings(tenant_may_set=("priority",))) == 0


def test_an_unknown_word_in_tenant_may_set_is_refused() -> None:
    assert any("tenant_may_set has 'prio'" in text for text in check(Settings(tenant_may_set=("prio",))))
    assert any("groups names a group twice" in text for text in check(Settings(groups=("a", "a"))))
