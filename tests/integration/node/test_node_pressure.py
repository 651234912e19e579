"""A node that runs short, for real: a disk of its own that fills up, inodes, memory, process ids, logs. Pods go in the right order and
say why, the node says so too, and everything else runs on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from node_world import NodeWorld, busybox_image, node_world
from small_disk import small_disk
from trimtab.api.core import Pod
from trimtab.api.nodes import Node
from trimtab.components.node import cgroup, machine, pressure, upkeep
from trimtab.components.node.pressure import levels_of
from trimtab.components.node.usage import Usage
from trimtab.content import ContentStore

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="module"),
]

SLEEP = "exec sleep 1000"


@pytest.fixture(autouse=True, scope="module")
def often() -> Iterator[None]:
    """Looks every half second instead of every ten: the same looks, less waiting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pressure, "LOOK_EVERY_S", 0.5)
        patch.setattr(upkeep, "LOOK_EVERY_S", 0.5)
        yield


def evicted(pod: Pod) -> bool:
    return pod.status.phase == "Failed" and pod.status.reason == "Evicted"


async def condition(world: NodeWorld, name: str) -> tuple[str, str]:
    node = await world.client.get(Node, world.settings.node_name)
    assert node is not None
    found = next(c for c in node.status.conditions if c.type == name)
    return found.status, found.message


async def images(world: NodeWorld) -> set[str]:
    return {name for image in await world.cri.images() for name in image.names}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeWorld]:
    config = {"podPidsLimit": 100, "containerLogMaxSize": "1Mi", "containerLogMaxFiles": 2}
    async with node_world(tmp_path_factory.mktemp("limits"), node_config=config) as made:
        yield made


async def test_a_fork_bomb_stays_in_its_pod(limited: NodeWorld) -> None:
    await limited.run_pod("calm", SLEEP)
    bomb_and_hoarder = "sh -c 'b() { b | b & }; b' & sh -c 'while :; do sleep 1000 & done' & exec sleep 1000"
    await limited.run_pod("bomb", bomb_and_hoarder, restartPolicy="Never")
    await limited.until_ready("calm")
    bomb = await limited.until_pod("bomb", lambda pod: pod.status.phase == "Running", 10, "runs")

    group, groups = limited.settings.cgroup, machine.cgroups()
    uid = bomb.metadata.uid
    await limited.until(lambda: cgroup.processes(groups, group, uid) > 90, 10, "the bomb has gone off")
    await limited.run_pod("after", SLEEP)
    await limited.until_ready("after")

    assert cgroup.processes(groups, group, uid) <= 100
    await limited.client.delete(bomb)
    await limited.until_gone("bomb")


async def test_what_a_pod_uses_is_measured_when_somebody_asks(limited: NodeWorld) -> None:
    await limited.run_pod("busy", "while :; do :; done")
    await limited.until_ready("busy")

    report = await limited.process.adapter(Usage).measure()

    [busy] = [pod for pod in report["pods"] if pod["name"] == "busy"]
    [main] = busy["containers"]
    assert main["name"] == "main"
    assert main["cpu"] > 10_000_000, "more than a hundredth of a core, however busy the machine is"
    assert 0 < main["memory"] < 64 << 20
    assert report["node"]["cpu"] >= main["cpu"] // 2
    pod = await limited.pod("busy")
    assert pod is not None
    await limited.client.delete(pod)
    await limited.until_gone("busy")


async def test_an_empty_dir_that_exceeds_its_limit(limited: NodeWorld) -> None:
    volume = {"name": "scratch", "emptyDir": {"sizeLimit": "5Mi"}}
    mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    await limited.run_pod(
        "fills", "dd if=/dev/zero of=/scratch/x bs=1M count=8; " + SLEEP, main=mount, volumes=[volume]
    )

    pod = await limited.until_pod("fills", evicted, 20, "is evicted")

    assert pod.status.message == 'Usage of EmptyDir volume "scratch" exceeds the limit "5Mi".'
    target = next(c for c in pod.status.conditions if c.type == "DisruptionTarget")
    assert (target.status, target.reason) == ("True", "TerminationByKubelet")
    directory = limited.agent.directory(pod)
    await limited.until(lambda: not directory.exists(), 10, "nothing of it is left")
    pod = await limited.until_pod("fills", evicted, 5, "still says why")
    assert pod.status.container_statuses[0].state.terminated is not None


