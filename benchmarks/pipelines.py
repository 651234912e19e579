"""What the engine of pipelines itself costs: order, keys, records; no step does any work here.

    python benchmarks/pipelines.py [--only makespan|steps|nothing] [--files N] [--runs N]

makespan  200 generated graphs in simulated time: how long a run takes against the lower bound, max(longest way, work/processors)
steps     1,000 steps that do nothing: the engine's time for each, from definition to record
nothing   a run in which nothing has changed, 40 steps and 2,000 files, each time in a fresh process (the peer: Dagger 0.21
          needs 1.68 s for an unchanged sync, by its own account, dagger/dagger#14213)
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from steps_in_process import Project  # noqa: E402
from trimtab.ci.runs.schedule import Plan, ranks  # noqa: E402

GRAPHS = 200
BOUND = 1.10
PROCESSORS = (2, 4, 8)
STEPS = 1000
NO_OP_STEPS = 40


def generated(seed: int) -> tuple[dict[str, list[str]], dict[str, float]]:
    """A pipeline as they are: a few things built first, many tested in parallel, some of it long, something at the end."""
    chance = random.Random(seed)
    needs: dict[str, list[str]] = {}
    layers: list[list[str]] = []
    for layer in range(chance.randint(2, 6)):
        made = []
        for number in range(chance.randint(4, 40)):
            step = f"s{layer}.{number}"
            above = [one for one in (layers[-1] if layers else []) if chance.random() < 2.5 / len(layers[-1])]
            far = [one for earlier in layers[:-1] for one in earlier if chance.random() < 0.02]
            needs[step] = [*above, *far]
            made.append(step)
        layers.append(made)
    return needs, {step: min(chance.lognormvariate(1.0, 0.8), 20.0) for step in needs}


def simulated(needs: dict[str, list[str]], seconds: dict[str, float], thought: dict[str, float], slots: int) -> float:
    """When the last step ends, if each takes its seconds. thought: what the plan believes."""
    plan = Plan(needs, thought, slots)
    now, ends = 0.0, []
    while True:
        while (step := plan.next()) is not None:
            heapq.heappush(ends, (now + seconds[step], step))
        if not ends:
            return now
        now, step = heapq.heappop(ends)
        plan.done(step)


def makespan() -> None:
    print(f"makespan of {GRAPHS} generated graphs, against max(longest way, work / processors)")
    print(
        f"{'processors':>10} {'durations':<22} {'median':>7} {'p95':>7} {'worst':>7} {'<= ' + format(BOUND, '.2f'):>8}"
    )
    for slots in PROCESSORS:
        for known in ("known", "off by up to half", "not known"):
            ratios = []
            for seed in range(GRAPHS):
                needs, seconds = generated(seed)
                chance = random.Random(seed)
                thought = {
                    "known": seconds,
                    "off by up to half": {step: s * chance.uniform(0.5, 1.5) for step, s in seconds.items()},
                    "not known": dict.fromkeys(seconds, 1.0),
                }[known]
                bound = max(max(ranks(needs, seconds).values()), sum(seconds.values()) / slots)
                ratios.append(simulated(needs, seconds, thought, slots) / bound)
            ratios.sort()
            within = sum(ratio <= BOUND for ratio in ratios)
            p95 = ratios[int(len(ratios) * 0.95)]
            print(
                f"{slots:>10} {known:<22} {statistics.median(ratios):>7.3f} {p95:>7.3f} {ratios[-1]:>7.3f}"
                f" {within:>4}/{GRAPHS}"
            )


def steps() -> None:
    text = "".join(
        f"@step\ndef s{n}():\n    return base{f'.add(s{n - 1}(), to={chr(39)}/in{chr(39)})' if n % 5 else '.add(src({!r}))'.format('app/**')}"
        f".run('build {n}').output('/w/out')\n\n"
        for n in range(STEPS)
    )
    text += "@pipeline\ndef ci():\n    return " + " & ".join(f"s{n}()" for n in range(STEPS)) + "\n"
    print(f"engine's time for each of {STEPS} steps that do nothing, chains of five")
    with tempfile.TemporaryDirectory() as directory:
        project = Project(Path(directory))
        project.write(text, app__a_py="a")
        for what in ("all run", "nothing changed", "half of them"):
            if what == "half of them":
                project.write(text.replace("'build 2", "'build  2").replace("'build 5", "'build  5"), app__a_py="a")
            began, cpu = time.perf_counter(), time.process_time()
            record = project.run()
            wall, used = time.perf_counter() - began, time.process_time() - cpu
            counted = Counter(step["state"] for step in record["steps"].values())
            print(
                f"{what:<16} {wall / STEPS * 1000:>7.2f} ms wall, {used / STEPS * 1000:>6.2f} ms processor a step"
                f"  ({', '.join(f'{count} {state}' for state, count in sorted(counted.items()))})"
            )


def nothing(files: int, runs: int) -> None:
    print(f"a run in which nothing has changed: {NO_OP_STEPS} steps, {files} files, a fresh process each time")
    with tempfile.TemporaryDirectory() as directory:
        project = Project(Path(directory))
        text = ""
        for n in range(NO_OP_STEPS):
            taken = f".add(s{n - 1}(), to='/in')" if n % 4 else ""
            text += f"@step\ndef s{n}():\n    return base.add(src('pkg{n}/**')){taken}.run('build {n}').output('/w/out')\n\n"
        text += "@pipeline\ndef ci():\n    return " + " & ".join(f"s{n}()" for n in range(NO_OP_STEPS)) + "\n"
        project.write(text)
        for n in range(files):
            path = project.directory / f"pkg{n % NO_OP_STEPS}" / f"part{n // NO_OP_STEPS % 5}" / f"file{n}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# file {n}\n" * 40)
        lock = {"version": 1, "images": {"base": "sha256:" + "0" * 64}}
        (project.directory / "trimtab.lock").write_text(json.dumps(lock))
        project.run()
        environment = {**os.environ, "TRIMTAB_CI_DIR": str(project.state)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
        command = [sys.executable, "-m", "trimtab.cli", "ci", "--plain"]
        wall, used = [], []
        for _ in range(runs + 1):
            before = os.times()
            began = time.perf_counter()
            done = subprocess.run(command, cwd=project.directory, env=environment, capture_output=True, text=True)
            wall.append(time.perf_counter() - began)
            after = os.times()
            used.append(after.children_user - before.children_user + after.children_system - before.children_system)
            assert done.returncode == 0, done.stderr
            assert f"{NO_OP_STEPS} unchanged" in done.stdout, done.stdout
        wall, used = sorted(wall[1:]), sorted(used[1:])
        print(
            f"wall: least {wall[0] * 1000:.0f}, p50 {statistics.median(wall) * 1000:.0f},"
            f" p95 {wall[int(len(wall) * 0.95)] * 1000:.0f} ms;"
            f" processor: least {used[0] * 1000:.0f}, p50 {statistics.median(used) * 1000:.0f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What the engine of pipelines costs.")
    parser.add_argument("--only", choices=("makespan", "steps", "nothing"))
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n")
    if options.only in (None, "makespan"):
        makespan()
        print()
    if options.only in (None, "steps"):
        steps()
        print()
    if options.only in (None, "nothing"):
        nothing(options.files, options.runs)


if __name__ == "__main__":
    main()
