"""Boot of con1 and con2: an etcd member and a vmha controller."""

from __future__ import annotations

from lab.inside.common import Say, await_etcd, start_etcd, start_vmha
from lab.settings import Settings


def cloud_is_up(settings: Settings) -> bool:
    """Whether ``lab up`` has seen the cloud work; before that a controller would only see a cloud half started."""
    return settings.light or (settings.state / "run" / "cloud-is-up").exists()


def boot(settings: Settings, machine: str, say: Say) -> None:
    start_etcd(settings, machine)
    if cloud_is_up(settings):
        start_vmha(settings, machine, "vmha-controller", say)
    await_etcd(settings, machine, say)
