"""What 1,000 pods' worth of API objects cost the API server and the controllers, the node's side being played.

    .venv/bin/python benchmarks/pods_1000.py [--pods N] [--idle-s 20] [-o json]

    up         10 Deployments with a Service each are applied -> every pod is available and in its EndpointSlice
    memory     PSS of the API server and of the controllers, before and after
    idle       their CPU while nobody asks anything
    roll       a new image for one of the Deployments -> rolled out
    list       all pods by one GET
    again      the controllers are killed and started -> a Deployment that changed meanwhile is done
    gone       the Deployments are deleted -> no pod is left

The API server (store on disk, synchronous=FULL) and the controllers are processes of their own, as in an engine; the node that
starts pods after 0 to 0.1 s is this script. There are 1,000 pods, 10 Deployments, ReplicaSets, Services and EndpointSlices.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from api_process import ApiProcess  # noqa: E402
from simulated_node import NODE, NODE_STATUS, SimulatedNode  # noqa: E402
from trimtab.api import ObjectMeta  # noqa: E402
from trimtab.api.core import Namespace, Pod, Service  # noqa: E402
from trimtab.api.networking import EndpointSlice  # noqa: E402
from trimtab.api.workloads import Deployment  # noqa: E402
from trimtab.client import Client, SocketTransport  # noqa: E402
from trimtab.client.clock import SystemClock  # noqa: E402
from trimtab.components.workloads import COMPONENT, LocalDirectories, VolumeDirectories  # noqa: E402
from trimtab.engine import procfs  # noqa: E402
from trimtab.runtime.contract import Stage  # noqa: E402
from trimtab.runtime.crd import ensure_crds  # noqa: E402
from trimtab.runtime.journal import Journal  # noqa: E402
from trimtab.runtime.ownership import SYSTEM_NAMESPACE  # noqa: E402
from trimtab.runtime.process import RUNTIME_KINDS, Process  # noqa: E402
from trimtab.runtime.settings import Settings  # noqa: E402

PODS = 1000
DEPLOYMENTS = 10
WITHIN_S = 300.0
SETTLE_S = 3.0


async def controllers(folder: Path, socket: Path) -> None:
    """What the controllers' process of an engine runs of the workloads."""
    process = Process(
        client=Client(SocketTransport(socket)),
        journal=Journal(folder / "journal.sqlite"),
        settings=Settings(id="bench", data=str(folder), run=str(folder)),
        adapters={VolumeDirectories: LocalDirectories(folder / "volumes", NODE)},
        place="controllers",
        components=[COMPONENT],
    )
    await process.run()


def start_controllers(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--controllers", str(folder), str(socket)])


def deployment(number: int, image: str, replicas: int) -> dict[str, Any]:
    labels = {"app": f"web-{number}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"web-{number}", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": image, "ports": [{"containerPort": 8080}]}]},
            },
        },
    }


