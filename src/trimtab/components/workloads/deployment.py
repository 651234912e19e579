"""Deployment -> ReplicaSets: one for each pod template it ever had, the newest growing as the older shrink.

    template --hash--> ReplicaSet "web-7c4d9" <- targets (rolling.py)
                                     status   -> conditions (progress.py), read by `kubectl rollout status`

The ReplicaSet of a template is found by comparing templates, not by computing its hash again, so an upgrade that
computes hashes in another way replaces no pod. Old ones are kept, empty, as the history that `kubectl rollout history`
and `undo` work with; the revision number stands in an annotation of each and of the Deployment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import Pod
from trimtab.api.labels import LabelSelector
from trimtab.api.selector import selects
from trimtab.api.workloads import Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads import progress, rolling
from trimtab.components.workloads.conditions import wire
from trimtab.components.workloads.custody import custody
from trimtab.components.workloads.names import POD_TEMPLATE_HASH, same_template, template_hash
from trimtab.components.workloads.replicaset import earliest
from trimtab.runtime import Context, Desired, FieldWrite, Owned, Writes, reconciler

REVISION = "deployment.kubernetes.io/revision"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
PEAK = "workloads.trimtab.dev/peak"
"""On a ReplicaSet that was scaled down: how many pods it may still have until it reports (see rolling.py)."""
HISTORY_DEFAULT = 10
NAME_LENGTH_MAX = 253


def current(deployment: Deployment, owned: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The ReplicaSet of the Deployment's present template; of several, the oldest, as Kubernetes chooses."""
    template = deployment.spec.template
    return next((rs for rs in _by_age(owned) if same_template(rs.spec.template, template)), None)


