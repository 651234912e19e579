"""One pod of this node: look, decide, act, look again until there is nothing to do; then say how it is.

The reconciler is woken by changes of the pod and of all that it reads, and by the agent when something ended, became
ready, or was pulled. It waits for nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import TypeVar

from trimtab.api import Resource
from trimtab.api.core import ConfigMap, Pod, Secret, ServiceAccount
from trimtab.api.demand import amounts
from trimtab.api.nodes import Node, fenced
from trimtab.api.runtimes import RuntimeClass
from trimtab.api.storage import VolumeAttachment
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.decide import PORTS_TAKEN, Eviction, Finish, StopContainer, decide
from trimtab.components.node.eviction import refusal
from trimtab.components.node.kinds import ClusterImagePolicy
from trimtab.components.node.sandboxes import RuntimeFailure
from trimtab.components.node.status import pod_status, qos_class
from trimtab.components.node.volumes import VolumeWaits
from trimtab.runtime import Context, Desired, Requeue, reconciler
from trimtab.runtime.component import Outcome

K = TypeVar("K", bound=Resource)

STEPS_MAX = 64
"""Rounds of look-decide-act in one run: more than any pod needs that does not turn in circles."""
UNREACHABLE_RETRY_S = 1.0
WORKERS = max(6, 2 * (os.cpu_count() or 1) + 2)
"""Pods worked on at once. Starting one keeps a core busy (runc, its shim, CNI), so more of them only make each other, and the
first to be ready, later."""


@reconciler(
    Pod,
    reads=[
        ConfigMap,
        Secret,
        ServiceAccount,
        PersistentVolumeClaim,
        PersistentVolume,
        VolumeAttachment,
        Node,
        RuntimeClass,
        ClusterImagePolicy,
    ],
    place="node",
    workers=WORKERS,
    selects=lambda pod: bool(pod.spec.node_name),
    while_deleting=True,
)
async def run_pod(pod: Pod, ctx: Context) -> Outcome:
    """Makes the containers on this node be what `pod` says, and its status what they are."""
    agent = ctx.adapter(NodeAgent)
    if pod.spec.node_name != agent.node.name:
        return Desired()
    if not agent.connected:
        return Requeue(UNREACHABLE_RETRY_S, "containerd does not answer yet")

    def get(kind: type[K], name: str, namespace: str | None = None, /) -> Awaitable[K | None]:
        return ctx.get(kind, name, namespace)

    over = pod.status.phase in ("Succeeded", "Failed")
    living = not ctx.deleting and not over
    agent.obey(await ctx.list(ClusterImagePolicy))
    if living and agent.sandboxes_of(pod.metadata.uid):
        await agent.refresh(pod, get, ctx.event)
        if agent.resizes(pod):
            node = await ctx.get(Node, agent.node.name)
            agent.review(pod, amounts(node.status.allocatable or node.status.capacity) if node is not None else {})
    bare = not ctx.deleting and not agent.sandboxes_of(pod.metadata.uid)
    own = await ctx.get(Node, agent.node.name) if bare else None
    if own is not None and fenced(pod, own):
        return Desired()  # it belongs to a former life of this node and is being removed
    new = bare and pod.status.phase in ("", "Pending")
    if new and (why := refusal(pod, agent.pressure, qos_class(pod))) is not None:
        agent.evict(pod, Eviction(why))
        ctx.event("Evicted", why, warning=True)
    elif new and (why := agent.refused(pod)):
        agent.evict(pod, Eviction(why, reason=PORTS_TAKEN))
        ctx.event(PORTS_TAKEN, why, warning=True)
    wake_at = None
    for _ in range(STEPS_MAX):
        try:
            await agent.freshen(pod.metadata.uid)
        except RuntimeFailure as err:
            return Requeue(UNREACHABLE_RETRY_S, str(err))
        agent.adopt(pod)
        plan = decide(pod, agent.seen(pod), ctx.now)
        wake_at = plan.wake_at
        if not plan.actions:
            break
        if isinstance(plan.actions[0], Finish):
            # The status that the containers ended with was written by the run before, or there never were any.
            agent.forget(pod.metadata.uid)
            return Desired(delete_subject=True)
        ended = pod_status(pod, agent.seen(pod), ctx.now, host_ip=agent.node.host_ip)
        try:
            for action in plan.actions:
                await agent.perform(pod, action, get, ctx.event)
        except RuntimeFailure as err:
            return Requeue(UNREACHABLE_RETRY_S, str(err), status=ended)
        except VolumeWaits:
            break  # the attachment, which was read, wakes us when it changes
        if ctx.deleting and agent.seen(pod).torn_down:
            return Desired(status=ended, requeue_after_s=0.0)
        if all(isinstance(action, StopContainer) for action in plan.actions):
            break  # the agent wakes us when they have ended
    if over and not any(True for _ in agent.seen(pod).running()):
        await agent.release(pod, ctx.event)
    status = pod_status(pod, agent.seen(pod), ctx.now, host_ip=agent.node.host_ip)
    wakes = [at for at in (wake_at, agent.renewal(pod) if living else None) if at is not None]
    return Desired(status=status, requeue_after_s=max(0.0, (min(wakes) - ctx.now).total_seconds()) if wakes else None)
