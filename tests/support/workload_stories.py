"""What the stories of the workloads under the contract kit share, and those of claims, daemons and jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from simulated_node import SimulatedNode, fail_pod, template
from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import Pod, ResourceRequirements, VolumeMount
from trimtab.api.jobs import Job, JobSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.nodes import Node
from trimtab.api.volumes import LocalVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec
from trimtab.api.workloads import DaemonSet, DaemonSetSpec, StatefulSet, StatefulSetSpec
from trimtab.client.clock import Clock
from trimtab.components.workloads import Renewals, VolumeDirectories
from trimtab.components.workloads import pods as facts
from trimtab.runtime.contract import Scenario, Stage

LOOK_S = 0.5
WATCH_LATE_S = 90.0
"""Longer than any fault of the kit keeps a watch back."""


class FakeDirectories:
    """The node's directories, in memory."""

    node = "node-1"

    def __init__(self) -> None:
        self.paths: set[str] = set()

    async def exists(self, path: str) -> bool:
        return path in self.paths

    async def make(self, path: str) -> None:
        self.paths.add(path)

    async def remove(self, path: str) -> None:
        self.paths.discard(path)


def directories(clock: Clock) -> Mapping[type, Any]:
    return {VolumeDirectories: FakeDirectories(), Renewals: Renewals()}


def carry(before: Mapping[type, Any], fresh: Mapping[type, Any]) -> None:
    """A backup brings the volumes back."""
    fresh[VolumeDirectories].paths |= before[VolumeDirectories].paths


def outside(records: Mapping[str, bytes], fresh: Mapping[type, Any]) -> None:
    """The directories of the volumes that an earlier release stored."""
    volumes = [json.loads(body) for key, body in records.items() if key.startswith("/core/persistentvolumes/")]
    made = [volume for volume in volumes if volume["metadata"]["name"].startswith("pvc-")]
    fresh[VolumeDirectories].paths |= {volume["spec"]["local"]["path"] for volume in made}


def data_left(stage: Stage) -> list[str]:
    return sorted(stage.adapter(VolumeDirectories).paths)  # type: ignore[type-abstract, attr-defined]


async def node(stage: Stage) -> None:
    await SimulatedNode(stage).run()


def alias(obj: JSON) -> str | None:
    """Pods of one owner are alike; a slice is its service's."""
    owners = obj["metadata"].get("ownerReferences") or []
    if obj["kind"] == "EndpointSlice" and owners:
        return f"a slice of {owners[0]['name']}"
    if obj["kind"] == "Pod" and owners and owners[0]["kind"] in ("ReplicaSet", "DaemonSet", "Job"):
        return f"a pod of {owners[0]['name']}"
    return None


async def until(stage: Stage, goal: Callable[[Stage], Awaitable[str | None]]) -> None:
    while await goal(stage):  # noqa: ASYNC110 - simulated time: nothing waits
        await asyncio.sleep(LOOK_S)


def step(change: Callable[[Stage], Awaitable[Any]], ready: Callable[[Stage], Awaitable[str | None]]) -> Any:
    async def act(stage: Stage) -> None:
        await until(stage, ready)
        await change(stage)

    return act


async def lose_pods(stage: Stage) -> None:
    pods = sorted(await stage.list(Pod), key=lambda pod: pod.name)
    if pods:
        await fail_pod(stage, pods[0])
    for pod in pods[1:2]:
        await stage.delete(pod)


# A StatefulSet with claims


def claim(name: str, **spec: Any) -> PersistentVolumeClaim:
    return PersistentVolumeClaim(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=PersistentVolumeClaimSpec(
            access_modes=["ReadWriteOnce"], resources=ResourceRequirements(requests={"storage": "1Gi"}), **spec
        ),
    )


