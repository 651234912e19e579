"""The agent on the running kernel: real processes, real samples."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from measured_machine import skip_unless_measurable
from trimtab.components.profiling import batch
from trimtab.components.profiling.agent import libbpf, perf, sampler
from trimtab.components.profiling.agent.budget import running_cpu_s
from trimtab.components.profiling.agent.run import Agent, BudgetExceeded

DEADLINE_S = 120.0
HZ = 99
SOURCE = """
#include <stdlib.h>
volatile unsigned long sink;
__attribute__((noinline)) void spin(void) { for (;;) for (int i = 0; i < 1000; i++) sink += i; }
__attribute__((noinline)) void down(int depth) { if (depth) { down(depth - 1); sink++; } else { spin(); sink++; } }
int main(int argc, char **argv) { down(atoi(argv[1])); return 0; }
"""
ANY_COST: dict[str, Any] = {"cpu_percent": 1000.0, "memory_bytes": 64 << 30}
"""The agent measures itself by its process, which is the test run's here; and slow machines are slow."""
BRIEF = "int main(void) { volatile unsigned long n = 0; while (n < 30000000) n++; return 0; }"


pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.serial]


@pytest.fixture(autouse=True)
def machine() -> None:
    skip_unless_measurable()


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str, str], Path]:
    if not shutil.which("gcc"):
        pytest.skip("no gcc: nothing to compile the known programs with")

    def make(name: str, source: str) -> Path:
        (tmp_path / f"{name}.c").write_text(source)
        command = ["gcc", "-O1", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-o", name, f"{name}.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
        return tmp_path / name

    return make


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def batches(root: Path) -> list[batch.Batch]:
    return [batch.read(path) for path in sorted(batch.incoming(root).glob("*.batch"))]


def stacks(root: Path, **labels: str) -> list[tuple[list[batch.Frame], int]]:
    """All stacks of samples with these labels, and how many samples each was."""
    return [
        ([read.frames[frame] for frame in read.stacks[sample.stack]], sample.count)
        for read in batches(root)
        for sample in read.samples
        if labels.items() <= read.labels[sample.labels].items()
    ]


async def measure(agent: Agent, until: Callable[[], bool]) -> None:
    """Lets the agent run until something is so, a batch at least every second."""
    stop = asyncio.Event()
    running = asyncio.create_task(agent.run(stop))
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not until() and not running.done():
            assert time.monotonic() < deadline, f"it did not come to it: {agent.state()}"
            agent.cut()
            await asyncio.sleep(0.2)
    finally:
        stop.set()
        await running


def whole(frames: list[batch.Frame]) -> bool:
    return bool(frames) and frames[-1].kind != "mark"


async def test_a_program_without_frame_pointers_is_unwound_to_its_start(
    compiled: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program = compiled("deep", SOURCE)
    with (
        running(sys.executable, "-c", "while True: pass"),
        running(program, "30") as process,
        contextlib.closing(Agent(tmp_path, hz=HZ, pid=process.pid, **ANY_COST)) as agent,
    ):

        def found() -> list[list[batch.Frame]]:
            return [frames for frames, _ in stacks(tmp_path, pid=str(process.pid)) if whole(frames)]

        await measure(agent, lambda: any(len(frames) > 32 for frames in found()))

    assert {labels["pid"] for read in batches(tmp_path) for labels in read.labels} == {str(process.pid)}
    deep = max(found(), key=len)
    assert [frame.file for frame in deep].count(str(program)) >= 33
    assert deep[-1].file == str(program), "the outermost frame is _start, in the program itself"
    assert all(frame.build_id and frame.address for frame in deep if frame.kind == "native")


async def test_processes_that_end_at_once_are_named_and_unwound(
    compiled: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program = compiled("brief", BRIEF)
    again = f"while :; do {program}; done"
    with (
        running("sh", "-c", again) as shell,
        contextlib.closing(Agent(tmp_path, hz=HZ, pid=shell.pid, **ANY_COST)) as agent,
    ):

        def found() -> list[list[batch.Frame]]:
            own = [frames for frames, _ in stacks(tmp_path, process="brief") if whole(frames)]
            return [frames for frames in own if any(frame.file == str(program) for frame in frames)]

        await measure(agent, lambda: len(found()) > 5)

    pids = {labels["pid"] for read in batches(tmp_path) for labels in read.labels if labels.get("process") == "brief"}
    paths = {
        labels.get("executable") for read in batches(tmp_path) for labels in read.labels if labels["process"] == "brief"
    }
    assert len(pids) > 1
    assert str(program) in paths


async def test_no_sample_is_lost_in_silence(tmp_path: Path) -> None:
    with (
        running(sys.executable, "-c", "while True: sum(range(1000))"),
        contextlib.closing(Agent(tmp_path, hz=HZ, **ANY_COST)) as agent,
    ):
        await measure(agent, lambda: agent.totals["samples"] > 200)
        totals = agent.totals

    kept = sum(sample.count for read in batches(tmp_path) for sample in read.samples)
    lost = sum(count for read in batches(tmp_path) for count in read.lost.values())
    assert kept + lost == totals["samples"]
    assert sum(totals[status] for status in sampler.layout.STATUSES) == totals["samples"]


@pytest.mark.long
async def test_a_budget_that_nothing_can_keep_ends_the_agent(tmp_path: Path) -> None:
    with (
        contextlib.closing(Agent(tmp_path, hz=HZ, memory_bytes=1)) as agent,
        pytest.raises(BudgetExceeded, match="MiB at 99 Hz, more than"),
    ):
        await measure(agent, lambda: False)


@pytest.mark.long
async def test_without_bpf_frame_pointers_are_followed_and_marked_so(
    compiled: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program = compiled("pointed", f'#pragma GCC optimize("no-omit-frame-pointer")\n{SOURCE}')
    with (
        running(program, "30") as process,
        contextlib.closing(Agent(tmp_path, hz=HZ, pid=process.pid, only_perf=True, **ANY_COST)) as agent,
    ):

        def found() -> list[list[batch.Frame]]:
            return [frames for frames, _ in stacks(tmp_path, pid=str(process.pid), process="pointed")]

        def depth(frames: list[batch.Frame]) -> int:
            return [frame.file for frame in frames].count(str(program))

        await measure(agent, lambda: any(depth(frames) > 31 for frames in found()))

    assert max(found(), key=depth)[-1] == batch.Frame("mark", "no-table")
    assert agent.message == "frame pointers only: BPF is not wanted"


@pytest.mark.long
async def test_batches_that_cannot_be_written_are_counted_and_said(tmp_path: Path) -> None:
    (tmp_path / "incoming").write_text("in the way")
    with (
        running(sys.executable, "-c", "while True: pass"),
        contextlib.closing(Agent(tmp_path, hz=HZ, **ANY_COST)) as agent,
    ):
        await measure(agent, lambda: agent.totals["unwritten"] > 0)
        said = agent.state()

    assert said.message.startswith("batches cannot be written: ")
    assert said.lost["unwritten"] == said.samples


async def test_a_cpu_that_comes_later_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes without turning one off: the list of CPUs changes while the agent runs."""
    if len(perf.online()) < 2:
        pytest.skip("one CPU alone")
    first, second, *_ = perf.online()
    listed = tmp_path / "online"
    monkeypatch.setattr(perf, "ONLINE", listed)
    listed.write_text(f"{first}\n")
    with running(sys.executable, "-c", "while True: pass") as busy:
        os.sched_setaffinity(busy.pid, {second})
        before = running_cpu_s(busy.pid)

        def seen() -> bool:
            if listed.read_text() == f"{first}\n" and running_cpu_s(busy.pid) > before + 0.3:
                assert agent.totals["samples"] == 0
                listed.write_text(f"{first}-{second}\n" if second == first + 1 else f"{first},{second}\n")
            return agent.totals["samples"] > 0

        with contextlib.closing(Agent(tmp_path, hz=HZ, pid=busy.pid, **ANY_COST)) as agent:
            await measure(agent, seen)
    assert listed.read_text() != f"{first}\n"


def test_nothing_stays_in_the_kernel() -> None:
    before = descriptors()
    tried = sampler.Sampler()
    tried.start(HZ)
    assert descriptors() > before
    tried.close()

    assert descriptors() == before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_the_kernel_refuses_is_one_line() -> None:
    with pytest.raises(libbpf.BpfError, match=r"missing\.o: No such file or directory: compile it with `make setup`"):
        libbpf.Object(Path("/nowhere/missing.o"))
    with pytest.raises(OSError, match="perf_event_open on CPU 4095: "):
        perf.open_event(perf.attribute(10_000_000), 4095)
