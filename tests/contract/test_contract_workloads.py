"""The workloads under the contract kit, on a simulated node that starts, crashes, evicts and loses pods.

Beside the kit's own demands, every story with a rolling update is watched at each change of a pod: never more pods than
replicas + maxSurge, and never fewer ready ones than replicas - maxUnavailable.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakSet

import pytest

from simulated_api import make_api
from simulated_node import SimulatedNode, fail_pod, template
from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import (
    LabelSelector,
    LocalVolumeSource,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    Pod,
    ResourceRequirements,
    Service,
    ServicePort,
    ServiceSpec,
    VolumeMount,
)
from trimtab.api.networking import EndpointSlice
from trimtab.api.workloads import (
    DaemonSet,
    DaemonSetSpec,
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    Job,
    JobSpec,
    ReplicaSet,
    RollingUpdateDeployment,
    StatefulSet,
    StatefulSetSpec,
)
from trimtab.client.clock import Clock
from trimtab.components.workloads import COMPONENT, VolumeDirectories
from trimtab.components.workloads import pods as facts
from trimtab.runtime.contract import Case, Scenario, Stage, contract

LOOK_S = 0.5
WATCH_LATE_S = 90.0
"""Longer than any fault of the kit keeps a watch back."""
WEB = {"app": "web"}


class FakeDirectories:
    """The node's directories, in memory."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    async def exists(self, path: str) -> bool:
        return path in self.paths

    async def make(self, path: str) -> None:
        self.paths.add(path)

    async def remove(self, path: str) -> None:
        self.paths.discard(path)


def directories(clock: Clock) -> Mapping[type, Any]:
    return {VolumeDirectories: FakeDirectories()}


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


# A Deployment behind a Service


def web(image: str = "ok:1", replicas: int = 3, **spec: Any) -> Deployment:
    spec.setdefault(
        "strategy", DeploymentStrategy(rolling_update=RollingUpdateDeployment(max_surge=1, max_unavailable=1))
    )
    return Deployment(
        metadata=ObjectMeta(name="web", namespace="default"),
        spec=DeploymentSpec(
            selector=LabelSelector(match_labels=WEB), template=template(image), replicas=replicas, **spec
        ),
    )


SERVICE = Service(
    metadata=ObjectMeta(name="web", namespace="default"),
    spec=ServiceSpec(cluster_ip="10.96.0.80", selector=WEB, ports=[ServicePort(port=80, target_port=8080)]),
)


async def until(stage: Stage, goal: Callable[[Stage], Awaitable[str | None]]) -> None:
    while await goal(stage):  # noqa: ASYNC110 - simulated time: nothing waits
        await asyncio.sleep(LOOK_S)


async def observed(stage: Stage) -> str | None:
    """The controllers have seen the latest spec and have a ReplicaSet for it."""
    found = await stage.get(Deployment, "web")
    assert found is not None
    image = found.spec.template.spec.containers[0].image
    images = [rs.spec.template.spec.containers[0].image for rs in await stage.list(ReplicaSet)]
    return None if found.status.observed_generation >= found.metadata.generation and image in images else "not seen"


async def rolled_out(stage: Stage) -> str | None:
    found = await stage.get(Deployment, "web")
    if found is None:
        return "there is no Deployment"
    status, replicas = found.status, found.spec.replicas or 0
    counts = (status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas)
    if status.observed_generation < found.metadata.generation or counts != (replicas,) * 4:
        return f"counts are {counts} instead of {replicas}"
    reasons = {c.type: (c.status, c.reason) for c in status.conditions}
    wanted = {"Available": ("True", "MinimumReplicasAvailable"), "Progressing": ("True", "NewReplicaSetAvailable")}
    if reasons != wanted:
        return f"conditions are {reasons}"
    living = [pod for pod in await stage.list(Pod) if facts.active(pod)]
    image = found.spec.template.spec.containers[0].image
    if [pod.spec.containers[0].image for pod in living] != [image] * replicas:
        return f"{len(living)} pods, not {replicas} of {image}"
    return None


async def serves(stage: Stage) -> str | None:
    found = await stage.get(Deployment, "web")
    ready = [
        endpoint.target_ref.name
        for piece in await stage.list(EndpointSlice)
        for endpoint in piece.endpoints
        if endpoint.conditions.ready and endpoint.target_ref
    ]
    names = sorted(pod.name for pod in await stage.list(Pod) if facts.active(pod) and facts.ready(pod))
    if sorted(ready) != names:
        return f"the slices hold {ready} instead of {names}"
    return await rolled_out(stage) if found else "there is no Deployment"


def step(change: Callable[[Stage], Awaitable[Any]], ready: Callable[[Stage], Awaitable[str | None]]) -> Any:
    async def act(stage: Stage) -> None:
        await until(stage, ready)
        await change(stage)

    return act


def apply_web(*args: Any, **spec: Any) -> Callable[[Stage], Awaitable[Any]]:
    return lambda stage: stage.apply(web(*args, **spec))


async def lose_pods(stage: Stage) -> None:
    pods = sorted(await stage.list(Pod), key=lambda pod: pod.name)
    if pods:
        await fail_pod(stage, pods[0])
    for pod in pods[1:2]:
        await stage.delete(pod)


