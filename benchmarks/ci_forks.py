"""Whether a pull request of a fork waits longer than the main branch: both on fresh machines, with a cache that machines share.

    python benchmarks/ci_forks.py [--rounds N]

A project of 40 steps and 2,000 files, of which the main branch's run has filled the shared cache (an HTTP server on loopback). Then each
round one file is changed, and that is run on a machine without any cache of its own, once as the main branch and once as a pull
request, which reads what the main branch wrote, writes only its own and gets no secrets. No step does any work, so what is
measured is the engine and the cache; what steps do takes the same wherever it comes from. The peer: linkerd's forks waited 32:15
minutes where its own branches waited 19:00 (linkerd/linkerd2#4765).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from ci_stores import Objects, object_server  # noqa: E402
from steps_in_process import Project  # noqa: E402

STEPS, FILES = 40, 2000
GOAL = 0.05


def written(project: Project) -> None:
    text = "".join(
        f"@step\ndef s{n}():\n    return base.add(src('pkg{n}/**')){f'.add(s{n - 1}(), to={chr(39)}/in{chr(39)})' if n % 4 else ''}"
        f".run('build {n}').output('/w/out')\n\n"
        for n in range(STEPS)
    )
    project.write(text + "@pipeline\ndef ci():\n    return " + " & ".join(f"s{n}()" for n in range(STEPS)) + "\n")
    for n in range(FILES):
        path = project.directory / f"pkg{n % STEPS}" / f"file{n}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# file {n}\n" * 40)


def ran(top: Path, source: Path, scope: str, edit: str) -> float:
    """Seconds of a run on a machine that knows nothing."""
    with tempfile.TemporaryDirectory(dir=top) as place:
        project = Project(Path(place))
        shutil.copytree(source, project.directory, dirs_exist_ok=True)
        (project.directory / "pkg0" / "file0.py").write_text(edit)
        os.environ["TRIMTAB_CI_SCOPE"] = scope
        began = time.perf_counter()
        record = project.run()
        took_s = time.perf_counter() - began
        states = Counter(step["state"] for step in record["steps"].values())
        assert states == {"hit": STEPS - 4, "succeeded": 4}, states
        return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether forks wait longer.")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n")
    with tempfile.TemporaryDirectory() as top, object_server(Objects()) as address:
        os.environ |= {"TRIMTAB_CI_CACHE": address, "TRIMTAB_CI_SCOPE": "trusted"}
        first = Project(Path(top))
        written(first)
        first.run()
        took: dict[str, list[float]] = {"trusted": [], "pr/7": []}
        for number in range(rounds):
            for scope in sorted(took, reverse=bool(number % 2)):
                took[scope].append(ran(Path(top), first.directory, scope, f"edit {number} as {scope}"))
    for what, scope in (("main branch", "trusted"), ("pull request", "pr/7")):
        seconds = took[scope]
        print(f"{what:<14} median {statistics.median(seconds):.3f} s  (least {min(seconds):.3f}, n={len(seconds)})")
    ratio = statistics.median(took["pr/7"]) / statistics.median(took["trusted"])
    least = min(took["pr/7"]) / min(took["trusted"])
    print(
        f"pull request : main branch = {ratio:.2f} by medians, {least:.2f} by the least (goal: within {GOAL:.0%} of 1)"
    )


if __name__ == "__main__":
    main()
