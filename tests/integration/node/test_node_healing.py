"""Everything that can die, dies, and pods go on: containerd, the agent, a sandbox, the network, the machine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_world import NodeWorld, is_ready, node_world
from trimtab.api.core import PROXIED, Pod
from trimtab.api.nodes import Node
from trimtab.components.node import cleanup, stop_pods
from trimtab.components.node.cleanup import shims
from trimtab.components.node.network import run

pytestmark = pytest.mark.engine

SERVE = "exec httpd -f -p 8000 -h /tmp"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


def container_of(pod: Pod) -> str:
    return pod.status.container_statuses[0].container_id


async def test_containers_outlive_containerd_and_are_still_looked_after(world: NodeWorld) -> None:
    await world.run_pod("web", SERVE)
    before = await world.until_ready("web")
    pid = await world.main_pid("web")

    world.kill_containerd()
    await world.until(lambda: not world.cri_answers(), 5, "containerd is gone")
    world.start_containerd()
    await world.until_node_ready()

    assert Path(f"/proc/{pid}").exists()
    os.kill(pid, signal.SIGKILL)
    after = await world.until_pod("web", lambda p: p.status.container_statuses[0].restart_count == 1, 10, "restarted")
    assert container_of(after) != container_of(before)


async def test_what_dies_while_containerd_is_away_is_found_when_it_is_back(world: NodeWorld) -> None:
    await world.run_pod("web", SERVE)
    await world.until_ready("web")
    pid = await world.main_pid("web")
    world.kill_containerd()
    os.kill(pid, signal.SIGKILL)
    world.start_containerd()
    pod = await world.until_pod(
        "web", lambda p: p.status.container_statuses[0].restart_count == 1 and is_ready(p), 15, "is back"
    )
    assert pod.status.phase == "Running"


async def test_a_new_agent_adopts_what_runs_and_removes_what_nobody_wants(world: NodeWorld) -> None:
    await world.run_pod("web", SERVE)
    await world.run_pod("doomed", "sleep 1000")
    before = await world.until_ready("web")
    await world.until_ready("doomed")
    pid, doomed = await world.main_pid("web"), await world.main_pid("doomed")
    await world.stop_agent()
    response = await world.pod("doomed")
    assert response is not None
    await world.client.delete(response.ref, grace_period_s=0)

    await world.start_agent()

    await world.until(lambda: not Path(f"/proc/{doomed}").exists(), 10, "the orphan has ended")
    after = await world.until_ready("web")
    assert container_of(after) == container_of(before)
    assert Path(f"/proc/{pid}").exists()
    assert after.status.container_statuses[0].restart_count == 0


async def test_a_lost_sandbox_and_a_rebooted_machine_are_made_anew(world: NodeWorld) -> None:
    await world.run_pod("web", SERVE)
    first = await world.until_ready("web")
    sandbox = (await world.cri.sandboxes())[0]
    os.kill(await world.cri.task_pid(sandbox.id), signal.SIGKILL)

    second = await world.until_pod(
        "web", lambda p: is_ready(p) and container_of(p) != container_of(first), 15, "runs in a new sandbox"
    )
    await world.until(lambda: one_sandbox(world), 10, "the lost sandbox is removed")

    await world.stop_agent()
    world.kill_containerd()
    for pid in shims(world.settings):
        os.kill(pid, signal.SIGKILL)
    for pid in cgroup_pids(world):
        os.kill(pid, signal.SIGKILL)
    world.start_containerd()
    await world.start_agent()
    third = await world.until_pod(
        "web", lambda p: is_ready(p) and container_of(p) != container_of(second), 20, "runs after the reboot"
    )
    assert third.status.container_statuses[0].restart_count == 2


async def one_sandbox(world: NodeWorld) -> bool:
    return len(await world.cri.sandboxes()) == 1


def cgroup_pids(world: NodeWorld) -> list[int]:
    group = Path("/sys/fs/cgroup/pids", world.settings.cgroup.strip("/"))
    return [int(pid) for path in group.rglob("cgroup.procs") for pid in path.read_text().split()]


async def test_sigterm_waits_until_the_proxy_has_let_go(world: NodeWorld) -> None:
    gates = {"readinessGates": [{"conditionType": PROXIED}], "terminationGracePeriodSeconds": 300}
    await world.run_pod("web", "trap 'exit 0' TERM; while :; do sleep 0.05; done", **gates)
    pod = await world.until_pod(
        "web",
        lambda p: any(c.type == "ContainersReady" and c.status == "True" for c in p.status.conditions),
        15,
        "runs",
    )
    assert not is_ready(pod)
    ready = next(c for c in pod.status.conditions if c.type == "Ready")
    assert ready.message == f"waiting for the readiness gate {PROXIED}"
    await world.set_gate("web", "True")
    await world.until_ready("web")
    pid = await world.main_pid("web")

    await world.client.delete(pod.ref)
    await world.until_pod("web", lambda p: p.metadata.deletion_timestamp is not None, 5, "is being deleted")
    early = time.monotonic() + 1.0
    while time.monotonic() < early:
        assert Path(f"/proc/{pid}").exists(), "it was stopped too early"
        await asyncio.sleep(0.01)
    await world.set_gate("web", "False")
    await world.until_gone("web")


async def test_the_node_says_who_it_is(world: NodeWorld) -> None:
    await world.until_node_ready()
    node = await world.client.get(Node, world.settings.node_name)
    assert node is not None
    assert node.status.capacity["pods"] == "110"
    assert node.status.node_info is not None
    assert node.status.node_info.container_runtime_version.startswith("containerd://1.")
    assert {a.type for a in node.status.addresses} == {"InternalIP", "Hostname"}


async def test_stopping_ends_processes_and_cleaning_leaves_nothing(world: NodeWorld) -> None:
    await world.run_pod("web", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    await world.until_ready("web")
    pid = await world.main_pid("web")
    await world.stop_agent()

    await stop_pods(world.settings, 5)
    assert not Path(f"/proc/{pid}").exists()
    await asyncio.to_thread(cleanup, world.settings)

    assert not shims(world.settings)
    assert not Path("/sys/class/net", world.settings.bridge).exists()
    assert world.settings.nft_table not in await run("nft", "list", "tables")
    assert world.settings.cgroup.strip("/") not in "".join(str(p) for p in Path("/sys/fs/cgroup").glob("*/*"))
    mounts = Path("/proc/self/mountinfo").read_text()
    assert world.settings.run not in mounts
    assert world.settings.data not in mounts
