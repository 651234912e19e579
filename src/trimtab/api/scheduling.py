"""`scheduling.k8s.io/v1` and `policy/v1`: which pods matter more, and how many may be missing."""

from __future__ import annotations

from msgspec import field

from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Condition, Model, Resource, resource


@resource("scheduling.k8s.io/v1", "priorityclasses", namespaced=False, short_names=("pc",), status=False)
class PriorityClass(Resource):
    value: int = 0
    global_default: bool | None = None
    description: str = ""
    preemption_policy: str | None = None


class PodDisruptionBudgetSpec(Model):
    selector: LabelSelector | None = None
    min_available: int | str | None = None
    max_unavailable: int | str | None = None
    unhealthy_pod_eviction_policy: str | None = None


class PodDisruptionBudgetStatus(Model, omit_defaults=False):
    current_healthy: int = 0
    desired_healthy: int = 0
    disruptions_allowed: int = 0
    expected_pods: int = 0
    observed_generation: int = 0
    conditions: list[Condition] = []


@resource("policy/v1", "poddisruptionbudgets", short_names=("pdb",))
class PodDisruptionBudget(Resource):
    spec: PodDisruptionBudgetSpec = field(default_factory=PodDisruptionBudgetSpec)
    status: PodDisruptionBudgetStatus = field(default_factory=PodDisruptionBudgetStatus)
