"""StatefulSet -> Pods with names that last, each with volume claims of its own.

    template --> ControllerRevision (revisions.py)
    ordinals --> which pod next (ordinals.py) --> Pod "db-0" <- claim "data-db-0"

A claim is made before its pod and outlives the set that wrote it: a set of the same name finds it again. Only with a retention
policy `Delete` it goes, as in Kubernetes by an owner reference: to the set, or to a pod that is scaled away, so that whoever
deletes either without its dependants (`--cascade=orphan`) keeps the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import ClaimVolume, Pod, PodTemplateSpec, Volume
from trimtab.api.volumes import PersistentVolumeClaim
from trimtab.api.workloads import ClaimRetentionPolicy, ControllerRevision, StatefulSet
from trimtab.components.workloads import conditions, rolling
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.custody import custody
from trimtab.components.workloads.ordinals import Wanted, ordinal, revision, step
from trimtab.components.workloads.replicaset import earliest, next_available_s, pod_of
from trimtab.components.workloads.revisions import HISTORY_DEFAULT, REVISION_LABEL, History, history, of, template_of
from trimtab.runtime import Context, Desired, FieldWrite, Owned, Writes, reconciler

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"


def claim_name(template: str, subject: StatefulSet, number: int) -> str:
    return f"{template}-{subject.name}-{number}"


def render_claims(subject: StatefulSet, number: int) -> list[PersistentVolumeClaim]:
    """The claims of one ordinal."""
    return [
        PersistentVolumeClaim(
            metadata=ObjectMeta(
                name=claim_name(template.name, subject, number),
                namespace=subject.namespace,
                labels={**template.metadata.labels, **subject.spec.selector.match_labels},
                annotations=template.metadata.annotations,
            ),
            spec=template.spec,
        )
        for template in subject.spec.volume_claim_templates
    ]


def render_pod(subject: StatefulSet, template: PodTemplateSpec, number: int, revision_name: str) -> Pod:
    """The pod of one ordinal: its own name as host name, its own claims in place of volumes of the same name."""
    name = f"{subject.name}-{number}"
    labels = {POD_NAME_LABEL: name, POD_INDEX_LABEL: str(number), REVISION_LABEL: revision_name}
    pod = pod_of(subject, template, name, labels)
    claims = [
        Volume(name=c.name, persistent_volume_claim=ClaimVolume(claim_name=claim_name(c.name, subject, number)))
        for c in subject.spec.volume_claim_templates
    ]
    own = {volume.name for volume in claims}
    pod.spec = msgspec.structs.replace(
        template.spec,
        hostname=name,
        subdomain=subject.spec.service_name or None,
        volumes=[*(volume for volume in template.spec.volumes if volume.name not in own), *claims],
    )
    return pod


def wanted(subject: StatefulSet, update: str, known: Sequence[str]) -> Wanted:
    """What `ordinals.step` needs to know of the set."""
    spec = subject.spec
    strategy = spec.update_strategy
    follows = strategy is None or strategy.type in (None, "RollingUpdate")
    update_rules = strategy.rolling_update if strategy else None
    partition = update_rules.partition if update_rules else None
    share = update_rules.max_unavailable if update_rules else None
    replicas = 1 if spec.replicas is None else spec.replicas
    current = subject.status.current_revision
    return Wanted(
        replicas=replicas,
        current=current if current in known else update,
        update=update,
        parallel=spec.pod_management_policy == "Parallel",
        rolling=follows,
        partition=partition or 0,
        min_ready_s=spec.min_ready_seconds or 0,
        start=spec.ordinals.start if spec.ordinals else 0,
        unavailable=max(1, rolling.resolve(1 if share is None else share, replicas, up=True)),
    )


def references(subject: StatefulSet, number: int, pod: Pod | None, want: Wanted) -> list[JSON]:
    """Whom the claims of an ordinal go with: nobody, the set, or the pod that is being scaled away."""
    policy = subject.spec.persistent_volume_claim_retention_policy or ClaimRetentionPolicy()
    condemned = number not in want.ordinals
    if condemned and policy.when_scaled == "Delete":
        return [_reference(pod)] if pod is not None else []
    return [_reference(subject)] if policy.when_deleted == "Delete" else []


def _reference(owner: Pod | StatefulSet) -> JSON:
    kind = type(owner).resource_type
    return {"apiVersion": kind.api_version, "kind": kind.kind, "name": owner.name, "uid": owner.metadata.uid}


async def _retention(subject: StatefulSet, pods: Mapping[int, Pod], want: Wanted, ctx: Context) -> list[FieldWrite]:
    """What has to change in the claims' owner references."""
    writes = []
    for number in sorted({*want.ordinals, *pods}):
        wished = references(subject, number, pods.get(number), want)
        for template in subject.spec.volume_claim_templates:
            claim = await ctx.get(PersistentVolumeClaim, claim_name(template.name, subject, number), subject.namespace)
            if claim is None or claim.metadata.deletion_timestamp is not None:
                continue
            if claim.status.phase == "Lost":
                said = conditions.find(claim.status.conditions, "Bound")
                ctx.event(
                    "VolumeLost", f"pod {subject.name}-{number}: {said.message if said else 'no data'}", warning=True
                )
            ours = {r.uid for r in claim.metadata.owner_references if r.kind in ("StatefulSet", "Pod")}
            if ours != {r["uid"] for r in wished}:
                writes.append(FieldWrite(claim.ref, {"metadata": {"ownerReferences": wished}}))
    return writes


