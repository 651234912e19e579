"""How long a question about infrastructure takes: `trimtab plan` of 1, 50 and 500 objects, and a write that the provider is asked about.

    python benchmarks/infrastructure_plans.py [OBJECTS...]

As root: starts an engine of its own with our provider and a fake cloud on loopback, which count on the same machine; the rate of the credential
does not limit them. Each plan is made ROUNDS times: of objects that there are not yet, and of the same once they exist. The write is compared,
in turn and over the same connection, with one of an object of the same schema that no provider is asked about.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from engine_under_test import wait_for
from infrastructure_engine import GROUP, CloudEngine, cloud_engine
from trimtab.cli.target import Target

OBJECTS = (1, 50, 500)
ROUNDS = 5
WRITES = 200
PLAIN = "plain.example"
"""The group of the kind that no provider is asked about."""


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] or list(OBJECTS)
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    with cloud_engine(enabled=("cloud_network",)) as world:
        world.credential(requestsPerSecond=1000.0)
        world.until("ProviderConfig", "default")
        print(
            f"`trimtab get providers`, for what a command costs by itself: {told(lambda: world.engine.run('get', 'providers'))}"
        )
        for count in counts:
            planned(world, count)
        asyncio.run(written(world))
        print(f"load at the end: {os.getloadavg()[0]:.2f}")


def planned(world: CloudEngine, count: int) -> None:
    with manifests(network(GROUP, f"n{count}-{i}") for i in range(count)) as path:
        fresh = told(lambda: plan(world, path, 2))
        world.engine.run("apply", "-f", path, timeout_s=600)
        wait_for(
            lambda: sum(one["name"].startswith(f"n{count}-") for one in world.cloud.all("networks")) == count,
            600,
            "all are made",
        )
        wait_for(lambda: plan(world, path, 0, 2) == 0, 600, "all are remembered")
        print(
            f"plan of {count} objects: new ones {fresh}; the same when they exist {told(lambda: plan(world, path, 0))}",
            flush=True,
        )


def plan(world: CloudEngine, path: str, *expected: int) -> int:
    done = world.engine.run("plan", "-f", path, check=False, timeout_s=600)
    if done.returncode not in expected:
        raise AssertionError(f"exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode


def told(do: Any) -> str:
    took = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        do()
        took.append(time.monotonic() - began)
    return f"{statistics.median(took):.2f} s ({min(took):.2f} to {max(took):.2f})"


async def written(world: CloudEngine) -> None:
    """Creations of an object that nothing is done for (paused), in turn with those of the plain kind."""
    crds = world.engine.json("get", "customresourcedefinitions")["items"]
    crd = next(one for one in crds if one["metadata"]["name"] == "networks.cloud.tf.trimtab.dev")
    spec = {**crd["spec"], "group": PLAIN}
    spec["names"] = {**spec["names"], "categories": []}
    spec.pop("conversion", None)
    name = f"{spec['names']['plural']}.{PLAIN}"
    manifest = {"apiVersion": crd["apiVersion"], "kind": crd["kind"], "metadata": {"name": name}, "spec": spec}
    with manifests([manifest]) as path:
        world.engine.run("apply", "-f", path)
    wait_for(lambda: world.engine.run("get", name, check=False).returncode == 0, 60, "the plain kind is served")
    took: dict[str, list[float]] = {GROUP: [], f"{PLAIN}/v1": []}
    async with Target(world.engine.data, None, None).client() as wire:
        for number in range(WRITES + 20):
            for group, times in took.items():
                body = json.dumps(network(group, f"w{number}", pause=True)).encode()
                began = time.monotonic()
                await wire.send("POST", f"/apis/{group}/namespaces/default/networks", {}, body)
                if number >= 20:  # the first ones load what is needed
                    times.append(time.monotonic() - began)
    asked, plain = (sorted(times) for times in took.values())
    lines = [
        f"p50 {statistics.median(t) * 1000:.2f} ms, p95 {t[int(len(t) * 0.95)] * 1000:.2f} ms" for t in (asked, plain)
    ]
    ratio = statistics.median(asked) / statistics.median(plain)
    print(
        f"{WRITES} writes each: with admission by the provider {lines[0]}; without {lines[1]}; {ratio:.1f} times as long; "
        f"load {os.getloadavg()[0]:.2f}",
        flush=True,
    )


def network(group: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": group,
        "kind": "Network",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"forProvider": {"name": name, "range": "10.0.0.0/16"}, "interval": "1h", **spec},
    }


@contextmanager
def manifests(items: Any) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": list(items)}, file)
        file.flush()
        yield file.name


if __name__ == "__main__":
    main()
