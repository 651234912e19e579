"""The kernel's event when memory is taken, on cgroup version 1: for real where there is one."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.components.node import machine
from trimtab.components.node.memory_alarm import MemoryAlarm

HIERARCHY = machine.CGROUPS / "memory"
MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of the test's own, this process in it."""
    if os.geteuid() != 0 or not (HIERARCHY / "memory.usage_in_bytes").exists():
        pytest.skip("this machine has no cgroup version 1 memory hierarchy that can be written")
    made = HIERARCHY / f"trimtab-test-alarm-{os.getpid()}"
    home = next(
        line.partition(":memory:")[2]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if ":memory:" in line
    )
    made.mkdir()
    (made / "cgroup.procs").write_text(str(os.getpid()))
    yield made
    (HIERARCHY / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
    made.rmdir()


async def test_it_rings_when_the_margin_is_used_up_and_only_once(group: Path) -> None:
    rung = asyncio.Event()
    count: list[int] = []
    alarm = MemoryAlarm(lambda: (count.append(1), rung.set())[1], group)

    assert alarm.arm(64 * MIB)
    assert alarm.arm(64 * MIB), "armed already, so nothing changes"
    with mmap.mmap(-1, 128 * MIB) as taken:
        for offset in range(0, 128 * MIB, mmap.PAGESIZE):
            taken[offset] = 1
        async with asyncio.timeout(60):
            await rung.wait()

    await asyncio.sleep(0)
    assert count == [1]
    alarm.close()


async def test_it_stays_silent_below_the_margin(group: Path) -> None:
    rung: list[int] = []
    alarm = MemoryAlarm(lambda: rung.append(1), group)
    assert alarm.arm(256 * MIB)

    with mmap.mmap(-1, 16 * MIB) as taken:
        for offset in range(0, 16 * MIB, mmap.PAGESIZE):
            taken[offset] = 1
        await asyncio.sleep(0)

    alarm.close()
    assert rung == []


async def test_where_there_is_no_such_thing_it_says_so(tmp_path: Path) -> None:
    alarm = MemoryAlarm(lambda: None, tmp_path)

    assert not alarm.arm(MIB)
    alarm.close()
