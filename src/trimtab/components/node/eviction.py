"""When is it too little, and who goes first: thresholds, conditions and ranks. Pure.

    levels of signals --Guard.look--> what is met (and due), the node's conditions
    pods with what they use --ranked--> who goes first, and in which words

The rules are the kubelet's, as the Kubernetes documentation on node-pressure eviction has them: a threshold that was crossed counts
until `reclaim` more than it is available; a soft one is due after its grace; a condition stays for a transition period; pods
that use more than they asked for go first, then those of lower priority, then by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trimtab.api.core import Pod
from trimtab.api.demand import requests
from trimtab.api.quantity import whole
from trimtab.components.node.node_config import MIB, Amount, NodeConfig, Threshold

MEMORY, DISK, PIDS = "MemoryPressure", "DiskPressure", "PIDPressure"
CONDITION_OF = {
    "memory.available": MEMORY,
    "nodefs.available": DISK,
    "nodefs.inodesFree": DISK,
    "imagefs.available": DISK,
    "imagefs.inodesFree": DISK,
    "pid.available": PIDS,
}
RESOURCE_OF = {
    "memory.available": "memory",
    "nodefs.available": "ephemeral-storage",
    "nodefs.inodesFree": "inodes",
    "imagefs.available": "ephemeral-storage",
    "imagefs.inodesFree": "inodes",
    "pid.available": "pids",
}
ORDER = tuple(CONDITION_OF)
"""Which signal is looked after first when several are due: memory is the quickest to run out."""
CRITICAL = 2_000_000_000
"""Pods of this priority and above (system-cluster-critical, system-node-critical) are never evicted."""
EPHEMERAL = "ephemeral-storage"


@dataclass(frozen=True)
class Level:
    """How much of something there is, and of how much."""

    available: int
    capacity: int


@dataclass(frozen=True)
class Verdict:
    """met: crossed and not recovered; due: of these, what has to be acted on now, most urgent first."""

    met: tuple[Threshold, ...] = ()
    due: tuple[Threshold, ...] = ()
    conditions: frozenset[str] = frozenset()


@dataclass
class Guard:
    """Remembers since when thresholds are crossed, and when conditions were last seen."""

    config: NodeConfig
    since: dict[Threshold, datetime] = field(default_factory=dict)
    seen_at: dict[str, datetime] = field(default_factory=dict)

    def look(self, levels: Mapping[str, Level], now: datetime) -> Verdict:
        """What the levels mean now."""
        met = [t for t in self.config.thresholds if t.signal in levels and self.crossed(t, levels[t.signal])]
        self.since = {t: self.since.get(t, now) for t in met}
        for threshold in met:
            self.seen_at[CONDITION_OF[threshold.signal]] = now
        kept = timedelta(seconds=self.config.transition_s)
        conditions = frozenset(
            name
            for name, at in self.seen_at.items()
            if now - at < kept or any(CONDITION_OF[t.signal] == name for t in met)
        )
        due = [t for t in met if now - self.since[t] >= timedelta(seconds=t.grace_s)]
        due.sort(key=lambda t: (ORDER.index(t.signal), t.grace_s))
        return Verdict(tuple(met), tuple(due), conditions)

    def crossed(self, threshold: Threshold, level: Level) -> bool:
        """Whether there is too little: less than the threshold, and once that was so, less than what is to be freed."""
        least = threshold.least.of(level.capacity)
        if threshold in self.since:
            least += self.config.reclaim.get(threshold.signal, Amount()).of(level.capacity)
        return level.available < least


# Who goes first


@dataclass(frozen=True)
class PodUsage:
    """What a pod of this node uses now. Bytes, and numbers of inodes and processes."""

    pod: Pod
    memory: int = 0
    disk: int = 0
    inodes: int = 0
    pids: int = 0


def requested(pod: Pod, resource: str) -> int:
    """What a pod asks for of a resource."""
    return requests(pod).get(resource, 0)


def critical(pod: Pod) -> bool:
    return (pod.spec.priority or 0) >= CRITICAL


def of_node(pod: Pod) -> bool:
    """Whether a pod belongs to the node: a DaemonSet's."""
    return any(owner.kind == "DaemonSet" for owner in pod.metadata.owner_references)


