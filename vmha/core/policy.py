"""Who says what about an instance: protection, priority, start group, readiness, each with the rule that decided.

The nearest word wins, in this order:

1. the admin's settings of the instance;
2. ``exclude_services``: instances of service projects or with such names are left alone;
3. metadata of the server, for what ``tenant_may_set`` allows: a tenant cannot widen what its flavor says, nor take another word than
   the operator has listed;
4. the flavor's extra specs (``vmha:protect``, ``vmha:priority``, ``vmha:group``, ``vmha:ready``);
5. the default of the host's segment, else of the cloud.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from vmha.core.model import Instance, InstanceSettings, Protect, SegmentSettings
from vmha.core.settings import Settings

SERVICE_PROJECTS = ("service",)  # what ``exclude_services = true`` means
TRUE = frozenset({"true", "yes", "1"})


def protection(
    instance: Instance, segment: SegmentSettings | None, asked: InstanceSettings | None, settings: Settings
) -> tuple[Protect, str]:
    """The protection of an instance and the rule that says so."""
    if asked is not None and asked.protect is not None:
        return asked.protect, "set by an admin for the instance"
    excluded = _excluded(instance, settings)
    if excluded:
        return Protect.NONE, excluded
    flavor = instance.flavor.get(settings.metadata_key)
    if flavor is not None and flavor in list(Protect):
        base, rule, ceiling = Protect(flavor), f"set by its flavor ({settings.metadata_key})", True
    else:
        base, rule, ceiling = *by_segment(segment, settings), False
    wanted = instance.metadata.get(settings.metadata_key)
    if wanted is None:
        return base, rule
    return _tenant(wanted, base, rule, ceiling, settings)


def by_segment(segment: SegmentSettings | None, settings: Settings) -> tuple[Protect, str]:
    """The default where nobody says anything about the instance."""
    if segment is not None:
        return segment.protect, f"default of segment {segment.name}"
    return settings.protect_default, "default of the cloud"


def _tenant(wanted: str, base: Protect, rule: str, ceiling: bool, settings: Settings) -> tuple[Protect, str]:
    """The tenant's word, as far as it counts; ``ceiling``: an admin's word about the flavor limits it."""
    key = settings.metadata_key
    if wanted not in list(Protect):
        bad = f"; metadata {key}={wanted!r:.40} is none of {', '.join(Protect)}" if may_set("protect", settings) else ""
        return base, rule + bad
    word = Protect(wanted)
    listed = not isinstance(settings.tenant_may_set, bool) and word in settings.tenant_may_set
    if not listed and (not may_set("protect", settings) or word is Protect.FT):
        return base, rule
    if ceiling and narrower(word, base) is not word:
        return narrower(word, base), f"{rule}; metadata {key}={word} cannot widen it"
    return word, f"asked for by metadata {key}"


def narrower(one: Protect, other: Protect) -> Protect:
    """The most that both allow: restart and host have only none in common."""
    order = (Protect.NONE, Protect.RESTART, Protect.HOST, Protect.FULL, Protect.FT)
    low, high = sorted((one, other), key=order.index)
    return Protect.NONE if (low, high) == (Protect.RESTART, Protect.HOST) else low


def may_set(key: str, settings: Settings) -> bool:
    """Whether tenants may set this; ``true`` stands for the protection alone."""
    allowed = settings.tenant_may_set
    return allowed and key == "protect" if isinstance(allowed, bool) else key in allowed


def _excluded(instance: Instance, settings: Settings) -> str:
    excluded = settings.exclude_services
    if excluded is False or not excluded:
        return ""
    for word in SERVICE_PROJECTS if excluded is True else excluded:
        if instance.project == word:
            return f"excluded: it belongs to the service project {word}"
        if fnmatchcase(instance.name, word):
            return f"excluded: its name is like {word}"
    return ""


def _word(name: str, instance: Instance, settings: Settings) -> str | None:
    """What metadata, where tenants may, or the flavor says of a key beside the protection."""
    key = settings.metadata_key.rpartition(":")[0] + ":" + name
    if may_set(name, settings) and key in instance.metadata:
        return instance.metadata[key]
    return instance.flavor.get(key)


def priority(instance: Instance, asked: InstanceSettings | None, settings: Settings) -> int:
    """Larger is earlier; 0 where nobody says anything that is a number."""
    if asked is not None and asked.priority is not None:
        return asked.priority
    word = _word("priority", instance, settings) or ""
    return int(word) if word.removeprefix("-").isdecimal() and len(word) < 10 else 0


def group(instance: Instance, asked: InstanceSettings | None, settings: Settings) -> str:
    """Its start group, empty for none; one that ``groups`` does not name has no place in the order."""
    if asked is not None and asked.group is not None:
        return asked.group
    return _word("group", instance, settings) or ""


def ready(instance: Instance, asked: InstanceSettings | None, settings: Settings) -> bool:
    """Whether later groups wait until its guest answers."""
    if asked is not None and asked.ready is not None:
        return asked.ready
    return (_word("ready", instance, settings) or "").lower() in TRUE
