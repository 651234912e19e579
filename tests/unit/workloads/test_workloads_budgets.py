"""How many pods of a disruption budget may go."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.api import ObjectMeta, OwnerReference
from trimtab.api.labels import LabelSelector
from trimtab.api.scheduling import PodDisruptionBudget, PodDisruptionBudgetSpec
from trimtab.components.workloads.budgets import status_of
from workload_pods import make_pod


def status(ready: int, unready: int = 0, size: int | None = None, **spec: Any) -> tuple[int, int, int, int]:
    owner = OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="zk", uid="zk")
    pods = [make_pod(f"r{n}", ready_for_s=5) for n in range(ready)] + [make_pod(f"u{n}") for n in range(unready)]
    for pod in pods if size is not None else ():
        pod.metadata.owner_references = [owner]
    budget = PodDisruptionBudget(
        metadata=ObjectMeta(name="zk", namespace="default"),
        spec=PodDisruptionBudgetSpec(selector=LabelSelector(), **spec),
    )
    out = status_of(budget, pods, {} if size is None else {"zk": size})
    return (out["currentHealthy"], out["desiredHealthy"], out["expectedPods"], out["disruptionsAllowed"])


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (status(3, min_available=2), (3, 2, 3, 1)),
        (status(2, 1, min_available=2), (2, 2, 3, 0)),
        (status(3, size=3, max_unavailable=1), (3, 2, 3, 1)),
        (status(2, size=3, max_unavailable=1), (2, 2, 3, 0)),
        (status(3, size=3, min_available="50%"), (3, 2, 3, 1)),
        (status(7, size=7, max_unavailable="30%"), (7, 4, 7, 3)),
        (status(0, min_available=0), (0, 0, 0, 0)),
    ],
)
def test_the_arithmetic(found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert found == wanted