def database(image: str = "ok:1", replicas: int = 3, policy: str = "OrderedReady") -> StatefulSet:
    made = StatefulSet(
        metadata=ObjectMeta(name="db", namespace="default"),
        spec=StatefulSetSpec(
            selector=LabelSelector(match_labels={"app": "db"}),
            template=template(image, "db"),
            service_name="db",
            replicas=replicas,
            pod_management_policy=policy,
            volume_claim_templates=[claim("data")],
        ),
    )
    made.spec.volume_claim_templates[0].metadata.namespace = None
    made.spec.template.spec.containers[0].volume_mounts = [VolumeMount(name="data", mount_path="/data")]
    return made


async def database_up(stage: Stage) -> str | None:
    found = await stage.get(StatefulSet, "db")
    if found is None:
        return "there is no StatefulSet"
    status, replicas = found.status, found.spec.replicas or 0
    counts = (status.replicas, status.ready_replicas, status.available_replicas, status.updated_replicas)
    if counts != (replicas,) * 4 or status.observed_generation < found.metadata.generation:
        return f"counts are {counts} instead of {replicas}"
    if status.current_revision != status.update_revision:
        return "the update is not complete"
    image = found.spec.template.spec.containers[0].image
    pods = [(pod.name, pod.spec.containers[0].image) for pod in await stage.list(Pod) if facts.active(pod)]
    if pods != [(f"db-{n}", image) for n in range(replicas)]:
        return f"pods are {pods}"
    claims = {c.name: c.status.phase for c in await stage.list(PersistentVolumeClaim)}
    if any(claims.get(f"data-db-{n}") != "Bound" for n in range(replicas)):
        return f"claims are {claims}"
    return None


def apply_database(*args: Any) -> Callable[[Stage], Awaitable[Any]]:
    return lambda stage: stage.apply(database(*args))


async def lose_database_pods(stage: Stage) -> None:
    for pod in await stage.list(Pod):
        if pod.name == "db-1":
            await fail_pod(stage, pod)
        elif pod.name == "db-0":
            await stage.delete(pod)


async def delete_database(stage: Stage) -> None:
    for kind in (StatefulSet, Pod):
        for obj in await stage.list(kind):
            await stage.delete(obj)
    # A controller whose watch is late may still make a pod and its claim; once it has heard, the claims can go for good.
    await asyncio.sleep(WATCH_LATE_S)
    for obj in await stage.list(PersistentVolumeClaim):
        await stage.delete(obj)


STATEFUL = [
    Scenario(
        f"database-{policy}",
        objects=[database(policy=policy)],
        steps=[
            step(lose_database_pods, database_up),
            step(apply_database("ok:2", 3, policy), database_up),
            step(apply_database("ok:2", 2, policy), database_up),
        ],
        goal=database_up,
        world=node,
        adapters=directories,
        leaks=data_left,
        uninstall=delete_database,
    )
    for policy in ("OrderedReady", "Parallel")
]


# A DaemonSet


def daemon(image: str = "ok:1") -> DaemonSet:
    return DaemonSet(
        metadata=ObjectMeta(name="agent", namespace="default"),
        spec=DaemonSetSpec(selector=LabelSelector(match_labels={"app": "agent"}), template=template(image, "agent")),
    )


async def daemon_up(stage: Stage) -> str | None:
    found = await stage.get(DaemonSet, "agent")
    assert found is not None
    status = found.status
    counts = (status.desired_number_scheduled, status.updated_number_scheduled, status.number_available)
    if counts != (1, 1, 1) or status.observed_generation < found.metadata.generation:
        return f"counts are {counts}"
    image = found.spec.template.spec.containers[0].image
    pods = [pod.spec.containers[0].image for pod in await stage.list(Pod) if facts.active(pod)]
    return None if pods == [image] else f"pods are {pods}"


async def update_daemon(stage: Stage) -> None:
    await stage.apply(daemon("ok:2"))


DAEMONS = [
    Scenario(
        "daemon",
        objects=[daemon()],
        steps=[step(lose_pods, daemon_up), step(update_daemon, daemon_up)],
        goal=daemon_up,
        world=node,
    )
]


# Jobs


