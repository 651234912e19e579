"""The service that keeps the node from running out of memory, disk, inodes and process ids.

    every 10 s, and at once when the kernel says that memory runs short (memory_alarm.py, psi.py):
        levels --eviction.Guard--> conditions of the Node (heartbeat.py), the taints follow from these
                               '-> something is due: ended pods' remains, unused images, then one pod at a time
        pods with limits on their disk space: counted, evicted when they exceed them

Looking costs four system calls; files are counted only for pods that have a limit.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trimtab.api.core import Pod
from trimtab.api.nodes import Node
from trimtab.client.errors import ApiError
from trimtab.components.node import cgroup, eviction, local_storage, machine
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.containerd import pause_image
from trimtab.components.node.decide import Eviction, grace_s
from trimtab.components.node.eviction import DISK, MEMORY, PIDS, RESOURCE_OF, Guard, Level, PodUsage, Verdict
from trimtab.components.node.image_gc import ImageCollector, needed
from trimtab.components.node.memory_alarm import MemoryAlarm
from trimtab.components.node.node_config import MIB, NodeConfig, Threshold
from trimtab.components.node.psi import Stalls
from trimtab.components.node.sandboxes import RuntimeFailure
from trimtab.runtime.ownership import Identity
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings

LOOK_EVERY_S = 10.0
"""As the kubelet's housekeeping interval."""
LOOK_AGAIN_S = 1.0
"""While something is being freed."""
LEAVING_S_MAX = 30.0
"""An evicted pod that does not end by then is not waited for any longer."""
ALARM_BYTES_MIN = 64 << 20
"""With less left, reading files alone would ring all the time."""
PULL_S_MAX = 30.0
"""A short disk waits so long for pulls before a pod has to go: one that does not fit fails by itself and leaves its room."""
PULL_SETTLES_S = 5.0
"""containerd removes what it unpacked of a failed pull a moment after it said so."""
COUNT_SHARE = 20
"""Counting files may take a twentieth of the time."""

IDENTITY = Identity("node", "pressure")
MOUNTS = Path("/proc/self/mountinfo")
log = logging.getLogger(__name__)

Levels = Callable[[], Mapping[str, Level]]


