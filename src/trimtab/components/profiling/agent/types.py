"""What is measured by stack: a type by its name as users write it, what it needs of the kernel, and how its samples are told in a batch.

The kernel's program counts in kinds (`enum type` in bpf/maps.h). Two kinds may be one type, told apart by the label `direction`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.components.profiling.batch import SampleType

CPU = SampleType("cpu", "nanoseconds")
OFFCPU = SampleType("offcpu", "nanoseconds")
PAGEFAULTS = SampleType("pagefaults", "count")
DISK = SampleType("disk", "bytes")
NETWORK = SampleType("network", "bytes")
ALLOCATIONS = SampleType("allocations", "bytes")
TYPES = (CPU, OFFCPU, PAGEFAULTS, DISK, NETWORK, ALLOCATIONS)
DIRECTION = "direction"

WAIT_NS = 1_000_000
"""Shorter waits are not counted as off-CPU time."""
PACE_NS = 10_000_000
"""A CPU walks at most one stack of a type in so long, time on a CPU aside: a hundred a second, two thousandths of the CPU."""
FAULTS = 1024
"""Every so many page faults of a CPU, one is walked."""
EVERY_BYTES = 64 << 10
"""For so many bytes one stack is walked, or for more where that were more often than PACE_NS."""
EVERY_BYTES_CHOSEN = 4 << 10
"""The same when only some processes are measured: they have fewer."""


@dataclass(frozen=True)
class Kind:
    """What the kernel's program counts."""

    type: SampleType
    labels: tuple[tuple[str, str], ...] = ()
    scale: int = 0
    """What one count stands for in the type's unit; 0: the kernel has summed up the value itself."""


@dataclass(frozen=True)
class Needs:
    """Programs that run for a type, by name, each with the tracepoint that it is for (none: perf events)."""

    programs: dict[str, str]
    since: str = ""
    """The first kernel that has all the tracepoints."""


KINDS = (
    Kind(CPU),
    Kind(OFFCPU),
    Kind(PAGEFAULTS, scale=FAULTS),
    Kind(DISK, ((DIRECTION, "read"),)),
    Kind(DISK, ((DIRECTION, "write"),)),
    Kind(NETWORK, ((DIRECTION, "sent"),)),
    Kind(NETWORK, ((DIRECTION, "received"),)),
    Kind(ALLOCATIONS),
)
"""In the order of `enum type` in bpf/maps.h."""
NEEDS = {
    "cpu": Needs({"on_cpu": ""}),
    "offcpu": Needs({"off_cpu": "sched_switch"}),
    "pagefaults": Needs({"on_page_fault": ""}),
    "disk": Needs({"disk_asked": "block_bio_queue", "disk_dirtied": "writeback_dirty_folio"}, "Linux 5.18"),
    "network": Needs({"sent": "sock_send_length", "received": "sock_recv_length"}, "Linux 6.3"),
    "allocations": Needs(
        {"memory_locked": "mmap_lock_acquire_returned", "memory_unlocked": "mmap_lock_released"}, "Linux 5.11"
    ),
}
NAMES = tuple(NEEDS)
"""What may be asked for."""
DEFAULT = (CPU.name,)


def parse(text: str) -> tuple[str, ...]:
    """Of `cpu,offcpu`. Raises `ValueError` with one line."""
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in wanted if name not in NAMES]
    if unknown or not wanted:
        raise ValueError(f"--types {text!r}: of {', '.join(NAMES)}, separated by commas")
    return wanted


def value(kind: int, count: int, summed: int, period_ns: int) -> int:
    """What `count` samples of a kind stand for, in its type's unit."""
    told = KINDS[kind]
    if told.type is CPU:
        return count * period_ns
    return count * told.scale if told.scale else summed
