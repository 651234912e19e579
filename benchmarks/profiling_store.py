"""What profiles take on disk and in memory, and how quickly they are asked: a day of a busy 2-core machine.

    python benchmarks/profiling_store.py [--hours 24] [--data DIR]

The data is made, to the measure of `perf record -a -g` on a machine that builds and tests: of 700 samples nine in ten stacks differ, and
seven in ten leaves; 19 Hz x 2 CPUs, 30 services of very different weight, a fifth of the samples in processes that live for seconds.
Batches are written as the agent writes them, every 10 s, and rolled up every 10 minutes by the same code as in the engine. Beside it:
the same samples as one gzipped pprof file a batch.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, incoming, packed
from trimtab.components.profiling.formats import pprof
from trimtab.components.profiling.storage.segment import hours
from trimtab.components.profiling.storage.selection import Selection
from trimtab.components.profiling.storage.store import Profiles, Query

HZ, CPUS, PERIOD_NS = 19, 2, 52_631_579
START = 1_800_000_000 - 1_800_000_000 % 86400
SERVICES = 30
PATHS = 3000
"""Ways through a service's call tree, which are taken by a power law."""


class Nameless:
    """Exports places in files as they are, as a profiler does that leaves names to its server."""

    class Named(msgspec.Struct):
        lines: list[object] = []

    def names(self, frames: Sequence[Frame]) -> list[Nameless.Named]:
        return [self.Named()] * len(frames)


class Service:
    def __init__(self, number: int, chance: random.Random) -> None:
        self.name = "shipnotes" if number == 3 else f"service-{number}"
        build, self.chance = f"{chance.getrandbits(160):040x}", chance
        self.short_lived = number % 5 == 2
        functions = 1500
        callees = [[chance.randrange(functions) for _ in range(6)] for _ in range(functions)]
        kernel = [Frame("kernel", f"kernel_function_{index}") for index in range(400)]
        self.paths: list[tuple[list[Frame], int]] = []
        for _ in range(PATHS):
            function, path = 0, []
            for _ in range(max(4, int(chance.gauss(22, 8)))):
                call = min(int(chance.expovariate(0.9)), 5)
                path.append(
                    Frame(
                        "native",
                        file=f"/usr/bin/{self.name}",
                        build_id=build,
                        address=4096 + function * 512 + 24 * call,
                    )
                )
                function = callees[function][call]
            if chance.random() < 0.25:
                path += [kernel[min(399, int(chance.expovariate(0.02)))] for _ in range(chance.randrange(3, 10))]
                function = -1
            self.paths.append((path[::-1], function))
        self.build = build

    def stack(self, number: int, instruction: int) -> list[Frame]:
        path, function = self.paths[number]
        if function < 0:
            return path
        leaf = Frame(
            "native", file=f"/usr/bin/{self.name}", build_id=self.build, address=4096 + function * 512 + 4 * instruction
        )
        return [leaf, *path]

    def labels(self, pid: int) -> dict[str, str]:
        plain = {"node": "node-1", "process": self.name, "pid": str(pid), "executable": f"/usr/bin/{self.name}"}
        if self.short_lived:
            return plain
        pod = f"{self.name}-5d8f7c9b4-{self.build[:5]}"
        inside = {
            "namespace": "default",
            "pod": pod,
            "container": "app",
            "app": self.name,
            "image": f"sha256:{self.build:0<64}",
        }
        return plain | inside


class Machine:
    def __init__(self) -> None:
        chance = random.Random(7)
        self.services = [Service(number, chance) for number in range(SERVICES)]
        weights = 1 / np.arange(1, SERVICES + 1) ** 0.9
        self.weights = weights / weights.sum()
        self.random = np.random.default_rng(7)
        self.pid = 1000

    def batch(self, start: int) -> Batch:
        number = HZ * CPUS * 10
        of = self.random.choice(SERVICES, number, p=self.weights).tolist()
        path = np.minimum((PATHS * self.random.random(number) ** 3).astype(int), PATHS - 1).tolist()
        instruction = np.minimum(self.random.exponential(12, number).astype(int), 127).tolist()
        frames: dict[Frame, int] = {}
        stacks: dict[tuple[int, ...], int] = {}
        labels: list[dict[str, str]] = []
        known: dict[tuple[int, int], int] = {}
        counts: dict[tuple[int, int], int] = {}
        for index in range(number):
            service = self.services[of[index]]
            lives = index // 40 if service.short_lived else 0
            if (which := known.get((of[index], lives))) is None:
                which = known[of[index], lives] = len(labels)
                self.pid += service.short_lived
                labels.append(service.labels(self.pid if service.short_lived else 500 + int(of[index])))
            stack = tuple(
                frames.setdefault(frame, len(frames)) for frame in service.stack(path[index], instruction[index])
            )
            key = (which, stacks.setdefault(stack, len(stacks)))
            counts[key] = counts.get(key, 0) + 1
        return Batch(
            start=start,
            source="agent",
            types=[SampleType("cpu", "nanoseconds")],
            labels=labels,
            frames=list(frames),
            stacks=[list(stack) for stack in stacks],
            samples=[Sample(0, who, stack, count * PERIOD_NS, count) for (who, stack), count in counts.items()],
        )


