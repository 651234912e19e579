"""A machine of several simulated nodes that mount volumes, for stories in simulated time; and an observer of who can write.

The images and their locks are in memory and outlive every process. The rules of leave and lock are those of the real ones
(`ImageFiles`, `Staging`); what holds between two nodes is judged by who has the lock, never by what the API says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

from simulated_node import SimulatedNode
from trimtab.api import ObjectMeta
from trimtab.api.cluster import Lease, LeaseSpec
from trimtab.api.core import Pod
from trimtab.api.nodes import Node, fenced
from trimtab.api.storage import VolumeAttachment, attachment_name
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.client.errors import ApiError
from trimtab.components.volumes import DRIVER
from trimtab.components.volumes.images import ImageProblem
from trimtab.components.workloads.fencing import State
from trimtab.runtime.contract import Stage

LOOK_S = 1.0
LEASE_S, BOOT_S = 15, 3.0


class SimulatedMachines:
    """`Machines` of the story's world."""

    def __init__(self, images: SimulatedImages) -> None:
        self.images = images

    async def state(self, node: str) -> State:
        known = self.images.nodes is not None and node in self.images.nodes.nodes
        return "runs" if known else "unknown"

    async def end(self, node: str) -> bool:
        return self.images.nodes is not None and await self.images.nodes.end(node)


@dataclass
class SimulatedImages:
    """Implements `Images` and `Staging`'s half of the world, for all nodes of one machine."""

    machine = True
    node = "node-1"
    images: dict[str, int] = field(default_factory=dict)
    leave: dict[str, dict[str, tuple[str, bool, bool]]] = field(default_factory=dict)
    """By handle and attachment's uid: node, exclusive, revoked."""
    mounted: dict[str, dict[str, bool]] = field(default_factory=dict)
    """By handle and node: whether it may write. The lock."""
    violations: list[str] = field(default_factory=list)
    moves: list[tuple[str, str]] = field(default_factory=list)
    """(handle, node) of every mount, in order."""
    nodes: Machine | None = None
    """Whose nodes mount them; set by the story's world."""

    async def exists(self, handle: str) -> bool:
        return handle in self.images

    async def make(self, handle: str, size_bytes: int, fs_type: str, origin: str | None = None) -> None:
        self.images.setdefault(handle, size_bytes)

    async def size(self, handle: str) -> int | None:
        return self.images.get(handle)

    async def copy(self, source: str, target: str) -> int:
        if source not in self.images:
            raise ImageProblem(f"there is no image {source}")
        return self.images.setdefault(target, self.images[source])

    async def grow(self, handle: str, size_bytes: int) -> str | None:
        """Implements `Growth`, for the node of the process."""
        if self.node not in self.mounted.get(handle, {}):
            return None
        self.images[handle] = max(size_bytes, self.images[handle])
        return "xfs"

    async def remove(self, handle: str) -> None:
        if self.mounted.get(handle):
            self.violations.append(f"the image of {handle} was removed while {sorted(self.mounted[handle])} had it")
        self.images.pop(handle, None)
        self.leave.pop(handle, None)

    def _locked(self, handle: str) -> bool:
        return bool(self.mounted.get(handle))

    async def grant(
        self, handle: str, node: str, attachment: str, *, exclusive: bool, known: Collection[str]
    ) -> str | None:
        leave = self.leave.setdefault(handle, {})
        if attachment in leave:
            return "it is being detached" if leave[attachment][2] else None
        for uid in [uid for uid in leave if uid not in known]:
            leave[uid] = (*leave[uid][:2], True)
            if not (leave[uid][1] and self._locked(handle)):
                del leave[uid]
        for other, alone, _ in leave.values():
            if exclusive or alone:
                return f"it is attached to {other}"
        if self._locked(handle) if exclusive else any(self.mounted.get(handle, {}).values()):
            return "something on this machine has it in use"
        leave[attachment] = (node, exclusive, False)
        return None

    async def revoke(self, handle: str, attachment: str) -> bool:
        leave = self.leave.get(handle, {})
        if attachment not in leave:
            return False
        leave[attachment] = (*leave[attachment][:2], True)
        if leave[attachment][1] and self._locked(handle):
            return True
        del leave[attachment]
        return False

    async def holders(self, handle: str) -> str:
        return ", ".join(sorted(self.mounted.get(handle, ())))

    # The nodes' side

    def mount(self, handle: str, node: str, attachment: str) -> bool:
        """A node tries to mount a volume, by leave that it once heard of."""
        held = self.mounted.setdefault(handle, {})
        if node in held:
            return True
        found = self.leave.get(handle, {}).get(attachment)
        if found is None or found[2] or found[0] != node:
            return False
        if found[1] and held:
            return False
        held[node] = found[1]
        self.moves.append((handle, node))
        if held[node] and len(held) > 1:
            self.violations.append(f"{sorted(held)} can all write to {handle}")
        return True

    def unmount(self, handle: str, node: str) -> None:
        self.mounted.get(handle, {}).pop(node, None)

    def die(self, node: str) -> None:
        """The end of a node's last process: the kernel takes its mounts away."""
        for held in self.mounted.values():
            held.pop(node, None)


