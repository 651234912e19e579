"""The workloads under the contract kit, on a simulated node that starts, crashes, evicts and loses pods.

Beside the kit's own demands, every story with a rolling update is watched at each change of a pod: never more pods than
replicas + maxSurge, and never fewer ready ones than replicas - maxUnavailable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakSet

import pytest

from autoscaling_stories import AUTOSCALING
from custody_stories import CUSTODY
from job_stories import JOB_STORIES
from placement_stories import PRIORITIES
from schedule_stories import SCHEDULES
from simulated_api import make_api
from simulated_node import SimulatedNode, template
from store_release import EARLIER
from trimtab.api import ObjectMeta
from trimtab.api.core import Pod, Service, ServicePort, ServiceSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.networking import EndpointSlice
from trimtab.api.workloads import (
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    ReplicaSet,
    RollingUpdateDeployment,
)
from trimtab.components.workloads import COMPONENT
from trimtab.components.workloads import pods as facts
from trimtab.runtime.contract import Case, Scenario, Stage, contract
from workload_stories import (
    DAEMONS,
    JOBS,
    PLACEMENT,
    STATEFUL,
    alias,
    carry,
    directories,
    lose_pods,
    node,
    outside,
    step,
)

WEB = {"app": "web"}


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


def apply_web(*args: Any, **spec: Any) -> Callable[[Stage], Awaitable[Any]]:
    return lambda stage: stage.apply(web(*args, **spec))


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


def _complete(scenario: Scenario) -> Scenario:
    own = scenario.leaks is not None or scenario in AUTOSCALING
    adapters = scenario.adapters if own else directories
    return dataclasses.replace(scenario, aliases=alias, adapters=adapters, carry=carry, outside=outside)


JUDGED = COMPONENT
SCENARIOS = [
    _complete(s)
    for s in [
        *DEPLOYMENTS,
        *STATEFUL,
        *DAEMONS,
        *JOBS,
        *JOB_STORIES,
        *CUSTODY,
        *PLACEMENT,
        *PRIORITIES,
        *SCHEDULES,
        *AUTOSCALING,
    ]
]


@pytest.mark.parametrize("case", contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER), ids=str)
def test_workloads_contract(case: Case) -> None:
    case.run()
