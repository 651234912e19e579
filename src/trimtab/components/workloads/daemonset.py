"""DaemonSet -> one Pod on every node that its template admits, in whatever state the node is.

    nodes, pods --plan--> nodes that lack a pod, pods that are too many or on the wrong node
                          outdated pods, as many at a time as may be unavailable

An old pod goes before its successor comes: two at once could not share what a daemon holds (a port, a path). With `maxSurge` it
is the other way round: the successor comes first, on so many nodes at a time, and the old pod goes once it serves.

Its pods stay on a node in whatever state it is, so they tolerate the taints that say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from trimtab.api import JSON
from trimtab.api.core import Pod, PodSpec, Toleration
from trimtab.api.nodes import Node
from trimtab.api.workloads import ControllerRevision, DaemonSet
from trimtab.components.workloads import fit, rolling
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.custody import custody, unused
from trimtab.components.workloads.names import free_names
from trimtab.components.workloads.ordinals import revision
from trimtab.components.workloads.replicaset import next_available_s, pod_of
from trimtab.components.workloads.revisions import HISTORY_DEFAULT, REVISION_LABEL, history, mark, of
from trimtab.runtime import Context, Desired, Owned, reconciler


@dataclass(frozen=True)
class Wanted:
    """The names of the nodes that should have a pod, and the rules of an update."""

    nodes: tuple[str, ...]
    update: str
    rolling: bool = True
    unavailable: int = 1
    surge: int = 0
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
        old = [pod for pod in living if revision(pod) != wanted.update]
        new = [pod for pod in living if revision(pod) == wanted.update]
        if wanted.rolling and wanted.surge and old and new:
            serves = facts.available(new[-1], wanted.min_ready_s, now)
            out.delete += [*new[:-1], *(old if serves else old[:-1])]
            chosen[name] = new[-1] if serves else old[-1]
            continue
        out.delete += living[:-1]
        if living:
            chosen[name] = living[-1]
        elif not there:
            out.create.append(name)
    if wanted.rolling and wanted.surge:
        out.create += _surging(wanted, chosen, by_node, now)
    elif wanted.rolling:
        out.delete += _outdated(wanted, chosen, now)
    return out


def _surging(
    wanted: Wanted, chosen: Mapping[str, Pod], by_node: Mapping[str, Sequence[Pod]], now: datetime
) -> list[str]:
    """Nodes on which the successor of an outdated pod may start: where the old one serves nobody, and on so many others at a
    time as `surge` says."""
    outdated = [name for name, pod in chosen.items() if revision(pod) != wanted.update]
    waiting = [name for name in outdated if all(revision(pod) != wanted.update for pod in by_node[name])]
    idle = [name for name in waiting if not facts.available(chosen[name], wanted.min_ready_s, now)]
    under_way = len(outdated) - len(waiting)
    return [*idle, *[name for name in waiting if name not in idle][: max(0, wanted.surge - under_way)]]


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
    rules = strategy.rolling_update if strategy else None
    share = rules.max_unavailable if rules else None
    more = rules.max_surge if rules else None
    return Wanted(
        nodes=names,
        update=update,
        rolling=strategy is None or strategy.type in (None, "RollingUpdate"),
        unavailable=max(1, rolling.resolve(1 if share is None else share, len(names), up=True)),
        surge=rolling.resolve(more or 0, len(names), up=True),
        min_ready_s=subject.spec.min_ready_seconds or 0,
    )


def status_of(subject: DaemonSet, want: Wanted, pods: Sequence[Pod], now: datetime) -> JSON:
    """The status, from the pods that stay."""
    living: dict[str | None, list[Pod]] = {}
    for pod in pods:
        if facts.active(pod):
            living.setdefault(pod.spec.node_name, []).append(pod)
    # Of two on one node the newer one counts once it serves.
    here = [
        max(living[name], key=lambda pod: (facts.ready(pod), revision(pod) == want.update))
        for name in want.nodes
        if name in living
    ]
    available = sum(facts.available(pod, want.min_ready_s, now) for pod in here)
    return {
        "desiredNumberScheduled": len(want.nodes),
        "currentNumberScheduled": len(here),
        "numberMisscheduled": sum(name not in want.nodes for name in living),
        "numberReady": sum(facts.ready(pod) for pod in here),
        "numberAvailable": available,
        "numberUnavailable": len(want.nodes) - available,
        "updatedNumberScheduled": sum(revision(pod) == want.update for pod in here),
        "observedGeneration": subject.metadata.generation,
    }


BORNE = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
"""The taints that a daemon's pods tolerate, as in Kubernetes."""


def _borne(spec: PodSpec) -> list[Toleration]:
    """The tolerations that a daemon's pod gets besides its own."""
    wanted = [Toleration(key=key, operator="Exists", effect=effect) for key, effect in BORNE]
    if spec.host_network:
        wanted.append(Toleration(key="node.kubernetes.io/network-unavailable", operator="Exists", effect="NoSchedule"))
    return [toleration for toleration in wanted if toleration not in spec.tolerations]


@reconciler(DaemonSet, reads=[Node], owns=[Owned(ControllerRevision, by_reference=True), Owned(Pod, by_reference=True)])
async def daemonset(subject: DaemonSet, ctx: Context) -> Desired:
    """Keeps one pod of a DaemonSet on every node that it is meant for."""
    held = await custody(ctx, Pod, subject.namespace, subject.spec.selector)
    revisions = await custody(ctx, ControllerRevision, subject.namespace, subject.spec.selector, fits=of(subject))
    pods = held.mine
    limit = subject.spec.revision_history_limit
    past = history(
        subject,
        revisions.mine,
        {revision(pod) for pod in pods},
        HISTORY_DEFAULT if limit is None else limit,
    )
    want = wanted(subject, await ctx.list(Node), mark(past.update))
    decided = plan(want, pods, ctx.now)
    names = free_names(subject.name, subject.metadata.uid, (pod.name for pod in pods))
    created = []
    chosen = await unused(ctx, Pod, subject.namespace, names, len(decided.create))
    for node, name in zip(decided.create, chosen, strict=True):
        pod = pod_of(subject, subject.spec.template, name, {REVISION_LABEL: mark(past.update)})
        pod.spec = msgspec.structs.replace(
            pod.spec, node_name=node, tolerations=[*pod.spec.tolerations, *_borne(pod.spec)]
        )
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
        adopt=[*held.adopt, *revisions.adopt],
        release=held.release,
        status=status_of(subject, want, staying, ctx.now),
        requeue_after_s=next_available_s(staying, want.min_ready_s, ctx.now),
    )
