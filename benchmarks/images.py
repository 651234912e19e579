"""Images: how long builds, pushes and pulls take, beside buildah, skopeo and docker-registry where they are installed.

    .venv/bin/python benchmarks/images.py [--rounds N] [--json]

Cold means an empty content store: package indexes, packages and wheels come over the network. Each peer does the same work
in the same run: a FROM scratch Dockerfile with one COPY for buildah, the Python image for skopeo. Medians, minima behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from registries import answering, docker_registry
from trimtab.content import ContentStore, Credentials, ImageSpec, RegistryClient, build, pause_image, postgres_image

Results = dict[str, list[float]]


class Bench:
    """Timings by name, in the order in which they were first taken."""

    def __init__(self, directory: Path, rounds: int) -> None:
        self.directory = directory
        self.rounds = rounds
        self.results: Results = {}

    async def time(self, name: str, work: Awaitable[object]) -> None:
        started = time.perf_counter()
        await work
        self.results.setdefault(name, []).append(time.perf_counter() - started)

    def project(self, round_: int) -> Path:
        """A small web app's directory, different in each round."""
        path = self.directory / f"project-{round_}"
        path.mkdir()
        (path / "requirements.txt").write_text("psycopg[binary]==3.2.9\ngunicorn==23.0.0\nflask==3.1.1\n")
        for number in range(40):
            (path / f"module_{number}.py").write_text(f"ROUND = {round_}\nNUMBER = {number}\n" * 20)
        return path


async def builds(bench: Bench) -> ContentStore:
    """Our own builds; returns a store with everything in it."""
    store = ContentStore(bench.directory / "store-0")
    for round_ in range(bench.rounds):
        project = bench.project(round_)
        store = ContentStore(bench.directory / f"store-{round_}")
        spec = ImageSpec(name="app", python="requirements.txt", files={"/app": "."}, workdir="/app", cmd=["python3"])
        await bench.time("python app, cold", build(spec, store, context=project))
        await bench.time("python app, unchanged", build(spec, store, context=project))
        (project / "module_0.py").write_text("CHANGED = True\n")
        await bench.time("python app, code changed", build(spec, store, context=project))
        await bench.time("postgres, cold", build(postgres_image(), store))
        await bench.time("postgres, unchanged", build(postgres_image(), store))
        await bench.time("pause", asyncio.to_thread(pause_image, store))
    return store


async def files_only(bench: Bench) -> None:
    """The same image of 40 small files by us and by buildah, new and unchanged."""
    for round_ in range(bench.rounds):
        project = bench.directory / f"project-{round_}"
        (project / "Dockerfile").write_text("FROM scratch\nCOPY . /app\n")
        (project / "module_1.py").write_text(f"NEW = {round_}\n")
        store = ContentStore(bench.directory / f"files-{round_}")
        spec = ImageSpec(name="files", files={"/app": "."})
        await bench.time("files only, new: trimtab", build(spec, store, context=project))
        await bench.time("files only, unchanged: trimtab", build(spec, store, context=project))
        if shutil.which("buildah"):
            storage = bench.directory / "buildah"
            argv = ["buildah", "--root", f"{storage}/root", "--runroot", f"{storage}/run", "bud", "--layers"]
            argv += ["--isolation", "chroot", "--tag", "files", str(project)]
            await bench.time("files only, new: buildah", command(argv))
            await bench.time("files only, unchanged: buildah", command(argv))


async def transfers(bench: Bench, store: ContentStore) -> None:
    """The Python app's image to docker-registry and back, by us and by skopeo."""
    digest = store.resolve("trimtab.local/app:latest")
    assert digest is not None
    if not shutil.which("docker-registry"):
        return
    for round_ in range(bench.rounds):
        with docker_registry(bench.directory / f"registry-{round_}") as host:
            await answering(host)
            async with RegistryClient(store, credentials=Credentials()) as client:
                await bench.time("push, first: trimtab", client.push(digest, f"{host}/app:1"))
                await bench.time("push, again: trimtab", client.push(digest, f"{host}/app:1"))
            empty = ContentStore(bench.directory / f"pulled-{round_}")
            async with RegistryClient(empty, credentials=Credentials()) as client:
                await bench.time("pull: trimtab", client.pull(f"{host}/app:1"))
                await bench.time("pull, again: trimtab", client.pull(f"{host}/app:1"))
            if shutil.which("skopeo"):
                layout = f"oci:{bench.directory}/skopeo-{round_}:1"
                pull = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{host}/app:1", layout]
                await bench.time("pull: skopeo", command(pull))
                await bench.time("pull, again: skopeo", command(pull))
                push = ["skopeo", "copy", "-q", "--dest-tls-verify=false", layout, f"docker://{host}/other:1"]
        if shutil.which("skopeo"):
            with docker_registry(bench.directory / f"registry-skopeo-{round_}") as host:
                await answering(host)
                push[-1] = f"docker://{host}/app:1"
                await bench.time("push, first: skopeo", command(push))
                await bench.time("push, again: skopeo", command(push))


async def command(argv: list[str]) -> None:
    await asyncio.to_thread(subprocess.run, argv, check=True, capture_output=True)


def report(results: Results) -> None:
    for name, times in results.items():
        median = statistics.median(times)
        print(f"{name:36} {median * 1000:9.1f} ms   min {min(times) * 1000:9.1f}", end="")
        work, _, who = name.partition(": ")
        for peer in ("buildah", "skopeo"):
            other = results.get(f"{work}: {peer}")
            if who == "trimtab" and other:
                print(f"   {median / statistics.median(other):5.2f} x {peer}", end="")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the numbers alone")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="trimtab-bench-"))
    bench = Bench(directory, arguments.rounds)

    async def run() -> None:
        store = await builds(bench)
        await files_only(bench)
        await transfers(bench, store)

    load = os.getloadavg()[0]
    try:
        asyncio.run(run())
    finally:
        subprocess.run(["umount", "-q", f"{directory}/buildah/root/overlay"], check=False, capture_output=True)
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps({"cores": os.cpu_count(), "load": load, "seconds": bench.results}))
    else:
        print(
            f"{os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after, {bench.rounds} rounds"
        )
        report(bench.results)


if __name__ == "__main__":
    main()
