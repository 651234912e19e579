"""What the machine should have for profiling, each with what gets it. Without BPF the agent measures by perf events, with less."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import platform
from pathlib import Path

from trimtab.runtime import Need

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_BPF = {"x86_64": 321, "aarch64": 280}
_CPU_CLOCK_ATTRIBUTES = 64
"""The size of the first version of struct perf_event_attr (PERF_ATTR_SIZE_VER0)."""


def libbpf() -> str | None:
    return (
        None
        if ctypes.util.find_library("bpf")
        else "libbpf is missing, which loads BPF programs: apt-get install libbpf1"
    )


def btf() -> str | None:
    if Path("/sys/kernel/btf/vmlinux").exists():
        return None
    return "the kernel has no BTF (/sys/kernel/btf/vmlinux): boot one with CONFIG_DEBUG_INFO_BTF, as Debian's have"


def bpf() -> str | None:
    """Whether root may make a BPF map here."""
    if os.geteuid() != 0:
        return None
    number = _BPF.get(platform.machine())
    if number is None:
        return f"the unwinder knows x86-64 alone, this is {platform.machine()}: perf events are used"
    # BPF_MAP_CREATE of an array (2) with one 4-byte value: include/uapi/linux/bpf.h.
    attributes = (ctypes.c_uint32 * 18)(2, 4, 4, 1)
    handle = _syscall(number, 0, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if handle >= 0:
        os.close(handle)
        return None
    return f"the kernel refuses BPF ({os.strerror(-handle)}): give the machine or container CAP_BPF and CAP_SYS_ADMIN"


def perf_event() -> str | None:
    """Whether root may have the clock of a CPU sampled here."""
    if os.geteuid() != 0:
        return None
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        return f"profiling knows x86-64 and arm64, this is {platform.machine()}"
    attributes = (ctypes.c_uint64 * (_CPU_CLOCK_ATTRIBUTES // 8))()
    attributes[0] = 1 | _CPU_CLOCK_ATTRIBUTES << 32  # PERF_TYPE_SOFTWARE; config 0 is PERF_COUNT_SW_CPU_CLOCK
    attributes[2] = 100_000_000  # the period
    handle = _syscall(number, ctypes.byref(attributes), -1, 0, -1, 0)
    if handle >= 0:
        os.close(handle)
        return None
    if handle == -errno.EINVAL:
        return "the kernel knows no cpu-clock events: boot one with CONFIG_PERF_EVENTS, as Debian's have"
    return f"the kernel refuses perf events ({os.strerror(-handle)}): give the machine or container CAP_PERFMON"


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *arguments)
    return result if result >= 0 else -ctypes.get_errno()


NEEDS = (
    Need("libbpf", libbpf, optional=True),
    Need("BTF", btf, optional=True),
    Need("BPF", bpf, optional=True),
    Need("perf events", perf_event, optional=True),
)
