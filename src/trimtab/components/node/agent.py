"""The node agent's hands and eyes: what is known of every pod's containers, and how one planned action is carried out.

    containerd's events -> ContainerViews (memory) -> Seen -> decide() -> perform() -> containerd
                      \\-> the pod is woken

Nothing here decides; `decide.py` does. What takes long (pulls, stops) runs in the background and wakes the pod when it is
done. All that is remembered can be read again from containerd, so a new agent adopts what the old one left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from trimtab.api import Ref
from trimtab.api.core import Container, Pod
from trimtab.components.node import backoff
from trimtab.components.node.configs import Made, NodeFacts, container_config, hosts_file, sandbox_config
from trimtab.components.node.decide import (
    FALLBACK,
    Action,
    Block,
    Finish,
    Health,
    PullImage,
    RemoveContainer,
    RemoveSandbox,
    RunSandbox,
    Seen,
    StartContainer,
    StopContainer,
    StopSandbox,
    TearDown,
)
from trimtab.components.node.environment import ConfigProblem, Facts, Lookup, environment
from trimtab.components.node.health import HealthWatch
from trimtab.components.node.images import Images, PullFailure, login, policy_of
from trimtab.components.node.logs import last_words
from trimtab.components.node.probes import Answer, Handler, Target
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
from trimtab.components.node.volumes import HostVolume, VolumeProblem

KILL_GRACE_S = 2.0
"""What orphans get between SIGTERM and SIGKILL: nobody waits for them."""
RELIST_RETRY_S = 0.5
EARLY_EXITS_MAX = 256
"""Ends kept of containers and sandboxes that are not known (yet): more than are ever made at once."""

log = logging.getLogger(__name__)

Say = Callable[..., None]
"""`Context.event`."""


LAST_WORDS_S = 0.2
"""After so long containerd has written what a process said last."""


class Disk(Protocol):
    """What the agent keeps on this machine's disk about pods."""

    def pod_directory(self, uid: str) -> Path: ...
    async def prepare(self, pod: Pod, get: Lookup) -> dict[str, HostVolume]: ...
    def write_hosts(self, uid: str, text: str) -> None: ...
    def begin_container(self, uid: str, container: str, attempt: int) -> None:
        """Makes what a container needs on disk: its log directory and its termination message file."""

    def termination_message(self, uid: str, container: str, attempt: int) -> str: ...
    def forget_container(self, uid: str, container: str, attempt: int) -> None: ...
    async def remove(self, uid: str) -> None:
        """Everything of a pod, its cgroup included."""

    def uids(self) -> Sequence[str]:
        """The pods that have something on disk."""


class Asker(Protocol):
    async def __call__(self, handler: Handler, target: Target, timeout_s: float) -> Answer: ...


@dataclass
class PodState:
    """What is known of one pod that containerd does not keep. None of it must survive a restart."""

    ref: Ref
    blocks: dict[str, Block] = field(default_factory=dict)
    pulling: set[str] = field(default_factory=set)
    stopping: set[str] = field(default_factory=set)
    torn_down: bool = False
    volumes: dict[str, HostVolume] = field(default_factory=dict)
    exits_at: dict[str, float] = field(default_factory=dict)
    """By container name: when (loop time) the end of its process was noticed."""


@dataclass(frozen=True)
class NodeIdentity:
    """Facts about this node that pods are configured with."""

    name: str
    host_ip: str
    cpu: int
    memory_bytes: int


