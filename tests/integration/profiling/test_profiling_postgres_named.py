"""A stripped PostgreSQL at work becomes named when a debuginfod on loopback has its file: the profile that was stored before.

PostgreSQL --objcopy--> stripped, under pgbench --agent--> batches, unnamed with the reason
                   '--> its debug file --debuginfod--> the same batches, named
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from measured_machine import skip_unless_measurable
from profiling_debuginfod import AT_ONCE, needs_debuginfod, served_by_debuginfod
from profiling_postgres import Postgres
from trimtab.components.profiling import batch
from trimtab.components.profiling.agent.run import Agent
from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.storage.store import Profiles, Query
from trimtab.components.profiling.symbols import elf
from trimtab.components.profiling.symbols.symbolizer import REASONS, Symbolizer

pytestmark = [
    pytest.mark.long,
    pytest.mark.serial,
    pytest.mark.timeout(900),
    needs_debuginfod,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
DEADLINE_S = 240.0
SAMPLES = 400


@pytest.fixture
def built() -> Path:
    """Where PostgreSQL is installed with its debug information."""
    path = Path(os.environ.get("TRIMTAB_POSTGRES", "/var/cache/trimtab-tests/postgresql"))
    if not (path / "bin" / "postgres").exists():
        pytest.skip(f"no PostgreSQL with debug information in {path}: benchmarks/profiling_late_names.py {path}")
    return path


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where PostgreSQL's user may go."""
    with tempfile.TemporaryDirectory(prefix="trimtab-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_a_stripped_postgresql_becomes_named_by_debuginfod(built: Path, directory: Path) -> None:
    skip_unless_measurable()
    stripped, late, root = directory / "stripped", directory / "late", directory / "profiles"
    shutil.copytree(built, stripped)
    late.mkdir()
    root.mkdir()
    program = stripped / "bin" / "postgres"
    called("objcopy", "--only-keep-debug", str(built / "bin" / "postgres"), str(late / "postgres.debug"))
    called("objcopy", "--strip-all", str(built / "bin" / "postgres"), str(program))
    with open(program, "rb") as file:
        build_id = elf.read(file.fileno()).build_id
    begin = int(time.time())
    with Postgres(directory, stripped / "bin") as server, server.benched("-c", "4", "-T", str(int(DEADLINE_S))):
        asyncio.run(measured(server.pid, root, build_id))
    shutil.rmtree(stripped)

    selection = Profiles(root).select(Query(start=begin - 10, end=int(time.time()) + 10))
    frames = [frame for frame in selection.frames if frame.build_id == build_id]
    with Symbolizer(root, debug_directories=(), patience=AT_ONCE) as nobody:
        before = nobody.names(frames)
    unnamed = [named for named in before if named.reason]
    assert Counter(named.reason for named in unnamed) == {
        REASONS["no-server"].format(first=REASONS["exported"]): len(unnamed)
    }
    assert unnamed, "functions that PostgreSQL does not export"
    with (
        served_by_debuginfod(late, build_id) as url,
        Symbolizer(root, [url], debug_directories=(), patience=AT_ONCE) as symbolizer,
    ):
        after = symbolizer.names(frames)

    known, linkage = Symbols(built / "bin" / "postgres"), calls_into_libraries(built / "bin" / "postgres")
    left = [(frame, named) for frame, named in zip(frames, after, strict=True) if named.reason]
    print(f"{len(frames)} places in PostgreSQL: {len(unnamed)} unnamed without debuginfod, {len(left)} with it")
    elsewhere = [(hex(f.address), known(f), n.reason) for f, n in left if f.address not in linkage]
    assert not elsewhere, "code that is in a function"
    assert {named.reason for _, named in left} <= {REASONS["no-function"]}
    assert len(left) < len(unnamed)
    for frame, named in zip(frames, after, strict=True):
        if not named.reason:
            assert named.lines[-1].name.partition(".")[0] == known(frame), frame
            assert named.lines[-1].file.endswith((".c", ".h", ".l", ".y")) or known(frame) == "_start", frame
    names = {line.name for named in after for line in named.lines}
    assert {"main", "PostmasterMain", "PostgresMain", "exec_simple_query", "BackendRun"} <= names


def calls_into_libraries(program: Path) -> set[int]:
    """The addresses of the tables of the linker's making, which are no functions."""
    with open(program, "rb") as file:
        tables = [section for section in elf.ElfFile(file.fileno()).sections if section.name.startswith(".plt")]
    return {address for table in tables for address in range(table.address, table.address + table.size)}


def called(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE_S).stdout


async def measured(pid: int, root: Path, build_id: str) -> None:
    """Until there are samples enough in PostgreSQL."""
    agent = Agent(root, hz=199, pid=pid, cpu_percent=1000, memory_bytes=64 << 30)  # its process is the test run's here
    stop = asyncio.Event()
    running = asyncio.create_task(agent.run(stop))
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not running.done() and in_program(root, build_id) < SAMPLES:
            assert time.monotonic() < deadline, f"it did not come to it: {agent.state()}"
            agent.cut()
            await asyncio.sleep(0.5)
    finally:
        stop.set()
        await running
        agent.close()


def in_program(root: Path, build_id: str) -> int:
    """Samples with whole stacks through a program."""
    found = 0
    for path in batch.incoming(root).glob("*.batch"):
        read = batch.read(path)
        for sample in read.samples:
            frames = [read.frames[index] for index in read.stacks[sample.stack]]
            if frames and frames[-1].kind != "mark" and any(frame.build_id == build_id for frame in frames):
                found += sample.count
    return found


class Symbols:
    """The function that holds an address, as `nm` has it, without what the compiler adds to its name."""

    def __init__(self, program: Path) -> None:
        rows = [line.split() for line in called("nm", "--defined-only", str(program)).splitlines()]
        code = sorted((int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tT")
        self._starts, self._names = [start for start, _ in code], [name for _, name in code]

    def __call__(self, frame: Frame) -> str:
        return self._names[bisect_right(self._starts, frame.address) - 1].partition(".")[0]
