"""Does a pod fit on a node, and if not, why: pure predicates in the words of Kubernetes' scheduler.

Each reason names what would have to change. Sources: the scheduler's plugins NodeAffinity, TaintToleration,
NodeResourcesFit, NodePorts, VolumeBinding, NodeUnschedulable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.api.core import Container, Node, PersistentVolume, Pod, Taint, Toleration
from trimtab.api.quantity import milli, whole
from trimtab.components.workloads import conditions
from trimtab.components.workloads import pods as facts

HOSTNAME_LABEL = "kubernetes.io/hostname"
PODS_DEFAULT = 110
"""Pods per node where the node does not say: the kubelet's default."""


@dataclass(frozen=True)
class Amount:
    """What a pod asks for or a node has left: cpu in thousandths of a core, memory in bytes, pods."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    pods: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpu_milli + other.cpu_milli, self.memory_bytes + other.memory_bytes, self.pods + other.pods)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.cpu_milli - other.cpu_milli, self.memory_bytes - other.memory_bytes, self.pods - other.pods)


def requests(pod: Pod) -> Amount:
    """What the pod asks for: its containers together, or its hungriest init container if that is more."""
    running = Amount(pods=1)
    for container in pod.spec.containers:
        running += _container(container)
    sidecars = Amount()
    peak = Amount()
    for container in pod.spec.init_containers:
        if container.restart_policy == "Always":
            sidecars += _container(container)
            running += _container(container)
            continue
        during = _container(container) + sidecars
        peak = Amount(max(peak.cpu_milli, during.cpu_milli), max(peak.memory_bytes, during.memory_bytes))
    return Amount(max(running.cpu_milli, peak.cpu_milli), max(running.memory_bytes, peak.memory_bytes), running.pods)


def _container(container: Container) -> Amount:
    resources = container.resources
    if resources is None:
        return Amount()
    asked = {**resources.limits, **resources.requests}
    return Amount(milli(asked.get("cpu", 0)), whole(asked.get("memory", 0)))


def allocatable(node: Node) -> Amount:
    has = node.status.allocatable or node.status.capacity
    return Amount(milli(has.get("cpu", 0)), whole(has.get("memory", 0)), whole(has.get("pods", PODS_DEFAULT)))


def free(node: Node, pods: Sequence[Pod]) -> Amount:
    """What the node has left beside the pods that run on it."""
    left = allocatable(node)
    for pod in pods:
        if pod.spec.node_name == node.name and not facts.finished(pod):
            left -= requests(pod)
    return left


def labels_of(node: Node) -> Mapping[str, str]:
    return {HOSTNAME_LABEL: node.name, **node.metadata.labels}


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """True when the toleration covers the taint; an empty key with `Exists` covers all."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and (toleration.value or "") == (taint.value or "")


def reaches(volume: PersistentVolume, node: Node) -> bool:
    """True when the volume's node affinity lets the node use it."""
    required = volume.spec.node_affinity.get("required")
    if not required:
        return True
    terms = required.get("nodeSelectorTerms") or []
    return any(_term(term, labels_of(node), node.name) for term in terms)


def _term(term: Mapping[str, Any], labels: Mapping[str, str], name: str) -> bool:
    fields = {"metadata.name": name}
    return all(_expression(e, labels) for e in term.get("matchExpressions") or []) and all(
        _expression(e, fields) for e in term.get("matchFields") or []
    )


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.get("key", ""))
    values = expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False


def obstacles(pod: Pod, node: Node, pods: Sequence[Pod], volumes: Sequence[PersistentVolume]) -> list[str]:
    """Why the pod cannot run on the node, most fundamental first; empty when it can. `pods` are all pods, `volumes` those
    that the pod's claims are bound to."""
    return [
        *_readiness(pod, node),
        *_choice(pod, node),
        *_resources(pod, node, pods),
        *_ports(pod, node, pods),
        *(
            f"node(s) had volume node affinity conflict (volume {volume.name} is on another node)"
            for volume in volumes
            if not reaches(volume, node)
        ),
    ]