class NodeAgent:
    """One node's pods. `wake` and `dead` are set by the service that runs it."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        disk: Disk,
        ask: Asker,
        node: NodeIdentity,
        facts: Callable[[str], NodeFacts],
        now: Callable[[], datetime],
    ) -> None:
        self.runtime = runtime
        self.node = node
        self.connected = False
        self.images = Images(runtime)
        self.health = HealthWatch(ask, self._health_changed)
        self._disk = disk
        self._ask = ask
        self._facts = facts
        self._now = now
        self._wake: Callable[[Ref, str], None] = lambda ref, why: None
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, ContainerView] = {}
        self._oom: set[str] = set()
        self._pods: dict[str, PodState] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._early_exits: dict[str, ExitEvent] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._stale: set[str] = set()
        self._looks = 0

    # What is known

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
            for c in (*pod.spec.containers, *pod.spec.init_containers)
            if self.images.present(c.image) is not None
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
        )

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

    async def run(self) -> None:
        """Follows the runtime's events until cancelled."""
        try:
            async for event in self.runtime.events():
                await self.take(event)
        finally:
            await self.close()

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
            return replace(fresh, message=known.message, reason=known.reason or fresh.reason)
        return replace(fresh, message=self._message(fresh))

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
            self._wake_uid(view.pod_uid, f"the probes of container {view.name} say something new")

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
            container = _container(pod, name)
            if view.state == "running" and container is not None and self.health.verdict(view.id) is None:
                state = self._state(pod)
                if view.id not in state.stopping:
                    self.health.watch(self._target(pod, container, view), fresh=False, was_ready=view.id in ready)

    def known_uids(self) -> set[str]:
        """Every pod that something on this node belongs to."""
        found = {s.uid for s in self._sandboxes.values()} | {c.pod_uid for c in self._containers.values()}
        return found | set(self._disk.uids()) | set(self._pods)

    async def remove_orphan(self, uid: str) -> None:
        """Stops and removes whatever is left of a pod that the API does not know (any more).

        Raises:
            RuntimeFailure: containerd could not do it; try again.
        """
        alive = [c for views in self.containers_of(uid).values() for c in views if c.state in ("running", "unknown")]
        await asyncio.gather(*(self.runtime.stop_container(view.id, KILL_GRACE_S) for view in alive))
        await self._tear_down(uid)
        self._pods.pop(uid, None)

    # Actions

    async def refresh(self, pod: Pod, get: Lookup, say: Say) -> None:
        """Brings the volumes of a running pod up to date with their ConfigMaps and Secrets."""
        if not pod.spec.volumes:
            return
        state = self._state(pod)
        try:
            state.volumes = await self._disk.prepare(pod, get)
        except VolumeProblem as err:
            say("FailedMount", str(err), warning=True)

    async def perform(self, pod: Pod, action: Action, get: Lookup, say: Say) -> None:
        """Carries out one action. What fails is remembered as a block with a time to try again, and said."""
        match action:
            case RunSandbox(attempt=attempt):
                await self._run_sandbox(pod, attempt, get, say)
            case PullImage(container=container):
                await self._begin_pull(pod, container, get, say)
            case StartContainer():
                await self._start(pod, action, get, say)
            case StopContainer():
                self._begin_stop(pod, action, say)
            case StopSandbox(id=ident):
                await self._stop_sandbox(ident)
            case RemoveSandbox(id=ident):
                await self._remove_sandbox(ident)
            case RemoveContainer(id=ident):
                await self._remove_container(ident)
            case TearDown():
                await self._tear_down_for(pod, say)
            case Finish():
                raise AssertionError("the reconciler itself finishes a pod")

    def _block(self, pod: Pod, name: str, reason: str, message: str, say: Say) -> None:
        state = self._state(pod)
        before = state.blocks.get(name)
        failures = before.failures + 1 if before is not None else 1
        retry_at = self._now() + timedelta(seconds=backoff.retry_s(failures))
        shown = "ImagePullBackOff" if reason == "ErrImagePull" and failures > 1 else reason
        state.blocks[name] = Block(shown, message, retry_at, failures)
        say(reason if name == "" else "Failed", message, warning=True)

    async def _run_sandbox(self, pod: Pod, attempt: int, get: Lookup, say: Say) -> None:
        state = self._state(pod)
        uid = pod.metadata.uid
        try:
            state.volumes = await self._disk.prepare(pod, get)
        except VolumeProblem as err:
            self._block(pod, "", "FailedMount", str(err), say)
            return
        config = sandbox_config(pod, attempt, self._disk.pod_directory(uid), self._facts(uid))
        looks = self._looks
        try:
            ident = await self.runtime.run_sandbox(config)
            ip = self.node.host_ip if pod.spec.host_network else await self.runtime.sandbox_ip(ident)
        except RuntimeFailure as err:
            self._stale.add(uid)  # a sandbox whose making was cut off may exist all the same
            self._block(pod, "", "FailedCreatePodSandBox", str(err), say)
            return
        state.blocks.pop("", None)
        if self._looks != looks or ident in self._early_exits:
            self._stale.add(uid)
        self._sandboxes[ident] = Sandbox(ident, uid, pod.name, pod.namespace or "", attempt, True, self._now(), ip)
        self._disk.write_hosts(uid, hosts_file(pod, ip, self._facts(uid).cluster_domain))

    async def _begin_pull(self, pod: Pod, container: Container, get: Lookup, say: Say) -> None:
        state = self._state(pod)
        auth = await login(pod, container.image, get)
        names = [c.name for c in (*pod.spec.init_containers, *pod.spec.containers) if c.image == container.image]
        state.pulling.add(container.image)

        async def pull() -> None:
            began = asyncio.get_running_loop().time()
            try:
                await self.images.ensure(container, auth)
                took_s = asyncio.get_running_loop().time() - began
                for name in names:
                    state.blocks.pop(name, None)
                if policy_of(container) == "Always" or took_s > 1.0:
                    say("Pulled", f"image {container.image} is here", duration_ms=round(took_s * 1000, 1))
            except PullFailure as err:
                for name in names:
                    self._block(pod, name, err.reason, err.message, say)
            finally:
                state.pulling.discard(container.image)

        self._background(pod.ref, pull(), f"image {container.image}")

    async def _start(self, pod: Pod, action: StartContainer, get: Lookup, say: Say) -> None:
        container, uid = action.container, pod.metadata.uid
        state = self._state(pod)
        sandbox = next((s for s in self.sandboxes_of(uid) if s.ready), None)
        image = self.images.present(container.image)
        if sandbox is None or image is None:
            return
        looks = self._looks
        facts = Facts(sandbox.ip, self.node.host_ip, self.node.cpu, self.node.memory_bytes)
        directory = self._disk.pod_directory(uid)
        reason = "CreateContainerConfigError"
        try:
            if not state.volumes and pod.spec.volumes:
                state.volumes = await self._disk.prepare(pod, get)
            env = await environment(pod, container, get, facts)
            made = Made(action.attempt, action.earned_s, env, state.volumes, image, directory, self.node.memory_bytes)
            config = container_config(pod, container, made)
            self._disk.begin_container(uid, container.name, action.attempt)
            reason = "CreateContainerError"
            node = self._facts(uid)
            ident = await self.runtime.create_container(
                sandbox.id, config, sandbox_config(pod, sandbox.attempt, directory, node)
            )
        except (ConfigProblem, VolumeProblem, RuntimeFailure) as err:
            self._stale.add(uid)
            self.images.forget()
            self._block(pod, container.name, reason, str(err), say)
            return
        view = ContainerView(
            id=ident,
            sandbox_id=sandbox.id,
            pod_uid=uid,
            name=container.name,
            attempt=action.attempt,
            state="created",
            created_at=self._now(),
            image=container.image,
            image_ref=image.digests[0] if image.digests else image.id,
            annotations=config["annotations"],
        )
        self._containers[ident] = view
        noticed_at = state.exits_at.pop(container.name, None)
        try:
            await self.runtime.start_container(ident)
        except RuntimeFailure as err:
            # Mostly: no such command. The answer to a start that went well may be lost, too.
            self._stale.add(uid)
            self._block(pod, container.name, "RunContainerError", str(err), say)
            return
        state.blocks.pop(container.name, None)
        if self._looks != looks:
            self._stale.add(uid)
        self._started(pod, action, view, noticed_at, say)

    def _started(
        self, pod: Pod, action: StartContainer, view: ContainerView, noticed_at: float | None, say: Say
    ) -> None:
        container = action.container
        if self._containers[view.id].state == "created":  # else its end came before the answer to its start
            running = self._containers[view.id] = replace(view, state="running", started_at=self._now())
            self.health.watch(self._target(pod, container, running), fresh=True, was_ready=False)
        if action.previous is None:
            say("Started", f"container {container.name} runs")
            return
        took_ms = round((asyncio.get_running_loop().time() - noticed_at) * 1000) if noticed_at is not None else None
        where = f"container {container.name} of pod {pod.namespace}/{pod.name}"
        after = f" after {took_ms} ms" if took_ms is not None else ""
        message = f"{where} exited ({ended_how(action.previous)}); running again{after}"
        say("Restarted", message, duration_ms=took_ms)

    def _target(self, pod: Pod, container: Container, view: ContainerView) -> Target:
        sandbox = self._sandboxes.get(view.sandbox_id)
        ip = self.node.host_ip if pod.spec.host_network else sandbox.ip if sandbox is not None else ""
        return Target(container, view.id, ip)

    def _begin_stop(self, pod: Pod, action: StopContainer, say: Say) -> None:
        state = self._state(pod)
        view = action.view
        if view.id in state.stopping:
            return
        state.stopping.add(view.id)
        say("Killing", f"stopping container {view.name}: {action.why}")
        if pod.metadata.deletion_timestamp is not None:
            self.health.forget(view.id)

        async def stop() -> None:
            loop = asyncio.get_running_loop()
            ends_at = loop.time() + action.grace_s
            hook = action.container.lifecycle.pre_stop if action.container and action.container.lifecycle else None
            try:
                if hook is not None and action.container is not None and action.grace_s > 0:
                    answer = await self._ask(hook, self._target(pod, action.container, view), action.grace_s)
                    if not answer.ok:
                        say("FailedPreStopHook", f"container {view.name}: {answer.why}", warning=True)
                await self.runtime.stop_container(view.id, max(0.0, ends_at - loop.time()))
                fresh = await self.runtime.container(view.id)
                known = self._containers.get(view.id, view)
                if known.state != "exited" and fresh.state == "exited":
                    self._containers[view.id] = replace(fresh, sandbox_id=view.sandbox_id, message=self._message(fresh))
            except RuntimeFailure as err:
                if err.gone:
                    self._containers.pop(view.id, None)
                else:
                    say("FailedKillContainer", f"container {view.name}: {err}", warning=True)
                    await asyncio.sleep(1.0)
            finally:
                self.health.forget(view.id)
                state.stopping.discard(view.id)

        self._background(pod.ref, stop(), f"container {view.name} was stopped")

    async def _stop_sandbox(self, ident: str) -> None:
        await self.runtime.stop_sandbox(ident)
        sandbox = self._sandboxes.get(ident)
        if sandbox is not None:
            self._sandboxes[ident] = replace(sandbox, ready=False, ip="")
        for view in list(self._containers.values()):
            if view.sandbox_id == ident and view.state in ("running", "unknown"):
                self.health.forget(view.id)
                fresh = await self.runtime.container(view.id)
                self._containers[view.id] = replace(fresh, sandbox_id=ident)

    async def _remove_sandbox(self, ident: str) -> None:
        await self.runtime.stop_sandbox(ident)
        await self.runtime.remove_sandbox(ident)
        self._sandboxes.pop(ident, None)
        for view in list(self._containers.values()):
            if view.sandbox_id == ident:
                self.health.forget(view.id)
                self._note_end(view.id)
                del self._containers[view.id]

    async def _remove_container(self, ident: str) -> None:
        await self.runtime.remove_container(ident)
        view = self._containers.pop(ident, None)
        if view is not None:
            self.health.forget(ident)
            self._note_end(ident)
            self._disk.forget_container(view.pod_uid, view.name, view.attempt)

    async def _tear_down_for(self, pod: Pod, say: Say) -> None:
        try:
            await self._tear_down(pod.metadata.uid)
        except (RuntimeFailure, OSError) as err:
            self._block(pod, "", "FailedKillPod", str(err), say)
            return
        self._state(pod).torn_down = True

    async def _tear_down(self, uid: str) -> None:
        for sandbox in self.sandboxes_of(uid):
            await self._remove_sandbox(sandbox.id)
        for views in self.containers_of(uid).values():
            for view in views:
                await self._remove_container(view.id)
        await self._disk.remove(uid)

    def forget(self, uid: str) -> None:
        """The pod's object is gone and so is everything of it here."""
        self._pods.pop(uid, None)

    # Tasks

    def _background(self, ref: Ref, work: Coroutine[Any, Any, None], what: str) -> None:
        async def supervised() -> None:
            try:
                await work
            except Exception:
                log.exception("%s: %s", ref, what)
            self._wake(ref, what)

        task = asyncio.get_running_loop().create_task(supervised(), name=f"{ref}: {what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends what runs in the background; containers go on."""
        self.connected = False
        await self.health.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def pods(self) -> Iterator[PodState]:
        yield from self._pods.values()

    def running_containers(self) -> Mapping[str, ContainerView]:
        return {ident: view for ident, view in self._containers.items() if view.state == "running"}

    def health_of(self, container_id: str) -> Health | None:
        return self.health.verdict(container_id)


def _container(pod: Pod, name: str) -> Container | None:
    return next((c for c in (*pod.spec.containers, *pod.spec.init_containers) if c.name == name), None)
