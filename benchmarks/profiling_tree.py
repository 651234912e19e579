"""How long a flame tree, a table, a diff and a sandwich take: in numpy, and beside it the merge as a dictionary of Python.

    python benchmarks/profiling_tree.py [--stacks 900 --runs 7]

Stacks are synthetic: random walks on one tree, so that they share beginnings as real ones do. The median of the runs, in ms.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.queries.diff import diff, top_diff
from trimtab.components.profiling.queries.shapes import Side
from trimtab.components.profiling.queries.top import sandwich, top
from trimtab.components.profiling.queries.tree import merge


class Line(msgspec.Struct):
    name: str
    file: str = ""
    line: int = 0


class Named(msgspec.Struct):
    lines: list[Line]
    reason: str = ""


class Selected(msgspec.Struct):
    frames: list[Frame]
    stacks: list[tuple[int, ...]]
    values: Any
    counts: Any


FUNCTIONS = 3_000
DEPTH = 24


def synthetic(stacks: int, seed: int) -> tuple[Selected, list[Named]]:
    """Stacks of about `DEPTH` frames: each leaves an earlier one at a random depth."""
    source = random.Random(seed)
    made: list[list[int]] = [[source.randrange(FUNCTIONS) for _ in range(DEPTH)]]
    while len(made) < stacks:
        shared = made[source.randrange(len(made))][: source.randrange(2, 14)]
        made.append(shared + [source.randrange(FUNCTIONS) for _ in range(source.randrange(DEPTH) - len(shared) + 12)])
    frames = [Frame("native", file="/usr/bin/app", build_id="ab", address=i) for i in range(FUNCTIONS)]
    names = [Named([Line(f"function_{i}", "app.c", i)]) for i in range(FUNCTIONS)]
    values = np.array([source.randrange(1, 1_000) * 52_631_578 for _ in made], np.int64)
    return Selected(frames, [tuple(reversed(s)) for s in made], values, values // 52_631_578), names


def plain(selected: Selected, names: Sequence[Named]) -> dict[str, Any]:
    """The same merge, one frame after the other."""
    root: dict[str, Any] = {"total": 0, "self": 0, "below": {}}
    for stack, value in zip(selected.stacks, selected.values.tolist(), strict=True):
        node = root
        node["total"] += value
        for frame in reversed(stack):
            for line in reversed(names[frame].lines):
                node = node["below"].setdefault(line.name, {"total": 0, "self": 0, "below": {}})
                node["total"] += value
        node["self"] += value
    return root


def median_ms(work: Callable[[], Any], runs: int) -> float:
    took = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - start))
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stacks", type=int, default=900)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    (before, names), (after, _) = (synthetic(arguments.stacks, seed) for seed in (1, 2))
    old, new = merge(before, names), merge(after, names)
    both = diff(old, new)
    side = Side(total=0)
    answer = msgspec.json.encode(old.answer("cpu", "nanoseconds"))
    busiest = top(old, "cpu", "nanoseconds", sort="total").rows[0].function.name
    print(f"{arguments.stacks:,} stacks -> {len(old):,} nodes; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    works: dict[str, Callable[[], Any]] = {
        "merge (numpy by level)": lambda: merge(before, names),
        "merge (a dictionary of Python, to compare)": lambda: plain(before, names),
        "table of functions": lambda: top(old, "cpu", "nanoseconds"),
        "diff of two trees": lambda: diff(old, new),
        "table of a diff": lambda: top_diff(both, "cpu", "nanoseconds", side, side),
        "sandwich": lambda: sandwich(old, busiest, "cpu", "nanoseconds"),
        f"answer as JSON ({len(answer) // 1024:,} KiB)": lambda: msgspec.json.encode(old.answer("cpu", "nanoseconds")),
    }
    for name, work in works.items():
        print(f"{name:<45} {median_ms(work, arguments.runs):8.1f} ms")


if __name__ == "__main__":
    main()
