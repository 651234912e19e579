"""A node that is not there: plays pods through their phases as a kubelet would, and watches over promises meanwhile. In simulated time or
in real time.

What a pod does is written in its image, so that a scenario reads like a story:

    ok        runs and gets ready
    crash     starts, exits with 1 again and again, never ready
    exit-N    runs for a second and ends with that code
    flaky     fails the first time in its Job, succeeds from then on
    odd       fails when its completion index is odd
    leader    succeeds when its completion index is 0, else runs on
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import Container, Pod, PodSpec, PodTemplateSpec
from trimtab.api.nodes import Node
from trimtab.api.volumes import PersistentVolumeClaim
from trimtab.client.cache import Change
from trimtab.client.errors import ApiError, Conflict, NotFound
from trimtab.client.informer import Informer
from trimtab.runtime.contract import Stage

NODE = "node-1"
MANAGER = "kubelet"
START_S_MAX = 2.0
STOP_S_MAX = 3.0
RETRY_S = 0.2
POD_IP = "10.244.0.7"
"""The same for all, so that two runs of a story end alike."""
NODE_STATUS: JSON = {
    "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
    "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
    "conditions": [{"type": "Ready", "status": "True", "reason": "NodeReady", "message": ""}],
}

Promise = Callable[[Mapping[str, Pod]], str | None]
"""Looks at all pods by name, at every moment; one line when something must not be."""


def template(image: str, app: str = "web", **spec: Any) -> PodTemplateSpec:
    """A pod template with one container."""
    return PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": app}),
        spec=PodSpec(containers=[Container(name="main", image=image)], **spec),
    )


def behaviour(pod: Pod) -> str:
    return pod.spec.containers[0].image.partition(":")[0]


def _index(pod: Pod) -> int:
    return int(pod.metadata.annotations.get("batch.kubernetes.io/job-completion-index", "0"))


def _ends(pod: Pod) -> bool:
    what = behaviour(pod)
    return what.startswith("exit-") or what in ("flaky", "odd") or (what == "leader" and _index(pod) == 0)


class SimulatedNode:
    """One node. `run` is a scenario's world."""

    def __init__(
        self,
        stage: Stage,
        promise: Promise | None = None,
        *,
        start_s_max: float = START_S_MAX,
        stop_s_max: float = STOP_S_MAX,
        name: str = NODE,
        status: JSON = NODE_STATUS,
    ) -> None:
        self.name = name
        self._stage = stage
        self._status = status
        self._start_s_max = start_s_max
        self._stop_s_max = stop_s_max
        self._rng = stage.clock.random
        self._promise = promise
        self._pods: Informer[Pod] = Informer(stage.client, Pod, clock=stage.clock)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._flaked: set[str] = set()
        self._failure: BaseException | None = None
        self._broken = asyncio.Event()

    async def run(self) -> None:
        stage = self._stage
        await stage.client.apply(
            Node(metadata=ObjectMeta(name=self.name, labels={"kubernetes.io/hostname": self.name})), manager=MANAGER
        )
        node = await stage.get(Node, self.name)
        assert node is not None
        await stage.client.patch(node, {"status": self._status}, manager=MANAGER, subresource="status")
        self._pods.subscribe(self._changed)
        watching = asyncio.get_running_loop().create_task(self._pods.run(), name="node: pods")
        broken = asyncio.get_running_loop().create_task(self._broken.wait(), name="node: broken promises")
        try:
            await asyncio.wait([watching, broken], return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None:
                raise self._failure
        finally:
            for task in (watching, broken, *self._busy.values()):
                task.cancel()

    def _changed(self, change: Change[Pod]) -> None:
        if self._promise is not None:
            broken = self._promise({pod.name: pod for pod in self._pods.list()})
            if broken:
                self._fail(AssertionError(f"after {change.latest.ref}: {broken}"))
        if change.latest.spec.node_name == self.name:
            self._tend(change.latest.metadata.uid, change.key)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._broken.set()

    def _tend(self, uid: str, key: tuple[str, str]) -> None:
        if uid in self._busy:
            self._again.add(uid)
            return
        task = asyncio.get_running_loop().create_task(self._serve(uid, key), name=f"node: {key[1]}")
        self._busy[uid] = task
        task.add_done_callback(lambda done: self._done(done, uid, key))

    def _done(self, task: asyncio.Task[None], uid: str, key: tuple[str, str]) -> None:
        self._busy.pop(uid, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ConnectionError):
            asyncio.get_running_loop().call_later(RETRY_S, self._tend, uid, key)
        elif error is not None:
            self._fail(error)
        elif uid in self._again and not task.cancelled():
            self._again.discard(uid)
            self._tend(uid, key)

    async def _serve(self, uid: str, key: tuple[str, str]) -> None:
        """Moves one pod one step on."""
        pod = self._pods.get(key[1], key[0])
        if pod is None or pod.metadata.uid != uid:
            self._ended(uid)
            return
        if pod.metadata.deletion_timestamp is not None:
            await asyncio.sleep(self._rng.random() * self._stop_s_max)
            self._ended(uid)
            with suppress(Conflict):  # another pod has its name by now
                await self._stage.client.delete(pod, grace_period_s=0)
            return
        if pod.status.phase == "Pending" and not pod.status.container_statuses:
            await asyncio.sleep(0.05 + self._rng.random() * self._start_s_max)
            now = self._pods.get(key[1], key[0])
            if now is not None and now.metadata.uid == uid and now.status.phase == "Pending":
                await self._start(pod)
        elif pod.status.phase == "Running" and _ends(pod):
            await asyncio.sleep(1.0)
            await self._exit(pod)

    def _ended(self, uid: str) -> None:
        """The containers of a pod have ended."""

    async def _start(self, pod: Pod) -> None:
        for volume in pod.spec.volumes:
            if volume.persistent_volume_claim is not None:
                name = volume.persistent_volume_claim.claim_name
                claim = await self._stage.get(PersistentVolumeClaim, name, pod.namespace)
                assert claim is not None, f"{pod.ref} was placed without its claim {name}"
                assert claim.status.phase == "Bound", f"{pod.ref} was placed before its claim {name} was bound"
        if behaviour(pod) == "crash":
            waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
            last = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such table: notes"}}
            await self._report(pod, "Running", ready=False, state=waiting, last=last)
        else:
            await self._report(pod, "Running", ready=True, state={"running": {}})

    async def _exit(self, pod: Pod) -> None:
        owner = next((o.uid for o in pod.metadata.owner_references), "")
        what = behaviour(pod)
        if what.startswith("exit-"):
            code = int(what.removeprefix("exit-"))
        else:
            code = int((what == "flaky" and owner not in self._flaked) or (what == "odd" and _index(pod) % 2 == 1))
        self._flaked.add(owner)
        ended = {"exitCode": code, "message": "no such table: notes" if code else "", "finishedAt": self._now()}
        await self._report(pod, "Failed" if code else "Succeeded", ready=False, state={"terminated": ended})

    def _now(self) -> str:
        return self._stage.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    async def _report(self, pod: Pod, phase: str, *, ready: bool, state: JSON, last: JSON | None = None) -> None:
        now = self._now()
        word = "True" if ready else "False"
        status: JSON = {
            "phase": phase,
            "podIP": POD_IP,
            "podIPs": [{"ip": POD_IP}],
            "startTime": msgspec.to_builtins(pod.status.start_time) if pod.status.start_time else now,
            "conditions": [
                {"type": type_, "status": word, "lastTransitionTime": now} for type_ in ("ContainersReady", "Ready")
            ],
            "containerStatuses": [
                {
                    "name": "main",
                    "image": pod.spec.containers[0].image,
                    "imageID": "",
                    "ready": ready,
                    "restartCount": 0,
                    "state": state,
                    "lastState": last or {},
                }
            ],
        }
        body: JSON = {"metadata": {"uid": pod.metadata.uid}, "status": status}
        try:
            await self._stage.client.patch(pod, body, manager=MANAGER, subresource="status", type="strategic")
        except (NotFound, Conflict):
            pass
        except ApiError as err:
            if err.status != 422:  # a patch that names another uid: the pod was replaced
                raise


async def fail_pod(stage: Stage, pod: Pod) -> None:
    """The pod fails as a whole, as when the node evicts it."""
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    try:
        await stage.client.patch(pod, {"status": status}, manager=MANAGER, subresource="status")
    except NotFound:
        return
