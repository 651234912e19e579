"""containerd in simulated time: sandboxes, containers that run small programs, exits as events, and faults from a seed.

A container's first word says what it does: `serve` (for ever), `work N` (ends well after N seconds), `fail N` (exit code 1
after N seconds), `flaky N` (fails N times, then serves). It outlives the agent, as containerd does.

What must never happen is checked at every call: two running containers of one name in a pod, a start in a dead sandbox,
an image that was not pulled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimtab.api.core import ConfigMap, Pod, Secret
from trimtab.client.clock import Clock
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.configs import NodeFacts, Resolver
from trimtab.components.node.environment import Lookup
from trimtab.components.node.picture import NodeIdentity
from trimtab.components.node.probes import Answer, Handler, Target
from trimtab.components.node.sandboxes import (
    POD_UID,
    ContainerView,
    Event,
    ExitEvent,
    ImageInfo,
    Reconnected,
    RuntimeFailure,
    Sandbox,
    StoredImage,
)
from trimtab.components.node.volumes import HostVolume, VolumeProblem

NODE = "node-1"
MISSING_IMAGE = "missing:1"
STOPS_IN_S = 0.2


@dataclass
class Faults:
    """The chance that a call fails before it acts, after it acted, or takes long."""

    before: float = 0.0
    after: float = 0.0
    slow: float = 0.0
    slow_s_max: float = 8.0


NO_FAULTS = Faults()


@dataclass
class Running:
    view: ContainerView
    command: list[str]
    env: dict[str, str]
    resources: dict[str, int] = field(default_factory=dict)
    work: asyncio.Task[None] | None = None


@dataclass
class SimulatedContainerd:
    clock: Clock
    rng: random.Random
    faults: Faults = field(default_factory=Faults)
    sandboxes_: dict[str, Sandbox] = field(default_factory=dict)
    containers_: dict[str, Running] = field(default_factory=dict)
    pulled: set[str] = field(default_factory=set)
    flakes: dict[tuple[str, str], int] = field(default_factory=dict)
    starts: list[tuple[str, str]] = field(default_factory=list)
    """(pod uid, container) of every start, in order."""
    violations: list[str] = field(default_factory=list)
    streams: list[asyncio.Queue[Event | None]] = field(default_factory=list)
    serial: int = 0

    # The world's side

    def kill(self, uid: str, name: str) -> bool:
        """Ends a running container as a signal 9 from outside would."""
        for one in self.containers_.values():
            if (one.view.pod_uid, one.view.name, one.view.state) == (uid, name, "running"):
                self._exit(one, 137)
                return True
        return False

    def kill_sandbox(self, uid: str) -> None:
        for sandbox in self.sandboxes_.values():
            if sandbox.uid == uid and sandbox.ready:
                self.sandboxes_[sandbox.id] = replace(sandbox, ready=False, ip="")
                self._tell(ExitEvent(sandbox.id, 137, self.clock.now()))

    def restart(self) -> None:
        """containerd dies and comes back: subscribers lose it, containers live on."""
        for stream in self.streams:
            stream.put_nowait(None)
        self.streams.clear()

    def reboot(self) -> None:
        """The machine restarts: everything that ran has ended, only the records are left."""
        for one in self.containers_.values():
            if one.view.state == "running":
                if one.work is not None:
                    one.work.cancel()
                one.view = replace(
                    one.view, state="exited", exit_code=255, finished_at=self.clock.now(), reason="Unknown"
                )
        for sandbox in self.sandboxes_.values():
            self.sandboxes_[sandbox.id] = replace(sandbox, ready=False, ip="")
        self.restart()

    def running(self, uid: str) -> list[str]:
        return sorted(
            o.view.name for o in self.containers_.values() if o.view.pod_uid == uid and o.view.state == "running"
        )

    def _exit(self, one: Running, code: int) -> None:
        if one.view.state != "running":
            return
        if one.work is not None and one.work is not asyncio.current_task():
            one.work.cancel()
        reason = "Completed" if code == 0 else "Error"
        one.view = replace(one.view, state="exited", exit_code=code, finished_at=self.clock.now(), reason=reason)
        self._tell(ExitEvent(one.view.id, code, self.clock.now()))

    def _tell(self, event: Event) -> None:
        for stream in self.streams:
            stream.put_nowait(event)

    async def _call(self) -> None:
        await asyncio.sleep(0.01)
        if self.rng.random() < self.faults.slow:
            await asyncio.sleep(self.rng.random() * self.faults.slow_s_max)
        if self.rng.random() < self.faults.before:
            raise RuntimeFailure("connection reset", "UNAVAILABLE")

    async def _answer(self) -> None:
        if self.rng.random() < self.faults.slow:
            await asyncio.sleep(self.rng.random() * self.faults.slow_s_max)
        if self.rng.random() < self.faults.after:
            raise RuntimeFailure("connection reset", "UNAVAILABLE")

    def _id(self) -> str:
        self.serial += 1
        return f"{self.serial:064x}"

    # ContainerRuntime

    async def run_sandbox(self, config: Mapping[str, Any]) -> str:
        await self._call()
        meta = config["metadata"]
        taken = [s for s in self.sandboxes_.values() if s.uid == meta["uid"] and s.attempt == meta["attempt"]]
        if taken:
            raise RuntimeFailure(f"failed to reserve sandbox name for attempt {meta['attempt']}", "UNKNOWN")
        if any(s.uid == meta["uid"] and s.ready for s in self.sandboxes_.values()):
            self.violations.append(f"a second live sandbox for {meta['name']}")
        ident = self._id()
        ip = f"10.0.{self.serial // 250}.{self.serial % 250 + 2}"
        self.sandboxes_[ident] = Sandbox(
            ident, meta["uid"], meta["name"], meta["namespace"], meta["attempt"], True, self.clock.now(), ip
        )
        await self._answer()
        return ident

    async def sandbox_ip(self, sandbox_id: str) -> str:
        await self._call()
        return self.sandboxes_[sandbox_id].ip

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._call()
        sandbox = self.sandboxes_.get(sandbox_id)
        if sandbox is None:
            return
        for one in list(self.containers_.values()):
            if one.view.sandbox_id == sandbox_id:
                self._exit(one, 137)
        self.sandboxes_[sandbox_id] = replace(sandbox, ready=False, ip="")
        if sandbox.ready:
            self._tell(ExitEvent(sandbox_id, 137, self.clock.now()))
        await self._answer()

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._call()
        self.sandboxes_.pop(sandbox_id, None)
        for ident in [i for i, one in self.containers_.items() if one.view.sandbox_id == sandbox_id]:
            one = self.containers_.pop(ident)
            if one.work is not None:
                one.work.cancel()
        await self._answer()

    async def create_container(
        self, sandbox_id: str, config: Mapping[str, Any], sandbox_config: Mapping[str, Any]
    ) -> str:
        await self._call()
        sandbox = self.sandboxes_.get(sandbox_id)
        if sandbox is None or not sandbox.ready:
            raise RuntimeFailure("sandbox container is not running")
        uid, meta = config["labels"][POD_UID], config["metadata"]
        for one in self.containers_.values():
            if (one.view.pod_uid, one.view.name, one.view.attempt) == (uid, meta["name"], meta["attempt"]):
                raise RuntimeFailure(f"failed to reserve container name for attempt {meta['attempt']}")
        if config["image"]["image"] not in self.pulled:
            self.violations.append(f"{meta['name']} was made from an image that is not here")
        ident = self._id()
        env = {entry["key"]: entry["value"].decode() for entry in config["envs"]}
        view = ContainerView(
            id=ident,
            sandbox_id=sandbox_id,
            pod_uid=uid,
            name=meta["name"],
            attempt=meta["attempt"],
            state="created",
            created_at=self.clock.now(),
            annotations=config["annotations"],
            image_ref=config["image"]["image"],
        )
        self.containers_[ident] = Running(view, list(config["command"]), env, dict(config["linux"]["resources"]))
        await self._answer()
        return ident

    async def start_container(self, container_id: str) -> None:
        await self._call()
        one = self._one(container_id)
        if one.view.state != "created":
            raise RuntimeFailure("container is not in created state")
        if one.view.name in self.running(one.view.pod_uid):
            self.violations.append(f"two containers {one.view.name} of one pod run at once")
        one.view = replace(one.view, state="running", started_at=self.clock.now())
        self.starts.append((one.view.pod_uid, one.view.name))
        one.work = asyncio.get_running_loop().create_task(self._program(one), name=f"program {one.view.name}")
        await self._answer()

    async def _program(self, one: Running) -> None:
        match one.command:
            case ["work", seconds]:
                await asyncio.sleep(float(seconds))
                self._exit(one, 0)
            case ["fail", seconds]:
                await asyncio.sleep(float(seconds))
                self._exit(one, 1)
            case ["flaky", times]:
                key = (one.view.pod_uid, one.view.name)
                self.flakes[key] = self.flakes.get(key, 0) + 1
                if self.flakes[key] <= int(times):
                    await asyncio.sleep(0.5)
                    self._exit(one, 1)

    async def update_container(self, container_id: str, resources: Mapping[str, int]) -> None:
        await self._call()
        one = self._one(container_id)
        if one.view.state != "running":
            raise RuntimeFailure("container is not running")
        one.resources = dict(resources)
        await self._answer()

    async def stop_container(self, container_id: str, timeout_s: float) -> None:
        await self._call()
        one = self.containers_.get(container_id)
        if one is not None and one.view.state == "running":
            await asyncio.sleep(min(timeout_s, STOPS_IN_S))
            self._exit(one, 143)
        await self._answer()

    async def remove_container(self, container_id: str) -> None:
        await self._call()
        one = self.containers_.pop(container_id, None)
        if one is not None and one.work is not None:
            one.work.cancel()
        await self._answer()

    async def sandboxes(self, uid: str | None = None) -> Sequence[Sandbox]:
        await self._call()
        return [s for s in self.sandboxes_.values() if uid in (None, s.uid)]

    async def containers(self, uid: str | None = None) -> Sequence[ContainerView]:
        await self._call()
        return [one.view for one in self.containers_.values() if uid in (None, one.view.pod_uid)]

    async def container(self, container_id: str) -> ContainerView:
        await self._call()
        return replace(self._one(container_id).view, sandbox_id="")

    def _one(self, container_id: str) -> Running:
        one = self.containers_.get(container_id)
        if one is None:
            raise RuntimeFailure("not found", "NOT_FOUND")
        return one

    async def exec(self, container_id: str, command: Sequence[str], timeout_s: float) -> tuple[int, bytes]:
        await self._call()
        return 0, b""

    async def image(self, reference: str) -> ImageInfo | None:
        await self._call()
        return ImageInfo(reference, (reference,), None, "") if reference in self.pulled else None

    async def images(self) -> Sequence[StoredImage]:
        await self._call()
        return [StoredImage(reference, (reference,), 1) for reference in sorted(self.pulled)]

    async def remove_image(self, reference: str) -> None:
        await self._call()
        self.pulled.discard(reference)

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> str:
        await self._call()
        await asyncio.sleep(1.0)
        if reference == MISSING_IMAGE:
            raise RuntimeFailure(f"failed to resolve reference {reference}: not found", "NOT_FOUND")
        self.pulled.add(reference)
        await self._answer()
        return reference

    async def reopen_log(self, container_id: str) -> None:
        await self._call()

    async def events(self) -> AsyncIterator[Event]:
        while True:
            stream: asyncio.Queue[Event | None] = asyncio.Queue()
            self.streams.append(stream)
            try:
                yield Reconnected()
                while (event := await stream.get()) is not None:
                    yield event
            finally:
                if stream in self.streams:
                    self.streams.remove(stream)
            await asyncio.sleep(0.5)

    # Probes

    async def ask(self, handler: Handler, target: Target, timeout_s: float) -> Answer:
        """Probes succeed while the container runs, half a second after its start."""
        await asyncio.sleep(0.005)
        one = self.containers_.get(target.container_id)
        if one is None or one.view.state != "running" or one.view.started_at is None:
            return Answer(False, "not running")
        ran_s = (self.clock.now() - one.view.started_at).total_seconds()
        return Answer(ran_s >= 0.5, "" if ran_s >= 0.5 else "starting")


class SimulatedDisk:
    """The agent's disk, in memory; it outlives the agent."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, object]] = {}

    def pod_directory(self, uid: str) -> Path:
        return Path("/nonexistent", uid)

    async def prepare(self, pod: Pod, get: Lookup) -> dict[str, HostVolume]:
        out: dict[str, HostVolume] = {}
        kept = self.kept.setdefault(pod.metadata.uid, {})
        for volume in pod.spec.volumes:
            for kind, ref in ((ConfigMap, volume.config_map and volume.config_map.name), (Secret, None)):
                if not ref:
                    continue
                found = await get(ConfigMap, ref, pod.namespace) if kind is ConfigMap else None
                if found is None:
                    raise VolumeProblem(f'volume {volume.name}: configmap "{ref}" not found')
                kept[volume.name] = dict(found.data)
            out[volume.name] = HostVolume(Path("/nonexistent", pod.metadata.uid, volume.name))
        return out

    def hosts_of_node(self) -> str:
        return ""

    async def confine(self, uid: str) -> None: ...

    def write_hosts(self, uid: str, text: str) -> None:
        self.kept.setdefault(uid, {})

    def begin_container(self, uid: str, container: str, attempt: int) -> None:
        self.kept.setdefault(uid, {})

    def termination_message(self, uid: str, container: str, attempt: int) -> str:
        return ""

    def forget_container(self, uid: str, container: str, attempt: int) -> None: ...

    async def release(self, uid: str) -> None: ...

    async def remove(self, uid: str) -> None:
        self.kept.pop(uid, None)

    def has(self, uid: str) -> bool:
        return uid in self.kept

    def uids(self) -> Sequence[str]:
        return list(self.kept)


class NodeAdapters(Mapping[type, Any]):
    """The fakes of one run; every life of the process gets a new agent, which knows nothing of the one before."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self.clock = clock
        self.containerd = SimulatedContainerd(clock, random.Random(clock.random.random()), faults)
        self.disk = SimulatedDisk()

    def __getitem__(self, protocol: type) -> Any:
        if protocol is NodeAgent:
            return self.agent()
        return {SimulatedContainerd: self.containerd, SimulatedDisk: self.disk}[protocol]

    def __iter__(self) -> Any:
        return iter((NodeAgent, SimulatedContainerd, SimulatedDisk))

    def __len__(self) -> int:
        return 3

    def agent(self) -> NodeAgent:
        facts = NodeFacts("/pods", Resolver(("10.0.0.1",)), Resolver(()), "cluster.local")
        node = NodeIdentity(NODE, "192.0.2.1", 2, 1 << 30)
        return NodeAgent(self.containerd, self.disk, self.containerd.ask, node, lambda uid: facts, self.clock.now)
