"""Runs a project again and again on a cache that others use at the same time: `python ci_hammer.py PROJECT STATE SEED ROUNDS`.

Prints a line for each run that was right; ends with 1 at one that was not. What a step makes follows from what it takes, so that a
false hit or a blob of another's shows.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
from pathlib import Path

from ci_project import IMAGES, graph_of
from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.runs.ports import Result

TAKES = {"deps": ["deps.txt"], "build": ["app/models.py", "app/views.py"], "unit": ["tests/test_a.py"]}
NEEDS = {"deps": [], "build": ["deps"], "unit": ["build"]}


def made(project: Path, step: str) -> bytes:
    """What a step makes of its files and of what it needs."""
    parts = [(project / path).read_bytes() for path in TAKES[step]] + [made(project, need) for need in NEEDS[step]]
    return hashlib.sha256(b"\0".join(parts)).hexdigest().encode()


def run(project: Path, state: Path) -> None:
    """A run; asserts that every step's output is what it should be, hit or not."""
    graph = graph_of(project)
    lookups = LocalLookups(project, state)
    try:
        found = lookups.define(graph, IMAGES, {})
        results: dict[str, Result] = {}
        for id in graph.order():
            if found[id].result is None and not found[id].content_key:
                found[id] = lookups.by_content(found[id], graph.steps[id], results)
            result = found[id].result
            if result is None:
                outputs = {}
                for name, _ in graph.steps[id].container.outputs:
                    place = state / "uppers" / f"{os.getpid()}"
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir(parents=True)
                    (place / "made").write_bytes(made(project, id))
                    outputs[name], _ = lookups.blobs.capture(str(place), take=True)
                result = Result(outputs, seconds=1.0)
                lookups.keep(found[id], graph.steps[id], result)
            results[id] = result
            takers = [one for one in graph.order() if id in graph.steps[one].needs() and found[one].result is None]
            for tree in result.outputs.values() if takers else ():
                assert (Path(lookups.blobs.materialise(tree)) / "made").read_bytes() == made(project, id), id
    finally:
        lookups.close()


def main() -> None:
    project, state, seed, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    for number in range(rounds):
        path = chance.choice([path for paths in TAKES.values() for path in paths])
        (project / path).write_text(f"{chance.randrange(3)}")
        run(project, state)
        print(number, flush=True)


if __name__ == "__main__":
    main()
