"""Dead host and inventory to an ordered plan: one Step for each instance, each with its reason.

Order: running before stopped, higher priority first, then the start groups in their order, then the larger memory, then the uuid: the
same input gives the same plan.

What is done in each of Nova's states, when the protection allows an evacuation:

=========================  ==========================================================================================
vm_state or task           what is done
=========================  ==========================================================================================
active                     evacuated; where a start order or start limits are asked for, it arrives stopped and is
                           started in its turn
stopped                    evacuated after all others, stays stopped
error                      left alone: it was so before the host died; ``recover_errors`` has it evacuated
paused, suspended          left alone: Nova evacuates neither, what was in its memory is lost: a person must decide
rescued, resized           left alone: Nova evacuates neither (unrescue, confirm or revert come first)
shelved, shelved_offloaded left alone: its user has put it away
building                   left alone: it has never run; its user tries again
deleted, soft-delete       left alone; so is one with the task deleting: its user wants it gone
any other                  left alone, a person must decide
locked by its user         as if it were not: the lock keeps users away, not the operator
a task in flight           waits until Nova has ended it; a person is paged after ``verify_page``
=========================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vmha.core import policy
from vmha.core.model import EVACUATED, Instance, InstanceSettings, Protect, SegmentSettings, Step, StepState
from vmha.core.policy import protection as protection
from vmha.core.settings import Settings

# States from which Nova evacuates (its API's check: active, stopped, error).
EVACUABLE = frozenset({"active", "stopped", "error"})
WHY_NOT: Mapping[str, str] = {
    "rescued": "Nova evacuates no instance that is rescued: an operator must decide",
    "shelved": "left alone: its user has shelved it",
    "shelved_offloaded": "left alone: its user has shelved it",
    "building": "left alone: it was being built and has never run",
    "deleted": "left alone: it is deleted",
    "soft-delete": "left alone: its user has deleted it",
}
DELETING = frozenset({"deleting", "soft-deleting"})


def plan(
    instances: Iterable[Instance],
    segment: SegmentSettings | None,
    asked: Mapping[str, InstanceSettings],
    settings: Settings,
    owed: frozenset[str] = frozenset(),
) -> tuple[Step, ...]:
    """Every instance of the dead host, in the order in which it is evacuated; those left alone say why.

    ``owed``: instances that another recovery has brought here stopped, to be started.
    """
    places = {name: n for n, name in enumerate(settings.groups)}
    ranked = []
    for i in instances:
        word = asked.get(i.uuid)
        group = policy.group(i, word, settings)
        stopped = i.vm_state == "stopped" and i.uuid not in owed
        rank = (stopped, -policy.priority(i, word, settings), places.get(group, len(places)), -i.memory_mib, i.uuid)
        ranked.append((rank, i, word, group, stopped))
    ranked.sort(key=lambda r: r[0])
    by_turns = settings.start_limit_per_host > 0 or any(group in places for *_, group, _ in ranked)
    steps = []
    for n, (_, i, word, group, stopped) in enumerate(ranked):
        protect, rule = protection(i, segment, word, settings)
        refusal = _refusal(i, protect, settings)
        steps.append(
            Step(
                instance=i.uuid,
                name=i.name,
                state=StepState.SKIPPED if refusal else StepState.WAITING,
                reason=f"{refusal} ({rule})" if refusal else f"protect {protect}: {rule}",
                stopped=stopped,
                order=n,
                group=group if group in places else "",
                ready=policy.ready(i, word, settings),
                ordered=not stopped and (by_turns or i.uuid in owed),
                owed=i.uuid in owed,
                together=i.affinity or i.anti_affinity,
            )
        )
    return tuple(steps)


def no_host_for(steps: Iterable[Step], inventory: Mapping[str, Instance]) -> Iterator[str]:
    """What Nova's scheduler surely refuses, a sentence for each hard affinity group: it keeps its members together, and the hosts on which
    they may be placed are those where members are: the dead one, which is excluded (nova.scheduler.utils._get_group_details)."""
    groups: dict[str, list[str]] = {}
    for step in steps:
        instance = inventory.get(step.instance)
        if instance is not None and instance.affinity and step.state is StepState.WAITING:
            groups.setdefault(instance.affinity, []).append(step.name or step.instance)
    for group, names in sorted(groups.items()):
        yield (
            f"{', '.join(names)} must stay with the members of the affinity group {group}: Nova finds a host only where one of "
            "them is already"
        )


def _refusal(instance: Instance, protect: Protect, settings: Settings) -> str:
    if protect not in EVACUATED:
        return f"left alone: protect is {protect}"
    if instance.task_state in DELETING:
        return "left alone: its user is deleting it"
    if instance.vm_state not in EVACUABLE:
        text = f"Nova evacuates no instance that is {instance.vm_state}: an operator must decide"
        return WHY_NOT.get(instance.vm_state, text)
    if instance.vm_state == "error" and not settings.recover_errors:
        return "left alone: it was in error before the host died"
    if instance.image and settings.instances_path_shared != "yes" and not settings.rebuild_local_disks:
        return "left alone: its disk may be on the dead host only, and evacuating it would rebuild it from its image"
    return ""
