"""PodDisruptionBudget -> its status: how many of its pods are healthy, and how many may go now.

    pods that the selector chooses, and the size that their owners ask for --arithmetic of Kubernetes--> status

The API server itself counts once more when somebody asks for an eviction; this is what people and the scheduler look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.api import JSON, Condition
from trimtab.api.core import Pod
from trimtab.api.scheduling import PodDisruptionBudget, PodDisruptionBudgetSpec
from trimtab.api.selector import selects
from trimtab.api.workloads import ReplicaSet, ReplicationController, StatefulSet
from trimtab.components.workloads import conditions, rolling
from trimtab.components.workloads import pods as facts
from trimtab.runtime import Context, Desired, reconciler

ENOUGH, TOO_FEW = "SufficientPods", "InsufficientPods"


def desired_healthy(spec: PodDisruptionBudgetSpec, expected: int) -> int:
    """How many healthy pods the budget wants of `expected`; percentages are rounded up, as Kubernetes does."""
    if spec.max_unavailable is not None:
        return max(0, expected - rolling.resolve(spec.max_unavailable, expected, up=True))
    return rolling.resolve(1 if spec.min_available is None else spec.min_available, expected, up=True)


def expected_pods(spec: PodDisruptionBudgetSpec, pods: Sequence[Pod], sizes: Mapping[str, int]) -> int:
    """The pods that there should be: with a plain minAvailable those that there are, else as many as their owners ask
    for. `sizes` is the owners' size by uid; pods without a known owner count as one each."""
    if isinstance(spec.min_available, int):
        return len(pods)
    owners = {owner.uid for pod in pods for owner in pod.metadata.owner_references if owner.uid in sizes}
    alone = [pod for pod in pods if not any(owner.uid in sizes for owner in pod.metadata.owner_references)]
    return sum(sizes[uid] for uid in owners) + len(alone)


def status_of(subject: PodDisruptionBudget, pods: Sequence[Pod], sizes: Mapping[str, int]) -> JSON:
    """The status, from the pods that the selector chooses."""
    counted = [pod for pod in pods if not facts.finished(pod)]
    healthy = sum(facts.ready(pod) and not facts.deleting(pod) for pod in counted)
    expected = expected_pods(subject.spec, counted, sizes)
    desired = desired_healthy(subject.spec, expected)
    allowed = max(0, healthy - desired) if expected > 0 else 0
    word, reason = ("True", ENOUGH) if allowed else ("False", TOO_FEW)
    text = (
        "" if allowed else f"{healthy} of {expected} pods are healthy and {desired} have to be: none may be evicted now"
    )
    condition = Condition(type="DisruptionAllowed", status=word, reason=reason, message=text)
    return {
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "disruptionsAllowed": allowed,
        "observedGeneration": subject.metadata.generation,
        "conditions": conditions.wire([condition]),
    }


@reconciler(PodDisruptionBudget, reads=[Pod, ReplicaSet, ReplicationController, StatefulSet])
async def disruption_budget(subject: PodDisruptionBudget, ctx: Context) -> Desired:
    """Counts how many pods of a budget may go."""
    pods = await ctx.list(
        Pod, namespace=subject.namespace, where=lambda pod: selects(subject.spec.selector, pod.metadata.labels)
    )
    owners: list[ReplicaSet | ReplicationController | StatefulSet] = [
        *await ctx.list(ReplicaSet, namespace=subject.namespace),
        *await ctx.list(ReplicationController, namespace=subject.namespace),
        *await ctx.list(StatefulSet, namespace=subject.namespace),
    ]
    sizes = {owner.metadata.uid: 1 if owner.spec.replicas is None else owner.spec.replicas for owner in owners}
    return Desired(status=status_of(subject, pods, sizes))
