"""Ephemeral containers on a real containerd: looking into a pod whose image has no shell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import NodeWorld, bare_image, node_world
from trimtab.api.core import Pod
from trimtab.content import ContentStore

pytestmark = pytest.mark.engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


async def look_into(world: NodeWorld, name: str, container: dict[str, Any]) -> None:
    patch = {"spec": {"ephemeralContainers": [container]}}
    pod = await world.pod(name)
    assert pod is not None
    await world.client.patch(pod.ref, patch, manager="tester", subresource="ephemeralcontainers")


def looking(pod: Pod) -> Any:
    return pod.status.ephemeral_container_statuses[0].state if pod.status.ephemeral_container_statuses else None


async def test_a_container_looks_into_one_without_a_shell_and_is_started_once(world: NodeWorld) -> None:
    image = bare_image(ContentStore(world.settings.data_path("content")))
    await world.run_pod("bare", "", main={"image": image, "command": ["/sleep", "1000"]})
    await world.until_ready("bare")
    tools = {
        "name": "look",
        "image": world.image,
        "targetContainerName": "main",
        "command": ["/bin/sh", "-c", "ls /proc/1/root > /dev/termination-log; read end < /proc/self/fd/0; exit 3"],
        "stdin": True,
    }

    await look_into(world, "bare", tools)

    pod = await world.until_pod("bare", lambda p: (s := looking(p)) and s.running, 10, "is looked into")
    [status] = pod.status.ephemeral_container_statuses
    ident = status.container_id.removeprefix("containerd://")
    code, seen = await world.cri.exec(ident, ["cat", "/proc/1/cmdline"], 5)
    assert (code, seen) == (0, b"/sleep\x001000\x00")
    await world.cri.stop_container(ident, 0)
    pod = await world.until_pod("bare", lambda p: looking(p).terminated, 10, "was looked into")
    assert "sleep" in looking(pod).terminated.message
    await world.stop_agent()
    await world.start_agent()
    await world.label("bare", round="2")

    ready = await world.until_ready("bare")

    assert ready.status.container_statuses[0].restart_count == 0
    views = [view for view in await world.cri.containers() if view.name == "look"]
    assert [view.id for view in views] == [ident], "it is not started again"


async def test_a_command_that_does_not_exist_is_said_and_not_tried_again(world: NodeWorld) -> None:
    await world.run_pod("web", "sleep 1000")
    await world.until_ready("web")

    await look_into(world, "web", {"name": "look", "image": world.image, "command": ["/no/such"]})

    pod = await world.until_pod("web", lambda p: (s := looking(p)) and s.terminated, 10, "says what is wrong")
    ended = looking(pod).terminated
    assert ended.reason == "StartError"
    assert "no such file or directory" in ended.message
