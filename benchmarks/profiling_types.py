"""What each type of samples costs the programs that are measured, and the agent. Prints the machine's load and core count with it.

sudo .venv/bin/python benchmarks/profiling_types.py [--seconds 3]

A loop of calls of one kind, alone and while the agent measures one type more than the CPU, by turns: the CPU time of a call, what the type adds to it
(the median of the turns, as a machine is busy with other things, too), how much of a core the BPF program says that it took, and how many stacks it walked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from typing import Any

TURNS = 3
CALLS = 2000
PAGES = bytes(64 << 10)


def talking() -> Callable[[], None]:
    """A kilobyte there and back over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = socket.create_connection(listening.getsockname())
        there, _ = listening.accept()
    message = bytes(1024)

    def call() -> None:
        here.send(message)
        there.recv(1024)

    return call


def writing(directory: Path) -> Callable[[], None]:
    """64 KiB into the cache of a file, from its start again after a MiB."""
    file = os.open(directory / "written", os.O_CREAT | os.O_RDWR)
    places = iter(range(0))

    def call() -> None:
        nonlocal places
        place = next(places, None)
        if place is None:
            os.ftruncate(file, 0)
            places = iter(range(0, 1 << 20, len(PAGES)))
            place = 0
        os.pwrite(file, PAGES, place)

    return call


def mapping() -> None:
    """64 KiB from the kernel and back."""
    mmap(-1, len(PAGES)).close()


def sleeping() -> None:
    """A switch of threads, and back."""
    time.sleep(0.00005)


def cost_us(call: Callable[[], None], seconds: float) -> float:
    """CPU time of a call of this process and the kernel for it."""
    began, count = resource.getrusage(resource.RUSAGE_SELF), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(CALLS if call is not sleeping else 100):
            call()
        count += CALLS if call is not sleeping else 100
    used = resource.getrusage(resource.RUSAGE_SELF)
    return 1e6 * (used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime) / count


@contextmanager
def measuring(root: Path, types: str) -> Iterator[list[dict[str, Any]]]:
    """The agent measures meanwhile; afterwards what it said last."""
    command = [sys.executable, "-m", "trimtab.components.profiling.agent", str(root), "--talk", "--types", types]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said: list[dict[str, Any]] = []
    try:
        assert agent.stdout
        first = json.loads(agent.stdout.readline())
        if first.get("mode") != "bpf" or first["missing"]:
            sys.exit(f"{types}: {first.get('missing') or first}")
        yield said
    finally:
        out, _ = agent.communicate(timeout=60)
        said += [json.loads(line) for line in out.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="of each of the turns")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="profiling-types-", dir="/var/tmp") as name:
        directory = Path(name)
        loops = {
            "network": talking(), "disk": writing(directory), "allocations": mapping, "pagefaults": mapping, "offcpu": sleeping,
        }  # fmt: skip
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; {TURNS} turns of {seconds:g} s each")
        for kind, call in loops.items():
            alone, cpu, added, walked, told = [], [], [], 0.0, []
            for _ in range(TURNS):
                alone.append(cost_us(call, seconds))
                with measuring(directory, "cpu"):
                    cpu.append(cost_us(call, seconds))
                with measuring(directory, f"cpu,{kind}") as said:
                    added.append(cost_us(call, seconds))
                told.append(said[-1]["sample_us"] * said[-1]["samples"] / 1e6 / seconds)
                walked += said[-1]["samples"] / seconds / TURNS
            medians = [statistics.median(some) for some in (alone, cpu, added)]
            print(
                f"{kind:12} a call {medians[0]:7.2f} us, with cpu {medians[1]:7.2f}, with {kind} too {medians[2]:7.2f} "
                f"({100 * (medians[2] / medians[1] - 1):+.1f} %); BPF {100 * statistics.median(told):.2f} % of a core, {walked:.0f} walks/s"
            )


if __name__ == "__main__":
    main()
