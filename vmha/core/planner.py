"""Dead host and inventory to an ordered plan: one Step for each instance, each with its reason.

Order: running before stopped, higher priority first, then the larger memory, then the uuid: the same input gives the same plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vmha.core.model import EVACUATED, Instance, InstanceSettings, Protect, SegmentSettings, Step, StepState
from vmha.core.settings import Settings

# States from which Nova evacuates (its API's check: active, stopped, error).
EVACUABLE = frozenset({"active", "stopped", "error"})


def protection(
    instance: Instance,
    segment: SegmentSettings | None,
    asked: InstanceSettings | None,
    settings: Settings,
) -> tuple[Protect, str]:
    """The protection of an instance and the rule that says so; the nearest admin's word wins over metadata over segment."""
    if asked is not None and asked.protect is not None:
        return asked.protect, "set by an admin for the instance"
    wanted = instance.metadata.get(settings.metadata_key)
    if wanted is not None and settings.tenant_may_set:
        if wanted in list(Protect):
            return Protect(wanted), f"asked for by metadata {settings.metadata_key}"
        rest, rule = _by_segment(segment, settings)
        return rest, f"{rule}; metadata {settings.metadata_key}={wanted!r:.40} is none of {', '.join(Protect)}"
    return _by_segment(segment, settings)


def _by_segment(segment: SegmentSettings | None, settings: Settings) -> tuple[Protect, str]:
    if segment is not None:
        return segment.protect, f"default of segment {segment.name}"
    return settings.protect_default, "default of the cloud"


def plan(
    instances: Iterable[Instance],
    segment: SegmentSettings | None,
    asked: Mapping[str, InstanceSettings],
    settings: Settings,
) -> tuple[Step, ...]:
    """Every instance of the dead host, in the order in which it is evacuated; those left alone say why."""

    def rank(i: Instance) -> tuple[bool, int, int, str]:
        word = asked.get(i.uuid)
        return (_stopped(i), -(word.priority or 0 if word else 0), -i.memory_mib, i.uuid)

    ordered = sorted(instances, key=rank)
    return tuple(step(i, n, segment, asked.get(i.uuid), settings) for n, i in enumerate(ordered))


def step(
    instance: Instance, order: int, segment: SegmentSettings | None, asked: InstanceSettings | None, settings: Settings
) -> Step:
    """What is done about one instance, and by which rule."""
    protect, rule = protection(instance, segment, asked, settings)
    refusal = _refusal(instance, protect, settings)
    return Step(
        instance=instance.uuid,
        name=instance.name,
        state=StepState.SKIPPED if refusal else StepState.WAITING,
        reason=f"{refusal} ({rule})" if refusal else f"protect {protect}: {rule}",
        stopped=_stopped(instance),
        order=order,
    )


def _stopped(instance: Instance) -> bool:
    return instance.vm_state == "stopped"


def _refusal(instance: Instance, protect: Protect, settings: Settings) -> str:
    if protect not in EVACUATED:
        return f"left alone: protect is {protect}"
    if instance.vm_state not in EVACUABLE:
        return f"Nova evacuates no instance that is {instance.vm_state}: an operator must decide"
    if instance.vm_state == "error" and not settings.recover_errors:
        return "left alone: it was in error before the host died"
    if instance.image and settings.instances_path_shared != "yes" and not settings.rebuild_local_disks:
        return "left alone: its disk may be on the dead host only, and evacuating it would rebuild it from its image"
    return ""
