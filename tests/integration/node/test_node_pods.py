"""Pods on a real containerd, from the API object to the process and back."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_world import NodeWorld, message_of, node_world

pytestmark = pytest.mark.engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


async def test_a_pod_becomes_a_process_with_an_address_and_leaves_nothing(world: NodeWorld) -> None:
    await world.run_pod("web", "httpd -f -p 8000 -h /tmp")

    pod = await world.until_ready("web")

    assert pod.status.phase == "Running"
    assert pod.status.pod_ip.startswith(world.settings.pod_cidr.rpartition(".")[0])
    status = pod.status.container_statuses[0]
    assert status.ready
    assert status.restart_count == 0
    assert status.image_id.startswith("trimtab.local/busybox@sha256:")
    assert Path(f"/proc/{await world.main_pid('web')}").exists()
    uid = pod.metadata.uid
    await world.client.delete(pod.ref)
    await world.until_gone("web")
    assert not await world.cri.containers()
    assert not await world.cri.sandboxes()
    assert not world.settings.data_path("node", "pods", uid).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*{world.settings.cgroup}/pod{uid}"))


async def test_a_killed_process_runs_again(world: NodeWorld) -> None:
    await world.run_pod("web", "httpd -f -p 8000 -h /tmp")
    before = await world.until_ready("web")
    os.kill(await world.main_pid("web"), signal.SIGKILL)

    pod = await world.until_pod(
        "web",
        lambda p: p.status.container_statuses[0].restart_count == 1 and p.status.container_statuses[0].ready,
        5,
        "is back",
    )

    ended = pod.status.container_statuses[0].last_state.terminated
    assert ended is not None
    assert (ended.exit_code, ended.reason) == (137, "Error")
    assert pod.status.container_statuses[0].container_id != before.status.container_statuses[0].container_id
    said = [text for text in world.said() if "running again" in text]
    assert said[0].startswith("container main of pod default/web exited (signal 9); running again after ")
    assert said[0].endswith(" ms")


async def test_an_image_that_does_not_exist_is_named(world: NodeWorld) -> None:
    await world.run_pod("web", "true", main={"image": "trimtab.local/nothing:1"})

    pod = await world.until_pod("web", lambda p: message_of(p)[0] == "ErrImagePull", 10, "says that there is no image")

    assert message_of(pod)[1] == "trimtab.local/nothing:1: no such image"
    assert pod.status.phase == "Pending"
