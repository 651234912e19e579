"""perf_event_open(2): the timer on every CPU that takes the samples."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

SYSTEM_CALL = 298
"""Of x86-64."""
_ATTRIBUTE_BYTES = 128
_SOFTWARE, _CPU_CLOCK = 1, 0
_EXCLUDE_IDLE = 1 << 7
_CLOSE_ON_EXEC = 8
ONLINE = Path("/sys/devices/system/cpu/online")


def online() -> list[int]:
    """The CPUs that run."""
    cpus: list[int] = []
    for part in ONLINE.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def attribute(period_ns: int, *, sample_type: int = 0, flags: int = 0, wakeup: int = 0) -> bytes:
    """A struct perf_event_attr: the CPU's clock, every so many nanoseconds of a CPU that is not idle."""
    head = struct.pack(
        "<IIQQQQQIIQ",
        _SOFTWARE,
        _ATTRIBUTE_BYTES,
        _CPU_CLOCK,
        period_ns,
        sample_type,
        0,
        flags | _EXCLUDE_IDLE,
        wakeup,
        0,
        0,
    )
    return head.ljust(_ATTRIBUTE_BYTES, b"\0")


def open_event(attribute: bytes, cpu: int) -> int:
    """A descriptor of an event of all processes on one CPU. Raises `OSError` with one line."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(SYSTEM_CALL, attribute, -1, cpu, -1, _CLOSE_ON_EXEC))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(
            code, f"perf_event_open on CPU {cpu}: {os.strerror(code)} (kernel.perf_event_paranoid, CAP_PERFMON)"
        )
    return fd
