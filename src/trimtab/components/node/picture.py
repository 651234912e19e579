"""What the agent knows of this node's containers, kept current by the runtime's events.

    ExitEvent, OomEvent -> one container changes -> its pod is woken
    Reconnected, or doubt (an answer was lost) -> everything, or one pod, is read again

What has ended stays ended: an event may be quicker than the answer to the call that started a container, and a list older
than an event. All of it can be read again from the runtime, so a new agent adopts what the old one left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from trimtab.api import Ref
from trimtab.api.core import Container, Pod, ResourceRequirements
from trimtab.components.node import resize
from trimtab.components.node.decide import (
    EVICTED,
    FALLBACK,
    IMAGE_ID,
    Block,
    Eviction,
    Seen,
    all_containers,
    container_of,
)
from trimtab.components.node.environment import Lookup
from trimtab.components.node.health import Asker, HealthWatch
from trimtab.components.node.images import Images, policy_of
from trimtab.components.node.logs import last_words
from trimtab.components.node.probes import Target
from trimtab.components.node.sandboxes import (
    ContainerRuntime,
    ContainerView,
    Event,
    ExitEvent,
    OomEvent,
    RuntimeFailure,
    Sandbox,
)
from trimtab.components.node.status import ended_how
from trimtab.components.node.trust import Trust
from trimtab.components.node.volumes import HostVolume

RELIST_RETRY_S = 0.5
EARLY_EXITS_MAX = 256
"""Ends kept of containers and sandboxes that are not known (yet): more than are ever made at once."""
LAST_WORDS_S = 0.2
"""After so long containerd has written what a process said last."""

log = logging.getLogger(__name__)


class Disk(Protocol):
    """What the agent keeps on this machine's disk about pods."""

    def pod_directory(self, uid: str) -> Path: ...
    async def prepare(self, pod: Pod, get: Lookup) -> dict[str, HostVolume]: ...
    def hosts_of_node(self) -> str:
        """The machine's own /etc/hosts."""

    async def confine(self, uid: str) -> None:
        """Limits what the processes of a pod may be together, once its cgroup stands."""

    def write_hosts(self, uid: str, text: str) -> None: ...
    def begin_container(self, uid: str, container: str, attempt: int) -> None:
        """Makes what a container needs on disk: its log directory and its termination message file."""

    def termination_message(self, uid: str, container: str, attempt: int) -> str: ...
    def forget_container(self, uid: str, container: str, attempt: int) -> None: ...
    async def release(self, uid: str) -> None:
        """Unmounts what was attached for a pod that has ended."""

    async def remove(self, uid: str) -> None:
        """Everything of a pod, its cgroup included."""

    def has(self, uid: str) -> bool:
        """Whether a pod has something on disk."""

    def uids(self) -> Sequence[str]:
        """The pods that have something on this machine: files, or a cgroup."""


@dataclass
class PodState:
    """What is known of one pod that containerd does not keep. None of it must survive a restart."""

    ref: Ref
    blocks: dict[str, Block] = field(default_factory=dict)
    pulling: set[str] = field(default_factory=set)
    stopping: set[str] = field(default_factory=set)
    ensured: set[str] = field(default_factory=set)
    """Images whose pull policy was followed for this pod."""
    torn_down: bool = False
    volumes: dict[str, HostVolume] = field(default_factory=dict)
    evicted: Eviction | None = None
    unwanted: bool = False
    """The node needs the room: nothing of the pod stays here once it has ended."""
    granted: dict[str, ResourceRequirements] = field(default_factory=dict)
    """By id of a container: what it was given since the agent runs."""
    resize_waits: resize.Waits | None = None
    exits_at: dict[str, float] = field(default_factory=dict)
    """By container name: when (loop time) the end of its process was noticed."""


@dataclass(frozen=True)
class NodeIdentity:
    """Facts about this node that pods are configured with."""

    name: str
    host_ip: str
    cpu: int
    memory_bytes: int