def fill(root: Path, duration_h: int) -> None:
    machine, store = Machine(), Profiles(root)
    incoming(root).mkdir(parents=True)
    roll_ups, made, events, beside, beside_events = [], 0, 0, 0, 0
    entropy: list[float] = []
    end = START + duration_h * 3600
    for start in range(START, end, 10):
        batch = machine.batch(start)
        path = incoming(root) / f"{start:011d}-agent-{made:08x}.batch"
        path.write_bytes(packed(batch))
        made, events = made + path.stat().st_size, events + HZ * CPUS * 10
        if start % 600 == 0:
            entropy.append(len(batch.stacks) / (HZ * CPUS * 10))
            with tempfile.TemporaryDirectory() as other:
                alone = Profiles(Path(other))
                alone.append(batch)
                beside += len(pprof.encode(alone.select(Query(start=start, end=start + 10)), Nameless()))
            beside_events += HZ * CPUS * 10
        if start % 600 == 590 and start < end - 10:
            before = time.process_time()
            store.roll_up(start + 70)
            roll_ups.append(time.process_time() - before)
    print(f"samples {events:,}; distinct stacks of a batch's samples {np.mean(entropy):.2f}")
    print(f"batch files as they come in: {made / events:.1f} bytes a sample")
    print(f"pprof, gzipped, a file each 10 s, without labels or names: {beside / beside_events:.1f} bytes a sample")
    print(
        f"roll-up: {len(roll_ups)} runs, {sum(roll_ups):.1f} s of CPU for {duration_h} h "
        f"({100 * sum(roll_ups) / duration_h / 3600:.3f} % of a core), longest {max(roll_ups):.2f} s"
    )
    by_table: dict[str, int] = {}
    kept = 0
    for directory in hours(root).glob("[0-9]*"):
        if int(directory.name.split("-")[0]) + 3600 < end:
            kept += HZ * CPUS * 3600
            for file in directory.iterdir():
                by_table[file.stem] = by_table.get(file.stem, 0) + file.stat().st_size
    if kept:
        parts = ", ".join(f"{name} {size / kept:.2f}" for name, size in sorted(by_table.items()))
        print(f"hours: {sum(by_table.values()) / kept:.2f} bytes a sample ({parts})")
    waiting = list(incoming(root).glob("*.batch"))
    print(f"left to roll up: {len(waiting)} batches")


def ask(root: Path, duration_h: int) -> None:
    store, chance = Profiles(root), random.Random(3)
    end = START + duration_h * 3600
    one = 'app="shipnotes"'

    def timed(title: str, many: int, question: Callable[[], Selection]) -> None:
        wall, cpu = [], []
        for _ in range(many):
            before, spent = time.perf_counter(), time.process_time()
            found = question()
            wall.append(time.perf_counter() - before)
            cpu.append(time.process_time() - spent)
        print(
            f"{title}: wall p50 {1000 * float(np.percentile(wall, 50)):.0f} ms, p95 {1000 * float(np.percentile(wall, 95)):.0f} ms; "
            f"CPU p50 {1000 * float(np.percentile(cpu, 50)):.0f} ms; {len(found.stacks):,} stacks, {len(found.frames):,} frames, "
            f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
        )

    def hour() -> Selection:
        start = START + chance.randrange(max(1, duration_h - 1)) * 3600 + chance.randrange(360) * 10
        return store.select(Query(start=start, end=start + 3600, selector=one))

    store.select(Query(start=START, end=START + 600, selector=one))
    timed("one service, any hour (touches two)", 40, hour)
    timed(
        "one service, the last hour, partly not rolled up",
        20,
        lambda: store.select(Query(start=end - 3600, end=end, selector=one)),
    )
    timed(f"one service, {duration_h} h", 5, lambda: store.select(Query(start=START, end=end, selector=one)))
    timed("everything, an hour", 5, lambda: store.select(Query(start=START, end=START + 3600)))
    timed(f"everything, {duration_h} h", 2, lambda: store.select(Query(start=START, end=end)))


COLD = """
import sys
from pathlib import Path
from trimtab.components.profiling.storage.store import Profiles, Query
print(Profiles(Path(sys.argv[1])).select(Query(start=int(sys.argv[2]), end=int(sys.argv[3]), selector='app="shipnotes"')).total)
"""


def cold(root: Path, title: str, start: int, end: int) -> None:
    wall, spent = [], []
    for _ in range(5):
        before, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", COLD, str(root), str(start), str(end)], check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - before)
        spent.append(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
    print(
        f"a process of its own, {title}: wall p50 {1000 * float(np.median(wall)):.0f} ms, CPU p50 {1000 * float(np.median(spent)):.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--data", type=Path, help="keep the data here, or ask what is there")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    root = arguments.data or Path(tempfile.mkdtemp(prefix="profiles-"))
    try:
        if not root.exists() or not any(root.iterdir()):
            subprocess.run([sys.executable, __file__, "--fill", str(root), str(arguments.hours)], check=True)
        sys.stdout.flush()
        ask(root, arguments.hours)
        end = START + arguments.hours * 3600
        cold(root, "an hour in Parquet", START, START + 3600)
        cold(root, "the last minutes, from batches alone", end - 300, end)
    finally:
        if not arguments.data:
            shutil.rmtree(root)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fill"]:
        fill(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
