"""Does a pod fit on a node, and if not, why: pure predicates with the meaning of Kubernetes' scheduler.

`Picture` is the nodes with what is on them, taken once for a pod; `obstacles` asks each predicate about one node. Each
reason names what would have to change. Sources: the scheduler's plugins NodeAffinity, TaintToleration, NodeResourcesFit,
NodePorts, VolumeBinding, NodeUnschedulable; those that look at other nodes too are in `crowd.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from trimtab.api import demand
from trimtab.api.core import Container, Pod, Toleration
from trimtab.api.demand import Amounts
from trimtab.api.nodes import Node, Taint
from trimtab.api.placement import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from trimtab.api.volumes import PersistentVolume
from trimtab.components.workloads import conditions
from trimtab.components.workloads import pods as facts

HOSTNAME_LABEL = "kubernetes.io/hostname"
MEMORY_PRESSURE = "node.kubernetes.io/memory-pressure"
PODS_DEFAULT = 110
"""Pods per node where the node does not say: the kubelet's default."""
MESSAGE_LENGTH_MAX = 1000
"""Of the line that goes through the nodes; a condition is read by people."""


def requests(pod: Pod) -> Amounts:
    """What the pod takes of a node: what it asks for, and its place."""
    return {"pods": 1, **demand.requests(pod)}


def allocatable(node: Node) -> Amounts:
    return {"pods": PODS_DEFAULT, **demand.amounts(node.status.allocatable or node.status.capacity)}


@dataclass
class Room:
    """A node, the pods that take room on it, and what they take together."""

    node: Node
    has: Amounts
    taken: Amounts = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)

    def add(self, pod: Pod) -> None:
        self.pods.append(pod)
        demand.add(self.taken, requests(pod))

    def free(self, name: str) -> int:
        return max(0, self.has.get(name, 0) - self.taken.get(name, 0))


@dataclass
class Picture:
    """The nodes by name with what is on them, and the labels of the namespaces."""

    rooms: dict[str, Room]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, nodes: Iterable[Node], pods: Iterable[Pod], namespaces: Mapping[str, Mapping[str, str]] | None = None
    ) -> Picture:
        """The picture of `pods` that have a node and are not finished."""
        rooms = {node.name: Room(node, allocatable(node)) for node in nodes}
        for pod in pods:
            room = rooms.get(pod.spec.node_name or "")
            if room is not None and not facts.finished(pod):
                room.add(pod)
        return cls(rooms, namespaces or {})

    def with_only(self, node: str, pods: Iterable[Pod]) -> Picture:
        """The same picture with just `pods` on one node."""
        before = self.rooms[node]
        room = Room(before.node, before.has)
        for pod in pods:
            room.add(pod)
        return Picture({**self.rooms, node: room}, self.namespaces)


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
    return not required or selected(msgspec.convert(required, NodeSelector), node)


def selected(selector: NodeSelector, node: Node) -> bool:
    """True when one of the terms holds for the node."""
    return any(term_holds(term, node) for term in selector.node_selector_terms)


def term_holds(term: NodeSelectorTerm, node: Node) -> bool:
    """True when all of a term's expressions hold; a term without any holds nowhere."""
    if not term.match_expressions and not term.match_fields:
        return False
    labels, fields = labels_of(node), {"metadata.name": node.name}
    return all(_holds(e, labels) for e in term.match_expressions) and all(_holds(e, fields) for e in term.match_fields)


def _holds(expression: NodeSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression.key), expression.values
    match expression.operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compared(value, values, expression.operator)
        case _:
            return False


def _compared(value: str | None, values: Sequence[str], operator: str) -> bool:
    try:
        ours, theirs = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return ours > theirs if operator == "Gt" else ours < theirs


def obstacles(pod: Pod, room: Room, volumes: Sequence[PersistentVolume]) -> list[str]:
    """Why the pod cannot run on the node, as far as the node itself says; most fundamental first. `volumes` are those
    that the pod's claims are bound to."""
    node = room.node
    return [
        *_readiness(pod, node),
        *_choice(pod, node),
        *_resources(pod, room),
        *_ports(pod, room),
        *(f"volume {volume.name} is on another node" for volume in volumes if not reaches(volume, node)),
    ]


def _readiness(pod: Pod, node: Node) -> list[str]:
    out = []
    ready = conditions.find(node.status.conditions, "Ready")
    if ready is None or ready.status != "True":
        out.append(f"not ready: {ready.message}" if ready and ready.message else "not ready")
    cordon = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
    if node.spec.unschedulable and not tolerated(pod, cordon):
        out.append("cordoned (unschedulable)")
    for taint in node.spec.taints:
        if taint.effect in ("NoSchedule", "NoExecute") and taint.key != cordon.key and not tolerated(pod, taint):
            value = f"={taint.value}" if taint.value else ""
            out.append(f"taint {taint.key}{value}:{taint.effect} not tolerated")
    return out