class Picture:
    """Sandboxes, containers, images and health of one node."""

    def __init__(
        self, runtime: ContainerRuntime, disk: Disk, ask: Asker, node: NodeIdentity, now: Callable[[], datetime]
    ) -> None:
        self.runtime = runtime
        self.node = node
        self.connected = False
        self.images = Images(runtime, now)
        self.trust: Trust | None = None
        """Who must have signed what runs here; without it nobody."""
        self.health = HealthWatch(ask, self._health_changed)
        self._disk = disk
        self._wake: Callable[[Ref, str], None] = lambda ref, why: None
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, ContainerView] = {}
        self._oom: set[str] = set()
        self._pods: dict[str, PodState] = {}
        self._early_exits: dict[str, ExitEvent] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._stale: set[str] = set()
        self._looks = 0

    def wakes(self, wake: Callable[[Ref, str], None]) -> None:
        """Sets what is called with a pod's reference when something outside of the API changed for it."""
        self._wake = wake

    def sandboxes_of(self, uid: str) -> tuple[Sandbox, ...]:
        found = [s for s in self._sandboxes.values() if s.uid == uid]
        return tuple(sorted(found, key=lambda s: (s.attempt, s.created_at), reverse=True))

    def containers_of(self, uid: str) -> dict[str, tuple[ContainerView, ...]]:
        out: dict[str, list[ContainerView]] = {}
        for view in self._containers.values():
            if view.pod_uid == uid:
                out.setdefault(view.name, []).append(view)
        return {
            name: tuple(sorted(views, key=lambda c: (c.attempt, c.created_at), reverse=True))
            for name, views in out.items()
        }

    def seen(self, pod: Pod) -> Seen:
        """All that is known about `pod`."""
        state = self._state(pod)
        images = {
            c.image
            for c in all_containers(pod)
            if (image := self.images.present(c.image)) is not None
            and (policy_of(c) != "Always" or c.image in state.ensured)
            and (self.trust is None or self.trust.admits(c.image, image))
        }
        containers = self.containers_of(pod.metadata.uid)
        idents = {view.id for views in containers.values() for view in views}
        return Seen(
            sandboxes=self.sandboxes_of(pod.metadata.uid),
            containers=containers,
            health={ident: health for ident, health in self.health.verdicts().items() if ident in idents},
            images=frozenset(images),
            pulling=frozenset(state.pulling),
            stopping=frozenset(state.stopping),
            blocks=dict(state.blocks),
            torn_down=state.torn_down,
            evicted=state.evicted,
            unwanted=state.unwanted,
            granted=self._granted(pod, containers),
            resize_waits=state.resize_waits,
            remains=(state.unwanted or state.evicted is not None or pod.status.reason == EVICTED)
            and self.remains_of(pod.metadata.uid),
        )

    def _granted(
        self, pod: Pod, containers: Mapping[str, tuple[ContainerView, ...]]
    ) -> dict[str, ResourceRequirements]:
        known = self._state(pod).granted
        running = [view for views in containers.values() for view in views if view.state == "running"]
        found = {view.id: known.get(view.id) or resize.granted(pod, view) for view in running}
        return {ident: resources for ident, resources in found.items() if resources is not None}

    def remains_of(self, uid: str) -> bool:
        """Whether something of a pod is on this node, be it files alone."""
        return bool(self.sandboxes_of(uid) or self.containers_of(uid) or self._disk.has(uid))

    def _state(self, pod: Pod) -> PodState:
        state = self._pods.get(pod.metadata.uid)
        if state is None:
            state = self._pods[pod.metadata.uid] = PodState(pod.ref)
        return state

    def log_path(self, view: ContainerView) -> Path:
        """Where containerd writes the log of a container."""
        return self._disk.pod_directory(view.pod_uid) / "logs" / view.name / f"{view.attempt}.log"

    def ended(self, container_id: str) -> asyncio.Event:
        """Set once the container has ended (or is gone)."""
        view = self._containers.get(container_id)
        if view is None or view.state == "exited":
            over = asyncio.Event()
            over.set()
            return over
        return self._ends.setdefault(container_id, asyncio.Event())

    def _note_end(self, container_id: str) -> None:
        event = self._ends.pop(container_id, None)
        if event is not None:
            event.set()

    # Events of the runtime

    async def take(self, event: Event) -> None:
        """Makes what is known follow one event."""
        match event:
            case ExitEvent():
                self._exited(event)
            case OomEvent():
                self._oom.add(event.container_id)
            case _:
                self.connected = False
                self.images.forget()
                await self._look_until_seen()
                self.connected = True
                for state in list(self._pods.values()):
                    self._wake(state.ref, "containerd answers")

    def _exited(self, event: ExitEvent) -> None:
        sandbox = self._sandboxes.get(event.container_id)
        if sandbox is not None:
            self._sandboxes[sandbox.id] = replace(sandbox, ready=False, ip="")
            self._wake_uid(sandbox.uid, "the pod's sandbox ended")
            return
        view = self._containers.get(event.container_id)
        if view is None:
            # It ended before the call that made it returned.
            self._early_exits[event.container_id] = event
            if len(self._early_exits) > EARLY_EXITS_MAX:
                del self._early_exits[next(iter(self._early_exits))]
            return
        if view.state == "exited":
            return
        self._ended(view, event)

    def _ended(self, view: ContainerView, event: ExitEvent) -> None:
        reason = "OOMKilled" if view.id in self._oom else "Completed" if event.exit_code == 0 else "Error"
        self._oom.discard(view.id)
        self.health.forget(view.id)
        self._note_end(view.id)
        self._containers[view.id] = ended = replace(
            view,
            state="exited",
            exit_code=event.exit_code,
            started_at=view.started_at or event.exited_at,
            finished_at=event.exited_at,
            reason=reason,
            message=self._said(view, event.exit_code),
        )
        if event.exit_code and not ended.message and view.annotations.get(FALLBACK):
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self._listen_again, view.id)
        state = self._pods.get(view.pod_uid)
        if state is not None:
            state.exits_at[view.name] = asyncio.get_running_loop().time()
        self._wake_uid(view.pod_uid, f"container {view.name} ended ({ended_how(ended)})")

    async def _look_until_seen(self) -> None:
        """Reads everything from the runtime, however long it takes to answer."""
        while True:
            try:
                sandboxes = await self.runtime.sandboxes()
                self._look(sandboxes, await self.runtime.containers())
                return
            except RuntimeFailure as err:
                log.info("containerd does not answer yet: %s", err)
            await asyncio.sleep(RELIST_RETRY_S)

    async def freshen(self, uid: str) -> None:
        """Reads a pod's sandboxes and containers from the runtime, if what is known of them may be wrong.

        Raises:
            RuntimeFailure: it does not answer.
        """
        while uid in self._stale:
            looks = self._looks
            sandboxes = await self.runtime.sandboxes(uid)
            containers = await self.runtime.containers(uid)
            if looks != self._looks:
                continue  # events may have been missed in between
            self._stale.discard(uid)
            others = [s for s in self._sandboxes.values() if s.uid != uid]
            other_containers = [c for c in self._containers.values() if c.pod_uid != uid]
            self._take_in([*others, *sandboxes], [*other_containers, *containers])

    def _look(self, sandboxes: Sequence[Sandbox], containers: Sequence[ContainerView]) -> None:
        self._looks += 1
        self._take_in(sandboxes, containers)

    def _take_in(self, sandboxes: Sequence[Sandbox], containers: Sequence[ContainerView]) -> None:
        """Replaces what is known. What has ended stays ended: an event may have been quicker than the list."""
        dead = {s.id for s in self._sandboxes.values() if not s.ready} | self._early_exits.keys()
        self._sandboxes = {s.id: replace(s, ready=False, ip="") if s.id in dead else s for s in sandboxes}
        known = self._containers
        self._containers = {c.id: self._merged(known.get(c.id), c) for c in containers}
        for ident in self._early_exits.keys() & self._containers.keys():
            event = self._early_exits.pop(ident)
            if self._containers[ident].state == "running":
                self._ended(self._containers[ident], event)
        for ident in self.health.verdicts():
            view = self._containers.get(ident)
            if view is None or view.state != "running":
                self.health.forget(ident)
        for ident in list(self._ends):
            view = self._containers.get(ident)
            if view is None or view.state == "exited":
                self._note_end(ident)

    def _merged(self, known: ContainerView | None, fresh: ContainerView) -> ContainerView:
        """What the runtime says, with what only we know."""
        if known is not None and known.state == "exited":
            if fresh.state == "running":
                return known
            fresh = replace(fresh, message=known.message, reason=known.reason or fresh.reason)
        else:
            fresh = replace(fresh, message=self._message(fresh))
        return replace(fresh, image_ref=fresh.annotations.get(IMAGE_ID) or fresh.image_ref)

    def _message(self, view: ContainerView) -> str:
        if view.state != "exited":
            return ""
        return self._said(view, view.exit_code) or view.message

    def _said(self, view: ContainerView, exit_code: int) -> str:
        """What a container that ended left as its message: what it wrote for that, or else the end of its log."""
        message = self._disk.termination_message(view.pod_uid, view.name, view.attempt)
        if message or not exit_code or view.annotations.get(FALLBACK) != "FallbackToLogsOnError":
            return message
        return last_words(self.log_path(view))

    def _listen_again(self, container_id: str) -> None:
        """The end of a log may be written a moment after the process is gone."""
        view = self._containers.get(container_id)
        if view is None or view.message or not (message := self._said(view, view.exit_code)):
            return
        self._containers[container_id] = replace(view, message=message)
        self._wake_uid(view.pod_uid, f"container {view.name} left its last words")

    def _health_changed(self, container_id: str) -> None:
        view = self._containers.get(container_id)
        if view is not None:
            self._wake_uid(view.pod_uid, f"a probe of container {view.name} has another result")

    def _wake_uid(self, uid: str, why: str) -> None:
        state = self._pods.get(uid)
        if state is not None:
            self._wake(state.ref, why)

    # Pods that the API has, and pods that it has no more

    def adopt(self, pod: Pod) -> None:
        """Begins to probe the pod's running containers that nobody probes yet (after a restart of the agent)."""
        ready = {s.container_id.removeprefix("containerd://") for s in pod.status.container_statuses if s.ready}
        for name, views in self.containers_of(pod.metadata.uid).items():
            view = views[0]
            container = container_of(pod, name)
            if view.state == "running" and container is not None and self.health.verdict(view.id) is None:
                state = self._state(pod)
                if view.id not in state.stopping:
                    self.health.watch(self._target(pod, container, view), fresh=False, was_ready=view.id in ready)

    def known_uids(self) -> set[str]:
        """Every pod that something on this node belongs to."""
        found = {s.uid for s in self._sandboxes.values()} | {c.pod_uid for c in self._containers.values()}
        return found | set(self._disk.uids()) | set(self._pods)

    def forget(self, uid: str) -> None:
        """The pod's object is gone and so is everything of it here."""
        self._pods.pop(uid, None)

    def _target(self, pod: Pod, container: Container, view: ContainerView) -> Target:
        sandbox = self._sandboxes.get(view.sandbox_id)
        ip = self.node.host_ip if pod.spec.host_network else sandbox.ip if sandbox is not None else ""
        return Target(container, view.id, ip)

    def all_containers(self) -> Sequence[ContainerView]:
        """Ended ones, too."""
        return list(self._containers.values())

    def pulls(self) -> set[str]:
        """The images that are being pulled."""
        return {image for state in self._pods.values() for image in state.pulling}

    def running_containers(self) -> Mapping[str, ContainerView]:
        return {ident: view for ident, view in self._containers.items() if view.state == "running"}
