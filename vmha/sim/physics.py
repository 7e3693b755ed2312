"""How long things take in the world, and its seed: the ``world`` part of a scenario file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Physics:
    """Seconds unless said otherwise."""

    seed: int = 0
    boot: float = 45.0  # power on to beats, agent and libvirt
    nova_compute_start: float = 5.0  # after the boot
    store_latency: float = 0.004  # one way
    watch_latency: float = 0.004
    watch_doubt: float = 3.0  # a watch that hears nothing for this long says so
    nova_latency: float = 0.05  # one way
    schedule: float = 0.2  # Nova's conductor and scheduler, for one evacuation
    spawn: float = 2.0  # claim to running guest
    launch: float = 0.0  # libvirt's hook to running QEMU, of every start
    builds_at_once: int = 10  # Nova's max_concurrent_builds of each host
    lifecycle: float = 15.0  # a stopped domain is told to Nova this late
    power_sync: float = 600.0  # Nova's sync of power states
    power_read: float = 0.15
    power_off: float = 0.5
    guard: float = 0.05  # a dead leader's children are ended and its lease given back
    call_spread: float = 0.0  # a call lands up to this much later than usual, drawn from the seed
    memory_ratio: float = 1.0  # Nova's ram_allocation_ratio
    cpu_ratio: float = 4.0
    destroy: float = 0.3  # an agent destroys a condemned host's domains
    word: float = 9.0  # T of safety.md: how long an answer holds
    ask_every: float = 3.0
    feed_every: float = 1.0
