"""Pods that have to leave their node: for a more important pod, or because of a taint that they do not bear (for longer).

Pod with DisruptionTarget (the scheduler chose it)  --> deleted, with its own grace period
Pod on a node with a NoExecute taint                --> deleted at once, or after its shortest tolerationSeconds
"""

from __future__ import annotations

from datetime import datetime

from trimtab.api.core import Pod, Toleration
from trimtab.api.nodes import Node, Taint
from trimtab.components.workloads import fit
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.preemption import PREEMPTED, TARGET
from trimtab.runtime import Context, Desired, reconciler


def preempted(pod: Pod) -> bool:
    found = facts.condition(pod, TARGET)
    return found is not None and found.status == "True" and found.reason == PREEMPTED and not facts.deleting(pod)


def placed(pod: Pod) -> bool:
    return bool(pod.spec.node_name) and facts.active(pod)


LOST_NODE_S = 300
"""How long a pod stays on a node that is not ready or not heard of, unless it says otherwise: what the API writes into each
new pod, and what holds for pods of an earlier release that say nothing."""
_LOST = [
    Toleration(key=f"node.kubernetes.io/{state}", operator="Exists", effect="NoExecute", toleration_seconds=LOST_NODE_S)
    for state in ("not-ready", "unreachable")
]


def stays_s(pod: Pod, taints: list[Taint], now: datetime) -> float | None:
    """Seconds that the pod may stay on a node with these taints: None for good, 0 when its time is up."""
    shortest: float | None = None
    for taint in taints:
        if taint.effect != "NoExecute":
            continue
        borne = [t for t in pod.spec.tolerations if fit.tolerates(t, taint)]
        lost = [t for t in _LOST if fit.tolerates(t, taint)]
        if lost and not borne and any(owner.kind == "DaemonSet" for owner in pod.metadata.owner_references):
            continue  # it belongs to the node and waits for it
        borne = borne or lost
        if not borne:
            return 0.0
        limits = [max(0, t.toleration_seconds) for t in borne if t.toleration_seconds is not None]
        if not limits:
            continue
        since = taint.time_added or now
        left = max(0.0, min(limits) - (now - since).total_seconds())
        shortest = left if shortest is None else min(shortest, left)
    return shortest


@reconciler(Pod, selects=preempted)
async def make_room(subject: Pod, ctx: Context) -> Desired:
    """Deletes a pod that was chosen to make room."""
    found = facts.condition(subject, TARGET)
    ctx.event("Preempted", found.message if found else "", warning=True)
    return Desired(delete_subject=True)


@reconciler(Pod, reads=[Node], selects=placed)
async def taint_eviction(subject: Pod, ctx: Context) -> Desired:
    """Deletes a pod that does not tolerate a NoExecute taint of its node (any longer)."""
    node = await ctx.get(Node, subject.spec.node_name or "")
    left = stays_s(subject, node.spec.taints, ctx.now) if node else None
    if left is None:
        return Desired()
    if left > 0:
        return Desired(requeue_after_s=left)
    ctx.event(
        "TaintManagerEviction", f"Deleting pod {subject.namespace}/{subject.name}: its node has a NoExecute taint"
    )
    message = f"Taint manager: deleting since node {subject.spec.node_name} has a NoExecute taint that is not tolerated"
    target = {"type": TARGET, "status": "True", "reason": "DeletionByTaintManager", "message": message}
    return Desired(status={"conditions": [target]}, delete_subject=True)
