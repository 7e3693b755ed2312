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
from operator import itemgetter
from typing import NamedTuple

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

    ``owed``: instances to be started though Nova has them as stopped (``vmha.core.schedule``).
    """
    places = {name: n for n, name in enumerate(settings.groups)}
    last, said = len(places), _Said(segment, settings)
    ranked: list[_Ranked] = []
    for i in instances:
        words = said.about(i, asked.get(i.uuid))
        stopped = i.vm_state == "stopped" and i.uuid not in owed
        place = places.get(words.group, last) if words.group else last
        ranked.append((stopped, -words.priority, place, -i.memory_mib, i.uuid, i, words))
    ranked.sort(key=_RANK)
    by_turns = settings.start_limit_per_host > 0 or (last > 0 and any(place < last for _, _, place, *_ in ranked))
    return tuple(_step(n, one, by_turns, one[5].uuid in owed, settings, last) for n, one in enumerate(ranked))


_RANK = itemgetter(slice(0, 5))


class _Words(NamedTuple):
    """All that is said about an instance."""

    protect: Protect
    rule: str
    reason: str
    priority: int = 0
    group: str = ""
    ready: bool = False


_Ranked = tuple[bool, int, int, int, str, Instance, _Words]  # what orders it, then what it is


class _Said:
    """What is said about instances, worked out once for all of which the same is said: they are mostly alike."""

    def __init__(self, segment: SegmentSettings | None, settings: Settings) -> None:
        self._segment, self._settings = segment, settings
        protect, rule = policy.by_segment(segment, settings)
        self._nothing = _Words(protect, rule, f"protect {protect}: {rule}")
        self._alike: dict[tuple[object, object], _Words] = {}

    def about(self, i: Instance, word: InstanceSettings | None) -> _Words:
        if word is not None or self._settings.exclude_services:
            return self._words(i, word)
        if not i.metadata and not i.flavor:
            return self._nothing
        key = tuple(i.metadata.items()), tuple(i.flavor.items())
        if key not in self._alike:
            self._alike[key] = self._words(i, None)
        return self._alike[key]

    def _words(self, i: Instance, word: InstanceSettings | None) -> _Words:
        s = self._settings
        protect, rule = protection(i, self._segment, word, s)
        about = policy.priority(i, word, s), policy.group(i, word, s), policy.ready(i, word, s)
        return _Words(protect, rule, f"protect {protect}: {rule}", *about)


def _step(order: int, ranked: _Ranked, by_turns: bool, owed: bool, settings: Settings, last: int) -> Step:
    stopped, _, place, _, _, i, words = ranked
    ordinary = i.vm_state == "active" and i.task_state is None and not i.image and words.protect is Protect.FULL
    refusal = "" if ordinary else _refusal(i, words.protect, settings)
    return Step(  # by position: there are thousands
        i.uuid,
        i.name,
        StepState.SKIPPED if refusal else StepState.WAITING,
        f"{refusal} ({words.rule})" if refusal else words.reason,
        stopped,
        0,
        "",
        0,
        order,
        words.group if place < last else "",
        words.ready,
        not stopped and (by_turns or owed),
        owed,
        i.affinity or i.anti_affinity,
    )


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
