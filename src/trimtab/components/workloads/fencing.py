"""A silent node that others wait for -> certainty, by force; and what is certain without.

    its disk is gone and nothing of it runs      it was destroyed: its local volumes died, its pods are replaced, the Node goes
    nothing of it runs                           it is fenced already
    it runs, and a pod of it that is overdue, or a volume that is wanted elsewhere, waits    every process of it is ended: fenced

Fencing ends a node's first process; the kernel ends all others before it says so, and their mounts with them (docs/nodes.md). From then
on no pod that was on it runs, and its uid is written down. The node starts again, as after a power cut, and takes new pods.

Runs in the agent of the machine itself, which alone can do this, and only to further nodes of the same machine.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, Protocol

from trimtab.api import JSON
from trimtab.api.cluster import Lease
from trimtab.api.core import Pod
from trimtab.api.nodes import FENCED_LEASE, FENCED_PODS, NODE_DESTROYED, Node
from trimtab.api.storage import VolumeAttachment
from trimtab.api.volumes import DIED_WITH, PersistentVolume
from trimtab.components.workloads import binding, conditions
from trimtab.components.workloads.node_life import LEASE_NAMESPACE
from trimtab.runtime import Context, Desired, FieldWrite, Writes, reconciler

OVERDUE_S = 5.0
"""How long after the end of its grace period a pod's deletion may take before its node is asked no more."""

State = Literal["runs", "ended", "gone", "unknown"]
"""runs: a process of it lives. ended: none does. gone: nor is there a disk. unknown: it is not one of this machine's."""


class Machines(Protocol):
    """The further nodes of this machine, as its own agent sees them."""

    async def state(self, node: str) -> State: ...

    async def end(self, node: str) -> bool:
        """Ends every process of a node; True once the kernel says that there is none."""


def overdue(pod: Pod, now: datetime) -> float | None:
    """Seconds until the deletion of a pod is overdue (negative: since); None when nobody deletes it."""
    asked = pod.metadata.deletion_timestamp
    return None if asked is None else (asked + timedelta(seconds=OVERDUE_S) - now).total_seconds()


@reconciler(
    Node,
    reads=[Pod, VolumeAttachment, PersistentVolume, Lease],
    writes=[
        Writes(Node, tuple(f"metadata.annotations[{name}]" for name in (FENCED_PODS, FENCED_LEASE, NODE_DESTROYED))),
        Writes(PersistentVolume, (f"metadata.annotations[{DIED_WITH}]",)),
    ],
    place="node",
)
async def fence(subject: Node, ctx: Context) -> Desired:
    """Makes certain what became of a silent node, when somebody waits to know."""
    ready = conditions.find(subject.status.conditions, "Ready")
    if ready is None or ready.status != "Unknown":
        return Desired()
    machines = ctx.adapter(Machines)  # type: ignore[type-abstract]
    state = await machines.state(subject.name)
    if state == "unknown":
        return Desired()
    if state == "gone":
        return await _destroyed(subject, ctx)
    heard = _heard(await ctx.get(Lease, subject.name, LEASE_NAMESPACE))
    if subject.metadata.annotations.get(FENCED_LEASE) == heard:
        return Desired()  # fenced since it was last heard of, it has done nothing that was not allowed
    wait_s, why = await _wanted(subject, ctx)
    if why is None or wait_s > 0:
        return Desired(requeue_after_s=wait_s if why is not None else None)
    if not await machines.end(subject.name):
        return Desired(requeue_after_s=1.0)
    ctx.event("NodeFenced", f"every process of {subject.name} was ended, since it is silent and {why}", warning=True)
    name = subject.name
    ended = sorted(pod.metadata.uid for pod in await ctx.list(Pod, where=lambda pod: pod.spec.node_name == name))
    return Desired(writes=[_annotated(subject, {FENCED_PODS: ",".join(ended), FENCED_LEASE: heard})])


def _heard(lease: Lease | None) -> str:
    """What the lease said last."""
    renewed = lease.spec.renew_time if lease is not None else None
    return renewed.isoformat() if renewed is not None else ""


async def _wanted(subject: Node, ctx: Context) -> tuple[float, str | None]:
    """In how many seconds the node is to be fenced, and what waits for it."""
    name = subject.name
    attachments = await ctx.list(
        VolumeAttachment, where=lambda a: a.spec.node_name == name and a.metadata.deletion_timestamp is not None
    )
    if attachments:
        return 0.0, f"volume {attachments[0].spec.source.persistent_volume_name} is wanted elsewhere"
    soonest: tuple[float, str | None] = (0.0, None)
    for pod in await ctx.list(Pod, where=lambda pod: pod.spec.node_name == name):
        wait_s = overdue(pod, ctx.now)
        if wait_s is not None and (soonest[1] is None or wait_s < soonest[0]):
            soonest = (wait_s, f"the deletion of pod {pod.namespace}/{pod.name} is overdue")
    return soonest


async def _destroyed(subject: Node, ctx: Context) -> Desired:
    name = subject.name
    died = await ctx.list(PersistentVolume, where=lambda v: v.spec.local is not None and binding.node_of(v) == name)
    ctx.event("NodeDestroyed", f"nothing of {name} runs and its disk is gone", warning=True)
    return Desired(
        writes=[
            *(_annotated(volume, {DIED_WITH: name}) for volume in died),
            _annotated(subject, {NODE_DESTROYED: "true"}),
        ]
    )


def _annotated(obj: Node | PersistentVolume, annotations: JSON) -> FieldWrite:
    return FieldWrite(obj.ref, {"metadata": {"annotations": annotations}})
