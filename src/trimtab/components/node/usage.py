"""What pods and the node use right now, measured when somebody asks: the source of `metrics.k8s.io`.

    question -> counters of every container (CRI) and of the node -> rate since an earlier look -> answer

CPU is a rate, so it takes two looks. The looks of the last minute are kept: who asks regularly (an autoscaler, every 15 s)
gets the rate since its last question. Who asks once waits for `WINDOW_S_MIN` between two looks. Nobody asks: nothing runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.api import JSON
from trimtab.components.node import cgroup, machine
from trimtab.components.node.sandboxes import CONTAINER_NAME, POD_NAME, POD_NAMESPACE

WINDOW_S_MIN = 1.0
"""Counters advance in steps of milliseconds: over a second a rate is good to a percent."""
WINDOW_S_MAX = 60.0
LOOKS_KEPT = 6
NANO = 1_000_000_000


@dataclass(frozen=True)
class Reading:
    """Counters of one container: CPU time used so far, and the memory in use now that cannot simply be given back."""

    namespace: str
    pod: str
    container: str
    cpu_ns: int
    at_ns: int
    memory_bytes: int


@dataclass(frozen=True)
class NodeReading:
    """Counters of the whole node."""

    cpu_ns: int
    memory_bytes: int


@dataclass(frozen=True)
class Look:
    """All counters at one moment. `at_s`: seconds of a clock that never jumps."""

    at_s: float
    node: NodeReading
    containers: Mapping[str, Reading]


def readings(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Reading]:
    """CRI's statistics as readings by container id; a container that has none yet is left out."""
    found = {}
    for ident, item in stats.items():
        labels = item.get("attributes", {}).get("labels", {})
        cpu, memory = item.get("cpu", {}), item.get("memory", {})
        used, size = cpu.get("usage_core_nano_seconds"), memory.get("working_set_bytes")
        if used is None or size is None or POD_NAME not in labels:
            continue
        found[ident] = Reading(
            labels.get(POD_NAMESPACE, ""),
            labels[POD_NAME],
            labels.get(CONTAINER_NAME, ""),
            used.get("value", 0),
            cpu.get("timestamp", 0),
            size.get("value", 0),
        )
    return found


def report(earlier: Look, later: Look, measured_at: datetime) -> JSON:
    """What was used between two looks: CPU in nanocores, memory in bytes. Containers that were not there at both looks
    have no rate yet and are left out, and with one of them its whole pod: half a pod's usage would mislead."""
    window_s = later.at_s - earlier.at_s
    pods: dict[tuple[str, str], list[JSON]] = {}
    incomplete = set()
    for ident, now in sorted(later.containers.items(), key=lambda item: (item[1].container, item[0])):
        before = earlier.containers.get(ident)
        if before is None or now.at_ns <= before.at_ns:
            incomplete.add((now.namespace, now.pod))
            continue
        nanocores = max(0, now.cpu_ns - before.cpu_ns) * NANO // (now.at_ns - before.at_ns)
        one = {"name": now.container, "cpu": nanocores, "memory": now.memory_bytes}
        pods.setdefault((now.namespace, now.pod), []).append(one)
    return {
        "timestamp": measured_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "windowSeconds": round(window_s, 3),
        "node": {
            "cpu": round(max(0, later.node.cpu_ns - earlier.node.cpu_ns) / window_s),
            "memory": later.node.memory_bytes,
        },
        "pods": [
            {"namespace": namespace, "name": name, "containers": containers}
            for (namespace, name), containers in sorted(pods.items())
            if (namespace, name) not in incomplete
        ],
    }


class Usage:
    """Answers questions about one node's usage; several at once share a look."""

    def __init__(
        self,
        stats: Callable[[], Awaitable[Mapping[str, Mapping[str, Any]]]],
        node: Callable[[], NodeReading],
        now: Callable[[], datetime],
    ) -> None:
        self._stats = stats
        self._node = node
        self._now = now
        self._looks: list[Look] = []
        self._lock = asyncio.Lock()

    async def measure(self) -> JSON:
        """The report since the newest look that is at least `WINDOW_S_MIN` old; takes that long when there is none.

        Raises:
            RuntimeFailure: the container runtime does not answer.
        """
        async with self._lock:
            later = await self._look()
            earlier = self._before(later)
            while earlier is None:
                await asyncio.sleep(WINDOW_S_MIN)
                later = await self._look()
                earlier = self._before(later)
            return report(earlier, later, self._now())

    async def _look(self) -> Look:
        look = Look(asyncio.get_running_loop().time(), self._node(), readings(await self._stats()))
        kept = [one for one in self._looks if look.at_s - one.at_s <= WINDOW_S_MAX]
        if not kept or look.at_s - kept[-1].at_s >= WINDOW_S_MIN:
            kept.append(look)
        self._looks = kept[-LOOKS_KEPT:]
        return look

    def _before(self, later: Look) -> Look | None:
        return next((one for one in reversed(self._looks) if later.at_s - one.at_s >= WINDOW_S_MIN), None)


def machine_reading(proc: Path = Path("/proc")) -> NodeReading:
    """The whole machine: what the first node is."""
    words = (proc / "stat").read_text().splitlines()[0].split()
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in words[1:9])
    del idle, iowait, steal
    ticks = user + nice + system + irq + softirq
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    used_kb = int(fields["MemTotal"].split()[0]) - int(fields["MemAvailable"].split()[0])
    return NodeReading(ticks * (NANO // 100), used_kb * 1024)


def group_reading(groups: machine.Cgroups, name: str) -> NodeReading:
    """The cgroup of all pods: what a further node, which shares the machine, uses of it."""
    return NodeReading(cgroup.cpu_ns(groups, name), cgroup.working_set_bytes(groups, name))