class VolumeNode(SimulatedNode):
    """A node whose pods need their volumes mounted before they run, and unmounted before they are gone."""

    def __init__(self, stage: Stage, images: SimulatedImages, name: str) -> None:
        super().__init__(stage, name=name)
        self.images = images
        self.heard = asyncio.Event()
        self.heard.set()
        self.started: set[str] = set()
        self.mounts: dict[str, set[str]] = {}
        """By handle: the uids of the pods that use it here."""

    async def _serve(self, uid: str, key: tuple[str, str]) -> None:
        await self.heard.wait()
        pod = self._pods.get(key[1], key[0])
        if pod is not None and pod.metadata.deletion_timestamp is None and await self._fenced(pod):
            return
        running = pod is not None and pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None
        if pod is not None and pod.metadata.uid == uid and running and uid not in self.started:
            await self._hold(pod)  # as after a reboot of the node
        await super()._serve(uid, key)

    async def _fenced(self, pod: Pod) -> bool:
        """As the agent: what was placed here before the node was fenced is not started again."""
        node = await self._stage.get(Node, self.name)
        return node is not None and fenced(pod, node)

    def reboot(self) -> None:
        """Nothing of the former life runs: mounts and containers are gone."""
        self.images.die(self.name)
        self.started.clear()
        self.mounts.clear()
        for task in list(self._busy.values()):
            task.cancel()

    async def _start(self, pod: Pod) -> None:
        if await self._hold(pod):
            await super()._start(pod)

    async def _hold(self, pod: Pod) -> bool:
        """Mounts the pod's volumes, however long that takes; False when it is not wanted any more."""
        for handle, volume in await self._volumes(pod):
            self.mounts.setdefault(handle, set()).add(pod.metadata.uid)
            while not await self._mount(handle, volume):
                await asyncio.sleep(LOOK_S)
                await self.heard.wait()
                now = await self._stage.get(Pod, pod.name, pod.namespace)
                if now is None or now.metadata.uid != pod.metadata.uid or now.metadata.deletion_timestamp is not None:
                    return False
        self.started.add(pod.metadata.uid)
        return True

    async def _mount(self, handle: str, volume: str) -> bool:
        found = await self._stage.get(VolumeAttachment, attachment_name(volume, DRIVER, self.name))
        return bool(found and found.status.attached) and self.images.mount(handle, self.name, found.metadata.uid)

    async def _volumes(self, pod: Pod) -> list[tuple[str, str]]:
        found = []
        for volume in pod.spec.volumes:
            if volume.persistent_volume_claim is None:
                continue
            claim = await self._stage.get(
                PersistentVolumeClaim, volume.persistent_volume_claim.claim_name, pod.namespace
            )
            bound = await self._stage.get(PersistentVolume, claim.spec.volume_name or "") if claim else None
            if bound is not None and bound.spec.csi is not None:
                found.append((bound.spec.csi.volume_handle, bound.name))
        return found

    def _ended(self, uid: str) -> None:
        """The containers of a pod have ended: what no other pod here uses is unmounted."""
        for handle, users in self.mounts.items():
            users.discard(uid)
            if not users:
                self.images.unmount(handle, self.name)


class Machine:
    """All nodes of one simulated machine. `run` is a scenario's world; the rest are a user's steps."""

    def __init__(self, stage: Stage, images: SimulatedImages, names: Collection[str]) -> None:
        self.stage = stage
        self.images = images
        self.nodes = {name: VolumeNode(stage, images, name) for name in names}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        self.images.nodes = self
        for name, node in self.nodes.items():
            self.tasks[name] = asyncio.get_running_loop().create_task(node.run(), name=name)
        try:
            while self.tasks:
                done, _ = await asyncio.wait(self.tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    with suppress(asyncio.CancelledError):
                        task.result()
                self.tasks = {name: task for name, task in self.tasks.items() if task not in done}
            await asyncio.Event().wait()
        finally:
            for task in self.tasks.values():
                task.cancel()

    async def kill(self, name: str) -> None:
        """Destroys a node: first it ends, all of it; then that is stated."""
        self.tasks[name].cancel()
        await asyncio.sleep(0)
        self.images.die(name)
        taint = {"key": "node.kubernetes.io/out-of-service", "value": "destroyed", "effect": "NoExecute"}
        while True:
            try:
                node = await self.stage.get(Node, name)
                if node is not None:
                    await self.stage.client.patch(node, {"spec": {"taints": [taint]}}, manager="engine")
                return
            except (ApiError, ConnectionError):
                await asyncio.sleep(LOOK_S)

    def partition(self, name: str) -> None:
        """The node hears nothing any more; what it has mounted it has."""
        self.nodes[name].heard.clear()

    async def silence(self, name: str) -> None:
        """A partition that the API notices: the node's lease is not renewed any more."""
        self.partition(name)
        lease = Lease(metadata=ObjectMeta(name=name, namespace="kube-node-lease"))
        lease.spec = LeaseSpec(lease_duration_seconds=LEASE_S, renew_time=self.stage.clock.now())
        await self.stage.client.apply(lease, manager="kubelet")

    async def end(self, name: str) -> bool:
        """Implements `Machines`: the node is ended, and starts again after a while."""
        node = self.nodes.get(name)
        if node is None:
            return False
        node.reboot()
        if not node.heard.is_set():
            asyncio.get_running_loop().call_later(BOOT_S, self._boot, name)
        return True

    def _boot(self, name: str) -> None:
        self.tasks[f"boot of {name}"] = asyncio.get_running_loop().create_task(self._heard_again(name))

    async def _heard_again(self, name: str) -> None:
        lease = Lease(metadata=ObjectMeta(name=name, namespace="kube-node-lease"))
        while await self.stage.client.get(Lease, name, "kube-node-lease") is not None:
            await self.stage.client.delete(lease.ref)
        self.mend(name)

    def mend(self, name: str) -> None:
        self.nodes[name].heard.set()
