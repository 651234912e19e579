"""Node -> alive, silent or destroyed; and what that means for its pods.

    Lease older than the grace      Ready=Unknown, taints unreachable: nothing new goes there; pods stay, since they may run
    condition MemoryPressure ...    taint memory-pressure ...: nothing new goes there (but what asked for its memory may)
    taint out-of-service (proof)    Ready=False; its pods are marked Failed and removed at once; then the Node goes
    annotation fenced-pods (proof)  these pods are marked Failed and removed at once; the Node comes back

A lease is old when we have watched it for so long without a change: a clock that is set, forward or back, silences nobody.
Silence is no proof: a pod of a silent node is not replaced under its name until it is certain that it does not run. The
engine gives that proof when it saw the node's last process end (`trimtab node kill`), by the taint with which Kubernetes'
administrators state the same, `node.kubernetes.io/out-of-service`.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from trimtab.api import JSON
from trimtab.api.cluster import Lease
from trimtab.api.core import Pod
from trimtab.api.nodes import NODE_DESTROYED, Node, Taint, fenced
from trimtab.components.workloads import conditions, fit
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.preemption import TARGET
from trimtab.runtime import Context, Desired, FieldWrite, Requeue, Writes, reconciler

GRACE_S = 40.0
"""How old the lease of a node may become that does not say so itself (leaseDurationSeconds)."""
LEASE_NAMESPACE = "kube-node-lease"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
DESTROYED = "destroyed"
"""The taint's value when the engine destroyed the node, disk included: it does not come back."""
UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}
_OURS = (UNREACHABLE, NOT_READY, *_PRESSURES.values())


def proven_dead(node: Node) -> Taint | None:
    """The taint that says that nothing of the node runs, or None."""
    if node.metadata.annotations.get(NODE_DESTROYED) == "true":
        return Taint(key=OUT_OF_SERVICE, value=DESTROYED, effect="NoExecute")
    return next((taint for taint in node.spec.taints if taint.key == OUT_OF_SERVICE), None)


def grace_s(lease: Lease | None) -> float:
    """How old the lease may become before its node counts as silent."""
    return float(lease.spec.lease_duration_seconds or GRACE_S) if lease is not None else GRACE_S


@dataclass
class Renewals:
    """When we ourselves saw leases being renewed, on the event loop's clock: the machine's clock may be set, which says
    nothing about a node. Lost with the process: then every node gets its whole grace anew, but for those that were silent
    already."""

    seen: dict[str, tuple[datetime | None, float, bool]] = field(default_factory=dict)
    """By the lease's uid: its renewTime, when it was first seen so, and whether it was ever seen to change."""

    def quiet_s(self, lease: Lease | None, now_s: float, *, was_silent: bool) -> float:
        """For how long the node has been watched without renewing its lease; for ever, when it was silent before we began to
        watch and has not renewed it since."""
        if lease is None:
            return 0.0
        uid, renewed = lease.metadata.uid, lease.spec.renew_time
        known = self.seen.get(uid)
        if known is None or known[0] != renewed:
            known = self.seen[uid] = (renewed, now_s, known is not None)
        return math.inf if was_silent and not known[2] else now_s - known[1]


def state_taints(node: Node, silent: bool) -> list[Taint]:
    """The node's taints as they should be: others' untouched, ours by its state."""
    others = [taint for taint in node.spec.taints if taint.key not in _OURS]
    ready = conditions.find(node.status.conditions, "Ready")
    if silent:
        key = UNREACHABLE
    else:
        pressed = [taint for name, taint in _PRESSURES.items() if conditions.holds(node.status.conditions, name)]
        others += [Taint(key=taint, effect="NoSchedule") for taint in pressed]
        if ready is None or ready.status != "False":
            return others
        key = NOT_READY
    return [*others, Taint(key=key, effect="NoSchedule"), Taint(key=key, effect="NoExecute")]


def _ready(status: str, reason: str, message: str) -> JSON:
    return {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message}]}


@reconciler(Node, reads=[Lease, Pod], writes=[Writes(Node, ("spec.taints",))], name="node-life")
async def node_life(subject: Node, ctx: Context) -> Desired:
    """Says when a node is silent or destroyed, in its condition and its taints."""
    dead = proven_dead(subject)
    if dead is not None:
        left = await ctx.list(Pod, where=lambda pod: pod.spec.node_name == subject.name)
        message = "nothing of the node runs any more; its pods are replaced"
        if dead.value == DESTROYED:
            message = "the node was destroyed, its disk with it; its pods are replaced, its local volumes are lost"
        return Desired(
            status=_ready("False", "NodeOutOfService", message),
            delete_subject=dead.value == DESTROYED and not left,
        )
    lease = await ctx.get(Lease, subject.name, LEASE_NAMESPACE)
    before = conditions.find(subject.status.conditions, "Ready")
    was_silent = before is not None and before.status == "Unknown"
    silence_s = ctx.adapter(Renewals).quiet_s(lease, asyncio.get_running_loop().time(), was_silent=was_silent)
    limit_s = grace_s(lease)
    silent = silence_s > limit_s
    wanted = state_taints(subject, silent)
    writes = []
    if wanted != subject.spec.taints:
        writes.append(FieldWrite(subject.ref, {"spec": {"taints": msgspec.to_builtins(wanted)}}))
    if not silent:
        return Desired(writes=writes, requeue_after_s=limit_s - silence_s + 0.1)
    message = f"the node has not renewed its lease for over {limit_s:.0f} s; whether its pods run is not known"
    return Desired(status=_ready("Unknown", "NodeStatusUnknown", message), writes=writes)


@reconciler(Pod, reads=[Node], selects=lambda pod: bool(pod.spec.node_name), while_deleting=True, name="lost-pods")
async def lost_pods(subject: Pod, ctx: Context) -> Desired | Requeue:
    """Removes the pods of a node of which nothing runs any more, and takes those of a silent one out of service."""
    assert subject.spec.node_name is not None
    node = await ctx.get(Node, subject.spec.node_name)
    if node is None:
        return Desired()
    dead = proven_dead(node)
    if fenced(subject, node) or (dead and not any(fit.tolerates(t, dead) for t in subject.spec.tolerations)):
        if not facts.finished(subject) and not facts.deleting(subject):
            ctx.event("NodeLost", f"node {node.name} is gone, and this pod with it", warning=True)
        # With the condition, which an earlier run may have set while the node was silent: what it is no longer part of, goes.
        gone = f"node {node.name} is gone"
        status: JSON = {**_ready("False", "NodeLost", gone), "phase": "Failed", "reason": "NodeLost", "message": gone}
        target = {"type": TARGET, "status": "True", "reason": "DeletionByPodGC", "message": gone}
        status["conditions"].append(target)
        return Desired(status=None if facts.finished(subject) else status, delete_subject=True)
    ready = conditions.find(node.status.conditions, "Ready")
    if ready is not None and ready.status == "Unknown" and facts.ready(subject):
        return Desired(status=_ready("False", "NodeUnreachable", f"node {node.name} is silent"))
    return Desired()