def levels_of(settings: Settings, proc: Path = Path("/proc")) -> dict[str, Level]:
    """What is left of everything on this machine and on the node's disk."""
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    kib = {name: int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "MemTotal")}
    threads = int((proc / "loadavg").read_text().split()[3].split("/")[1])
    ids = min(int((proc / "sys/kernel" / name).read_text()) for name in ("pid_max", "threads-max"))
    found = {"memory.available": Level(kib["MemAvailable"], kib["MemTotal"])}
    for name, path in (("nodefs", settings.data_path("node")), ("imagefs", settings.data_path("node", "containerd"))):
        disk = os.statvfs(path)
        found[f"{name}.available"] = Level(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
        if disk.f_files:  # btrfs has no fixed number of inodes
            found[f"{name}.inodesFree"] = Level(disk.f_favail, disk.f_files)
    return found | {"pid.available": Level(ids - threads, ids)}


@dataclass
class Pressure:
    """The node's conditions as last seen, for the heartbeat. `changed` is set whenever they change."""

    conditions: frozenset[str] = frozenset()
    texts: dict[str, str] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Counting(Protocol):
    """What pods use, counted when it is needed."""

    async def usages(self, pods: Sequence[Pod], signal: str) -> list[PodUsage]: ...
    async def overuse(self, pods: Sequence[Pod]) -> list[tuple[Pod, str]]: ...


class PodCounting:
    """On a real machine."""

    def __init__(self, agent: NodeAgent, group: str) -> None:
        self._agent = agent
        self._group = group

    async def usages(self, pods: Sequence[Pod], signal: str) -> list[PodUsage]:
        """What each pod uses of what is scarce."""
        if eviction.CONDITION_OF[signal] != DISK:
            groups = machine.cgroups()
            return [
                PodUsage(
                    pod,
                    memory=cgroup.working_set_bytes(groups, self._group, pod.metadata.uid),
                    pids=cgroup.processes(groups, self._group, pod.metadata.uid),
                )
                for pod in pods
            ]
        found = []
        for pod, (_, whole) in zip(pods, await self._local(pods), strict=True):
            found.append(PodUsage(pod, disk=whole.size_bytes, inodes=whole.inodes))
        return found

    async def overuse(self, pods: Sequence[Pod]) -> list[tuple[Pod, str]]:
        """The pods that exceed a limit of their own, and what they exceed."""
        counted = zip(pods, await self._local(pods), strict=True)
        return [(pod, said) for pod, (local, _) in counted if (said := eviction.overuse(pod, local)) is not None]

    async def _local(self, pods: Sequence[Pod]) -> list[tuple[eviction.LocalUsage, local_storage.Tree]]:
        uppers = local_storage.own_files(MOUNTS.read_text())
        running = list(self._agent.running_containers().values())
        found = []
        for pod in pods:
            own = {v.name: uppers[v.id] for v in running if v.pod_uid == pod.metadata.uid and v.id in uppers}
            found.append(await asyncio.to_thread(_count, pod, self._agent.directory(pod), own))
        return found


def _count(pod: Pod, directory: Path, own: Mapping[str, Path]) -> tuple[eviction.LocalUsage, local_storage.Tree]:
    volumes, logs = local_storage.on_disk(pod, directory)
    return local_storage.local_usage(volumes, logs, {name: local_storage.tree(path) for name, path in own.items()})


class Relief:
    """Looks, and makes room."""

    def __init__(
        self,
        process: Process,
        agent: NodeAgent,
        pressure: Pressure,
        config: NodeConfig,
        levels: Levels,
        counting: Counting,
    ) -> None:
        self._process = process
        self._agent = agent
        self._pressure = pressure
        self._config = config
        self._levels = levels
        self._counting = counting
        self._guard = Guard(config)
        self._images = ImageCollector(agent.runtime, agent.images, config.image_age_s, process.clock.now)
        self._count_at_s = 0.0
        self._waits_since_s: float | None = None
        self._pulls_since_s: float | None = None
        self._stuck: Threshold | None = None

    async def look(self) -> float:
        """One look; returns in how many seconds the next one should be.

        Raises:
            RuntimeFailure: containerd does not answer.
        """
        levels = self._levels()
        verdict = self._guard.look(levels, self._process.clock.now())
        await self._tell(verdict, levels)
        if self._waits_for_one():
            return LOOK_AGAIN_S
        if verdict.due:
            return await self._relieve(verdict.due[0])
        if self._short_of_images(levels):
            await self._free_images(lambda: self._enough_for_images(self._levels()))
        return await self._look_at_limits()

    def memory_margin_bytes(self) -> int:
        """How much memory may still be taken until a threshold is crossed; a good deal when one is crossed already."""
        level = self._levels()["memory.available"]
        margins = [
            level.available - threshold.least.of(level.capacity)
            for threshold in self._config.thresholds
            if threshold.signal == "memory.available"
        ]
        return min((margin for margin in margins if margin > 0), default=level.capacity)

    def _pods(self) -> list[Pod]:
        """This node's pods that still run, or will, and are not on their way out for want of room."""
        alive = [pod for pod in self._all_pods() if pod.status.phase not in ("Succeeded", "Failed")]
        return [pod for pod in alive if not self._agent.evicts(pod)]

    def _all_pods(self) -> list[Pod]:
        return [p for p in self._process.informer(Pod).list() if p.spec.node_name == self._agent.node.name]

    def _waits_for_one(self) -> bool:
        """Whether an evicted pod is still on its way out: who goes next follows from what that brings."""
        now_s = asyncio.get_running_loop().time()
        if not self._agent.leaving():
            self._waits_since_s = None
            return False
        self._waits_since_s = self._waits_since_s or now_s
        return now_s - self._waits_since_s < LEAVING_S_MAX

    def _waits_for_pulls(self) -> bool:
        """Whether a pull may be what fills the disk: no pod goes for an image that may not fit anyway."""
        now_s = asyncio.get_running_loop().time()
        if not self._agent.images.busy(PULL_SETTLES_S):
            self._pulls_since_s = None
            return False
        self._pulls_since_s = self._pulls_since_s or now_s
        return now_s - self._pulls_since_s < PULL_S_MAX

    # Conditions

    async def _tell(self, verdict: Verdict, levels: Mapping[str, Level]) -> None:
        pressure = self._pressure
        self._agent.pressure = verdict.conditions
        if not verdict.due:
            self._stuck = None
        if verdict.conditions == pressure.conditions:
            return
        for name in verdict.conditions - pressure.conditions:
            threshold = next(t for t in verdict.met if eviction.CONDITION_OF[t.signal] == name)
            pressure.texts[name] = _shortage(threshold, levels[threshold.signal])
            await self._say(f"NodeHas{REASON_WORDS[name][0]}", pressure.texts[name], warning=True)
        for name in pressure.conditions - verdict.conditions:
            await self._say(f"NodeHas{REASON_WORDS[name][1]}", "there is enough again")
        pressure.conditions = verdict.conditions
        pressure.changed.set()

    async def _say(self, reason: str, message: str, *, warning: bool = False) -> None:
        try:
            node = await self._process.client.get(Node, self._agent.node.name)
        except (ApiError, ConnectionError):
            node = None
        (log.warning if warning else log.info)("%s", message)
        if node is not None:
            self._process.events.say(IDENTITY, node, reason, message, warning=warning)

    # Making room

    async def _relieve(self, threshold: Threshold) -> float:
        signal = threshold.signal
        if eviction.CONDITION_OF[signal] == DISK:
            remains = [pod for pod in self._all_pods() if pod.status.phase in ("Succeeded", "Failed")]
            cleared = [pod for pod in remains if self._agent.clear(pod)]
            if cleared:
                names = ", ".join(f"{pod.namespace}/{pod.name}" for pod in cleared)
                await self._say("FreedRemains", f"removed logs and files of ended pods: {names}")
                return LOOK_AGAIN_S
            await self._free_images(lambda: not self._guard.crossed(threshold, self._levels()[signal]))
            if self._guard.crossed(threshold, self._levels()[signal]) and self._waits_for_pulls():
                return LOOK_AGAIN_S
        level = self._levels()[signal]
        if not self._guard.crossed(threshold, level):
            return LOOK_AGAIN_S
        usages = await self._counting.usages(self._pods(), signal)
        for usage in eviction.ranked(signal, usages):
            message = eviction.why(threshold, level, usage)
            soft_s = min(self._config.soft_grace_s_max, float(grace_s(usage.pod)))
            self._evict(usage.pod, message, soft_s if threshold.grace_s else 0.0)
            return LOOK_AGAIN_S
        if self._stuck != threshold:
            self._stuck = threshold
            text = f"{_shortage(threshold, level)}, and there is no pod that may be evicted"
            await self._say("EvictionFailed", text, warning=True)
        return LOOK_EVERY_S

    def _evict(self, pod: Pod, message: str, within_s: float = 0.0) -> None:
        self._process.events.say(IDENTITY, pod, "Evicted", message, warning=True)
        self._agent.evict(pod, Eviction(message, within_s))

    def _short_of_images(self, levels: Mapping[str, Level]) -> bool:
        level = levels["imagefs.available"]
        return level.available < self._config.image_high.of(level.capacity)

    def _enough_for_images(self, levels: Mapping[str, Level]) -> bool:
        level = levels["imagefs.available"]
        return level.available >= self._config.image_low.of(level.capacity)

    async def _free_images(self, enough: Callable[[], bool]) -> None:
        agent, kept = self._agent, {pause_image(self._process.settings)}
        before = self._levels()["imagefs.available"].available
        removed = await self._images.collect(
            lambda: needed(agent.all_containers(), self._all_pods(), agent.pulls(), kept), enough
        )
        if not removed:
            return
        freed = max(0, self._levels()["imagefs.available"].available - before)
        names = ", ".join(image.names[0] if image.names else image.id for image in removed)
        await self._say("FreedImages", f"removed unused images, which freed {freed // MIB}Mi: {names}")

    # Limits of single pods

    async def _look_at_limits(self) -> float:
        loop = asyncio.get_running_loop()
        limited = [pod for pod in self._pods() if eviction.limits_storage(pod)]
        if not limited or loop.time() < self._count_at_s:
            return LOOK_EVERY_S
        began = loop.time()
        for pod, message in await self._counting.overuse(limited):
            self._evict(pod, message)
        self._count_at_s = loop.time() + (loop.time() - began) * COUNT_SHARE
        return LOOK_EVERY_S


REASON_WORDS = {
    MEMORY: ("InsufficientMemory", "SufficientMemory"),
    DISK: ("DiskPressure", "NoDiskPressure"),
    PIDS: ("InsufficientPID", "SufficientPID"),
}
"""What follows `KubeletHas` in a condition's reason: with pressure, and without."""


def _shortage(threshold: Threshold, level: Level) -> str:
    signal = threshold.signal
    least, left = (eviction.amount(signal, value) for value in (threshold.least.of(level.capacity), level.available))
    return f"the node is short of {RESOURCE_OF[signal]}: {left} are available, the threshold is {least} ({signal})"


async def run_pressure(process: Process) -> None:
    """Looks until cancelled."""
    agent, pressure, config = process.adapter(NodeAgent), process.adapter(Pressure), process.adapter(NodeConfig)
    settings = process.settings
    counting = PodCounting(agent, settings.cgroup)
    relief = Relief(process, agent, pressure, config, lambda: levels_of(settings), counting)
    await process.informer(Pod).wait_synced()
    wake = asyncio.Event()
    stalls, alarm = Stalls(wake.set), MemoryAlarm(wake.set, machine.CGROUPS / "memory")
    stalls.open()
    try:
        while True:
            again_s = LOOK_EVERY_S
            if agent.connected:
                try:
                    again_s = await relief.look()
                except (RuntimeFailure, OSError) as err:
                    log.warning("the node's pressure could not be looked at, tried again: %s", err)
            alarm.arm(max(relief.memory_margin_bytes(), ALARM_BYTES_MIN))
            await _sleep(wake, again_s)
    finally:
        alarm.close()
        stalls.close()


async def _sleep(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        pass
    wake.clear()


def reported(pressure: Pressure) -> list[dict[str, Any]]:
    """The three conditions of pressure as the Node has them, without times."""
    out = []
    for name, (short, enough) in REASON_WORDS.items():
        yes = name in pressure.conditions
        text = pressure.texts.get(name, "") if yes else "there is enough"
        reason = f"KubeletHas{short if yes else enough}"
        out.append({"type": name, "status": "True" if yes else "False", "reason": reason, "message": text})
    return out
