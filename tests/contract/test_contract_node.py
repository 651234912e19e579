"""The node agent under the contract kit, on a containerd that fails, dies and loses its machine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from simulated_api import make_api
from simulated_containerd import (
    MISSING_IMAGE,
    NO_FAULTS,
    NODE,
    Faults,
    NodeAdapters,
    SimulatedContainerd,
    SimulatedDisk,
)
from store_release import EARLIER
from trimtab.api import ObjectMeta, from_wire
from trimtab.api.core import PROXIED, ConfigMap, Pod
from trimtab.api.core import Service as ApiService
from trimtab.api.nodes import Node
from trimtab.client.clock import Clock
from trimtab.components.node import COMPONENT
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.eviction import Level, PodUsage
from trimtab.components.node.node_config import GIB, NodeConfig
from trimtab.components.node.pressure import LOOK_EVERY_S, Pressure, Relief
from trimtab.components.node.sandboxes import RuntimeFailure
from trimtab.components.node.serve import follow
from trimtab.runtime import Service
from trimtab.runtime.contract import Case, Scenario, Stage, contract
from trimtab.runtime.simulation import SimulatedClock

FAULTS = Faults(before=0.05, after=0.05, slow=0.1)
FAULTS_FOR_S = 60.0
SETTLED_S = 20.0


async def pods(process: Any) -> None:
    """The component's service `pods`, without the network and the registry of a real machine."""
    await follow(process, process.adapter(NodeAgent))


SHARES = {"greedy": 97, "modest": 2}
"""Of a disk of 100 GiB, what pods of these names take while they have something on it."""


class SimulatedCounting:
    async def usages(self, pods: Sequence[Pod], signal: str) -> list[PodUsage]:
        return [PodUsage(one, disk=SHARES.get(one.name, 0) * GIB) for one in pods]

    async def overuse(self, pods: Sequence[Pod]) -> list[tuple[Pod, str]]:
        return []


async def pressure(process: Any) -> None:
    """The component's service `pressure`, on a disk that is as full as the pods make it."""
    agent = process.adapter(NodeAgent)

    def levels() -> dict[str, Level]:
        names = {one.metadata.uid: one.name for one in process.informer(Pod).list()}
        used = sum(SHARES.get(names.get(uid, ""), 0) for uid in process.adapter(SimulatedDisk).kept)
        level = Level((100 - used) * GIB, 100 * GIB)
        return {"nodefs.available": level, "imagefs.available": Level(100 * GIB, 100 * GIB)}

    relief = Relief(process, agent, Pressure(), NodeConfig(), levels, SimulatedCounting())
    await process.informer(Pod).wait_synced()
    while True:
        again_s = LOOK_EVERY_S
        if agent.connected:
            with contextlib.suppress(RuntimeFailure):
                again_s = await relief.look()
        await asyncio.sleep(again_s)


JUDGED = dataclasses.replace(
    COMPONENT,
    services=(
        Service("pods", pods, place="node", reads=(Pod, ApiService)),
        Service("pressure", pressure, place="node", reads=(Pod, Node)),
    ),
)


def pod(name: str, *commands: str, **spec: Any) -> Pod:
    """A pod of containers c0, c1 ... that run these commands."""
    containers = [
        {"name": f"c{i}", "image": "busybox:1", "command": command.split()} for i, command in enumerate(commands)
    ]
    for container in containers:
        container |= spec.pop(str(container["name"]), {})
    body = {"nodeName": NODE, "terminationGracePeriodSeconds": 5, "containers": containers, **spec}
    return from_wire(Pod, {"metadata": {"name": name, "namespace": "default"}, "spec": body})


def adapters(clock: Clock) -> Mapping[type, Any]:
    return NodeAdapters(clock, dataclasses.replace(FAULTS))


def leaks(stage: Stage) -> list[str]:
    containerd, disk = stage.adapter(SimulatedContainerd), stage.adapter(SimulatedDisk)
    left = [f"container {one.view.name}" for one in containerd.containers_.values()]
    left += [f"sandbox of {s.name}" for s in containerd.sandboxes_.values()]
    return left + [f"files of {uid}" for uid in disk.kept] + containerd.violations


async def soothe(stage: Stage) -> None:
    """Faults of containerd end some time, as those of the API do."""
    await asyncio.sleep(FAULTS_FOR_S)
    stage.adapter(SimulatedContainerd).faults = NO_FAULTS


def is_ready(one: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in one.status.conditions)


async def trouble(stage: Stage) -> str | None:
    """What is not as the node's state says, for every pod; or a thing that must never happen."""
    containerd = stage.adapter(SimulatedContainerd)
    if containerd.violations:
        return containerd.violations[0]
    for one in await stage.list(Pod):
        running = sorted(s.name for s in one.status.container_statuses if s.state.running is not None)
        if running != [n for n in containerd.running(one.metadata.uid) if n.startswith("c")]:
            return f"{one.name} says that {running} run, containerd says {containerd.running(one.metadata.uid)}"
    return None


