"""How long until the example app serves in each of N throw-away clusters, cold and warm; an image in all of them; kills.

    sudo .venv/bin/python benchmarks/clusters.py [--count 8] [--kills 20]

Nothing runs before the clock starts. Before that the app's two images are built, once, in an engine that is gone again when the
clock starts, and kept in the store that all clusters share. Cold: new clusters, in each of which `trimtab up` ships the app. Warm: each
is a copy of a frozen cluster in which the app was shipped: data directories cloned, database, keys and objects included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from engine_under_test import TRIMTAB, EngineUnderTest, engine, wait_for  # noqa: E402
from machine_picture import difference, picture  # noqa: E402
from node_world import busybox_image  # noqa: E402
from trimtab.content import ContentStore  # noqa: E402

HOST = "shipnotes.localhost"
SERVING_S_MAX = 600
GOALS_S = {"cold": 30.0, "warm": 10.0, "image": 5.0}


class Clusters:
    """A directory of clusters, used through the command."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def argv(self, *arguments: str, data: Path | None = None) -> list[str]:
        named = ["--data", str(data)] if data else []
        return [str(TRIMTAB), *named, "cluster", "--clusters", str(self.home), *arguments]

    def run(self, *arguments: str, data: Path | None = None) -> str:
        done = subprocess.run(self.argv(*arguments, data=data), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def list(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("list", "-o", "json"))
        return found


class Accounting:
    """CPU of this process, of all that comes of it, and of the clusters' pods, which have cgroups of their own. Where the kernel
    counts it (cgroup v1 cpuacct): on a shared machine it says more than the clock."""

    def __init__(self) -> None:
        self.top = Path("/sys/fs/cgroup/cpuacct")
        self.own = self.top / f"trimtab-bench-{os.getpid()}"
        self.there = (self.top / "cpuacct.usage").exists()

    def __enter__(self) -> Accounting:
        if self.there:
            self.own.mkdir()
            (self.own / "cgroup.procs").write_text(str(os.getpid()))
        return self

    def __exit__(self, *exc: object) -> None:
        if self.there:
            (self.top / "cgroup.procs").write_text(str(os.getpid()))
            wait_for(self._is_removed, 60, f"{self.own} to be empty")

    def _is_removed(self) -> bool:
        with suppress(OSError):
            self.own.rmdir()
        return not self.own.exists()

    def used_s(self, clusters: Sequence[dict[str, Any]] = ()) -> float:
        if not self.there:
            return 0.0
        groups = [self.own, *(self.top / f"trimtab-{one['id']}" for one in clusters)]
        return sum(int((group / "cpuacct.usage").read_text()) for group in groups if group.is_dir()) / 1e9


def ship(cluster: dict[str, Any], source: Path) -> None:
    """`trimtab up` in one cluster, then waits until the app answers behind its proxy."""
    EngineUnderTest(Path(cluster["data"])).run("up", str(source), timeout_s=SERVING_S_MAX)
    answers(cluster)


def answers(cluster: dict[str, Any]) -> None:
    """Waits until the app that is in a cluster answers behind its proxy."""
    port = int(cluster["https"].rpartition(":")[2])
    EngineUnderTest(Path(cluster["data"]), https_port=port).wait_serving(HOST, "/healthz", SERVING_S_MAX)


def serving(
    what: str,
    clusters: Clusters,
    used: Accounting,
    then: Callable[[dict[str, Any]], None],
    count: int,
    *options: str,
) -> None:
    """From nothing to the app in each, timed. then: what is done in each, until it serves."""
    began, cpu = time.monotonic(), used.used_s()
    made = json.loads(clusters.run("create", "--count", str(count), "--name", what, *options, "-o", "json"))
    up_s = time.monotonic() - began
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(then, made))
    took_s, cpu_s, cores = time.monotonic() - began, used.used_s(made) - cpu, os.cpu_count() or 1
    print(
        f"{count} clusters {what}: all ready after {up_s:.1f} s, the app serves in each after {took_s:.1f} s; "
        f"{took_s / GOALS_S[what]:.1f} of the goal of {GOALS_S[what]:.0f} s; they used {cpu_s:.0f} s of CPU, for which {cores} cores need {cpu_s / cores:.0f} s at least",
        flush=True,
    )


