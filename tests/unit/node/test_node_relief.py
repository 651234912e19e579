"""Making room, look by look: images before they are missed, then ended pods, images, one pod at a time; conditions and what is said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from simulated_containerd import NO_FAULTS, NODE, NodeAdapters
from trimtab.api import ObjectMeta, from_wire
from trimtab.api.core import Container, Pod
from trimtab.api.nodes import Node
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.eviction import Level, PodUsage
from trimtab.components.node.node_config import GIB, NodeConfig
from trimtab.components.node.pressure import (
    LOOK_AGAIN_S,
    LOOK_EVERY_S,
    PULL_S_MAX,
    PULL_SETTLES_S,
    Pressure,
    Relief,
    reported,
)
from trimtab.runtime.simulation import SimulatedClock, simulate

DISK = 100 * GIB


class World:
    """One node's agent, and a disk that says how full it is."""

    def __init__(self, clock: SimulatedClock) -> None:
        parts = NodeAdapters(clock, NO_FAULTS)
        self.containerd = parts.containerd
        self.agent: NodeAgent = parts.agent()
        self.pods: list[Pod] = []
        self.free = DISK
        self.said: list[str] = []
        self.over: list[tuple[Pod, str]] = []
        self.pressure = Pressure()
        process: Any = SimpleNamespace(
            clock=clock,
            settings=SimpleNamespace(image_registry="trimtab.local"),
            informer=lambda kind: SimpleNamespace(list=lambda: self.pods),
            client=SimpleNamespace(get=self.node),
            events=SimpleNamespace(say=self.say),
        )
        self.relief = Relief(process, self.agent, self.pressure, NodeConfig(), self.levels, self)

    async def node(self, kind: type, name: str) -> Node:
        return Node(metadata=ObjectMeta(name=name))

    def say(self, identity: object, subject: Any, reason: str, message: str, **more: object) -> None:
        self.said.append(f"{subject.name}: {reason}: {message}")

    def levels(self) -> dict[str, Level]:
        level = Level(self.free, DISK)
        return {"nodefs.available": level, "imagefs.available": level}

    async def usages(self, pods: Sequence[Pod], signal: str) -> list[PodUsage]:
        return [PodUsage(pod, disk=GIB * len(pod.name)) for pod in pods]

    async def overuse(self, pods: Sequence[Pod]) -> list[tuple[Pod, str]]:
        return [one for one in self.over if one[0] in pods]

    def evicted(self) -> list[str]:
        return [pod.name for pod in self.pods if self.agent.seen(pod).evicted is not None]


def pod(name: str, phase: str = "Running", **spec: Any) -> Pod:
    body = {"nodeName": NODE, "containers": [{"name": "main", "image": f"{name}:1"}], **spec}
    return from_wire(
        Pod, {"metadata": {"name": name, "uid": name, "namespace": "shop"}, "spec": body, "status": {"phase": phase}}
    )


def run(story: Callable[[World], Awaitable[Any]]) -> Any:
    async def main(clock: SimulatedClock) -> Any:
        return await story(World(clock))

    return simulate(main, seed=1)


def test_with_room_nothing_happens() -> None:
    async def story(world: World) -> Any:
        world.pods = [pod("web")]
        return await world.relief.look(), world.said, [c["status"] for c in reported(world.pressure)]

    assert run(story) == (LOOK_EVERY_S, [], ["False"] * 3)


def test_unused_images_go_before_there_is_pressure() -> None:
    async def story(world: World) -> Any:
        world.pods = [pod("web")]
        world.containerd.pulled = {"web:1", "old:1", "older:1"}
        await asyncio.sleep(200)
        world.free = 14 * GIB
        again_s = await world.relief.look()
        return again_s, world.containerd.pulled, world.said, world.evicted()

    again_s, left, said, evicted = run(story)

    assert (again_s, left, evicted) == (LOOK_EVERY_S, {"web:1"}, [])
    assert said == [f"{NODE}: FreedImages: removed unused images, which freed 0Mi: old:1, older:1"]


