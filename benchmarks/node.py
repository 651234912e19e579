"""How quickly pods come, come back and go, and what the node agent adds to the CRI. Medians with the machine's load.

    sudo .venv/bin/python benchmarks/node.py [--rounds N] [-o json]

    cri        sandbox + container created and started by CRI calls alone: the floor
    running    the Pod is created in the API -> its status says Running and ready
    killed     kill -9 of its process -> the new process answers on its port
    deleted    DELETE -> the object is gone, and all of it from the machine
    ten        ten pods created at once -> all ready
    agent      memory of the agent alone, in a process of its own, is in benchmarks/engine.py

Starts a containerd, a network and an API server in memory of its own, and removes them again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from node_world import NodeWorld, node_world  # noqa: E402

SERVE = "trap 'exit 0' TERM; httpd -f -p 8000 -h /tmp & wait"
"""A server that ends when it is told to; the shell, being the first process, must pass that on."""
TARGETS_S = {"running": 0.6, "killed": 1.0}
"""What the project promises on a quiet machine."""
TOGETHER = 10


async def cri_alone(world: NodeWorld, number: int) -> float:
    """Seconds for a sandbox and a container by CRI calls alone."""
    uid = f"bench-{number}"
    sandbox = {
        "metadata": {"name": uid, "uid": uid, "namespace": "bench", "attempt": 0},
        "log_directory": str(world.settings.data_path("node", "bench")),
        "linux": {
            "cgroup_parent": f"{world.settings.cgroup}/pod{uid}",
            "security_context": {"namespace_options": {"pid": 1}},
        },
    }
    image = await world.cri.image(world.image)
    assert image is not None
    container = {
        "metadata": {"name": "main", "attempt": 0},
        "image": {"image": image.id},
        "command": ["/bin/sh", "-c", SERVE],
        "linux": {"resources": {"oom_score_adj": 1000}},
    }
    began = time.monotonic()
    ident = await world.cri.run_sandbox(sandbox)
    await world.cri.start_container(await world.cri.create_container(ident, container, sandbox))
    took = time.monotonic() - began
    await world.cri.stop_sandbox(ident)
    await world.cri.remove_sandbox(ident)
    return took


async def serves(ip: str) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(ip, 8000)
        writer.close()
        return True
    return False


async def one_pod(world: NodeWorld, number: int) -> dict[str, float]:
    """Seconds until a pod ran, was back after a kill, and was gone."""
    name = f"web-{number}"
    probe = {"readinessProbe": {"tcpSocket": {"port": 8000}}}
    began = time.monotonic()
    await world.run_pod(name, SERVE, main=probe, terminationGracePeriodSeconds=30)
    pod = await world.until_ready(name)
    running = time.monotonic() - began
    began = time.monotonic()
    os.kill(await world.main_pid(name), signal.SIGKILL)
    ended = world.agent.ended(pod.status.container_statuses[0].container_id.removeprefix("containerd://"))
    await ended.wait()
    await world.until(lambda: serves(pod.status.pod_ip), 30, "it serves again")
    killed = time.monotonic() - began
    began = time.monotonic()
    await world.client.delete(pod.ref)
    await world.until_gone(name)
    return {"running": running, "killed": killed, "deleted": time.monotonic() - began}


async def together(world: NodeWorld) -> float:
    """Seconds until ten pods that were created at once are ready."""
    began = time.monotonic()
    names = [f"many-{number}" for number in range(TOGETHER)]
    for name in names:
        await world.run_pod(name, SERVE, terminationGracePeriodSeconds=0)
    for name in names:
        await world.until_ready(name, 60)
    return time.monotonic() - began


async def measure(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        async with node_world(Path(directory) / "node") as world:
            await one_pod(world, 1000)  # pulls the images
            floor = [await cri_alone(world, number) for number in range(rounds)]
            pods = [await one_pod(world, number) for number in range(rounds)]
            many = await together(world)
    return {
        "cri": floor,
        **{name: [round_[name] for round_ in pods] for name in ("running", "killed", "deleted")},
        "ten": [many],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", choices=("text", "json"), default="text", dest="output")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks/node.py: pods need root: run it with sudo")
    found = asyncio.run(measure(options.rounds))
    load, cores = os.getloadavg()[0], os.cpu_count()
    floor = statistics.median(found["cri"])
    rows = {
        name: {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values)}
        for name, values in found.items()
    }
    if options.output == "json":
        print(json.dumps({"load": load, "cores": cores, "rounds": options.rounds, **rows}))
        return
    print(f"node, {options.rounds} rounds, load {load:.1f} on {cores} cores")
    for name, row in rows.items():
        target = f"  (promised {TARGETS_S[name]:.1f} s)" if name in TARGETS_S else ""
        times = f"median {row['median_s']:.3f} s, min {row['min_s']:.3f}, max {row['max_s']:.3f}"
        print(f"  {name:8} {times}, {row['median_s'] / floor:.1f} x the CRI alone{target}")


if __name__ == "__main__":
    main()
