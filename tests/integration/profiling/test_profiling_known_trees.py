"""Real programs with known call trees under the real agent: their stacks are paths of their trees, and Python's functions have names.

The agent knows nothing of a file when it first meets it, so that the programs run until it has had the time to learn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import profiling_known_trees as trees
from trimtab.components.profiling import batch
from trimtab.components.profiling.batch import Batch, Frame

DEADLINE_S = 120.0
SECONDS = 2.0
HZ = 99
SAMPLES = 30
GOAL = 0.9


def measured(
    root: Path, commands: Sequence[Sequence[str]], types: str = "cpu", seconds: float = SECONDS
) -> tuple[list[int], list[str], list[Batch]]:
    """Runs commands at once under an agent of their own: their pids, what they printed, the batches. Skips where the kernel has no BPF for us."""
    before = set(batch.incoming(root).glob("*.batch"))
    command = [sys.executable, "-m", "trimtab.components.profiling.agent", str(root), "--hz", str(HZ), "--talk"]
    command += ["--types", types]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert agent.stdin
    assert agent.stdout
    try:
        state = json.loads(agent.stdout.readline() or "{}")
        if state.get("mode") == "bpf":
            running = [subprocess.Popen([*one, str(seconds)], stdout=subprocess.PIPE, text=True) for one in commands]
            printed = [program.communicate(timeout=DEADLINE_S)[0] for program in running]
    finally:
        agent.communicate(timeout=DEADLINE_S)
    if state.get("mode") != "bpf":
        pytest.skip(f"no BPF for the agent here: {state}")
    fresh = sorted(set(batch.incoming(root).glob("*.batch")) - before)
    return [program.pid for program in running], printed, [batch.read(path) for path in fresh]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[trees.Program]:
    directory = tmp_path_factory.mktemp("trees")
    return [*trees.c(directory), trees.cpython(Path("/usr/bin/python3.11"))]


def judged(programs: Sequence[trees.Program], root: Path) -> tuple[list[str], list[list[tuple[list[Frame], int]]]]:
    """What programs printed and their stacks, once enough of these are whole; fails when that does not come."""
    deadline, seconds = time.monotonic() + DEADLINE_S, SECONDS
    while True:
        pids, printed, batches = measured(root, [program.command for program in programs], seconds=seconds)
        seconds *= 2  # a busy machine gives them a small part of itself
        stacks = [trees.stacks_of(batches, {pid}) for pid in pids]
        verdicts = [trees.judge(program, found) for program, found in zip(programs, stacks, strict=True)]
        good = all(one.samples >= SAMPLES and one.complete >= GOAL * one.samples for one in verdicts)
        if good or time.monotonic() > deadline:
            break
    assert good, [(verdict.complete, verdict.wrong, verdict.examples) for verdict in verdicts]
    return printed, stacks


def python_is_right(printed: str, stacks: Sequence[tuple[Sequence[Frame], int]]) -> None:
    """Names, files and lines of the program that is known."""
    python = [
        frame for frames, _ in stacks for frame in frames if frame.kind == "python" and frame.name == "Shop.heavy"
    ]
    source = trees.SOURCES / "tree.py"
    assert {frame.file for frame in python} == {str(source)}
    lines = source.read_text().splitlines()
    assert {lines[frame.line - 1].strip() for frame in python} <= {"def heavy(self):", "return spin(0.012)"}
    assert sum(json.loads(printed).values()) == pytest.approx(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent needs root")
@pytest.mark.skipif(not Path("/usr/bin/python3.11").exists(), reason="no CPython 3.11 here")
def test_stacks_are_paths_of_the_programs_trees(programs: list[trees.Program], tmp_path: Path) -> None:
    printed, stacks = judged(programs, tmp_path)
    python_is_right(printed[-1], stacks[-1])


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="the agent needs root")
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_each_cpython_has_names_and_lines(version: str, tmp_path: Path) -> None:
    programs = [program for program in map(trees.cpython, trees.pythons()) if f"CPython {version}." in program.name]
    if not programs:
        pytest.skip(f"no CPython {version} here (python{version} on the PATH, or pyenv's)")
    printed, stacks = judged(programs, tmp_path)
    for told, found in zip(printed, stacks, strict=True):
        python_is_right(told, found)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="the agent needs root")
def test_code_made_at_run_time_has_its_caller_wherever_it_is_interrupted(tmp_path: Path) -> None:
    program = trees.made(tmp_path)
    deadline, seconds = time.monotonic() + DEADLINE_S, batch.TIME_S + SECONDS  # a batch is made while it runs: names
    while True:
        pids, _, batches = measured(tmp_path / "root", [program.command], seconds=seconds)
        Path(f"/tmp/perf-{pids[0]}.map").unlink(missing_ok=True)
        stacks = trees.stacks_of(batches, set(pids))
        leaves = sum(count for frames, count in stacks if trees.name(frames[0]) == "leaf")
        if leaves >= SAMPLES or time.monotonic() > deadline:
            break
    assert leaves >= SAMPLES, stacks
    verdict = trees.judge(program, stacks)
    assert not {"main calls leaf", "begins with leaf"} & set(verdict.wrong), verdict


SLEEPS = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
__attribute__((noinline)) static void naps(void) { struct timespec time = {0, 20000000}; nanosleep(&time, 0); }
__attribute__((noinline)) static void fills(void) {
    char *area = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(area, 8 << 20, MADV_NOHUGEPAGE);
    for (int place = 0; place < 8 << 20; place += 4096)
        area[place] = 1;
    munmap(area, 8 << 20);
}
int main(int count, char **arguments) {
    for (int left = 25 * atoi(arguments[count - 1]); left > 0; left--) { naps(); fills(); }
    return 0;
}
"""


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="the agent needs root")
def test_waits_and_page_faults_have_stacks(tmp_path: Path) -> None:
    (tmp_path / "sleeps.c").write_text(SLEEPS)
    program = tmp_path / "sleeps"
    subprocess.run(["gcc", "-O1", "-fno-optimize-sibling-calls", "-o", program, tmp_path / "sleeps.c"], check=True)
    deadline = time.monotonic() + DEADLINE_S
    found: dict[str, set[str]] = {}
    while not ("naps" in found.get("offcpu", ()) and "fills" in found.get("pagefaults", ())):
        assert time.monotonic() < deadline, found
        pids, _, batches = measured(tmp_path / "root", [[str(program)]], "offcpu,pagefaults")
        for one in batches:
            for sample in one.samples:
                names = [trees.name(one.frames[index]) for index in one.stacks[sample.stack]]
                if one.labels[sample.labels].get("pid") == str(pids[0]) and "main" in names:
                    assert sample.value > 0
                    found.setdefault(one.types[sample.type].name, set()).update(names)
    assert "cpu" not in found