def tolerated(pod: Pod, taint: Taint) -> bool:
    """Whether a pod bears a taint. That of a node short of memory is borne by every pod that says what it needs."""
    if taint.key == MEMORY_PRESSURE and any(_asks(container) for container in pod.spec.containers):
        return True
    return any(tolerates(toleration, taint) for toleration in pod.spec.tolerations)


def _asks(container: Container) -> bool:
    """Whether a container has requests or limits of cpu or memory, so that its pod is not BestEffort."""
    found = container.resources
    return found is not None and bool({"cpu", "memory"} & (found.requests.keys() | found.limits.keys()))


def belongs(pod: Pod, node: Node) -> bool:
    """True when the pod's node selector, affinity and tolerations admit the node, whatever its state (for DaemonSets)."""
    return not _choice(pod, node) and all(
        taint.key.startswith(_STATE_TAINTS) or tolerated(pod, taint)
        for taint in node.spec.taints
        if taint.effect in ("NoSchedule", "NoExecute")
    )


_STATE_TAINTS = "node.kubernetes.io/"
"""Taints that say how a node is, not whom it wants; the pods of DaemonSets tolerate them."""


def _choice(pod: Pod, node: Node) -> list[str]:
    labels = labels_of(node)
    missing = sorted(f"{k}={v}" for k, v in pod.spec.node_selector.items() if labels.get(k) != v)
    out = [f"lacks the label {', '.join(missing)} of nodeSelector"] if missing else []
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    if affinity and affinity.required and not selected(affinity.required, node):
        out.append("does not match the required node affinity")
    return out


def chosen(pod: Pod, node: Node) -> bool:
    """True when the pod's node selector and required node affinity admit the node."""
    return not _choice(pod, node)


def _resources(pod: Pod, room: Room) -> list[str]:
    out = []
    for name, asked in sorted(requests(pod).items()):
        if not asked or asked <= room.free(name):
            continue
        has = room.has.get(name, 0)
        if name == "pods":
            out.append(f"all {has} pods that it takes are there")
        else:
            free = amount_text(name, room.free(name))
            out.append(f"{free} of {amount_text(name, has)} {name} free, asks {amount_text(name, asked)}")
    return out


def amount_text(name: str, amount: int) -> str:
    """An amount for a person: cores, or bytes in binary units (free rounded down to the unit)."""
    if name == "cpu":
        return f"{amount / 1000:g}"
    if name == "memory" or name == "ephemeral-storage":
        for unit, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if amount >= size:
                return f"{amount / size:.4g}{unit}"
    return str(amount)


def _ports(pod: Pod, room: Room) -> list[str]:
    wanted = host_ports(pod)
    if not wanted:
        return []
    for other in room.pods:
        held = host_ports(other)
        for number, protocol, host in sorted(wanted):
            if any((n, p) == (number, protocol) and (h == host or EVERY_ADDRESS in (h, host)) for n, p, h in held):
                return [f"port {number}/{protocol} is taken by pod {other.namespace}/{other.name}"]
    return []


EVERY_ADDRESS = "0.0.0.0"


def host_ports(pod: Pod) -> set[tuple[int, str, str]]:
    """The ports of the node that the pod takes, with their protocols and the address of the node."""
    out = set()
    sidecars = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    for container in (*pod.spec.containers, *sidecars):
        for port in container.ports:
            number = port.host_port or (port.container_port if pod.spec.host_network else None)
            if number:
                out.add((number, port.protocol, port.host_ip or EVERY_ADDRESS))
    return out


def explain(obstacles_by_node: Mapping[str, Sequence[str]]) -> str:
    """One line for the condition, node by node: `0/1 nodes are available: node a: 2 of 4 cpu free, asks 3.`"""
    if not obstacles_by_node:
        return "no nodes available to schedule pods: is the node agent running?"
    text = f"0/{len(obstacles_by_node)} nodes are available: "
    parts = [f"node {name}: {', '.join(reasons)}" for name, reasons in sorted(obstacles_by_node.items())]
    for said, part in enumerate(parts):
        if said and len(text) + len(part) > MESSAGE_LENGTH_MAX:
            return f"{text}; and {len(parts) - said} more nodes."
        text += ("; " if said else "") + part[:MESSAGE_LENGTH_MAX]
    return text + "."
