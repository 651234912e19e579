"""ReplicaSet, ReplicationController -> Pods: as many as asked for, none touched once it exists.

A pod relabelled by hand is taken out of service to be looked at: it is let go, and another takes its place.

Pods that are being deleted or have finished do not count; their replacement is made at once, without waiting for them
to be gone. Only pods that fail again and again, before a container of theirs could be restarted in place (a node that
rejects them), are replaced with growing pauses, and only the last few of them are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trimtab.api import JSON, Condition, ObjectMeta, Resource
from trimtab.api.core import Pod, PodTemplateSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import ReplicaSet, ReplicationController
from trimtab.components.workloads import conditions
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.custody import custody, unused
from trimtab.components.workloads.names import free_names
from trimtab.runtime import Context, Desired, Owned, reconciler

FAILED_PODS_KEPT = 6
"""Enough to see what went wrong, few enough that a pod that always fails fills no store."""
BACK_OFF_FIRST_S = 10.0
BACK_OFF_MAX_S = 300.0
FAILURES_FORGOTTEN_AFTER_S = 600.0
BURST = 500
"""Pods made in one run; the rest follow in the next (Kubernetes' BurstReplicas)."""


@dataclass(frozen=True)
class Plan:
    """What becomes of the pods: `create` new ones, `keep` those, delete the rest; `retry_s` until more may be made."""

    create: int
    keep: tuple[Pod, ...]
    delete: tuple[Pod, ...]
    retry_s: float | None = None


def plan(replicas: int, pods: Sequence[Pod], now: datetime) -> Plan:
    """Decides which pods a ReplicaSet keeps, and how many it makes."""
    living = [pod for pod in pods if facts.active(pod)]
    failed = sorted(
        (pod for pod in pods if pod.status.phase == "Failed" and not facts.deleting(pod)), key=facts.ended_at
    )
    forgotten = failed[:-FAILED_PODS_KEPT]
    missing = replicas - len(living)
    surplus = facts.deletion_order(living)[: max(0, -missing)]
    gone = {pod.name for pod in (*forgotten, *surplus)}
    pause = back_off_s([facts.ended_at(pod) for pod in failed], now) if missing > 0 else 0.0
    return Plan(
        create=0 if pause else min(BURST, max(0, missing)),
        keep=tuple(pod for pod in pods if pod.name not in gone),
        delete=(*forgotten, *surplus),
        retry_s=pause or (0.0 if missing > BURST else None),
    )


def back_off_s(failures: Sequence[datetime], now: datetime) -> float:
    """Seconds until a failed pod may be replaced: none after the first failure, then 10 s, 20 s ... 5 min after the last."""
    recent = [at for at in failures if (now - at).total_seconds() < FAILURES_FORGOTTEN_AFTER_S]
    if len(recent) < 2:
        return 0.0
    pause = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** (len(recent) - 2))
    return max(0.0, pause - (now - max(recent)).total_seconds())


def pod_of(owner: Resource, template: PodTemplateSpec, name: str, labels: dict[str, str] | None = None) -> Pod:
    """A pod of `owner`, made from a template."""
    meta = template.metadata
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace=owner.namespace,
            labels={**meta.labels, **(labels or {})},
            annotations=dict(meta.annotations),
            finalizers=list(meta.finalizers),
        ),
        spec=template.spec,
    )


def status_of(
    subject: ReplicaSet | ReplicationController, seen: Sequence[Pod], kept: Sequence[Pod], now: datetime
) -> JSON:
    """The status. What is still there counts as present, only what stays counts as ready: never better than the truth."""
    min_ready_s = subject.spec.min_ready_seconds or 0
    template_labels = subject.spec.template.metadata.labels
    living = [pod for pod in seen if facts.active(pod)]
    staying = [pod for pod in kept if facts.active(pod)]
    return {
        "replicas": len(living),
        "fullyLabeledReplicas": sum(template_labels.items() <= pod.metadata.labels.items() for pod in living),
        "readyReplicas": sum(facts.ready(pod) for pod in staying),
        "availableReplicas": sum(facts.available(pod, min_ready_s, now) for pod in staying),
        "observedGeneration": subject.metadata.generation,
    }


def next_available_s(pods: Sequence[Pod], min_ready_s: int, now: datetime) -> float | None:
    """Seconds until the next ready pod becomes available, or None when there is none to wait for."""
    waits = [facts.available_in_s(pod, min_ready_s, now) for pod in pods if facts.active(pod)]
    return min((wait for wait in waits if wait), default=None)


def earliest(*waits: float | None) -> float | None:
    """The shortest of the waits that there are."""
    return min((wait for wait in waits if wait is not None), default=None)


def failing_condition(pods: Sequence[Pod], retry_s: float | None) -> Condition | None:
    """`ReplicaFailure` while pods fail so often that their replacement waits; it quotes the last failure."""
    failed = [pod for pod in pods if pod.status.phase == "Failed"]
    if not retry_s or not failed:
        return None
    last = max(failed, key=facts.ended_at)
    message = f"pod {last.name} failed: {facts.trouble(last)}; it is replaced with growing pauses"
    return Condition(type="ReplicaFailure", status="True", reason="PodsFailing", message=message)


@reconciler(ReplicaSet, owns=[Owned(Pod, by_reference=True)])
async def replicaset(subject: ReplicaSet, ctx: Context) -> Desired:
    """Keeps as many pods of one template running as the ReplicaSet asks for."""
    return await _keep(subject, subject.spec.selector, ctx)


@reconciler(ReplicationController, owns=[Owned(Pod, by_reference=True)])
async def replication_controller(subject: ReplicationController, ctx: Context) -> Desired:
    """Keeps as many pods of one template running as the ReplicationController asks for."""
    return await _keep(subject, LabelSelector(match_labels=subject.spec.selector), ctx)


async def _keep(subject: ReplicaSet | ReplicationController, selector: LabelSelector, ctx: Context) -> Desired:
    held = await custody(ctx, Pod, subject.namespace, selector)
    ours = held.mine
    replicas = 1 if subject.spec.replicas is None else subject.spec.replicas
    decided = plan(replicas, ours, ctx.now)
    names = free_names(
        subject.name, subject.metadata.uid, [*(pod.name for pod in ours), *(ref.name for ref in held.release)]
    )
    created = [
        pod_of(subject, subject.spec.template, name)
        for name in await unused(ctx, Pod, subject.namespace, names, decided.create)
    ]
    for pod in decided.delete:
        ctx.event("SuccessfulDelete", f"Deleted pod: {pod.name}")
    for pod in created:
        ctx.event("SuccessfulCreate", f"Created pod: {pod.name}")
    status = status_of(subject, ours, decided.keep, ctx.now)
    failing = failing_condition(ours, decided.retry_s)
    status["conditions"] = conditions.wire([failing] if failing else [])

    def refused(said: str) -> JSON:
        ctx.event("FailedCreate", f"Error creating: {said}", warning=True)
        failed = Condition(type="ReplicaFailure", status="True", reason="FailedCreate", message=said)
        return {**status, "conditions": conditions.wire([failed])}

    return Desired(
        objects=created,
        keep=[pod.ref for pod in decided.keep],
        adopt=held.adopt,
        release=held.release,
        status=status,
        refused=refused,
        requeue_after_s=earliest(
            decided.retry_s, next_available_s(decided.keep, subject.spec.min_ready_seconds or 0, ctx.now)
        ),
    )