async def all_ready(stage: Stage) -> str | None:
    for one in await stage.list(Pod):
        if one.status.phase != "Running" or not is_ready(one):
            return f"{one.name} is not ready: {one.status}"
    return await trouble(stage)


PROBED = {"readinessProbe": {"httpGet": {"port": 80}}, "livenessProbe": {"tcpSocket": {"port": 80}}}
CONFIGURED = {"volumes": [{"name": "config", "configMap": {"name": "settings"}}]}


def settings_map(value: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name="settings", namespace="default"), data={"value": value})


async def configure(stage: Stage) -> None:
    await stage.apply(settings_map("one"))


async def reconfigure(stage: Stage) -> None:
    await stage.apply(settings_map("two"))


async def wound(stage: Stage) -> None:
    """Kills one container of each pod."""
    for one in await stage.list(Pod):
        stage.adapter(SimulatedContainerd).kill(one.metadata.uid, "c0")


async def wound_sandboxes(stage: Stage) -> None:
    for one in await stage.list(Pod):
        stage.adapter(SimulatedContainerd).kill_sandbox(one.metadata.uid)


async def restart_containerd(stage: Stage) -> None:
    stage.adapter(SimulatedContainerd).restart()


LOOKING = [{"name": "e0", "image": "busybox:1", "command": ["fail", "1"], "targetContainerName": "c0"}]


async def look_into(stage: Stage) -> None:
    """Adds an ephemeral container to each pod."""
    for one in await stage.list(Pod):
        patch = {"spec": {"ephemeralContainers": LOOKING}}
        await stage.client.patch(one, patch, manager="tester", subresource="ephemeralcontainers")


async def looked_into(stage: Stage) -> str | None:
    starts = stage.adapter(SimulatedContainerd).starts
    for one in await stage.list(Pod):
        ended = [status.state.terminated for status in one.status.ephemeral_container_statuses]
        if not ended or ended[0] is None:
            return f"the ephemeral container of {one.name} has not ended: {one.status}"
        if starts.count((one.metadata.uid, "e0")) > 1:  # a restored one that had ended is not started at all
            return f"the ephemeral container of {one.name} was started again: {starts}"
    return await all_ready(stage)


async def fill_the_disk(stage: Stage) -> None:
    while await all_ready(stage):  # noqa: ASYNC110 - simulated time: nothing waits
        await asyncio.sleep(0.5)
    await stage.apply(pod("greedy", "serve"))


async def only_the_greedy_one_went(stage: Stage) -> str | None:
    greedy, modest = await stage.get(Pod, "greedy"), await stage.get(Pod, "modest")
    assert greedy is not None
    assert modest is not None
    if (greedy.status.phase, greedy.status.reason) != ("Failed", "Evicted"):
        return f"the greedy pod is not evicted: {greedy.status}"
    # A container whose start was not heard of fills the disk, too: then the pod is refused, as one that has not begun.
    reasons = ("The node was low on resource: ephemeral-storage.", "The node had condition: [DiskPressure].")
    if not greedy.status.message.startswith(reasons):
        return f"it does not say why: {greedy.status}"
    if greedy.metadata.uid in stage.adapter(SimulatedDisk).kept:
        return "it still takes disk space"
    return None if is_ready(modest) else f"the modest pod is not ready: {modest.status}"


async def set_back(stage: Stage) -> None:
    """The clock was wrong, and is set back by a day."""
    assert isinstance(stage.clock, SimulatedClock)
    stage.clock.set_by(-86_400)


async def set_forward(stage: Stage) -> None:
    assert isinstance(stage.clock, SimulatedClock)
    stage.clock.set_by(86_400)


async def reboot(stage: Stage) -> None:
    stage.adapter(SimulatedContainerd).reboot()


async def configured(stage: Stage) -> str | None:
    disk = stage.adapter(SimulatedDisk)
    for one in await stage.list(Pod):
        if one.spec.volumes and disk.kept.get(one.metadata.uid, {}).get("config") != {"value": "two"}:
            return f"{one.name} does not see the new configuration: {disk.kept}"
    return await all_ready(stage)


async def ended_well(stage: Stage) -> str | None:
    wanted = {"once": "Succeeded", "again": "Succeeded", "never": "Failed", "broken": "Failed"}
    for one in await stage.list(Pod):
        if one.status.phase != wanted[one.name]:
            return f"{one.name} is {one.status.phase}, not {wanted[one.name]}: {one.status}"
    return await trouble(stage)