def _readiness(pod: Pod, node: Node) -> list[str]:
    out = []
    ready = conditions.find(node.status.conditions, "Ready")
    if ready is None or ready.status != "True":
        why = f": {ready.message}" if ready and ready.message else ""
        out.append(f"node(s) were not ready{why}")
    if node.spec.unschedulable and not _tolerated(
        pod, Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
    ):
        out.append("node(s) were unschedulable")
    for taint in node.spec.taints:
        if taint.effect in ("NoSchedule", "NoExecute") and not _tolerated(pod, taint):
            out.append(f"node(s) had untolerated taint {{{taint.key}: {taint.value or ''}}}")
    return out


def _tolerated(pod: Pod, taint: Taint) -> bool:
    return any(tolerates(toleration, taint) for toleration in pod.spec.tolerations)


def belongs(pod: Pod, node: Node) -> bool:
    """True when the pod's node selector and tolerations admit the node, whatever its state (for DaemonSets)."""
    return not _choice(pod, node) and all(
        taint.key.startswith(_STATE_TAINTS) or _tolerated(pod, taint)
        for taint in node.spec.taints
        if taint.effect in ("NoSchedule", "NoExecute")
    )


_STATE_TAINTS = "node.kubernetes.io/"
"""Taints that say how a node is, not whom it wants; the pods of DaemonSets tolerate them."""


def _choice(pod: Pod, node: Node) -> list[str]:
    labels = labels_of(node)
    missing = sorted(f"{k}={v}" for k, v in pod.spec.node_selector.items() if labels.get(k) != v)
    if not missing:
        return []
    return [f"node(s) didn't match Pod's node affinity/selector ({', '.join(missing)})"]


def _resources(pod: Pod, node: Node, pods: Sequence[Pod]) -> list[str]:
    left, asked = free(node, [other for other in pods if other.metadata.uid != pod.metadata.uid]), requests(pod)
    out = []
    if asked.pods > left.pods:
        out.append("Too many pods")
    if asked.cpu_milli > max(0, left.cpu_milli):
        out.append(f"Insufficient cpu (requests {asked.cpu_milli}m, {max(0, left.cpu_milli)}m free)")
    if asked.memory_bytes > max(0, left.memory_bytes):
        mebibyte = 2**20
        wanted, spare = -(-asked.memory_bytes // mebibyte), max(0, left.memory_bytes) // mebibyte
        out.append(f"Insufficient memory (requests {wanted}Mi, {spare}Mi free)")
    return out


def _ports(pod: Pod, node: Node, pods: Sequence[Pod]) -> list[str]:
    wanted = host_ports(pod)
    if not wanted:
        return []
    for other in pods:
        if other.spec.node_name != node.name or facts.finished(other) or other.metadata.uid == pod.metadata.uid:
            continue
        clash = wanted & host_ports(other)
        if clash:
            number = min(clash)[0]
            return [
                "node(s) didn't have free ports for the requested pod ports "
                f"({number} is taken by pod {other.namespace}/{other.name})"
            ]
    return []


def host_ports(pod: Pod) -> set[tuple[int, str]]:
    """The ports of the node that the pod takes, with their protocols."""
    out = set()
    for container in pod.spec.containers:
        for port in container.ports:
            number = port.host_port or (port.container_port if pod.spec.host_network else None)
            if number:
                out.add((number, port.protocol))
    return out


def explain(obstacles_by_node: Mapping[str, Sequence[str]]) -> str:
    """One line for the condition: `0/1 nodes are available: 1 Insufficient cpu (...).`"""
    if not obstacles_by_node:
        return "no nodes available to schedule pods: is the node agent running?"
    counts = Counter(reason for reasons in obstacles_by_node.values() for reason in dict.fromkeys(reasons))
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"0/{len(obstacles_by_node)} nodes are available: {listed}."
