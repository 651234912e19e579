"""Pod -> node: every pod without `nodeName` gets one, or a condition that says why not, node by node.

    pod, its claims, nodes, all pods --fit.py, crowd.py--> obstacles of each node
        none: of the nodes that fit the best (crowd.score); claims that wait for their first consumer get their volume on
              that node, then the pod gets the node
        all:  PodScheduled=False, and again as soon as a node, pod or claim changes; a pod that matters more than others
              may have them go (preemption.py): it is nominated for their node, and they are marked and deleted

One worker, so that two pods never both take what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from trimtab.api import JSON
from trimtab.api.cluster import StorageClass
from trimtab.api.core import Namespace, Pod
from trimtab.api.nodes import Node
from trimtab.api.scheduling import PodDisruptionBudget
from trimtab.api.storage import VolumeAttachment
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.workloads import conditions, crowd, fit, preemption
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
    attached: set[str] = field(default_factory=set)
    """Nodes that have a volume of the pod attached: it need not move to be used there."""
    lost: bool = False
    """One of them will never be there again: worth an event, where waiting is not."""


def ours(pod: Pod) -> bool:
    """Pods that this scheduler is to place, or has placed without having said so yet."""
    open_ = not pod.spec.node_name or not facts.holds(pod, "PodScheduled")
    return open_ and (pod.spec.scheduler_name or DEFAULT_SCHEDULER) == DEFAULT_SCHEDULER


def choose(pod: Pod, picture: fit.Picture, claims: Claims) -> str | dict[str, list[str]]:
    """The node to run on, or the obstacles of each. Chosen before: the same again; else the one with the best score."""
    found = {name: obstacles(pod, name, picture, claims) for name in picture.rooms}
    fits = [name for name in found if not found[name]]
    if not fits:
        return found
    selected = {claim.metadata.annotations.get(SELECTED_NODE) for claim in claims.unbound} | claims.attached

    def rank(name: str) -> tuple[bool, bool, float, str]:
        value = crowd.score(pod, picture.rooms[name], picture)
        return (name not in selected, name != pod.status.nominated_node_name, -value, name)

    return fits[0] if len(fits) == 1 else min(fits, key=rank)


def obstacles(pod: Pod, node: str, picture: fit.Picture, claims: Claims) -> list[str]:
    """Why the pod cannot run on a node; empty when it can."""
    room = picture.rooms[node]
    return [*fit.obstacles(pod, room, claims.volumes), *crowd.obstacles(pod, room, picture)]


def picture_for(pod: Pod, nodes: Sequence[Node], pods: Sequence[Pod], namespaces: Sequence[Namespace]) -> fit.Picture:
    """The nodes as this pod may use them: room that was made for a pod that matters as much counts as taken."""
    taken = []
    for other in pods:
        nominated = other.status.nominated_node_name
        if other.metadata.uid == pod.metadata.uid:
            continue
        if other.spec.node_name:
            taken.append(other)
        elif nominated and preemption.priority(other) >= preemption.priority(pod) and not facts.deleting(other):
            taken.append(msgspec.structs.replace(other, spec=msgspec.structs.replace(other.spec, node_name=nominated)))
    return fit.Picture.of(nodes, taken, {space.name: space.metadata.labels for space in namespaces})


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
        elif user := await _sole_user(pod, claim, ctx):
            out.problems.append(f'persistentvolumeclaim "{name}" is used by pod {user} (ReadWriteOncePod)')
        elif claim.metadata.deletion_timestamp is not None:
            out.problems.append(f'persistentvolumeclaim "{name}" is being deleted')
        elif claim.status.phase == "Lost":
            out.lost = True
            said = conditions.find(claim.status.conditions, "Bound")
            died = said.message if said is not None and said.reason == "VolumeDied" else ""
            why = died or "bound to non-existent persistentvolume"
            out.problems.append(
                f'persistentvolumeclaim "{name}": {why}' if died else f'persistentvolumeclaim "{name}" {why}'
            )
        elif claim.spec.volume_name:
            bound = await ctx.get(PersistentVolume, claim.spec.volume_name)
            if bound is None or claim.status.phase != "Bound":
                out.problems.append(f'persistentvolumeclaim "{name}" is not bound yet')
            else:
                out.volumes.append(bound)
                if bound.spec.csi is not None:
                    out.attached |= await _attached_to(bound.name, ctx)
        else:
            classes = await ctx.list(StorageClass) if classes is None else classes
            if waits_for_consumer(class_of(claim, classes)):
                out.unbound.append(claim)
            else:
                bound_condition = conditions.find(claim.status.conditions, "Bound")
                why = f": {bound_condition.message}" if bound_condition else ""
                out.problems.append(f'pod has unbound immediate PersistentVolumeClaims: "{name}"{why}')
    return out


async def _attached_to(volume: str, ctx: Context) -> set[str]:
    found = await ctx.list(VolumeAttachment, where=lambda a: a.spec.source.persistent_volume_name == volume)
    return {attachment.spec.node_name for attachment in found}


async def _sole_user(pod: Pod, claim: PersistentVolumeClaim, ctx: Context) -> str | None:
    """The placed pod that alone may use the claim, if that is another one."""
    if "ReadWriteOncePod" not in claim.spec.access_modes:
        return None
    name, uid = claim.name, pod.metadata.uid
    users = await ctx.list(
        Pod,
        pod.namespace,
        where=lambda p: bool(p.spec.node_name) and not facts.finished(p) and p.metadata.uid != uid and mounts(p, name),
    )
    return users[0].name if users else None


def mounts(pod: Pod, claim_name: str) -> bool:
    """Whether the pod uses the claim."""
    return any(
        v.persistent_volume_claim is not None and v.persistent_volume_claim.claim_name == claim_name
        for v in pod.spec.volumes
    )


@reconciler(
    Pod,
    reads=[Node, PersistentVolume, StorageClass, Namespace, PodDisruptionBudget, VolumeAttachment],
    writes=[
        Writes(Pod, ("spec.nodeName", f"status.conditions[{preemption.TARGET}]")),
        Writes(PersistentVolumeClaim, (f"metadata.annotations[{SELECTED_NODE}]",)),
    ],
    selects=ours,
    workers=1,
)
async def scheduler(subject: Pod, ctx: Context) -> Desired:
    """Gives a pod a node."""
    if subject.spec.node_name:
        return Desired(status=_SCHEDULED)
    if subject.spec.scheduling_gates:
        gates = ", ".join(gate.name for gate in subject.spec.scheduling_gates)
        return Desired(status=_unscheduled(f"Scheduling is blocked by scheduling gates: {gates}", "SchedulingGated"))
    claims = await claims_of(subject, ctx)
    if claims.problems:
        message = "; ".join(dict.fromkeys(claims.problems))
        if claims.lost:
            ctx.event("FailedScheduling", message, warning=True)
        return Desired(status=_unscheduled(message))
    pods = await ctx.list(Pod, where=_counted)
    picture = picture_for(subject, await ctx.list(Node), pods, await ctx.list(Namespace))
    chosen = choose(subject, picture, claims)
    if not isinstance(chosen, str):
        return await _no_node(subject, ctx, chosen, picture, claims)
    if claims.unbound:
        names = ", ".join(claim.name for claim in claims.unbound)
        return Desired(
            writes=[
                FieldWrite(claim.ref, {"metadata": {"annotations": {SELECTED_NODE: chosen}}})
                for claim in claims.unbound
            ],
            status=_unscheduled(f"waiting for volumes on {chosen}: {names}"),
        )
    ctx.event("Scheduled", f"Successfully assigned {subject.namespace}/{subject.name} to {chosen}")
    return Desired(
        writes=[FieldWrite(subject.ref, {"spec": {"nodeName": chosen}})],
        status=_SCHEDULED,
    )


async def _no_node(
    subject: Pod, ctx: Context, found: dict[str, list[str]], picture: fit.Picture, claims: Claims
) -> Desired:
    """Says why, and where others matter less has them make room."""
    message = fit.explain(found)
    ctx.event("FailedScheduling", message, warning=True)
    status = _unscheduled(message)
    nominated = subject.status.nominated_node_name
    room = picture.rooms.get(nominated)
    mine = preemption.priority(subject)
    if room and any(preemption.leaving(p) and preemption.priority(p) < mine for p in room.pods):
        return Desired(status=status | {"nominatedNodeName": nominated})
    if not preemption.may_preempt(subject):
        return Desired(status=status)
    eviction = preemption.find(
        subject,
        picture,
        await ctx.list(PodDisruptionBudget),
        lambda node, seen: not obstacles(subject, node, seen, claims),
    )
    if eviction is None:
        return Desired(status=status)
    said = f"Preempted by pod {subject.namespace}/{subject.name} on node {eviction.node}"
    condition = {"type": preemption.TARGET, "status": "True", "reason": preemption.PREEMPTED, "message": said}
    return Desired(
        writes=[
            FieldWrite(victim.ref, {"status": {"conditions": [condition]}}, "status") for victim in eviction.victims
        ],
        status=status | {"nominatedNodeName": eviction.node},
    )


_SCHEDULED: JSON = {"conditions": [{"type": "PodScheduled", "status": "True"}]}


def _counted(pod: Pod) -> bool:
    return bool(pod.spec.node_name or pod.status.nominated_node_name)


def _unscheduled(message: str, reason: str = "Unschedulable") -> JSON:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return {"conditions": [condition]}