async def complaining(stage: Stage) -> str | None:
    image = await stage.get(Pod, "image")
    config = await stage.get(Pod, "config")
    assert image is not None
    assert config is not None
    waiting = image.status.container_statuses[0].state.waiting if image.status.container_statuses else None
    if waiting is None or waiting.reason not in ("ErrImagePull", "ImagePullBackOff"):
        return f"the missing image is not named: {image.status}"
    if waiting.message != f"{MISSING_IMAGE}: no such image":
        return f"the message is {waiting.message}"
    if config.status.reason != "FailedMount" or "not found" not in config.status.message:
        return f"the missing ConfigMap is not named: {config.status}"
    return await trouble(stage)


async def proxy(stage: Stage) -> None:
    """Plays the ingress: attaches the pod once its containers are ready, detaches it two seconds after its deletion."""
    deleting: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    soother = loop.create_task(soothe(stage))
    try:
        while True:
            for one in await stage.list(Pod):
                ready = any(c.type == "ContainersReady" and c.status == "True" for c in one.status.conditions)
                gate = next((c.status for c in one.status.conditions if c.type == PROXIED), None)
                if one.metadata.deletion_timestamp is not None:
                    at = deleting.setdefault(one.metadata.uid, loop.time())
                    if gate == "True" and loop.time() - at > 2.0:
                        await write_gate(stage, one, "False")
                    elif gate == "True" and loop.time() - at < 1.5 and stopped(stage, one):
                        stage.adapter(SimulatedContainerd).violations.append("a pod was stopped while attached")
                elif ready and gate is None:
                    await write_gate(stage, one, "True")
            await asyncio.sleep(0.25)
    finally:
        soother.cancel()


def stopped(stage: Stage, one: Pod) -> bool:
    """Whether the agent has ended its containers (rather than that they died of something else)."""
    containerd = stage.adapter(SimulatedContainerd)
    views = [o.view for o in containerd.containers_.values() if o.view.pod_uid == one.metadata.uid]
    return not containerd.running(one.metadata.uid) and any(view.exit_code == 143 for view in views)


async def write_gate(stage: Stage, one: Pod, status: str) -> None:
    body = {
        "metadata": {"name": one.name, "namespace": "default", "uid": one.metadata.uid},
        "status": {"conditions": [{"type": PROXIED, "status": status}]},
    }
    await stage.client.apply(from_wire(Pod, body), manager="ingress", subresource="status")


def story(name: str, *objects: Any, **changes: Any) -> Scenario:
    values: dict[str, Any] = {
        "goal": all_ready,
        "adapters": adapters,
        "leaks": leaks,
        "ignore": (Pod,),
        "world": soothe,
        "objects": objects,
    }
    return Scenario(name=name, **(values | changes))


SCENARIOS = [
    story(
        "web",
        pod(
            "web",
            "serve",
            "serve",
            c0=PROBED,
            initContainers=[{"name": "i0", "image": "b:1", "command": ["work", "1"]}],
        ),
        pod(
            "side",
            "serve",
            initContainers=[{"name": "s0", "image": "b:1", "command": ["serve"], "restartPolicy": "Always"}],
        ),
        pod("flaky", "flaky 2", "serve"),
        steps=[wound, restart_containerd, wound],
    ),
    story(
        "configured",
        pod("web", "serve", **CONFIGURED, c0=PROBED),
        pod("plain", "serve"),
        steps=[configure, wound_sandboxes, reconfigure, reboot],
        goal=configured,
    ),
    story(
        "looked-into",
        pod("web", "serve", "serve"),
        steps=[look_into, wound_sandboxes, reboot],
        goal=looked_into,
    ),
    story(
        "jobs",
        pod("once", "work 3", restartPolicy="Never"),
        pod("again", "work 3", "work 9", restartPolicy="OnFailure"),
        pod("never", "work 1", "fail 2", restartPolicy="Never"),
        pod(
            "broken",
            "serve",
            restartPolicy="Never",
            initContainers=[{"name": "i0", "image": "b:1", "command": ["fail", "1"]}],
        ),
        goal=ended_well,
    ),
    story(
        "clock-set",
        pod("flaky", "flaky 3", "serve"),
        pod("web", "serve", c0=PROBED),
        steps=[set_forward, wound, set_back, wound],
    ),
    story(
        "short-of-disk",
        pod("modest", "serve", c0={"resources": {"requests": {"ephemeral-storage": "10Gi"}}}),
        steps=[fill_the_disk],
        goal=only_the_greedy_one_went,
    ),
    story(
        "proxied",
        pod("web", "serve", c0=PROBED, readinessGates=[{"conditionType": PROXIED}], terminationGracePeriodSeconds=600),
        world=proxy,
        steps=[restart_containerd],
    ),
    story(
        "complaints",
        pod("image", "serve", c0={"image": MISSING_IMAGE}),
        pod("config", "serve", **CONFIGURED),
        goal=complaining,
    ),
]


@pytest.mark.parametrize("case", contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER), ids=str)
def test_contract(case: Case) -> None:
    case.run()
