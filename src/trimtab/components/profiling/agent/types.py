"""What is measured by stack: time on a CPU always, the rest on demand (`--types`), because it costs more."""

from __future__ import annotations

from trimtab.components.profiling.batch import SampleType

CPU = SampleType("cpu", "nanoseconds")
OFFCPU = SampleType("offcpu", "nanoseconds")
PAGE_FAULTS = SampleType("page_faults", "count")
TYPES = (CPU, OFFCPU, PAGE_FAULTS)
"""In the order of `enum type` in bpf/maps.h."""
NAMES = tuple(one.name for one in TYPES)
DEFAULT = (CPU.name,)

WAIT_NS = 1_000_000
"""Shorter waits are not counted as off-CPU time."""
PACE_NS = 10_000_000
"""A CPU walks at most one thread that goes to sleep in so long: a hundred a second, two thousandths of the CPU."""
FAULTS = 1024
"""Every so many page faults of a CPU, one is walked."""


def parse(text: str) -> tuple[str, ...]:
    """Of `cpu,offcpu`. Raises `ValueError` with one line."""
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in wanted if name not in NAMES]
    if unknown or not wanted:
        raise ValueError(f"--types {text!r}: of {', '.join(NAMES)}, separated by commas")
    return wanted


def value(index: int, count: int, nanoseconds: int, period_ns: int) -> int:
    """What `count` samples of a type stand for, in its unit."""
    if TYPES[index] is OFFCPU:
        return nanoseconds
    return count * (FAULTS if TYPES[index] is PAGE_FAULTS else period_ns)
