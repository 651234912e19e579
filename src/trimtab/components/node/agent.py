"""The node agent's hands: how one planned action is carried out.

    Seen (picture.py) -> decide() -> perform() -> containerd, disk

Nothing here decides; `decide.py` does. What takes long (pulls, stops) runs in the background and wakes the pod when it is
done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from trimtab.api import Ref
from trimtab.api.core import Container, EphemeralContainer, Pod, Service
from trimtab.api.demand import Amounts
from trimtab.components.node import backoff, resize
from trimtab.components.node.configs import (
    Made,
    NodeFacts,
    container_config,
    container_resources,
    hosts_file,
    sandbox_config,
)
from trimtab.components.node.decide import (
    IMAGE,
    IMAGE_ID,
    Action,
    Block,
    Eviction,
    Finish,
    PullImage,
    RemoveContainer,
    RemoveSandbox,
    ResizeContainer,
    RunSandbox,
    StartContainer,
    StopContainer,
    StopSandbox,
    TearDown,
    all_containers,
    resize_block,
    resizing,
    target_missing,
)
from trimtab.components.node.environment import ConfigProblem, Facts, Lookup, environment
from trimtab.components.node.health import Asker
from trimtab.components.node.host_ports import asks_for_ports, conflict, listening, taken
from trimtab.components.node.images import PullFailure, login, policy_of
from trimtab.components.node.kinds import ClusterImagePolicy
from trimtab.components.node.links import service_links
from trimtab.components.node.picture import Disk, NodeIdentity, Picture
from trimtab.components.node.pod_rules import PodRules, RulesMissing
from trimtab.components.node.runtimes import runtime_missing
from trimtab.components.node.sandboxes import ContainerRuntime, ContainerView, RuntimeFailure, Sandbox
from trimtab.components.node.status import ended_how
from trimtab.components.node.trust import BROKEN
from trimtab.components.node.volumes import VolumeProblem, VolumeWaits

KILL_GRACE_S = 2.0
"""What orphans get between SIGTERM and SIGKILL: nobody waits for them."""
RENEW_RETRY_S = 10.0
"""After so long a token that could not be renewed is asked for again; it is good for a while yet."""
SLOW_PULL_S = 1.0
"""A pull that took longer is worth a line on the timeline."""

log = logging.getLogger(__name__)

Say = Callable[..., None]
"""`Context.event`."""


class NodeAgent(Picture):
    """One node's pods."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        disk: Disk,
        ask: Asker,
        node: NodeIdentity,
        facts: Callable[[str], NodeFacts],
        now: Callable[[], datetime],
        rules: PodRules | None = None,
    ) -> None:
        """rules: without them no pod waits for its network rules (where nothing enforces any). The attribute `services`
        gives all Services, of which containers are told; `pods` all pods, whose host ports are taken."""
        super().__init__(runtime, disk, ask, node, now)
        self._rules = rules
        self.services: Callable[[], Sequence[Service]] = list
        self.pods: Callable[[], Sequence[Pod]] = list
        self._ask = ask
        self._facts = facts
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()
        self.pressure: frozenset[str] = frozenset()
        """The node's conditions of pressure: what has not started yet may have to stay away."""

    async def run(self) -> None:
        """Follows the runtime's events until cancelled."""
        try:
            async for event in self.runtime.events():
                await self.take(event)
        finally:
            await self.close()

    def evict(self, pod: Pod, eviction: Eviction) -> None:
        """Ends a pod for want of room: its containers are stopped, it becomes Failed, what it has here is removed."""
        state = self._state(pod)
        if state.evicted is None:
            state.evicted = eviction
            self._wake(pod.ref, f"the pod is evicted: {eviction.message}")

    def evicts(self, pod: Pod) -> bool:
        """Whether a pod is being evicted."""
        return self._state(pod).evicted is not None

    def clear(self, pod: Pod) -> bool:
        """Has what is left of an ended pod removed, its logs included; False when nothing is left."""
        state = self._state(pod)
        if state.torn_down or not self.remains_of(pod.metadata.uid):
            return False
        state.unwanted = True
        self._wake(pod.ref, "the node needs the room")
        return True

    def directory(self, pod: Pod) -> Path:
        """What the node keeps on disk about a pod."""
        return self._disk.pod_directory(pod.metadata.uid)

    def leaving(self) -> bool:
        """Whether an evicted pod still runs, or has something here."""
        going = [uid for uid, state in self._pods.items() if state.evicted is not None and not state.torn_down]
        return any(self.remains_of(uid) for uid in going)

    # Actions

    def obey(self, policies: Sequence[ClusterImagePolicy]) -> None:
        """From now on these policies say whose signature images must carry. What others kept from running is judged anew."""
        if self.trust is not None and self.trust.take(policies):
            for state in self._pods.values():
                for name in [name for name, block in state.blocks.items() if block.reason == BROKEN]:
                    del state.blocks[name]

    async def refresh(self, pod: Pod, get: Lookup, say: Say) -> None:
        """Brings the volumes of a running pod up to date with what they show; renews tokens."""
        if not pod.spec.volumes:
            return
        state = self._state(pod)
        if missing := await runtime_missing(pod, get):
            self._block(pod, "", "FailedCreatePodSandBox", missing, say)
            return
        try:
            state.volumes = await self._disk.prepare(pod, get)
        except VolumeProblem as err:
            say("FailedMount", str(err), warning=True)

    def renewal(self, pod: Pod) -> datetime | None:
        """When the volumes of a running pod must be brought up to date although nothing changes."""
        times = [v.renew_at for v in self._state(pod).volumes.values() if v.renew_at is not None]
        if not times:
            return None
        now, due = self._now(), min(times)
        return due if due > now else now + timedelta(seconds=RENEW_RETRY_S)

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
            case ResizeContainer():
                await self._resize(pod, action, say)
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
        if taken := self._port_taken(pod):
            self._block(pod, "", "HostPortConflict", taken, say)
            return
        try:
            state.volumes = await self._disk.prepare(pod, get)
            config = sandbox_config(pod, attempt, self._disk.pod_directory(uid), self._facts(uid))
        except VolumeWaits as err:
            state.blocks[""] = Block("ContainerCreating", str(err), self._now(), 0)
            raise
        except VolumeProblem as err:
            self._block(pod, "", "FailedMount", str(err), say)
            return
        except ConfigProblem as err:
            self._block(pod, "", "FailedCreatePodSandBox", str(err), say)
            return
        looks = self._looks
        try:
            ident = await self.runtime.run_sandbox(config)
            ip = self.node.host_ip if pod.spec.host_network else await self.runtime.sandbox_ip(ident)
        except RuntimeFailure as err:
            self._stale.add(uid)  # a sandbox whose making was cut off may exist all the same
            self._block(pod, "", "FailedCreatePodSandBox", str(err), say)
            return
        await self._disk.confine(uid)
        state.blocks.pop("", None)
        if self._looks != looks or ident in self._early_exits:
            self._stale.add(uid)
        self._sandboxes[ident] = Sandbox(ident, uid, pod.name, pod.namespace or "", attempt, True, self._now(), ip)
        self._disk.write_hosts(uid, hosts_file(pod, ip, self._facts(uid).cluster_domain, self._disk.hosts_of_node()))

    def _port_taken(self, pod: Pod) -> str:
        """Who has a host port that the pod asks for; the scheduler leaves ports of programs, and pods bound by hand, to us."""
        return conflict(pod, self._others(pod), listening()) if asks_for_ports(pod) else ""

    def refused(self, pod: Pod) -> str:
        """Why the node refuses a new pod for the sake of one that runs here, or "". A daemon's pod waits for its turn: nobody but
        the node could have placed it elsewhere."""
        by_daemons = any(owner.controller and owner.kind == "DaemonSet" for owner in pod.metadata.owner_references)
        said = "" if by_daemons or not asks_for_ports(pod) else taken(pod, self._others(pod))
        return f"Pod was rejected: Predicate NodePorts failed: {said}" if said else ""

    def _others(self, pod: Pod) -> list[Pod]:
        """The other pods that run on this node."""
        alive = {sandbox.uid for sandbox in self._sandboxes.values() if sandbox.ready} - {pod.metadata.uid}
        return [other for other in self.pods() if other.metadata.uid in alive]

    async def _begin_pull(self, pod: Pod, container: Container, get: Lookup, say: Say) -> None:
        state = self._state(pod)
        auth = await login(pod, container.image, get)
        names = [c.name for c in all_containers(pod) if c.image == container.image]
        state.pulling.add(container.image)

        async def pull() -> None:
            began = asyncio.get_running_loop().time()
            try:
                image = await self.images.ensure(container, auth)
                state.ensured.add(container.image)
                if self.trust is not None and (doubt := await self.trust.judge(container.image, image, auth)):
                    say(BROKEN, doubt, warning=True)
                took_s = asyncio.get_running_loop().time() - began
                for name in names:
                    state.blocks.pop(name, None)
                if policy_of(container) == "Always" or took_s > SLOW_PULL_S:
                    say("Pulled", f"image {container.image} is here", duration_ms=round(took_s * 1000, 1))
            except PullFailure as err:
                for name in names:
                    self._block(pod, name, err.reason, err.message, say)
            finally:
                state.pulling.discard(container.image)

        self._background(pod.ref, pull(), f"the pull of image {container.image} ended")

    async def _start(self, pod: Pod, action: StartContainer, get: Lookup, say: Say) -> None:
        container, uid = action.container, pod.metadata.uid
        state = self._state(pod)
        sandbox = next((s for s in self.sandboxes_of(uid) if s.ready), None)
        image = self.images.present(container.image)
        if sandbox is None or image is None or not (self.trust is None or self.trust.admits(container.image, image)):
            return
        looks = self._looks
        facts = Facts(sandbox.ip, self.node.host_ip, self.node.cpu, self.node.memory_bytes)
        directory = self._disk.pod_directory(uid)
        reason = "CreateContainerConfigError"
        try:
            if not state.volumes and pod.spec.volumes:
                state.volumes = await self._disk.prepare(pod, get)
            env = await environment(pod, container, get, facts, service_links(pod, self.services()))
            made = Made(
                action.attempt,
                action.earned_s,
                env,
                state.volumes,
                image,
                directory,
                self.node.memory_bytes,
                self._target_of(pod, container),
                self._facts(uid).profiles,
            )
            config = container_config(pod, container, made)
            self._disk.begin_container(uid, container.name, action.attempt)
            reason = "CreateContainerError"
            if self._rules is not None and not pod.spec.host_network:
                await self._rules.admit(uid, sandbox.ip)
            node = self._facts(uid)
            ident = await self.runtime.create_container(
                sandbox.id, config, sandbox_config(pod, sandbox.attempt, directory, node)
            )
        except (ConfigProblem, VolumeProblem, RuntimeFailure, RulesMissing) as err:
            self._stale.add(uid)
            if isinstance(err, RuntimeFailure):
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
            image_ref=config["annotations"][IMAGE_ID],
            annotations=config["annotations"],
        )
        self._containers[ident] = view
        self.images.used(image.id)
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

    def _target_of(self, pod: Pod, container: Container) -> str:
        """The id of the container whose processes an ephemeral one asks to see, or ""."""
        if not isinstance(container, EphemeralContainer) or not container.target_container_name:
            return ""
        seen = self.seen(pod)
        view = seen.current(container.target_container_name)
        if view is None or (missing := target_missing(container, seen)):
            raise ConfigProblem(missing or f"the container {container.target_container_name} is gone")
        return view.id

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
                    self._containers[view.id] = self._merged(known, replace(fresh, sandbox_id=view.sandbox_id))
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

    def resizes(self, pod: Pod) -> bool:
        """Whether a container runs that asks for other resources than it was given. Then `review` is to be asked."""
        self._state(pod).resize_waits = None
        if not any(container.resources for container in (*pod.spec.containers, *pod.spec.init_containers)):
            return False
        return bool(resizing(pod, self.seen(pod)))

    def review(self, pod: Pod, room: Amounts) -> None:
        """Looks whether the node can give a running pod what it asks for now. room: what the node has for pods."""
        seen = self.seen(pod)
        views = (seen.current(container.name) for container in all_containers(pod))
        has = {view.name: seen.granted[view.id] for view in views if view is not None and view.id in seen.granted}
        here = [other for other in self.pods() if other.spec.node_name == self.node.name]
        self._state(pod).resize_waits = resize.waits(pod, has, here, room)

    async def _resize(self, pod: Pod, action: ResizeContainer, say: Say) -> None:
        """A container's cgroup gets what its spec says now. Twice is as good as once."""
        state, container = self._state(pod), action.container
        name = resize_block(container.name)
        try:
            await self.runtime.update_container(
                action.view.id, container_resources(pod, container, self.node.memory_bytes)
            )
        except RuntimeFailure as err:
            self._block(pod, name, "ResizeFailed", f"container {container.name}: {err}", say)
            return
        state.blocks.pop(name, None)
        state.granted[action.view.id] = resize.wanted(container)
        say("Resized", f"container {container.name} has the resources that it asks for now")

    async def _stop_sandbox(self, ident: str) -> None:
        await self.runtime.stop_sandbox(ident)
        sandbox = self._sandboxes.get(ident)
        if sandbox is not None:
            self._sandboxes[ident] = replace(sandbox, ready=False, ip="")
        for view in list(self._containers.values()):
            if view.sandbox_id == ident and view.state in ("running", "unknown"):
                self.health.forget(view.id)
                fresh = await self.runtime.container(view.id)
                self._containers[view.id] = self._merged(view, replace(fresh, sandbox_id=ident))

    async def _remove_sandbox(self, ident: str) -> None:
        await self.runtime.stop_sandbox(ident)
        await self.runtime.remove_sandbox(ident)
        gone = self._sandboxes.pop(ident, None)
        if gone is not None and self._rules is not None and not self.sandboxes_of(gone.uid):
            self._rules.forget(gone.uid)
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
            if (image := self.images.present(view.annotations.get(IMAGE, ""))) is not None:
                self.images.used(image.id)
            self._disk.forget_container(view.pod_uid, view.name, view.attempt)

    async def _tear_down_for(self, pod: Pod, say: Say) -> None:
        try:
            await self._tear_down(pod.metadata.uid)
        except (RuntimeFailure, VolumeProblem, OSError) as err:
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

    async def release(self, pod: Pod, say: Say) -> None:
        """Unmounts what was attached for a pod whose containers have ended for good."""
        try:
            await self._disk.release(pod.metadata.uid)
        except VolumeProblem as err:
            say("FailedUnmount", str(err), warning=True)

    async def remove_orphan(self, uid: str) -> None:
        """Stops and removes whatever is left of a pod that the API does not know (any more).

        Raises:
            RuntimeFailure: containerd could not do it; try again.
        """
        alive = [c for views in self.containers_of(uid).values() for c in views if c.state in ("running", "unknown")]
        await asyncio.gather(*(self.runtime.stop_container(view.id, KILL_GRACE_S) for view in alive))
        await self._tear_down(uid)
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
