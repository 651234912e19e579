"""What looking after a node costs, and how quickly it acts. Medians with the machine's load.

    sudo .venv/bin/python benchmarks/pressure.py [--rounds N] [-o json]

    look       CPU time of one look at memory, disk, inodes and process ids, with the thresholds judged
    usage      asking what ten pods use, when somebody has asked within the last minute
    first      the same when nobody has: two looks at the counters, a second apart
    evicted    a pod fills the node's disk below its threshold -> the pod is Failed, reason Evicted (the agent looks every 10 s)
    room       from then until what it took is free again

Starts a containerd, a network and an API server in memory of its own on a disk image of 400 MiB, and removes them again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from node_world import NodeWorld, node_world  # noqa: E402
from small_disk import small_disk  # noqa: E402
from trimtab.components.node.eviction import Guard  # noqa: E402
from trimtab.components.node.node_config import NodeConfig  # noqa: E402
from trimtab.components.node.pressure import levels_of  # noqa: E402
from trimtab.components.node.usage import Usage  # noqa: E402

PODS = 10
LOOKS = 1000
CONFIG = {"evictionHard": {"nodefs.available": "60Mi"}, "evictionPressureTransitionPeriod": "1s"}


def look_s(world: NodeWorld) -> float:
    """CPU seconds of one look."""
    guard = Guard(NodeConfig())
    began = time.process_time()
    for _ in range(LOOKS):
        guard.look(levels_of(world.settings), world.process.clock.now())
    return (time.process_time() - began) / LOOKS


async def asked_s(world: NodeWorld) -> float:
    began = time.perf_counter()
    report = await world.process.adapter(Usage).measure()
    assert len(report["pods"]) >= PODS
    return time.perf_counter() - began


async def evicted_s(world: NodeWorld, number: int) -> tuple[float, float]:
    """Seconds from the disk being full to the eviction, and from that to the room."""
    free = levels_of(world.settings)["nodefs.available"].available
    name = f"fills-{number}"
    await world.run_pod(name, f"dd if=/dev/zero of=/tmp/x bs=1M count={(free >> 20) - 40}; exec sleep 1000")

    def full() -> bool:
        return levels_of(world.settings)["nodefs.available"].available < 60 << 20

    await world.until(full, 60, "the disk is full")
    began = time.perf_counter()
    pod = await world.until_pod(name, lambda p: p.status.reason == "Evicted", 60, "is evicted")
    gone = time.perf_counter()
    await world.until(lambda: levels_of(world.settings)["nodefs.available"].available > free // 2, 60, "there is room")
    room = time.perf_counter()
    await world.client.delete(pod)
    await world.until(lambda: not world.agent.pressure, 60, "the pressure is over")
    return gone - began, room - gone


async def measure(rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory, small_disk(Path(directory) / "w" / "data" / "node", 400):
        async with node_world(Path(directory) / "w", node_config=CONFIG) as world:
            for number in range(PODS):
                await world.run_pod(f"idle-{number}", "exec sleep 1000")
            for number in range(PODS):
                await world.until_ready(f"idle-{number}", 60)
            found = {"look": look_s(world), "first": await asked_s(world)}
            again = []
            for _ in range(rounds):
                await asyncio.sleep(1.1)
                again.append(await asked_s(world))
            times = [await evicted_s(world, number) for number in range(rounds)]
    found["usage"] = statistics.median(again)
    found["evicted"] = statistics.median(evicted for evicted, _ in times)
    found["room"] = statistics.median(room for _, room in times)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("-o", "--output", choices=["table", "json"], default="table")
    asked = options.parse_args()
    found = asyncio.run(measure(asked.rounds))
    load, cores = os.getloadavg()[0], os.cpu_count()
    if asked.output == "json":
        print(json.dumps({"load": load, "cores": cores, **{f"{name}_s": value for name, value in found.items()}}))
        return
    print(f"{cores} cores, load {load:.1f}, medians of {asked.rounds}")
    for name in ("look", "usage", "first", "evicted", "room"):
        value = found[name]
        print(f"  {name:8} {value * 1e6:8.0f} µs" if value < 0.01 else f"  {name:8} {value:8.2f} s")


if __name__ == "__main__":
    main()
