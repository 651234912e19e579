"""What single reconcilers do on the real API server, in simulated time: one behaviour a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from running import Running, running
from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import Container, Pod, PodSpec, PodTemplateSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec
from trimtab.components.workloads import COMPONENT, Renewals, VolumeDirectories
from trimtab.runtime import Denied
from trimtab.runtime.simulation import SimulatedClock, simulate

WEB = {"app": "web"}
TEMPLATE = PodTemplateSpec(
    metadata=ObjectMeta(labels=WEB), spec=PodSpec(containers=[Container(name="main", image="app")])
)


def deployment(name: str = "web", replicas: int = 2) -> Deployment:
    return Deployment(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=DeploymentSpec(selector=LabelSelector(match_labels=WEB), template=TEMPLATE, replicas=replicas),
    )


def on_a_control_plane(test: Callable[[Running], Awaitable[None]]) -> None:
    async def main(clock: SimulatedClock) -> None:
        async with running(clock, COMPONENT, adapters={VolumeDirectories: None, Renewals: Renewals()}) as plane:
            await test(plane)

    simulate(main)


def refuse_pods(new: JSON, old: JSON | None) -> list[str]:
    raise Denied("spec.containers[0].securityContext.privileged", "Forbidden: not here")


def test_what_the_api_refuses_is_told_on_the_deployment() -> None:
    async def test(plane: Running) -> None:
        checks = plane.api.server.writer._admission._checks
        checks["v1", "Pod"] = [refuse_pods]
        await plane.apply(deployment())
        await plane.settle(30)
        told = await plane.condition(deployment(), "ReplicaFailure")
        assert told is not None
        assert told[:2] == ("True", "FailedCreate")
        assert "spec.containers[0].securityContext.privileged: Forbidden: not here" in told[2]
        [replicas] = (await plane.client.list(ReplicaSet, "default")).items
        assert await plane.condition(replicas, "ReplicaFailure") == told
        assert replicas.status.observed_generation == replicas.metadata.generation
        checks.clear()
        await plane.settle(120)
        assert len(await plane.names(Pod)) == 2
        assert await plane.condition(deployment(), "ReplicaFailure") is None

    on_a_control_plane(test)


def test_a_relabelled_pod_is_set_free_and_another_takes_its_place() -> None:
    async def test(plane: Running) -> None:
        await plane.apply(
            ReplicaSet(
                metadata=ObjectMeta(name="rs", namespace="default"),
                spec=ReplicaSetSpec(selector=LabelSelector(match_labels=WEB), template=TEMPLATE, replicas=1),
            )
        )
        await plane.settle()
        [name] = await plane.names(Pod)
        await plane.client.patch(
            Pod(metadata=ObjectMeta(name=name, namespace="default")),
            {"metadata": {"labels": {"app": "quarantine"}}},
            manager="user",
        )
        await plane.settle()
        names = await plane.names(Pod)
        assert len(names) == 2
        assert name in names

    on_a_control_plane(test)


def test_a_hundred_pods_come_and_go_with_their_deployment() -> None:
    async def test(plane: Running) -> None:
        await plane.apply(deployment(replicas=100))
        await plane.settle(10)
        assert len(await plane.names(Pod)) == 100
        await plane.client.delete(deployment().ref)
        await plane.settle(30)
        assert await plane.names(Pod) == []
        assert await plane.names(ReplicaSet) == []

    on_a_control_plane(test)


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_deployment_at_rest_writes_nothing(replicas: int) -> None:
    async def test(plane: Running) -> None:
        await plane.apply(deployment(replicas=replicas))
        await plane.settle(602)  # past the progress deadline, for no node runs the pod
        before = len(plane.writes())
        await plane.settle(3000)
        assert plane.writes()[before:] == []

    on_a_control_plane(test)