def status_of(subject: StatefulSet, want: Wanted, seen: int, pods: Sequence[Pod], ctx: Context) -> JSON:
    """The status: `seen` pods are there, `pods` of them stay. A revision becomes current once every pod has it."""
    living = [pod for pod in pods if facts.active(pod)]
    ready = [pod for pod in living if facts.ready(pod)]
    updated = [pod for pod in living if revision(pod) == want.update]
    done = len(updated) == len(ready) == len(pods) == want.replicas and all(revision(p) == want.update for p in ready)
    current = want.update if done and want.rolling else want.current
    return {
        "replicas": seen,
        "readyReplicas": len(ready),
        "availableReplicas": sum(facts.available(pod, want.min_ready_s, ctx.now) for pod in living),
        "currentReplicas": sum(revision(pod) == current for pod in living),
        "updatedReplicas": len(updated),
        "currentRevision": current,
        "updateRevision": want.update,
        "observedGeneration": subject.metadata.generation,
    }


@reconciler(
    StatefulSet,
    reads=[PersistentVolumeClaim],
    owns=[
        Owned(ControllerRevision, by_reference=True),
        Owned(PersistentVolumeClaim, retain=True),
        Owned(Pod, by_reference=True),
    ],
    writes=[Writes(PersistentVolumeClaim, ("metadata.ownerReferences",))],
)
async def statefulset(subject: StatefulSet, ctx: Context) -> Desired:
    """Keeps the pods of a StatefulSet, in order, each with its claims."""
    held = await custody(
        ctx,
        Pod,
        subject.namespace,
        subject.spec.selector,
        fits=lambda pod: ordinal(subject.name, pod.name) is not None,
    )
    pods = {number: pod for pod in held.mine if (number := ordinal(subject.name, pod.name)) is not None}
    revisions = await custody(ctx, ControllerRevision, subject.namespace, subject.spec.selector, fits=of(subject))
    past = _history(subject, pods, revisions.mine)
    want = wanted(subject, past.update.name, [r.name for r in (*past.kept, past.update)])
    next_step = step(want, pods, ctx.now)
    created: list[PersistentVolumeClaim | Pod] = []
    for number, revision_name in next_step.create.items():
        for claim in render_claims(subject, number):
            if await ctx.get(PersistentVolumeClaim, claim.name, claim.namespace) is None:
                created.append(claim)
        holder = past.named(revision_name) or past.update
        created.append(render_pod(subject, template_of(holder), number, holder.name))
        ctx.event("SuccessfulCreate", f"Created pod: {subject.name}-{number}")
    gone = {pod.name for pod in next_step.delete}
    for name in sorted(gone):
        ctx.event("SuccessfulDelete", f"Deleted pod: {name}")
    staying = [pod for pod in pods.values() if pod.name not in gone]
    return Desired(
        objects=[*past.apply, *created],
        keep=[
            *(r.ref for r in past.kept),
            *(() if past.apply else (past.update.ref,)),
            *(pod.ref for pod in staying),
        ],
        adopt=[*held.adopt, *revisions.adopt],
        release=held.release,
        writes=await _retention(subject, pods, want, ctx),
        status=status_of(subject, want, len(pods), staying, ctx),
        requeue_after_s=earliest(next_step.retry_s, next_available_s(staying, want.min_ready_s, ctx.now)),
    )


def _history(subject: StatefulSet, pods: Mapping[int, Pod], known: Sequence[ControllerRevision]) -> History:
    used = {revision(pod) for pod in pods.values()} | {subject.status.current_revision}
    limit = subject.spec.revision_history_limit
    return history(subject, known, used, HISTORY_DEFAULT if limit is None else limit)
