"""A story of an autoscaler under the contract kit: load comes, more pods share it, load goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from simulated_node import SimulatedNode, template
from trimtab.api import ObjectMeta
from trimtab.api.autoscaling import (
    CrossVersionObjectReference,
    HorizontalPodAutoscaler,
    HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerSpec,
    HPAScalingRules,
    MetricSpec,
    MetricTarget,
    ResourceMetricSource,
)
from trimtab.api.core import Pod, ResourceRequirements
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import Deployment, DeploymentSpec
from trimtab.client import Client
from trimtab.client.clock import Clock
from trimtab.components.workloads import Looks, Measurements, Renewals, VolumeDirectories
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.autoscale import MetricMissing, Sample
from trimtab.components.workloads.measurements import ContainerUsage, PodUsage
from trimtab.runtime.contract import Scenario, Stage
from workload_stories import FakeDirectories, step

MOST, FEWEST = 5, 2


class FakeMeasurements:
    """`load` cores of work, shared evenly by the pods that run."""

    def __init__(self, clock: Clock) -> None:
        self.load = 0.0
        self.client: Client | None = None
        self._clock = clock

    async def usage(self, namespace: str) -> Mapping[str, PodUsage]:
        if self.client is None:
            raise MetricMissing("metrics.k8s.io does not answer: it is not there yet")
        pods = [pod for pod in (await self.client.list(Pod, namespace)).items if facts.ready(pod)]
        each = ContainerUsage("main", {"cpu": self.load / max(1, len(pods)), "memory": 1e6})
        return {pod.name: PodUsage(self._clock.now().astimezone(UTC), 1.0, (each,)) for pod in pods}

    async def custom(self, pods: Sequence[Pod], metric: str, selector: Any, now: datetime) -> Mapping[str, Sample]:
        return {}


def measured(clock: Clock) -> Mapping[type, Any]:
    return {
        VolumeDirectories: FakeDirectories(),
        Measurements: FakeMeasurements(clock),
        Looks: Looks(),
        Renewals: Renewals(),
    }


def busy(name: str = "busy") -> Deployment:
    pods = template("ok:1", name)
    pods.spec.containers[0].resources = ResourceRequirements(requests={"cpu": "100m"})
    return Deployment(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=DeploymentSpec(selector=LabelSelector(match_labels={"app": name}), template=pods),
    )


AUTOSCALER = HorizontalPodAutoscaler(
    metadata=ObjectMeta(name="busy", namespace="default"),
    spec=HorizontalPodAutoscalerSpec(
        scale_target_ref=CrossVersionObjectReference(api_version="apps/v1", kind="Deployment", name="busy"),
        min_replicas=FEWEST,
        max_replicas=MOST,
        metrics=[
            MetricSpec(
                type="Resource",
                resource=ResourceMetricSource(
                    name="cpu", target=MetricTarget(type="Utilization", average_utilization=50)
                ),
            )
        ],
        behavior=HorizontalPodAutoscalerBehavior(scale_down=HPAScalingRules(stabilization_window_seconds=60)),
    ),
)


async def world(stage: Stage) -> None:
    stage.adapter(Measurements).client = stage.client  # type: ignore[type-abstract, attr-defined]
    await SimulatedNode(stage).run()


def work(cores: float) -> Any:
    async def change(stage: Stage) -> None:
        stage.adapter(Measurements).load = cores  # type: ignore[type-abstract, attr-defined]

    return change


def sized(wanted: int, limited: str) -> Any:
    async def goal(stage: Stage) -> str | None:
        deployment = await stage.get(Deployment, "busy")
        found = await stage.get(HorizontalPodAutoscaler, "busy")
        if deployment is None or found is None:
            return "it is not there"
        ready = sum(facts.ready(pod) and not facts.deleting(pod) for pod in await stage.list(Pod))
        if (deployment.spec.replicas, ready, found.status.current_replicas) != (wanted, wanted, wanted):
            return f"size {deployment.spec.replicas}, {ready} ready, {found.status}, not {wanted}"
        reasons = {c.type: c.reason for c in found.status.conditions}
        expected = {"AbleToScale": "ReadyForNewScale", "ScalingActive": "ValidMetricFound", "ScalingLimited": limited}
        return None if reasons == expected else f"conditions are {reasons}"

    return goal


AUTOSCALING = [
    Scenario(
        "autoscales",
        objects=[busy(), AUTOSCALER],
        steps=[
            step(work(0.6), sized(FEWEST, "TooFewReplicas")),
            step(work(0.0), sized(MOST, "TooManyReplicas")),
        ],
        goal=sized(FEWEST, "TooFewReplicas"),
        world=world,
        adapters=measured,
        ignore=[HorizontalPodAutoscaler],
    )
]