def service(number: int) -> dict[str, Any]:
    spec = {"selector": {"app": f"web-{number}"}, "ports": [{"port": 80, "targetPort": 8080}]}
    meta = {"name": f"web-{number}", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


async def until(done: Callable[[], Awaitable[bool]], what: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not await done():
        if time.monotonic() - began > WITHIN_S:
            raise SystemExit(f"not after {WITHIN_S:.0f} s: {what}")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


class Bench:
    def __init__(self, client: Client, pods: int) -> None:
        self.client = client
        self.each = pods // DEPLOYMENTS

    async def apply(self, number: int, image: str) -> None:
        client = self.client.wire
        place = Deployment.resource_type
        await client.apply(place, deployment(number, image, self.each), manager="bench")

    async def available(self) -> bool:
        found = (await self.client.list(Deployment)).items
        return len(found) == DEPLOYMENTS and all(
            d.status.observed_generation == d.metadata.generation
            and d.status.available_replicas == d.status.updated_replicas == d.status.replicas == self.each
            for d in found
        )

    async def in_slices(self) -> bool:
        slices = (await self.client.list(EndpointSlice)).items
        ready = [e for piece in slices for e in piece.endpoints if e.conditions.ready]
        return len(ready) == self.each * DEPLOYMENTS

    async def none_left(self) -> bool:
        return not (await self.client.list(Pod)).items


async def measure(folder: Path, pods: int, idle_s: float) -> dict[str, Any]:
    result: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "pods": pods}
    api = ApiProcess(folder)
    api.start()
    assert api.process is not None
    client = Client(SocketTransport(api.socket))
    bench = Bench(client, pods)
    amount = {"cpu": "64", "memory": "64Gi", "pods": str(pods * 2)}
    node = SimulatedNode(
        Stage(client, SystemClock(), {}),
        start_s_max=0.1,
        stop_s_max=0.1,
        status={**NODE_STATUS, "allocatable": amount, "capacity": amount},
    )
    running = start_controllers(folder, api.socket)
    playing = asyncio.create_task(node.run())
    try:
        await ensure_crds(client, RUNTIME_KINDS)
        await client.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager="bench")
        pids = {"api": api.process.pid, "controllers": running.pid}
        await asyncio.sleep(SETTLE_S)
        result["before"] = costs(pids)
        for number in range(DEPLOYMENTS):
            await bench.apply(number, "ok:1")
            await client.wire.create(Service.resource_type, service(number), manager="bench")
        result["up_s"] = await until(bench.available, "all are available")
        result["in_slices_s"] = result["up_s"] + await until(bench.in_slices, "all are in slices")
        result["up_cpu_s"] = {k: v["cpu_s"] - result["before"][k]["cpu_s"] for k, v in costs(pids).items()}
        await asyncio.sleep(SETTLE_S)
        result["after"] = costs(pids)
        await asyncio.sleep(idle_s)
        spent = costs(pids)
        result["idle_percent"] = {
            name: 100 * (spent[name]["cpu_s"] - result["after"][name]["cpu_s"]) / idle_s for name in pids
        }
        began = time.monotonic()
        result["list_mb"] = len((await client.wire.send("GET", "/api/v1/pods")).body) / 1e6
        result["list_s"] = time.monotonic() - began
        await bench.apply(0, "ok:2")
        result["roll_s"] = await until(bench.available, "one is rolled out")
        running.kill()
        running.wait()
        await bench.apply(1, "ok:2")
        running = start_controllers(folder, api.socket)
        result["again_s"] = await until(bench.available, "the controllers are back")
        result["store_mb"] = sum(path.stat().st_size for path in folder.rglob("*.sqlite*")) / 1e6
        for found in (await client.list(Deployment)).items:
            await client.delete(found)
        result["gone_s"] = await until(bench.none_left, "no pod is left")
    finally:
        playing.cancel()
        running.kill()
        running.wait()
        await client.close()
        api.close()
    result["load_after"] = os.getloadavg()[0]
    return result


def costs(pids: dict[str, int]) -> dict[str, dict[str, float]]:
    return {
        name: {"pss_mb": procfs.pss_bytes(pid) / 1e6, "cpu_s": float(procfs.cpu_s(pid))} for name, pid in pids.items()
    }


def text(result: dict[str, Any]) -> str:
    before, after = result["before"], result["after"]
    names = ("api", "controllers")
    return "\n".join(
        [
            f"{result['cores']} cores, load {result['load']:.1f} before, {result['load_after']:.1f} after",
            f"{result['pods']} pods   available after {result['up_s']:.1f} s ({result['pods'] / result['up_s']:.0f} a second)   "
            f"in their slices after {result['in_slices_s']:.1f} s",
            "CPU until then    " + "   ".join(f"{name} {result['up_cpu_s'][name]:.1f} s" for name in names),
            "memory (PSS)      "
            + "   ".join(f"{name} {before[name]['pss_mb']:.0f} -> {after[name]['pss_mb']:.0f} MB" for name in names)
            + f"   {1000 * sum(after[n]['pss_mb'] - before[n]['pss_mb'] for n in names) / result['pods']:.0f} kB a pod",
            "idle with them    "
            + "   ".join(f"{name} {result['idle_percent'][name]:.2f} %" for name in names)
            + " of a core",
            f"one GET of all    {result['list_mb']:.1f} MB in {result['list_s'] * 1000:.0f} ms   on disk {result['store_mb']:.0f} MB",
            f"{result['pods'] // DEPLOYMENTS} pods rolled   {result['roll_s']:.1f} s   "
            f"killed controllers back, {result['pods'] // DEPLOYMENTS} pods rolled {result['again_s']:.1f} s   "
            f"all gone {result['gone_s']:.1f} s",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=PODS)
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--controllers", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-o", dest="fmt", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    if arguments.controllers:
        asyncio.run(controllers(*arguments.controllers))
        return
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(measure(Path(directory), arguments.pods, arguments.idle_s))
    print(json.dumps(result, indent=1) if arguments.fmt == "json" else text(result))


if __name__ == "__main__":
    main()
