"""What the profiling agent costs. Prints the machine's load and core count with it.

sudo .venv/bin/python benchmarks/profiling_agent.py [--seconds 60] [--hz 19]

tables   unwind tables of well-known programs: CPU time to make one, beside one function after the other (as a prototype did), and beside
         readelf, which prints the same
agent    cold (no table is on disk) and warm, each for a while, beside a load: a Python loop on one CPU, and on another a shell that starts a
         process after the other. CPU of the agent and its sandboxes, of the BPF program apart; memory; how the stacks ended
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from trimtab.components.profiling.agent import budget, lanes, layout, tables

PROGRAMS = (
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/bin/python3.11",
    shutil.which("node"),
    "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
)
ROUNDS = 3
INCOMPLETE = layout.STATUSES[1:-1]


def cpu_s(path: str) -> tuple[float, int]:
    """Seconds of CPU, the least of some rounds, and rows."""
    best, rows = float("inf"), 0
    for _ in range(ROUNDS):
        fd = os.open(path, os.O_RDONLY)
        began = time.process_time()
        rows = tables.read(tables.build([fd])).rows
        best = min(best, time.process_time() - began)
        os.close(fd)
    return best, rows


def readelf_s(path: str) -> float | None:
    if not shutil.which("readelf"):
        return None
    before = budget.ended_children_cpu_s()
    subprocess.run(
        ["readelf", "--debug-dump=frames-interp", path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return budget.ended_children_cpu_s() - before


def show_tables() -> None:
    print("table of                          rows    CPU ms   one by one   readelf")
    for path in filter(None, PROGRAMS):
        if not Path(path).exists():
            continue
        quick, rows = cpu_s(path)
        several, lanes.LANES_MIN = lanes.LANES_MIN, 1 << 40
        slow, _ = cpu_s(path)
        lanes.LANES_MIN = several
        peer = readelf_s(path)
        shown = f"{peer / quick:6.1f} x" if peer is not None else "  (none)"
        print(f"{Path(path).name:28} {rows:9,} {quick * 1e3:9.1f} {slow / quick:10.1f} x {shown}")


@contextlib.contextmanager
def load() -> Iterator[None]:
    """A program that computes, and one that starts others."""
    commands = (
        [sys.executable, "-c", "while True: sum(i * i for i in range(1000))"],
        ["sh", "-c", "while :; do /bin/true; done"],
    )
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def told(agent: subprocess.Popen[bytes], root: Path) -> dict[str, Any]:
    """What the agent says of itself, and what it has used so far."""
    state: dict[str, Any] = json.loads((root / "status.json").read_bytes())
    lines = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return state | {"cpu_s": budget.running_cpu_s(agent.pid), "rss_kb": memory, "at": time.monotonic()}


def run_agent(root: Path, hz: float, seconds: float) -> list[dict[str, Any]]:
    """What an agent did in each of two stretches: the first without any table on disk."""
    command = [sys.executable, "-m", "trimtab.components.profiling.agent", str(root), "--talk", "--hz", str(hz)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        states = [told(agent, root)]
        for _ in range(2):
            time.sleep(seconds)
            states.append(told(agent, root))
    return [difference(*pair) for pair in pairwise(states)]


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    elapsed, samples = after["at"] - before["at"], after["samples"] - before["samples"]
    bpf_s = (after["samples"] * after["sample_us"] - before["samples"] * before["sample_us"]) / 1e6
    lost = {name: count - before["lost"].get(name, 0) for name, count in after["lost"].items()}
    return after | {
        "percent": 100 * (after["cpu_s"] - before["cpu_s"]) / elapsed,
        "bpf_percent": 100 * bpf_s / elapsed,
        "bpf_us": 1e6 * bpf_s / max(1, samples),
        "samples": samples,
        "complete": 100 - 100 * sum(lost.get(name, 0) for name in INCOMPLETE) / max(1, samples),
        "dropped": lost.get("no_room", 0) + lost.get("events_lost", 0),
        "built": after["files"]["built"] - before["files"]["built"],
    }


def show_agent(hz: float, seconds: float) -> None:
    print(f"\nagent at {hz:g} Hz, {seconds:g} s each        cold     then")
    with tempfile.TemporaryDirectory() as directory, load():
        runs = run_agent(Path(directory), hz, seconds)
    for name, field, digits in (
        ("process and sandboxes, % of a core", "percent", 2),
        ("BPF program, % of a core", "bpf_percent", 2),
        ("BPF program, us a sample", "bpf_us", 1),
        ("samples", "samples", 0),
        ("stacks complete, %", "complete", 1),
        ("no room, events lost", "dropped", 0),
        ("RSS, KB", "rss_kb", 0),
        ("own memory and maps, bytes", "memory_bytes", 0),
        ("tables built", "built", 0),
    ):
        print(f"{name:36}", *(f"{run[field]:>12.{digits}f}" for run in runs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--hz", type=float, default=19)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    show_tables()
    if os.geteuid() != 0:
        print("\nagent: not root, not measured")
        return 0
    show_agent(arguments.hz, arguments.seconds)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
