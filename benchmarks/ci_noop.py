"""How long `trimtab ci` takes to know that nothing has changed: a fresh process, 40 steps, 2,000 and 10,000 files.

The results are those of steps that were never executed: what is measured is the looking. Beside the whole command stand its
parts, each in a fresh process of its own: imports, the definition, the index, the scan, the digests, keys and the cache's answer.
Dagger 0.21 takes 1.68 s for an unchanged module that is loaded already (its own figure, pull request 14213), and does not run here.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 40
RUNS = 15
GOALS_S = {2000: 0.2, 10_000: 0.5}
DAGGER_S = 1.68
IMAGE = "sha256:" + "0" * 64

PARTS = """
import time; began = time.perf_counter(); cpu = time.process_time()
import json, sys
from pathlib import Path
from trimtab.ci.definition.evaluate import evaluate, load
from trimtab.ci.cache.lookups import LocalLookups
imported = time.perf_counter()
root = Path(sys.argv[1])
definition = load(root / "ship.py")
graph = evaluate(definition, definition.pipelines["ci"], {})
evaluated = time.perf_counter()
lookups = LocalLookups(root)
opened = time.perf_counter()
found = lookups.define(graph, {"base": sys.argv[2]}, {})
ended = time.perf_counter()
times = lookups.scanner.times
lookups.close()
assert all(one.result is not None for one in found.values())
print(json.dumps({
    "imports": imported - began, "definition": evaluated - imported, "index": opened - evaluated + times.index_s,
    "scan": times.scan_s, "digests": times.digest_s,
    "keys and lookups": ended - opened - times.index_s - times.scan_s - times.hash_s - times.digest_s,
    "processor": time.process_time() - cpu,
}))
"""


def project(root: Path, files: int) -> None:
    """A project of 40 packages, each with a step; three of four take what the one before has made."""
    for package in range(STEPS):
        for number in range(files // STEPS):
            place = root / f"pkg{package:02d}" / f"part{number % 5}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"file{number}.py").write_text(f"value = {package * 1000 + number}\n" * 40)
    lines = ["from trimtab.ci import image, pipeline, src, step", 'base = image("base").workdir("/w")']
    for package in range(STEPS):
        takes = f'.add(s{package - 1:02d}(), to="/before")' if package % 4 else ""
        step = f'base.add(src("pkg{package:02d}/**")){takes}.run("make").output("/w/out")'
        lines.append(f"@step\ndef s{package:02d}():\n    return {step}")
    calls = " & ".join(f"s{package:02d}()" for package in range(STEPS))
    lines.append(f"@pipeline\ndef ci():\n    return {calls}\n")
    (root / "ship.py").write_text("\n".join(lines))
    (root / "trimtab.lock").write_text(json.dumps({"version": 1, "images": {"base": IMAGE}}))


def prime(root: Path) -> None:
    """Keeps a result for every step."""
    from trimtab.ci.cache.lookups import LocalLookups
    from trimtab.ci.cache.tree import encode
    from trimtab.ci.definition.evaluate import evaluate, load
    from trimtab.ci.runs.ports import Result

    definition = load(root / "ship.py")
    graph = evaluate(definition, definition.pipelines["ci"], {})
    lookups = LocalLookups(root)
    found = lookups.define(graph, {"base": IMAGE}, {})
    results: dict[str, Result] = {}
    for id in graph.order():
        one = found[id] if found[id].content_key else lookups.by_content(found[id], graph.steps[id], results)
        blob = lookups.blobs.put(id.encode())
        tree = lookups.blobs.put(encode([("made", "f", blob[7:], len(id))]))
        results[id] = Result({"out": tree}, seconds=1.0)
        lookups.keep(one, graph.steps[id], results[id])
    lookups.close()


def took(command: list[str], root: Path) -> tuple[float, float]:
    """How long a command takes, all of it, and how much of that time it has a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    elapsed = time.perf_counter() - began
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def measure(files: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ci-noop-") as directory:
        root = Path(directory) / "project"
        os.environ["TRIMTAB_CI_DIR"] = str(Path(directory) / "state")
        project(root, files)
        prime(root)
        command = [str(Path(sys.executable).with_name("trimtab")), "ci", "run"]
        for _ in range(2):
            took(command, root)  # the files' times leave the grain of the clock
        runs = [took(command, root) for _ in range(RUNS)]
        times = sorted(elapsed for elapsed, _ in runs)
        processor = statistics.median(used for _, used in runs)
        parts = [
            json.loads(
                subprocess.run([sys.executable, "-c", PARTS, str(root), IMAGE], check=True, capture_output=True).stdout
            )
            for _ in range(RUNS)
        ]
        p50, p95 = statistics.median(times), times[int(len(times) * 0.95)]
        good = "reached" if p50 < GOALS_S[files] else "missed"
        print(
            f"{STEPS} steps, {files:,} files: p50 {p50 * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms, least {times[0] * 1e3:.0f} ms"
        )
        print(
            f"  of that on a processor: {processor * 1e3:.0f} ms; the rest it waits for others, the more the busier they are"
        )
        print(f"  goal p50 < {GOALS_S[files] * 1e3:.0f} ms: {good}; Dagger's figure is {DAGGER_S / p50:.1f} times that")
        said = ", ".join(f"{name} {statistics.median(one[name] for one in parts) * 1e3:.1f}" for name in parts[0])
        print(f"  parts, in ms: {said} (the last: all of them, on a processor)")


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for files in GOALS_S:
        measure(files)
    bare = min(took([sys.executable, "-c", "pass"], Path.cwd())[0] for _ in range(RUNS))
    print(f"an interpreter that does nothing: least {bare * 1e3:.0f} ms; load now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
