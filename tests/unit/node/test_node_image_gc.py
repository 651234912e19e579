"""Which images go and which stay, above all while pods come: never one that somebody needs or is about to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from simulated_containerd import Faults, SimulatedContainerd
from trimtab.api import from_wire
from trimtab.api.core import Container, Pod
from trimtab.components.node.image_gc import ImageCollector, full_name, needed
from trimtab.components.node.images import Images
from trimtab.components.node.sandboxes import ContainerView
from trimtab.runtime.simulation import SimulatedClock, simulate

AGE_S = 120.0


class World:
    def __init__(self, clock: SimulatedClock) -> None:
        self.containerd = SimulatedContainerd(clock, random.Random(1), Faults())
        self.images = Images(self.containerd, clock.now)
        self.collector = ImageCollector(self.containerd, self.images, AGE_S, clock.now)
        self.pods: list[Pod] = []
        self.pulls: set[str] = set()

    def needs(self) -> set[str]:
        return needed([], self.pods, self.pulls, {"pause:1"})

    async def collect(self, enough: Callable[[], bool] = lambda: False) -> list[str]:
        return [image.id for image in await self.collector.collect(self.needs, enough)]

    async def ensure(self, image: str) -> None:
        await self.images.ensure(Container(name="main", image=image, image_pull_policy="IfNotPresent"), None)


def run(story: Callable[[World], Awaitable[Any]]) -> Any:
    async def main(clock: SimulatedClock) -> Any:
        return await story(World(clock))

    return simulate(main, seed=1)


def pod(image: str, phase: str = "Pending") -> Pod:
    return from_wire(Pod, {"spec": {"containers": [{"name": "main", "image": image}]}, "status": {"phase": phase}})


def test_unused_images_go_the_longest_unused_first_until_there_is_room() -> None:
    async def story(world: World) -> list[str]:
        world.containerd.pulled = {"pause:1", "used:1"}
        world.pods = [pod("used:1")]
        for image in ("c:1", "a:1", "b:1"):
            await world.ensure(image)
            await asyncio.sleep(10)
        world.images.used("c:1")
        await asyncio.sleep(AGE_S)
        return await world.collect(lambda: len(world.containerd.pulled) <= 3)

    assert run(story) == ["a:1", "b:1"]


def test_a_young_image_stays() -> None:
    async def story(world: World) -> tuple[list[str], list[str]]:
        await world.ensure("new:1")
        await asyncio.sleep(AGE_S - 5)
        early = await world.collect()
        await asyncio.sleep(6)
        return early, await world.collect()

    assert run(story) == ([], ["new:1"])


def test_a_pod_that_came_during_the_collection_keeps_its_image() -> None:
    async def story(world: World) -> list[str]:
        world.containerd.pulled = {"a:1", "b:1"}
        await asyncio.sleep(AGE_S)

        def enough() -> bool:
            if "a:1" not in world.containerd.pulled:
                world.pods = [pod("b:1")]
            return False

        return await world.collect(enough)

    assert run(story) == ["a:1"]


def test_an_image_is_not_taken_for_present_while_it_goes() -> None:
    async def story(world: World) -> tuple[bool, set[str]]:
        world.containerd.pulled = {"a:1"}
        await asyncio.sleep(AGE_S)
        remove = world.containerd.remove_image

        async def slowly(reference: str) -> None:
            await asyncio.sleep(5)
            await remove(reference)

        world.containerd.remove_image = slowly  # type: ignore[method-assign]
        going = asyncio.ensure_future(world.collect())
        await asyncio.sleep(1)
        coming = asyncio.ensure_future(world.ensure("a:1"))
        await asyncio.sleep(1)
        waits = not coming.done()
        await asyncio.gather(going, coming)
        return waits, world.containerd.pulled

    assert run(story) == (True, {"a:1"}), "it was removed, and then pulled again for the pod that came"


def test_what_is_being_pulled_and_what_ended_containers_have_stays() -> None:
    view = ContainerView(
        "c", "s", "u", "main", 0, "exited", None, image="sha256:1", annotations={"trimtab.dev/image": "busybox"}
    )  # type: ignore[arg-type]

    found = needed([view], [pod("done:1", "Succeeded"), pod("web")], {"coming:2"}, {"pause:1"})

    assert {"sha256:1", "busybox", "docker.io/library/busybox:latest", "coming:2", "pause:1", "web"} <= found
    assert "done:1" not in found


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("me/app:2", "docker.io/me/app:2"),
        ("trimtab.local/web@sha256:ab", "trimtab.local/web@sha256:ab"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("docker.io/library/a:1", "docker.io/library/a:1"),
    ],
)
def test_names_as_containerd_has_them(reference: str, name: str) -> None:
    assert full_name(reference) == name
