"""How long it is from `git push` to green, and to what is served: examples/shipnotes on an engine of this benchmark's own.

    sudo .venv/bin/python benchmarks/pushes.py [--rounds N]

The first push fetches and builds the images that the tests run in. Each further one has a line of a template changed, so its tests run
against a PostgreSQL of their own, an image is made, and the App's pods are replaced one after the other. Serving is told from outside: a
page with that line, over TLS; and all pods, when none of the former ones is left.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from engine_under_test import EngineUnderTest, engine, wait_for  # noqa: E402
from pushes import PushedProject  # noqa: E402

HOST = "shipnotes.localhost"
DEADLINE_S = 600.0


def changed(project: PushedProject, number: int) -> str:
    """Changes the page; gives what is in it from now on."""
    page, mark = project.directory / "shipnotes" / "templates" / "base.html", f"edition {number} of the benchmark"
    text = page.read_text().partition("<!--")[0].rstrip()
    page.write_text(f"{text}\n<!-- {mark} -->\n")
    return mark


def pushed(project: PushedProject, number: int) -> tuple[float, float, float]:
    """Seconds from the push to green, to the first page by a new pod, to the last former pod's end."""
    mark, running = changed(project, number), project.running
    former = {pod["metadata"]["uid"] for pod in pods(running)}
    began = time.monotonic()
    run = project.push(mark)
    project.green(run)
    green_s = time.monotonic() - began
    wait_for(lambda: (page := running.serves(HOST)) is not None and mark in page.text, DEADLINE_S, mark)
    served_s = time.monotonic() - began
    wait_for(lambda: not former & {pod["metadata"]["uid"] for pod in pods(running)}, DEADLINE_S, "the former pods' end")
    return green_s, served_s, time.monotonic() - began


def pods(running: EngineUnderTest) -> list[dict[str, Any]]:
    labels = "app.kubernetes.io/name=shipnotes,app.kubernetes.io/component=web"
    listed: list[dict[str, Any]] = running.json("get", "pods", "-l", labels)["items"]
    return [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]


def line(what: str, seconds: Sequence[float]) -> None:
    spread = f"(least {min(seconds):.1f}, most {max(seconds):.1f}, n={len(seconds)})"
    print(f"{what:<52} median {statistics.median(seconds):6.1f} s  {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="From a push to what is served.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n")
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as top:
        Path(top).chmod(0o755)
        with engine(Path(top, "data")) as running:
            directory = Path(top, "shipnotes")
            shutil.copytree(ROOT / "examples" / "shipnotes", directory, ignore=shutil.ignore_patterns("__pycache__"))
            running.run("up", str(directory), timeout_s=DEADLINE_S)
            running.wait_serving(HOST)
            project = PushedProject(running, directory, "shipnotes")
            project.remote("--app", "shipnotes", "-p", "ship=true")
            for what, first, count in (("first push, images to fetch and build", 0, 1), ("a changed file", 1, rounds)):
                found = list(zip(*(pushed(project, first + number) for number in range(count)), strict=True))
                for until, seconds in zip(
                    ("green", "served by a new pod", "no former pod is left"), found, strict=True
                ):
                    line(f"{what}: push -> {until}", seconds)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