async def test_memory_for_files_ends_where_the_volume_says(limited: NodeWorld) -> None:
    volume = {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}
    mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    command = (
        "dd if=/dev/zero of=/scratch/x bs=1M count=8 2>/dev/termination-log; wc -c < /scratch/x >> /dev/termination-log"
    )
    await limited.run_pod("shm", command, main=mount, volumes=[volume], restartPolicy="Never")

    pod = await limited.until_pod("shm", lambda p: p.status.phase == "Succeeded", 10, "has ended")

    ended = pod.status.container_statuses[0].state.terminated
    assert ended is not None
    assert "No space left on device" in ended.message
    assert ended.message.endswith(str(2 << 20))


async def test_a_container_that_exceeds_its_share_of_the_disk(limited: NodeWorld) -> None:
    limits = {"resources": {"limits": {"ephemeral-storage": "4Mi"}, "requests": {"ephemeral-storage": "1Mi"}}}
    await limited.run_pod("writes", "dd if=/dev/zero of=/tmp/x bs=1M count=8; " + SLEEP, main=limits)

    pod = await limited.until_pod("writes", evicted, 60, "is evicted")

    assert pod.status.message == "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi."


async def test_a_flood_of_logs_is_cut(limited: NodeWorld) -> None:
    await limited.run_pod("flood", "yes the same line again and again")
    pod = await limited.until_ready("flood")
    logs = limited.agent.directory(pod) / "logs" / "main"

    await limited.until(lambda: (logs / "0.log.1").exists(), 20, "the log is rotated")
    await limited.until(lambda: (logs / "0.log.1").stat().st_size <= 1 << 20, 10, "what is kept of it is cut")
    await limited.client.delete(pod)
    await limited.until_gone("flood")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeWorld]:
    config = {
        "evictionHard": {"nodefs.available": "60Mi", "imagefs.available": "60Mi", "nodefs.inodesFree": "10%"},
        "evictionPressureTransitionPeriod": "1s",
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 90,
        "imageMinimumGCAge": "0s",
    }
    directory = tmp_path_factory.mktemp("full")
    with small_disk(directory / "data" / "node", 300, 6000):
        async with node_world(directory, node_config=config) as made:
            yield made


async def test_images_go_first_then_who_uses_most_beyond_what_was_asked_for(full: NodeWorld) -> None:
    store = ContentStore(full.settings.data_path("content"))
    unused = busybox_image(store, "trimtab.local/unused:1", user="1")
    await full.create(
        {
            "kind": "Pod",
            "metadata": {"name": "once"},
            "spec": {
                "nodeName": full.settings.node_name,
                "restartPolicy": "Never",
                "containers": [{"name": "main", "image": unused, "command": ["true"]}],
            },
        }
    )
    await full.until_pod("once", lambda pod: pod.status.phase == "Succeeded", 20, "has run")
    asked = {"resources": {"requests": {"ephemeral-storage": "100Mi"}}}
    fill = "dd if=/dev/zero of=/tmp/x bs=1M count={}; " + SLEEP
    volume = {"volumes": [{"name": "d", "emptyDir": {}}]}
    mounted = {"volumeMounts": [{"name": "d", "mountPath": "/tmp"}]}
    await full.run_pod("modest", fill.format(50), main=asked | mounted, **volume)
    await full.run_pod("small", fill.format(5), main=mounted, **volume)
    for name in ("modest", "small"):
        await full.until_ready(name)
    assert unused in await images(full)

    left = levels_of(full.settings)["nodefs.available"].available >> 20
    await full.run_pod("greedy", fill.format(left - 40))
    greedy = await full.until_pod("greedy", evicted, 30, "is evicted")

    said = greedy.status.message
    assert said.startswith("The node was low on resource: ephemeral-storage. Threshold quantity: 60Mi, available: ")
    used = int(said.partition("The pod was using ")[2].partition("Mi")[0])
    assert left - 60 < used <= left, "what it wrote into its own file system counts at once"
    assert said.endswith("request is 0.")
    await full.until(
        lambda: any("removed unused images" in line and "unused" in line for line in full.said()), 10, "it says so"
    )
    assert unused not in await images(full)
    assert any("removed logs and files of ended pods: default/once" in line for line in full.said())
    for name in ("modest", "small"):
        pod = await full.pod(name)
        assert pod is not None
        assert pod.status.phase == "Running"

    async def recovered() -> bool:
        return (await condition(full, "DiskPressure"))[0] == "False"

    await full.until(recovered, 20, "the pressure is over")
    assert any("the node is short of ephemeral-storage: " in line for line in full.said())


