"""From a running program to its names, when the program is gone: the agent measures it and keeps its names, then it is deleted."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from measured_machine import skip_unless_measurable
from trimtab.components.profiling import batch
from trimtab.components.profiling.agent.run import Agent
from trimtab.components.profiling.symbols import elf
from trimtab.components.profiling.symbols.shelf import Shelf
from trimtab.components.profiling.symbols.symbolizer import Symbolizer

DEADLINE_S = 120.0
SOURCE = """
volatile unsigned long sink;
static __attribute__((noinline)) void spin(void) { for (int i = 0; i < 100000000; i++) sink += i; sink++; }
int main(void) { for (;;) { spin(); sink++; } }
"""


pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.serial]


@pytest.fixture(autouse=True)
def machine() -> None:
    skip_unless_measurable()


def test_a_program_that_is_gone_has_its_names(tmp_path: Path) -> None:
    program, root = tmp_path / "program", tmp_path / "profiles"
    (tmp_path / "program.c").write_text(SOURCE)
    command = ["clang", "-g", "-O1", "-Wl,--build-id=sha1", "-o", str(program), f"{program}.c"]
    subprocess.run(command, check=True, timeout=DEADLINE_S)
    with open(program, "rb") as file:
        build_id = elf.read(file.fileno()).build_id
    root.mkdir()
    labels = {"process": "program"}
    with subprocess.Popen([program]) as process:
        try:
            asyncio.run(measured(process.pid, root, build_id, labels))
        finally:
            process.kill()
    program.unlink()
    frames = [frame for stack in stacks(root, labels) for frame in stack if frame.build_id == build_id]
    with Symbolizer(root, debug_directories=()) as symbolizer:
        named = symbolizer.names(frames)
    assert {line.name for one in named for line in one.lines} >= {"spin", "main"}
    assert "program.c" in {os.path.basename(line.file) for one in named for line in one.lines}


async def measured(pid: int, root: Path, build_id: str, labels: dict[str, str]) -> None:
    """Until the names are kept, and there are samples of both functions."""
    agent = Agent(root, hz=99, pid=pid, cpu_percent=1000, memory_bytes=64 << 30)  # its process is the test run's here
    stop = asyncio.Event()
    running = asyncio.create_task(agent.run(stop))
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not running.done():
            addresses = {f.address for stack in stacks(root, labels) for f in stack if f.build_id == build_id}
            if len(addresses) > 2 and Shelf(root).best(build_id) is not None:
                return
            assert time.monotonic() < deadline, f"it did not come to it: {agent.state()}"
            agent.cut()
            await asyncio.sleep(0.2)
    finally:
        stop.set()
        await running
        agent.close()


def stacks(root: Path, labels: dict[str, str]) -> list[list[batch.Frame]]:
    return [
        [read.frames[frame] for frame in read.stacks[sample.stack]]
        for path in sorted(batch.incoming(root).glob("*.batch"))
        for read in [batch.read(path)]
        for sample in read.samples
        if labels.items() <= read.labels[sample.labels].items()
    ]
