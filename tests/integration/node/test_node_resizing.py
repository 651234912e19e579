"""A running container of a real node is given other resources: its cgroup changes, its process does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import NodeWorld, node_world
from trimtab.api import Ref
from trimtab.api.core import Pod

pytestmark = pytest.mark.engine
WAIT_S = 60


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


def limit_of(pid: int) -> int:
    """The memory limit of the process's cgroup, of either version."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())
        if not controllers and (most := Path(f"/sys/fs/cgroup{path}/memory.max")).exists():
            return int(most.read_text())
    raise AssertionError(f"process {pid} has no memory limit")


async def resize(world: NodeWorld, memory: str, **more: Any) -> None:
    containers = [{"name": "main", "resources": {"requests": {"memory": memory}, "limits": {"memory": memory}}, **more}]
    ref = Ref("v1", "Pod", "default", "web")
    await world.client.patch(
        ref, {"spec": {"containers": containers}}, manager="tester", type="strategic", subresource="resize"
    )


def given(pod: Pod) -> Any:
    resources = pod.status.container_statuses[0].resources
    return resources.limits.get("memory") if resources is not None else None


async def test_a_container_gets_more_and_less_without_a_restart(world: NodeWorld) -> None:
    resources = {"requests": {"memory": "32Mi"}, "limits": {"memory": "32Mi"}}
    await world.run_pod("web", "sleep 1000", main={"resources": resources})
    await world.until_ready("web", WAIT_S)
    pid = await world.main_pid("web")
    for memory, size_bytes in (("64Mi", 64 << 20), ("48Mi", 48 << 20)):
        await resize(world, memory)
        pod = await world.until_pod("web", lambda p, m=memory: given(p) == m, WAIT_S, f"has {memory}")  # type: ignore[misc]
        assert limit_of(pid) == size_bytes
        assert (await world.main_pid("web"), pod.status.container_statuses[0].restart_count) == (pid, 0)
    await resize(world, "900Gi")
    pod = await world.until_pod(
        "web", lambda p: any(c.type == "PodResizePending" for c in p.status.conditions), WAIT_S, "says that it waits"
    )
    [waits] = [c for c in pod.status.conditions if c.type == "PodResizePending"]
    assert waits.reason == "Infeasible"
    assert waits.message.startswith(f"Node didn't have enough capacity: memory, requested: {900 << 30}, capacity: ")
    assert (given(pod), limit_of(pid)) == ("48Mi", 48 << 20)