async def test_no_inodes_are_left(full: NodeWorld) -> None:
    volume = {"volumes": [{"name": "d", "emptyDir": {}}]}
    mounted = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    command = "i=0; while [ $i -lt 20000 ]; do : > /d/$i; i=$((i+1)); done; " + SLEEP
    await full.run_pod("files", command, main=mounted, **volume)

    pod = await full.until_pod("files", evicted, 60, "is evicted")

    assert pod.status.message.startswith("The node was low on resource: inodes.")
    await full.client.delete(pod)
    await full.until_gone("files")

    async def recovered() -> bool:
        return (await condition(full, "DiskPressure"))[0] == "False"

    await full.until(recovered, 20, "the pressure is over")
    await full.run_pod("afterwards", SLEEP)
    await full.until_ready("afterwards")


async def test_who_uses_more_than_asked_for_goes_and_new_ones_wait(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "evictionHard": {"memory.available": "0"},
        "evictionPressureTransitionPeriod": "3s",
    }
    async with node_world(tmp_path / "memory", node_config=config, start=False) as world:
        # Below what there is now by less than what the greedy pod takes: nothing of this machine is endangered.
        available = levels_of(world.settings)["memory.available"].available
        least = (available >> 20) - 700
        config["evictionHard"]["memory.available"] = f"{least}Mi"
        await world.start_agent()
        take = "dd if=/dev/zero of=/shm/x bs=1M count=1300"
        volume = {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}
        mounted = {"volumeMounts": [{"name": "shm", "mountPath": "/shm"}]}
        asked = {"resources": {"requests": {"memory": "200Mi"}}}
        await world.run_pod("modest", SLEEP, main=asked)
        await world.until_ready("modest")
        await world.run_pod("greedy", f"{take}; {SLEEP}", main=mounted, **volume)

        greedy = await world.until_pod("greedy", evicted, 40, "is evicted")

        assert greedy.status.message.startswith(
            f"The node was low on resource: memory. Threshold quantity: {least}Mi, available: "
        )
        await world.run_pod("newcomer", SLEEP)
        newcomer = await world.until_pod("newcomer", evicted, 10, "is refused")
        assert newcomer.status.message == "The node had condition: [MemoryPressure]."
        modest = await world.pod("modest")
        assert modest is not None
        assert modest.status.phase == "Running"

        async def recovered() -> bool:
            return (await condition(world, "MemoryPressure"))[0] == "False"

        await world.until(recovered, 20, "the pressure is over")
        await world.run_pod("later", SLEEP)
        await world.until_ready("later")


async def test_what_a_crash_left_of_pods_that_are_gone_is_removed(limited: NodeWorld) -> None:
    await limited.stop_agent()
    uid = "0dd0-leftover"
    settings, groups = limited.settings, machine.cgroups()
    left = [settings.data_path("node", "pods", uid, "logs"), settings.run_path("pods", f"{uid}-secret", "token")]
    left += [directory / f"pod{uid}-group" for directory in groups.directories(settings.cgroup)[:1]]
    for path in left:
        path.mkdir(parents=True)

    await limited.start_agent()

    await limited.until(lambda: not any(path.exists() for path in left), 10, "nothing of them is left")
