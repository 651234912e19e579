"""Pod -> node: every pod without `nodeName` gets one, or a condition that says why not.

    pod, its claims, nodes, all pods --fit.py--> obstacles of each node
        none: claims that wait for their first consumer get their volume on that node, then the pod gets the node
        all:  PodScheduled=False, and again as soon as a node, pod or claim changes

One worker, so that two pods never both take what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.api import JSON
from trimtab.api.cluster import StorageClass
from trimtab.api.core import Node, PersistentVolume, PersistentVolumeClaim, Pod
from trimtab.components.workloads import conditions, fit
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.binding import SELECTED_NODE, class_of, waits_for_consumer
from trimtab.runtime import Context, Desired, FieldWrite, Writes, reconciler

DEFAULT_SCHEDULER = "default-scheduler"


@dataclass
class Claims:
    """What a pod's claims mean for its placement."""

    problems: list[str] = field(default_factory=list)
    volumes: list[PersistentVolume] = field(default_factory=list)
    unbound: list[PersistentVolumeClaim] = field(default_factory=list)
    """Those that are provisioned once a node is chosen."""


def ours(pod: Pod) -> bool:
    """Pods that this scheduler is to place, or has placed without having said so yet."""
    open_ = not pod.spec.node_name or not facts.holds(pod, "PodScheduled")
    return open_ and (pod.spec.scheduler_name or DEFAULT_SCHEDULER) == DEFAULT_SCHEDULER


def choose(pod: Pod, nodes: Sequence[Node], pods: Sequence[Pod], claims: Claims) -> Node | dict[str, list[str]]:
    """The node to run on, or the obstacles of each. Chosen before: the same again; else the one with the most left."""
    obstacles = {node.name: fit.obstacles(pod, node, pods, claims.volumes) for node in nodes}
    fits = [node for node in nodes if not obstacles[node.name]]
    if not fits:
        return obstacles
    selected = {claim.metadata.annotations.get(SELECTED_NODE) for claim in claims.unbound}

    def rank(node: Node) -> tuple[bool, int, int, str]:
        left = fit.free(node, pods)
        return (node.name not in selected, -left.memory_bytes, -left.cpu_milli, node.name)

    return min(fits, key=rank)


async def claims_of(pod: Pod, ctx: Context) -> Claims:
    """Looks up the claims that the pod mounts and the volumes that they are bound to."""
    out = Claims()
    classes: Sequence[StorageClass] | None = None
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is None:
            continue
        name = volume.persistent_volume_claim.claim_name
        claim = await ctx.get(PersistentVolumeClaim, name, pod.namespace)
        if claim is None:
            out.problems.append(f'persistentvolumeclaim "{name}" not found')
        elif claim.metadata.deletion_timestamp is not None:
            out.problems.append(f'persistentvolumeclaim "{name}" is being deleted')
        elif claim.status.phase == "Lost":
            out.problems.append(f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume')
        elif claim.spec.volume_name:
            bound = await ctx.get(PersistentVolume, claim.spec.volume_name)
            if bound is None or claim.status.phase != "Bound":
                out.problems.append(f'persistentvolumeclaim "{name}" is not bound yet')
            else:
                out.volumes.append(bound)
        else:
            classes = await ctx.list(StorageClass) if classes is None else classes
            if waits_for_consumer(class_of(claim, classes)):
                out.unbound.append(claim)
            else:
                bound_condition = conditions.find(claim.status.conditions, "Bound")
                why = f": {bound_condition.message}" if bound_condition else ""
                out.problems.append(f'pod has unbound immediate PersistentVolumeClaims: "{name}"{why}')
    return out


@reconciler(
    Pod,
    reads=[Node, PersistentVolume, StorageClass],
    writes=[
        Writes(Pod, ("spec.nodeName",)),
        Writes(PersistentVolumeClaim, (f"metadata.annotations[{SELECTED_NODE}]",)),
    ],
    selects=ours,
    workers=1,
)
async def scheduler(subject: Pod, ctx: Context) -> Desired:
    """Gives a pod a node."""
    if subject.spec.node_name:
        return Desired(status=_SCHEDULED)
    claims = await claims_of(subject, ctx)
    if claims.problems:
        return Desired(status=_unscheduled("; ".join(dict.fromkeys(claims.problems))))
    nodes = await ctx.list(Node)
    pods = await ctx.list(Pod, where=_placed)
    chosen = choose(subject, nodes, pods, claims)
    if not isinstance(chosen, Node):
        message = fit.explain(chosen)
        ctx.event("FailedScheduling", message, warning=True)
        return Desired(status=_unscheduled(message))
    if claims.unbound:
        names = ", ".join(claim.name for claim in claims.unbound)
        return Desired(
            writes=[
                FieldWrite(claim.ref, {"metadata": {"annotations": {SELECTED_NODE: chosen.name}}})
                for claim in claims.unbound
            ],
            status=_unscheduled(f"waiting for volumes on {chosen.name}: {names}"),
        )
    ctx.event("Scheduled", f"Successfully assigned {subject.namespace}/{subject.name} to {chosen.name}")
    return Desired(
        writes=[FieldWrite(subject.ref, {"spec": {"nodeName": chosen.name}})],
        status=_SCHEDULED,
    )


_SCHEDULED: JSON = {"conditions": [{"type": "PodScheduled", "status": "True"}]}


def _placed(pod: Pod) -> bool:
    return bool(pod.spec.node_name)


def _unscheduled(message: str) -> JSON:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"conditions": [condition]}