def image_in_all(clusters: Clusters, source: Path, count: int) -> None:
    """An image that no cluster has, unpacked in each."""
    began = time.monotonic()
    clusters.run("load", "bench/busybox", data=source)
    took_s = time.monotonic() - began
    print(
        f"an image (busybox) in all {count}: {took_s:.1f} s, {took_s / GOALS_S['image']:.1f} of the goal of 5 s",
        flush=True,
    )


def delete(clusters: Clusters) -> None:
    names = [one["name"] for one in clusters.list() if one["state"] != "frozen"]
    began = time.monotonic()
    clusters.run("delete", *names)
    print(f"{len(names)} clusters deleted after {time.monotonic() - began:.1f} s", flush=True)


def kills(clusters: Clusters, rounds: int, seed: int) -> None:
    """Runs killed at random moments, every other one with its warden; what is left once they were reaped."""
    dice = random.Random(seed)
    before = picture()
    marks = {str(clusters.home)}
    for number in range(rounds):
        run = subprocess.Popen(
            clusters.argv("create", "--count", "2", "--name", "kill", "--", "sleep", "600"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(dice.uniform(0.2, 20.0))
        for path in clusters.home.glob("*/data/engine.json"):
            identifier = json.loads(path.read_text())["id"]
            marks |= {f"tt-{identifier}", f"trimtab-{identifier}", f"/run/trimtab/{identifier}"}
        records = [json.loads(path.read_text()) for path in clusters.home.glob("[!.]*/cluster.json")]
        if number % 2:
            for pid in {record["warden"][0] for record in records if record.get("warden")}:
                with suppress(ProcessLookupError):  # one that had nothing left to watch over
                    os.kill(pid, signal.SIGKILL)
        run.kill()
        run.wait()
        if number % 2:
            clusters.run("reap")
        wait_for(lambda: not any(one["state"] != "frozen" for one in clusters.list()), 300, "nothing to be left")
    left, gone = difference(before, picture(), tuple(marks))
    print(
        f"{rounds} runs of 2 clusters killed at random moments, {(len(marks) - 1) // 3} of these were begun: {len(left) + len(gone)} traces left",
        flush=True,
    )
    for line in (*left, *gone)[:20]:
        print(f"  {line}")


def serve(clusters: Clusters, used: Accounting, directory: Path, what: Sequence[str], count: int) -> None:
    """The app in `count` clusters, each way that is asked for."""
    app, source, kept = directory / "shipnotes", directory / "source", directory / "kept"
    shutil.copytree(ROOT / "examples" / "shipnotes", app)
    with engine(source) as running:
        began = time.monotonic()
        running.run("up", str(app), timeout_s=SERVING_S_MAX)
        print(f"before the clock: images built and the app once served in {time.monotonic() - began:.0f} s", flush=True)
        clusters.run("load", data=source)
        busybox_image(ContentStore(source / "content"), "bench/busybox")
        shutil.copytree(source / "content", kept / "content")
        shutil.copy(source / "engine.json", kept)
    if "cold" in what:
        serving("cold", clusters, used, lambda one: ship(one, app), count)
        image_in_all(clusters, kept, count)
        delete(clusters)
    if "warm" in what:
        [template] = json.loads(clusters.run("create", "--name", "template", "-o", "json"))
        ship(template, app)
        clusters.run("freeze", "template")
        serving("warm", clusters, used, answers, count, "--like", "template")
        delete(clusters)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--what", nargs="*", choices=("cold", "warm"), default=("cold", "warm"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    with Accounting() as used, tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory:
        Path(directory).chmod(0o755)
        clusters = Clusters(Path(directory, "clusters"))
        try:
            if options.what:
                serve(clusters, used, Path(directory), options.what, options.count)
            kills(clusters, options.kills, options.seed)
        finally:
            clusters.run("delete", "--all")
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
