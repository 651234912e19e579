"""What keeping objects costs on a whole engine: looks a second, memory, and how soon what was deleted outside is made again.

    python benchmarks/infrastructure_loop.py [OBJECTS [INTERVAL_S]]

As root: starts an engine of its own with our provider and a fake cloud on loopback, which count on the same machine. OBJECTS (500) networks
are made; then so many looks a second are made with an interval of a second, the rate of the credential not limiting them; then, with
INTERVAL_S (10), some of them are deleted in the cloud, a while apart, and the time until the cloud is asked to make it again is taken.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from engine_under_test import wait_for
from infrastructure_engine import GROUP, CloudEngine, cloud_engine
from trimtab.engine.procfs import cpu_s, pss_bytes, rss_bytes

OBJECTS = 500
INTERVAL_S = 10
DELETED = 40
WINDOW_S = 20.0


def main() -> None:
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else OBJECTS
    interval_s = int(sys.argv[2]) if len(sys.argv) > 2 else INTERVAL_S
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    with cloud_engine(enabled=("cloud_network",)) as world:
        world.credential(requestsPerSecond=1000.0, removalsPerInterval=objects)
        _memory(world, "before any object")
        began = time.monotonic()
        declare(world, objects, interval_s)
        wait_for(lambda: len(world.cloud.all("networks")) == objects, 600, "all are made")
        took = time.monotonic() - began
        print(
            f"{objects} objects applied and made in {took:.1f} s ({objects / took:.0f} a second); load {os.getloadavg()[0]:.2f}",
            flush=True,
        )
        _memory(world, f"with {objects} objects")
        lateness(world, objects, interval_s)
        declare(world, objects, 1)
        throughput(world)
        _memory(world, f"after looking at {objects} every second")


def declare(world: CloudEngine, objects: int, interval_s: int) -> None:
    items = [
        {
            "apiVersion": GROUP,
            "kind": "Network",
            "metadata": {"name": f"n{i}", "namespace": "default"},
            "spec": {"forProvider": {"name": f"n{i}"}, "interval": f"{interval_s}s"},
        }
        for i in range(objects)
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": items}, file)
        file.flush()
        world.engine.run("apply", "-f", file.name, timeout_s=600)


def throughput(world: CloudEngine) -> None:
    """Looks that find nothing to do."""
    pid = world.engine.pid("controllers")
    time.sleep(5.0)
    before, used, began = world.cloud.calls["GET networks"], cpu_s(pid), time.monotonic()
    time.sleep(WINDOW_S)
    took = time.monotonic() - began
    looks = (world.cloud.calls["GET networks"] - before) / took
    busy = (cpu_s(pid) - used) / took
    print(
        f"{looks:.0f} looks a second that find nothing to do, with {busy:.2f} cores of the controllers; load {os.getloadavg()[0]:.2f}"
    )


def lateness(world: CloudEngine, objects: int, interval_s: int) -> None:
    """From a deletion in the cloud to the call that makes it again."""
    time.sleep(interval_s)  # everybody has its own second
    asked: dict[str, float] = {}
    serve = world.cloud.serve

    def noting(method: str, target: str, login: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            asked.setdefault(body["name"], time.monotonic())
        return serve(method, target, login, body)

    world.cloud.serve = noting  # type: ignore[method-assign]
    gone: dict[str, float] = {}
    for network in random.Random(7).sample(world.cloud.all("networks"), min(DELETED, objects)):
        gone[network["name"]] = time.monotonic()
        world.cloud.remove("networks", network["id"])
        time.sleep(interval_s / DELETED)
    wait_for(lambda: asked.keys() >= gone.keys(), 120, "all are made again")
    late = sorted(asked[name] - at for name, at in gone.items())
    print(
        f"of {objects} objects looked at every {interval_s} s, {len(late)} were deleted outside: asked for again after p50 {statistics.median(late):.2f} s,"
        f" p95 {late[int(len(late) * 0.95)]:.2f} s, at most {late[-1]:.2f} s; load {os.getloadavg()[0]:.2f}",
        flush=True,
    )


def _memory(world: CloudEngine, when: str) -> None:
    for name in ("api", "controllers"):
        pid = world.engine.pid(name)
        print(f"  {name} {when}: PSS {pss_bytes(pid) / 1e6:.0f} MB, RSS {rss_bytes(pid) / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
