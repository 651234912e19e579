"""What an autoscaler says of its target: one that is missing, cannot be scaled, or belongs to somebody else; and of its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pytest

from autoscaling_stories import AUTOSCALER, busy
from trimtab.api import OwnerReference, from_wire
from trimtab.api.autoscaling import HorizontalPodAutoscaler
from trimtab.api.core import Container, Pod
from trimtab.api.workloads import Deployment
from trimtab.components.workloads import Looks
from trimtab.components.workloads.autoscale import MetricMissing, Sample
from trimtab.components.workloads.autoscaler import autoscaler
from trimtab.components.workloads.measurements import ContainerUsage, PodUsage
from trimtab.runtime import Desired, Requeue
from workload_pods import NOW, ago, make_pod


class World:
    """A context with these objects, and pods that use so much cpu each."""

    deleting = False

    def __init__(self, *objects: Any, cpu: float | None = None, now: datetime = NOW, **custom: float) -> None:
        self.objects = objects
        self.now = now
        self.said: list[str] = []
        self._cpu, self._custom = cpu, custom
        self._looks = Looks()

    async def get(self, kind: type, name: str, namespace: str | None = None) -> Any:
        return next((o for o in self.objects if type(o) is kind and o.name == name), None)

    async def list(self, kind: type, namespace: str | None = None, labels: Any = None, where: Any = None) -> Any:
        return [o for o in self.objects if type(o) is kind and (where is None or where(o))]

    def event(self, reason: str, message: str, **more: Any) -> None:
        self.said.append(f"{reason}: {message}")

    def adapter(self, protocol: type) -> Any:
        return self._looks if protocol is Looks else self

    async def usage(self, namespace: str) -> Mapping[str, PodUsage]:
        if self._cpu is None:
            raise MetricMissing("metrics.k8s.io does not answer: it is away")
        pods = [o for o in self.objects if isinstance(o, Pod)]
        return {p.name: PodUsage(self.now, 1.0, (ContainerUsage("main", {"cpu": self._cpu}),)) for p in pods}

    async def custom(self, pods: Sequence[Pod], metric: str, selector: Any, now: datetime) -> Mapping[str, Sample]:
        return {p.name: Sample(self._custom[metric], now) for p in pods} if metric in self._custom else {}

    async def look(self, subject: HorizontalPodAutoscaler = AUTOSCALER) -> Desired:
        outcome = await autoscaler.function(subject, self)  # type: ignore[arg-type]
        assert isinstance(outcome, Desired)
        return outcome


def reasons(outcome: Desired) -> dict[str, str]:
    assert outcome.status is not None
    return {c["type"]: f"{c['status']} {c['reason']}" for c in outcome.status["conditions"]}


def message(outcome: Desired, type_: str) -> str:
    assert outcome.status is not None
    return str(next(c["message"] for c in outcome.status["conditions"] if c["type"] == type_))


def pods(count: int) -> list[Pod]:
    made = [
        make_pod(f"p{n}", ready_for_s=500, labels={"app": "busy"}, status={"start_time": ago(600)})
        for n in range(count)
    ]
    for pod in made:
        pod.spec.containers = busy().spec.template.spec.containers
    return made


def of(size: int) -> Deployment:
    made = busy()
    made.spec.replicas = size
    return made


async def test_a_target_that_is_not_there() -> None:
    outcome = await World().look()

    assert reasons(outcome) == {"AbleToScale": "False FailedGetScale"}
    assert message(outcome, "AbleToScale") == 'deployments.apps "busy" not found'


async def test_a_target_that_cannot_be_scaled() -> None:
    spec = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "x"}, "maxReplicas": 3}
    other = from_wire(HorizontalPodAutoscaler, {"metadata": {"name": "h", "namespace": "default"}, "spec": spec})

    outcome = await World().look(other)

    assert message(outcome, "AbleToScale") == (
        "apps/v1 DaemonSet cannot be scaled here; one of Deployment, ReplicaSet, StatefulSet of apps/v1 can"
    )


async def test_a_target_that_belongs_to_somebody_else_is_left_alone() -> None:
    owned = of(1)
    owned.metadata.owner_references = [
        OwnerReference(api_version="trimtab.dev/v1alpha1", kind="App", name="shop", uid="a", controller=True)
    ]

    outcome = await World(owned, *pods(1), cpu=1.0).look()

    assert outcome.writes == ()
    assert message(outcome, "AbleToScale") == "App shop decides on the size of busy: set it there"


async def test_size_zero_switches_it_off() -> None:
    outcome = await World(of(0), cpu=1.0).look()

    assert reasons(outcome)["ScalingActive"] == "False ScalingDisabled"
    assert outcome.writes == ()


async def test_load_asks_for_more_pods() -> None:
    world = World(of(2), *pods(2), cpu=0.1)

    outcome = await world.look()

    [write] = outcome.writes
    assert write.fields == {"spec": {"replicas": 4}}
    assert world.said == [
        "SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target"
    ]
    assert outcome.status is not None
    assert outcome.status["currentMetrics"] == [
        {
            "type": "Resource",
            "resource": {"name": "cpu", "current": {"averageValue": "100m", "averageUtilization": 100}},
        }
    ]


async def test_outside_of_its_bounds_the_size_is_set_without_any_metric() -> None:
    outcome = await World(of(9)).look()

    assert outcome.writes[0].fields == {"spec": {"replicas": 5}}


async def test_without_measurements_nothing_changes_and_it_says_why() -> None:
    outcome = await World(of(3), *pods(3)).look()

    assert outcome.writes == ()
    assert reasons(outcome)["ScalingActive"] == "False FailedGetResourceMetric"
    assert message(outcome, "ScalingActive") == (
        "the autoscaler was unable to compute the replica count: cpu: metrics.k8s.io does not answer: it is away"
    )


async def test_pods_that_ask_for_nothing_cannot_be_compared() -> None:
    bare = pods(2)
    for pod in bare:
        pod.spec.containers = [Container(name="main")]

    outcome = await World(of(2), *bare, cpu=0.1).look()

    assert "missing request for cpu in container main of Pod p0" in message(outcome, "ScalingActive")


def with_metrics(*metrics: Any) -> HorizontalPodAutoscaler:
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"},
        "minReplicas": 1,
        "maxReplicas": 9,
        "metrics": list(metrics),
    }
    meta = {"name": "h", "namespace": "default", "uid": "h"}
    return from_wire(HorizontalPodAutoscaler, {"metadata": meta, "spec": spec})


def queue(target: str) -> Any:
    return {
        "type": "Pods",
        "pods": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": target}},
    }


CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}


async def test_of_several_metrics_the_largest_size_counts() -> None:
    outcome = await World(of(2), *pods(2), cpu=0.01, queue=30.0).look(with_metrics(CPU, queue("10")))

    assert outcome.writes[0].fields == {"spec": {"replicas": 6}}


@pytest.mark.parametrize(("cpu", "writes"), [(0.001, 0), (0.1, 1)])
async def test_a_missing_metric_forbids_to_shrink_but_not_to_grow(cpu: float, writes: int) -> None:
    outcome = await World(of(2), *pods(2), cpu=cpu).look(with_metrics(CPU, queue("10")))

    assert len(outcome.writes) == writes


async def test_between_two_looks_nothing_is_asked() -> None:
    world = World(of(2), *pods(2), cpu=0.1)
    await world.look()

    outcome = await autoscaler.function(AUTOSCALER, world)  # type: ignore[arg-type]

    assert isinstance(outcome, Requeue)
    assert outcome.after_s == 15