def test_ended_pods_then_images_then_one_pod_at_a_time() -> None:
    async def story(world: World) -> Any:
        done = pod("done", "Succeeded")
        world.pods = [pod("a"), pod("large"), done]
        world.containerd.pulled = {"a:1", "large:1", "old:1"}
        world.agent._disk.write_hosts("done", "")
        await asyncio.sleep(200)
        world.free = 4 * GIB
        steps = []
        for _ in range(3):
            again_s = await world.relief.look()
            steps.append(
                (again_s, world.agent.seen(done).unwanted, "old:1" in world.containerd.pulled, world.evicted())
            )
            await world.agent._disk.remove("done")
        return steps, world.said

    steps, said = run(story)

    assert steps == [
        (LOOK_AGAIN_S, True, True, []),
        (LOOK_AGAIN_S, True, False, ["large"]),
        (LOOK_AGAIN_S, True, False, ["a", "large"]),
    ]
    assert said[0] == (
        f"{NODE}: NodeHasDiskPressure: the node is short of ephemeral-storage: 4096Mi are available, the threshold is 5120Mi "
        "(nodefs.available)"
    )
    assert said[1] == f"{NODE}: FreedRemains: removed logs and files of ended pods: shop/done"
    assert said[3] == (
        "large: Evicted: The node was low on resource: ephemeral-storage. Threshold quantity: 5120Mi, available: 4096Mi. "
        "The pod was using 5120Mi, request is 0."
    )


def test_the_next_one_waits_until_the_last_is_gone() -> None:
    async def story(world: World) -> Any:
        world.pods = [pod("a"), pod("large")]
        world.free = GIB
        for one in world.pods:
            world.agent._disk.write_hosts(one.metadata.uid, "")
        evicted = []
        for _ in range(3):
            await world.relief.look()
            evicted.append(list(world.evicted()))
            await asyncio.sleep(1)
        await asyncio.sleep(30)
        await world.relief.look()
        return evicted, world.evicted()

    assert run(story) == ([["large"]] * 3, ["a", "large"]), "but not for ever"


def test_no_pod_goes_while_a_pull_fills_the_disk() -> None:
    async def story(world: World) -> Any:
        world.pods = [pod("a"), pod("large")]
        world.free = GIB
        image = Container(name="main", image="bomb:1")
        pull = asyncio.create_task(world.agent.images.ensure(image, None))
        await asyncio.sleep(0)
        meanwhile = (await world.relief.look(), world.evicted())
        await pull
        settling = (await world.relief.look(), world.evicted())
        await asyncio.sleep(PULL_SETTLES_S)
        return meanwhile, settling, (await world.relief.look(), world.evicted())

    assert run(story) == ((LOOK_AGAIN_S, []), (LOOK_AGAIN_S, []), (LOOK_AGAIN_S, ["large"]))


def test_pulls_that_do_not_end_save_no_pod() -> None:
    async def story(world: World) -> Any:
        world.pods = [pod("large")]
        world.free = GIB
        looks = 0
        while not world.evicted():
            pull = asyncio.create_task(world.agent.images.ensure(Container(name="main", image=f"i:{looks}"), None))
            await asyncio.sleep(0)
            await world.relief.look()
            await asyncio.sleep(LOOK_AGAIN_S)
            await pull
            looks += 1
        return asyncio.get_running_loop().time()

    assert PULL_S_MAX <= run(story) <= 2 * PULL_S_MAX


def test_nobody_left_is_said_once() -> None:
    async def story(world: World) -> Any:
        world.pods = [pod("critical", priority=2_000_000_000)]
        world.free = GIB
        for _ in range(5):
            await world.relief.look()
            await asyncio.sleep(10)
        return [line for line in world.said if "EvictionFailed" in line], world.evicted()

    lines, evicted = run(story)

    assert len(lines) == 1
    assert lines[0].endswith("and there is no pod that may be evicted")
    assert evicted == []


def test_the_condition_outlasts_the_shortage() -> None:
    async def story(world: World) -> Any:
        world.free = GIB
        await world.relief.look()
        world.free = DISK
        during = []
        for wait_s in (100, 250):
            await asyncio.sleep(wait_s)
            await world.relief.look()
            during.append(next(c["status"] for c in reported(world.pressure) if c["type"] == "DiskPressure"))
        return during, world.said[-1]

    assert run(story) == (["True", "False"], f"{NODE}: NodeHasNoDiskPressure: there is enough again")


def test_a_pod_beyond_its_own_limit_goes() -> None:
    async def story(world: World) -> Any:
        limited = pod("limited", volumes=[{"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}])
        world.pods = [limited, pod("free")]
        world.over = [(limited, "Usage of EmptyDir volume"), (world.pods[1], "never asked about")]
        await world.relief.look()
        return world.evicted(), world.said

    assert run(story) == (["limited"], ["limited: Evicted: Usage of EmptyDir volume"])