def _used(signal: str) -> Callable[[PodUsage], int]:
    resource = RESOURCE_OF[signal]
    if resource == "memory":
        return lambda usage: usage.memory
    if resource == "pids":
        return lambda usage: usage.pids
    return lambda usage: usage.inodes if resource == "inodes" else usage.disk


def ranked(signal: str, usages: Sequence[PodUsage]) -> list[PodUsage]:
    """Who may be evicted for a signal, the first to go first. Pods of DaemonSets go last: they come back at once."""
    used, resource = _used(signal), RESOURCE_OF[signal]

    def rank(usage: PodUsage) -> tuple[bool, bool, int, int]:
        over = used(usage) - (requested(usage.pod, resource) if resource in ("memory", EPHEMERAL) else 0)
        exceeds = over > 0 and resource != "pids"
        return (of_node(usage.pod), not exceeds, usage.pod.spec.priority or 0, -over)

    candidates = [usage for usage in usages if not critical(usage.pod)]
    return sorted(candidates, key=lambda usage: (rank(usage), usage.pod.namespace or "", usage.pod.name))


def amount(signal: str, value: int) -> str:
    """An amount of a signal for a person."""
    if RESOURCE_OF[signal] in ("inodes", "pids"):
        return str(value)
    return f"{value // MIB}Mi" if value >= MIB else f"{value >> 10}Ki" if value else "0"


def why(threshold: Threshold, level: Level, usage: PodUsage) -> str:
    """The message of an evicted pod: what ran short, and what it used of it."""
    resource, signal = RESOURCE_OF[threshold.signal], threshold.signal
    least = amount(signal, threshold.least.of(level.capacity))
    said = f"The node was low on resource: {resource}. Threshold quantity: {least}, available: {amount(signal, level.available)}."
    used = amount(signal, _used(signal)(usage))
    if resource not in ("memory", EPHEMERAL):
        return f"{said} The pod was using {used}."
    return f"{said} The pod was using {used}, request is {amount(signal, requested(usage.pod, resource))}."


def refusal(pod: Pod, conditions: frozenset[str], quality: str) -> str | None:
    """Why a pod that has not started yet may not start on a node with these conditions; None: it may. Under memory
    pressure alone only pods that ask for no resources are refused; critical ones and those of DaemonSets never are."""
    if not conditions or critical(pod) or of_node(pod):
        return None
    if conditions == {MEMORY} and quality != "BestEffort":
        return None
    return f"The node had condition: [{' '.join(sorted(conditions))}]."


# A pod's own limits


@dataclass(frozen=True)
class LocalUsage:
    """What a pod has on the node's disk: by container (its own files and its log), and by emptyDir volume."""

    containers: Mapping[str, int]
    volumes: Mapping[str, int]


def limits_storage(pod: Pod) -> bool:
    """Whether a pod has a limit that somebody must look after."""
    return any(_limit(c) is not None for c in pod.spec.containers) or any(
        v.empty_dir is not None and v.empty_dir.size_limit for v in pod.spec.volumes
    )


def _limit(container: object) -> int | None:
    resources = getattr(container, "resources", None)
    if resources is None or EPHEMERAL not in resources.limits:
        return None
    return whole(resources.limits[EPHEMERAL])


def overuse(pod: Pod, usage: LocalUsage) -> str | None:
    """What of a pod exceeds a limit of its own, in the kubelet's words; None: nothing."""
    for volume in pod.spec.volumes:
        if volume.empty_dir is None or not volume.empty_dir.size_limit:
            continue
        if usage.volumes.get(volume.name, 0) > whole(volume.empty_dir.size_limit):
            return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{volume.empty_dir.size_limit}".'
    limits = {c.name: limit for c in pod.spec.containers if (limit := _limit(c)) is not None}
    if limits and len(limits) == len(pod.spec.containers):
        used = sum(usage.containers.values()) + sum(usage.volumes.values())
        if used > sum(limits.values()):
            total = amount("nodefs.available", sum(limits.values()))
            return f"Pod ephemeral local storage usage exceeds the total limit of containers {total}."
    for name, limit in limits.items():
        if usage.containers.get(name, 0) > limit:
            return f'Container {name} exceeded its local ephemeral storage limit "{amount("nodefs.available", limit)}".'
    return None