def _by_age(owned: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    return sorted(owned, key=lambda rs: (rs.metadata.creation_timestamp or _EPOCH, revision(rs), rs.name))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def revision(rs: ReplicaSet) -> int:
    """The revision that the ReplicaSet last stood for, 0 when it says none."""
    text = rs.metadata.annotations.get(REVISION, "")
    return int(text) if text.isdigit() else 0


def settled(rs: ReplicaSet) -> bool:
    """True when the ReplicaSet has reported on its present spec."""
    return rs.status.observed_generation >= rs.metadata.generation


def scale_of(rs: ReplicaSet) -> rolling.Scale:
    """What the arithmetic of a rollout needs to know of a ReplicaSet."""
    text = rs.metadata.annotations.get(PEAK, "")
    peak = int(text) if text.isdigit() and not settled(rs) else 0
    return rolling.Scale(rs.name, rs.spec.replicas or 0, rs.status.replicas, rs.status.available_replicas, peak)


def render(deployment: Deployment, found: ReplicaSet | None, taken: Sequence[str], number: int) -> ReplicaSet:
    """The ReplicaSet of the present template, under the name and hash it has or, if new, should get.

    `taken` are the names of the others, so that a hash collision gives another name instead of another's pods.
    """
    spec = deployment.spec
    if found is not None:
        name, digest = found.name, found.metadata.labels.get(POD_TEMPLATE_HASH, "")
    else:
        name, digest = _new_name(deployment, taken)
    labels = {**spec.template.metadata.labels, POD_TEMPLATE_HASH: digest}
    meta = msgspec.structs.replace(spec.template.metadata, labels=labels)
    return ReplicaSet(
        metadata=ObjectMeta(
            name=name,
            namespace=deployment.namespace,
            labels=labels,
            annotations={**_inherited(deployment), REVISION: str(number)},
        ),
        spec=ReplicaSetSpec(
            selector=LabelSelector(
                match_labels={**spec.selector.match_labels, POD_TEMPLATE_HASH: digest},
                match_expressions=spec.selector.match_expressions,
            ),
            template=msgspec.structs.replace(spec.template, metadata=meta),
            replicas=(found.spec.replicas or 0) if found else 0,
            min_ready_seconds=spec.min_ready_seconds,
        ),
    )


def _new_name(deployment: Deployment, taken: Sequence[str]) -> tuple[str, str]:
    salt = 0
    while True:
        digest = template_hash(deployment.spec.template, salt)
        name = f"{deployment.name[: NAME_LENGTH_MAX - len(digest) - 1]}-{digest}"
        if name not in taken:
            return name, digest
        salt += 1


def _inherited(deployment: Deployment) -> dict[str, str]:
    own = ("deployment.kubernetes.io/", LAST_APPLIED)
    return {key: value for key, value in deployment.metadata.annotations.items() if not key.startswith(own)}


def sized(made: ReplicaSet, found: ReplicaSet | None, replicas: int, resting: bool) -> ReplicaSet:
    """`made`, asked for so many pods; `found` is what there is of it now. `resting`: nothing is being scaled."""
    annotations = {key: value for key, value in made.metadata.annotations.items() if key != PEAK}
    peak = ""
    if found is not None and replicas != (found.spec.replicas or 0):
        peak = str(scale_of(found).peak_after(replicas) or "")
    elif found is not None and not (resting and settled(found)):
        peak = found.metadata.annotations.get(PEAK, "")
    if peak:
        annotations[PEAK] = peak
    return msgspec.structs.replace(
        made,
        metadata=msgspec.structs.replace(made.metadata, annotations=annotations),
        spec=msgspec.structs.replace(made.spec, replicas=replicas),
    )


def plain(rs: ReplicaSet) -> ReplicaSet:
    """An existing ReplicaSet as it was once written."""
    meta = rs.metadata
    return ReplicaSet(
        metadata=ObjectMeta(name=meta.name, namespace=meta.namespace, labels=meta.labels, annotations=meta.annotations),
        spec=rs.spec,
    )


def history(old: Sequence[ReplicaSet], limit: int) -> list[ReplicaSet]:
    """Those old ReplicaSets that are kept: all that still have pods, and of the empty ones the newest `limit`."""
    empty = sorted((rs for rs in old if _empty(rs)), key=revision)
    dropped = {rs.name for rs in empty[: max(0, len(empty) - limit)]}
    return [rs for rs in old if rs.name not in dropped]


def _empty(rs: ReplicaSet) -> bool:
    return not rs.spec.replicas and not rs.status.replicas and settled(rs)


def status_of(deployment: Deployment, new: ReplicaSet | None, owned: Sequence[ReplicaSet]) -> DeploymentStatus:
    """The counts of the status, from those that the ReplicaSets report."""
    asked = sum(rs.spec.replicas or 0 for rs in owned)
    available = sum(rs.status.available_replicas for rs in owned)
    return DeploymentStatus(
        replicas=sum(rs.status.replicas for rs in owned),
        updated_replicas=new.status.replicas if new else 0,
        ready_replicas=sum(rs.status.ready_replicas for rs in owned),
        available_replicas=available,
        unavailable_replicas=max(0, asked - available),
        observed_generation=deployment.metadata.generation,
    )


def trouble(pods: Sequence[Pod]) -> str | None:
    """One line about the first pod, by name, that says what is wrong with it."""
    for pod in pods:
        said = None if facts.deleting(pod) or facts.ready(pod) else facts.trouble(pod)
        if said:
            return f"pod {pod.name}: {said}"
    return None


@reconciler(
    Deployment,
    reads=[Pod],
    owns=[Owned(ReplicaSet, by_reference=True)],
    writes=[Writes(Deployment, (f"metadata.annotations[{REVISION}]",))],
)
async def deployment(subject: Deployment, ctx: Context) -> Desired:
    """Rolls a Deployment out, step by step, and reports how far it is."""
    spec = subject.spec
    held = await custody(ctx, ReplicaSet, subject.namespace, subject.spec.selector)
    owned = _by_age([rs for rs in held.mine if rs.metadata.deletion_timestamp is None])
    found = current(subject, owned)
    old = [rs for rs in owned if rs is not found]
    strategy = spec.strategy
    update = strategy.rolling_update if strategy else None
    recreates = strategy is not None and strategy.type == "Recreate"
    size = rolling.bounds(
        1 if spec.replicas is None else spec.replicas,
        update.max_surge if update else None,
        update.max_unavailable if update else None,
    )
    number = _next_revision(found, old)
    new = None if spec.paused and found is None else render(subject, found, [rs.name for rs in owned], number)
    pods = await _pods(subject, ctx)

    if spec.paused:
        targets = rolling.paused(size, [scale_of(rs) for rs in (*old, *([found] if found else []))])
    elif new and recreates:
        left = [pod for pod in pods if not facts.finished(pod) and not _of(pod, new)]
        targets = rolling.recreate(size, _new_scale(new, found), [scale_of(rs) for rs in old], len(left))
    elif new:
        targets = rolling.rolling(size, _new_scale(new, found), [scale_of(rs) for rs in old])
    else:
        targets = {}

    resting = all(targets.get(rs.name) == (rs.spec.replicas or 0) for rs in owned)
    objects: list[ReplicaSet] = []
    if new:
        objects.append(sized(new, found, targets[new.name], resting))
    limit = HISTORY_DEFAULT if spec.revision_history_limit is None else spec.revision_history_limit
    keep = []
    for rs in old if spec.paused else history(old, limit):
        after = sized(plain(rs), rs, targets.get(rs.name, rs.spec.replicas or 0), resting)
        if (after.spec.replicas, after.metadata.annotations) == (rs.spec.replicas, rs.metadata.annotations):
            keep.append(rs.ref)
        else:
            objects.append(after)
    _tell(ctx, owned, objects)

    counts = status_of(subject, found, owned)
    deadline_s = (
        progress.DEADLINE_DEFAULT_S if spec.progress_deadline_seconds is None else spec.progress_deadline_seconds
    )
    rollout = progress.Rollout(
        replicas=size.replicas,
        fewest=size.replicas if recreates else size.fewest,
        before=subject.status,
        after=counts,
        replica_set=new.name if new else None,
        created=found is None and new is not None,
        paused=bool(spec.paused),
        deadline_s=None if deadline_s >= progress.DEADLINE_OFF_S else deadline_s,
        trouble=trouble([pod for pod in pods if new and _of(pod, new)]) or trouble(pods),
        replica_failure=_replica_failure(owned),
    )
    counts.conditions = progress.conditions(rollout, ctx.now)
    return Desired(
        objects=objects,
        keep=keep,
        adopt=held.adopt,
        release=held.release,
        status=_wire(counts),
        writes=_annotated(subject, number) if new else (),
        requeue_after_s=earliest(progress.deadline_in_s(rollout, counts.conditions, ctx.now)),
    )


def _next_revision(found: ReplicaSet | None, old: Sequence[ReplicaSet]) -> int:
    above = max((revision(rs) for rs in old), default=0) + 1
    return max(above, revision(found)) if found else above


def _new_scale(new: ReplicaSet, found: ReplicaSet | None) -> rolling.Scale:
    return scale_of(found) if found else rolling.Scale(new.name, 0, 0, 0)


def _of(pod: Pod, rs: ReplicaSet) -> bool:
    return pod.metadata.labels.get(POD_TEMPLATE_HASH) == rs.metadata.labels.get(POD_TEMPLATE_HASH)


async def _pods(subject: Deployment, ctx: Context) -> list[Pod]:
    """The Deployment's pods, by its selector and the hash that every ReplicaSet adds."""
    pods = await ctx.list(Pod, subject.namespace, labels=subject.spec.selector.match_labels)
    return [
        pod
        for pod in pods
        if POD_TEMPLATE_HASH in pod.metadata.labels and selects(subject.spec.selector, pod.metadata.labels)
    ]


def _annotated(subject: Deployment, number: int) -> Sequence[FieldWrite]:
    return [FieldWrite(subject.ref, {"metadata": {"annotations": {REVISION: str(number)}}})]


def _replica_failure(owned: Sequence[ReplicaSet]) -> str | None:
    for rs in reversed(owned):
        for found in rs.status.conditions:
            # Stalled is the runtime's: the API refused the pods.
            if found.type in ("ReplicaFailure", "Stalled") and found.status == "True":
                return found.message
    return None


def _tell(ctx: Context, before: Sequence[ReplicaSet], after: Sequence[ReplicaSet]) -> None:
    sizes = {rs.name: rs.spec.replicas or 0 for rs in before}
    for rs in after:
        was, now = sizes.get(rs.name, 0), rs.spec.replicas or 0
        if was != now:
            direction = "up" if now > was else "down"
            ctx.event("ScalingReplicaSet", f"Scaled {direction} replica set {rs.name} from {was} to {now}")


def _wire(status: DeploymentStatus) -> JSON:
    body: JSON = msgspec.to_builtins(status, str_keys=True)
    body["conditions"] = wire(status.conditions)
    return body
