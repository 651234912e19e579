"""DaemonSet -> one Pod on every node that its template admits, in whatever state the node is.

    nodes, pods --plan--> nodes that lack a pod, pods that are too many or on the wrong node
                          outdated pods, as many at a time as may be unavailable

An old pod goes before its successor comes: two at once could not share what a daemon holds (a port, a path).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from trimtab.api import JSON
from trimtab.api.core import Node, Pod
from trimtab.api.workloads import ControllerRevision, DaemonSet
from trimtab.components.workloads import fit, rolling
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.names import free_names
from trimtab.components.workloads.ordinals import revision
from trimtab.components.workloads.replicaset import next_available_s, pod_of
from trimtab.components.workloads.revisions import HISTORY_DEFAULT, REVISION_LABEL, history
from trimtab.runtime import Context, Desired, reconciler


@dataclass(frozen=True)
class Wanted:
    """The names of the nodes that should have a pod, and the rules of an update."""

    nodes: tuple[str, ...]
    update: str
    rolling: bool = True
    unavailable: int = 1
    min_ready_s: int = 0


@dataclass
class Plan:
    """Nodes on which to create a pod, and pods to delete; all the others stay."""

    create: list[str] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)


def plan(wanted: Wanted, pods: Sequence[Pod], now: datetime) -> Plan:
    """The next step from the pods as they are."""
    out = Plan()
    by_node: dict[str, list[Pod]] = {name: [] for name in wanted.nodes}
    for pod in pods:
        if pod.spec.node_name in by_node:
            by_node[pod.spec.node_name].append(pod)
        elif not facts.deleting(pod):
            out.delete.append(pod)
    chosen: dict[str, Pod] = {}
    for name, there in by_node.items():
        living = facts.deletion_order(pod for pod in there if facts.active(pod))
        out.delete += [pod for pod in there if facts.finished(pod) and not facts.deleting(pod)]
        out.delete += living[:-1]
        if living:
            chosen[name] = living[-1]
        elif not there:
            out.create.append(name)
    if wanted.rolling:
        out.delete += _outdated(wanted, chosen, now)
    return out


def _outdated(wanted: Wanted, chosen: Mapping[str, Pod], now: datetime) -> list[Pod]:
    """Outdated pods that may go now: those that serve nobody, and as many others as may be unavailable."""
    serving = {name: facts.available(pod, wanted.min_ready_s, now) for name, pod in chosen.items()}
    outdated = [name for name, pod in chosen.items() if revision(pod) != wanted.update]
    idle = [name for name in outdated if not serving[name]]
    missing = len(wanted.nodes) - sum(serving.values())
    may_go = max(0, wanted.unavailable - missing)
    return [chosen[name] for name in (*idle, *[name for name in outdated if serving[name]][:may_go])]


def wanted(subject: DaemonSet, nodes: Sequence[Node], update: str) -> Wanted:
    """What `plan` needs to know of the set."""
    strategy = subject.spec.update_strategy
    sample = Pod(spec=subject.spec.template.spec)
    names = tuple(node.name for node in nodes if node.metadata.deletion_timestamp is None and fit.belongs(sample, node))
    share = strategy.rolling_update.max_unavailable if strategy and strategy.rolling_update else None
    return Wanted(
        nodes=names,
        update=update,
        rolling=strategy is None or strategy.type in (None, "RollingUpdate"),
        unavailable=max(1, rolling.resolve(1 if share is None else share, len(names), up=True)),
        min_ready_s=subject.spec.min_ready_seconds or 0,
    )


def status_of(subject: DaemonSet, want: Wanted, pods: Sequence[Pod], now: datetime) -> JSON:
    """The status, from the pods that stay."""
    living = {pod.spec.node_name: pod for pod in pods if facts.active(pod)}
    here = [living[name] for name in want.nodes if name in living]
    available = sum(facts.available(pod, want.min_ready_s, now) for pod in here)
    return {
        "desiredNumberScheduled": len(want.nodes),
        "currentNumberScheduled": len(here),
        "numberMisscheduled": len(living) - len(here),
        "numberReady": sum(facts.ready(pod) for pod in here),
        "numberAvailable": available,
        "numberUnavailable": len(want.nodes) - available,
        "updatedNumberScheduled": sum(revision(pod) == want.update for pod in here),
        "observedGeneration": subject.metadata.generation,
    }


@reconciler(DaemonSet, reads=[Node], owns=[ControllerRevision, Pod])
async def daemonset(subject: DaemonSet, ctx: Context) -> Desired:
    """Keeps one pod of a DaemonSet on every node that it is meant for."""
    pods = await ctx.owned(Pod)
    limit = subject.spec.revision_history_limit
    past = history(
        subject,
        await ctx.owned(ControllerRevision),
        {revision(pod) for pod in pods},
        HISTORY_DEFAULT if limit is None else limit,
    )
    want = wanted(subject, await ctx.list(Node), past.update.name)
    decided = plan(want, pods, ctx.now)
    names = free_names(subject.name, subject.metadata.uid, (pod.name for pod in pods))
    created = []
    for node, name in zip(decided.create, names, strict=False):
        pod = pod_of(subject, subject.spec.template, name, {REVISION_LABEL: past.update.name})
        pod.spec = msgspec.structs.replace(pod.spec, node_name=node)
        created.append(pod)
        ctx.event("SuccessfulCreate", f"Created pod: {name}")
    gone = {pod.name for pod in decided.delete}
    for name in sorted(gone):
        ctx.event("SuccessfulDelete", f"Deleted pod: {name}")
    staying = [pod for pod in pods if pod.name not in gone]
    return Desired(
        objects=[*past.apply, *created],
        keep=[
            *(r.ref for r in past.kept),
            *(() if past.apply else (past.update.ref,)),
            *(pod.ref for pod in staying),
        ],
        status=status_of(subject, want, staying, ctx.now),
        requeue_after_s=next_available_s(staying, want.min_ready_s, ctx.now),
    )