def job(name: str, image: str, **spec: Any) -> Job:
    return Job(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=JobSpec(template=template(image, name, restart_policy="Never"), **spec),
    )


async def jobs_over(stage: Stage) -> str | None:
    found = {each.name: each for each in await stage.list(Job)}
    if "brief" in found:
        return "the Job with a time to live is still there"
    ends = {
        name: [(c.type, c.reason) for c in each.status.conditions if c.type in ("Complete", "Failed")]
        for name, each in found.items()
    }
    if ends != {
        "many": [("Complete", "CompletionsReached")],
        "flaky": [("Complete", "CompletionsReached")],
        "bad": [("Failed", "BackoffLimitExceeded")],
    }:
        return f"Jobs ended with {ends}"
    if (found["many"].status.succeeded, found["flaky"].status.failed, found["bad"].status.failed) != (5, 1, 2):
        return f"counts are wrong: {[each.status for each in found.values()]}"
    message = found["bad"].status.conditions[-1].message
    return None if "exited with code 1: no such table: notes" in message else f"it does not say why: {message}"


JOBS = [
    Scenario(
        "jobs",
        objects=[
            job("many", "exit-0", completions=5, parallelism=2),
            job("flaky", "flaky", backoff_limit=3),
            job("bad", "exit-1", backoff_limit=1),
            job("brief", "exit-0", ttl_seconds_after_finished=5),
        ],
        goal=jobs_over,
        world=node,
    )
]


# Placement and volumes by themselves


def lonely_pod(name: str, **spec: Any) -> Pod:
    made = template("ok", name, **spec)
    return Pod(metadata=ObjectMeta(name=name, namespace="default", labels=made.metadata.labels), spec=made.spec)


async def label_node(stage: Stage) -> None:
    await stage.client.patch(
        Node(metadata=ObjectMeta(name="node-1")), {"metadata": {"labels": {"disk": "fast"}}}, manager="user"
    )


async def says_why(stage: Stage) -> str | None:
    pod = await stage.get(Pod, "picky")
    scheduled = facts.condition(pod, "PodScheduled") if pod else None
    said = scheduled.message if scheduled else ""
    wanted = "0/1 nodes are available: node node-1: lacks the label disk=fast of nodeSelector."
    return None if said == wanted else f"it says {said!r}"


async def placed(stage: Stage) -> str | None:
    picky, greedy = await stage.get(Pod, "picky"), await stage.get(Pod, "greedy")
    if picky is None or picky.spec.node_name != "node-1" or not facts.ready(picky):
        return "picky does not run"
    scheduled = facts.condition(greedy, "PodScheduled") if greedy else None
    if scheduled is None or scheduled.message != ("0/1 nodes are available: node node-1: 8 of 8 cpu free, asks 64."):
        return f"greedy: {scheduled}"
    claims = {c.name: c.status.phase for c in await stage.list(PersistentVolumeClaim)}
    if claims != {"fixed": "Bound", "unused": "Pending"}:
        return f"claims are {claims}"
    return None


def greedy() -> Pod:
    pod = lonely_pod("greedy")
    pod.spec.containers[0].resources = ResourceRequirements(requests={"cpu": "64"})
    return pod


def fixed_volume() -> PersistentVolume:
    volume = PersistentVolume(metadata=ObjectMeta(name="fixed"))
    volume.spec.capacity = {"storage": "5Gi"}
    volume.spec.access_modes = ["ReadWriteOnce"]
    volume.spec.persistent_volume_reclaim_policy = "Retain"
    volume.spec.storage_class_name = "manual"
    volume.spec.local = LocalVolumeSource(path="/srv/fixed")
    return volume


PLACEMENT = [
    Scenario(
        "placement",
        objects=[
            lonely_pod("picky", node_selector={"disk": "fast"}),
            greedy(),
            fixed_volume(),
            claim("fixed", storage_class_name="manual"),
            claim("unused"),
        ],
        steps=[step(label_node, says_why)],
        goal=placed,
        world=node,
        adapters=directories,
        leaks=data_left,
    )
]