async def clear_failed(stage: Stage) -> None:
    """Failed pods stay as Kubernetes leaves them; which ones there are depends on the moment, so they are taken away."""
    for pod in await stage.list(Pod):
        if pod.status.phase == "Failed":
            await stage.delete(pod)


def promise(most: int, fewest: int) -> Callable[[Mapping[str, Pod]], str | None]:
    """At most so many pods that count; once there were `fewest` ready ones, never fewer."""
    reached = False

    def check(pods: Mapping[str, Pod]) -> str | None:
        nonlocal reached
        living = [pod for pod in pods.values() if facts.active(pod)]
        ready = sum(facts.ready(pod) for pod in living)
        reached = reached or ready >= fewest
        if len(living) > most:
            return f"{len(living)} pods, more than {most}: {sorted(pod.name for pod in living)}"
        if reached and ready < fewest:
            return f"only {ready} pods are ready, fewer than {fewest}"
        return None

    return check


def promised(most: int, fewest: int) -> Callable[[Stage], Awaitable[None]]:
    """A world that checks the promises, until the user deletes the Deployment in the end."""

    async def world(stage: Stage) -> None:
        check = promise(most, fewest)
        await SimulatedNode(stage, lambda pods: None if stage in DELETING else check(pods)).run()

    return world


DELETING: WeakSet[Stage] = WeakSet()


async def delete_web(stage: Stage) -> None:
    DELETING.add(stage)
    for kind in (Deployment, Service):
        for obj in await stage.list(kind):
            if obj.name == "web":
                await stage.delete(obj)


async def gave_up(stage: Stage) -> str | None:
    found = await stage.get(Deployment, "web")
    assert found is not None
    progressing = next((c for c in found.status.conditions if c.type == "Progressing"), None)
    if progressing is None or progressing.reason != "ProgressDeadlineExceeded":
        return f"it does not say that it made no progress: {progressing}"
    if "no such table: notes" not in progressing.message:
        return f"it does not say why: {progressing.message}"
    ready = [pod.spec.containers[0].image for pod in await stage.list(Pod) if facts.ready(pod)]
    return None if ready == ["ok:1"] * 3 else f"ready are {ready}"


DEPLOYMENTS = [
    Scenario(
        "rolls-and-returns",
        objects=[web(), SERVICE],
        steps=[
            step(apply_web("ok:2"), observed),
            step(apply_web("ok:2", 5), observed),
            step(apply_web("ok:1", 5), observed),
            step(apply_web("ok:1", 3), observed),
        ],
        goal=serves,
        world=node,
    ),
    Scenario(
        "keeps-its-promises",
        objects=[web(), SERVICE],
        steps=[
            step(apply_web("ok:2"), rolled_out),
            step(apply_web("ok:3"), observed),
            step(apply_web("ok:4"), observed),
        ],
        goal=serves,
        world=promised(most=4, fewest=2),
        uninstall=delete_web,
    ),
    Scenario(
        "bad-version",
        objects=[
            web(strategy=DeploymentStrategy(rolling_update=RollingUpdateDeployment(max_surge=1, max_unavailable=0)))
        ],
        steps=[
            step(
                apply_web(
                    "crash:2",
                    strategy=DeploymentStrategy(rolling_update=RollingUpdateDeployment(max_surge=1, max_unavailable=0)),
                    progress_deadline_seconds=30,
                ),
                rolled_out,
            )
        ],
        goal=gave_up,
        world=promised(most=4, fewest=3),
        uninstall=delete_web,
    ),
    Scenario(
        "recreate",
        objects=[web(strategy=DeploymentStrategy(type="Recreate"))],
        steps=[step(apply_web("ok:2", strategy=DeploymentStrategy(type="Recreate")), observed)],
        goal=rolled_out,
        world=node,
    ),
    Scenario(
        "loses-pods",
        objects=[web(min_ready_seconds=2), SERVICE],
        steps=[step(lose_pods, observed), lose_pods, step(clear_failed, rolled_out)],
        goal=serves,
        world=node,
    ),
]


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
    wanted = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector (disk=fast)."
    return None if said == wanted else f"it says {said!r}"


async def placed(stage: Stage) -> str | None:
    picky, greedy = await stage.get(Pod, "picky"), await stage.get(Pod, "greedy")
    if picky is None or picky.spec.node_name != "node-1" or not facts.ready(picky):
        return "picky does not run"
    scheduled = facts.condition(greedy, "PodScheduled") if greedy else None
    if scheduled is None or scheduled.message != (
        "0/1 nodes are available: 1 Insufficient cpu (requests 64000m, 8000m free)."
    ):
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

SCENARIOS = [*DEPLOYMENTS, *STATEFUL, *DAEMONS, *JOBS, *PLACEMENT]


def _complete(scenario: Scenario) -> Scenario:
    adapters = directories if scenario.leaks is None else scenario.adapters
    return dataclasses.replace(scenario, aliases=alias, adapters=adapters)


@pytest.mark.parametrize("case", contract(COMPONENT, [_complete(s) for s in SCENARIOS], make_api), ids=str)
def test_workloads_contract(case: Case) -> None:
    case.run()
