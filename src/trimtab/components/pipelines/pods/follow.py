"""What the API says of a step's pod, as it changes; whoever waits for something of it waits here.

Job --> pod --> its containers: waiting (pulled, created), running, ready, terminated
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from trimtab.api.core import Event, Pod
from trimtab.ci.runs.ports import EngineFault
from trimtab.client import ApiError, Gone, WireClient

JSON = dict[str, Any]
T = TypeVar("T")

HOPELESS = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerError", "RunContainerError")
"""Why a container waits that will not start by itself."""
NO_POD_S = 10.0
"""After so long without a pod its Job's events are asked for the reason."""
AWAY_S = 60.0
"""How long the API may be away."""
PAUSE_S = 0.5


class Followed:
    """The pod of one Job. labels: what it alone has. pod: as it was last seen, None before there is one; gone: it was deleted."""

    def __init__(self, client: WireClient, namespace: str, job: str, labels: str) -> None:
        self._client = client
        self._namespace = namespace
        self._job = job
        self._labels = labels
        self._changed = asyncio.Condition()
        self._fault: str = ""
        self.pod: JSON | None = None
        self.gone = False

    async def run(self) -> None:
        """Follows it until cancelled."""
        labels = self._labels
        loop = asyncio.get_running_loop()
        seen = loop.time()
        while True:
            try:
                whole = await self._client.list(Pod.resource_type, self._namespace, labels=labels)
                await self._saw(whole["items"][0] if whole["items"] else None)
                seen = loop.time()
                version = whole["metadata"]["resourceVersion"]
                watch = self._client.watch(Pod.resource_type, self._namespace, resource_version=version, labels=labels)
                async for event in watch:
                    seen = loop.time()
                    if event.type != "BOOKMARK":
                        await self._saw(None if event.type == "DELETED" else msgspec.json.decode(event.object))
            except Gone:
                continue
            except (ApiError, ConnectionError) as err:
                lasting = isinstance(err, ApiError) and err.status < 500 and err.status != 429
                if lasting or loop.time() - seen > AWAY_S:
                    await self._failed(str(err))
                    return
            await asyncio.sleep(PAUSE_S)

    async def _saw(self, pod: JSON | None) -> None:
        async with self._changed:
            self.gone = self.gone or (pod is None and self.pod is not None)
            self.pod = pod or self.pod
            self._changed.notify_all()

    async def _failed(self, why: str) -> None:
        async with self._changed:
            self._fault = why
            self._changed.notify_all()

    async def until(self, found: Callable[[JSON], T | None]) -> T:
        """What `found` says of the pod, as soon as it says something. Raises `EngineFault` when it cannot come to that."""
        async with self._changed:
            while True:
                if self._fault:
                    raise EngineFault(self._fault)
                if self.pod is not None and (said := found(self.pod)) is not None:
                    return said
                if self.gone:
                    raise EngineFault("its pod was deleted")
                if self.pod is not None and (why := hopeless(self.pod)):
                    raise EngineFault(why)
                if self.pod is None:
                    await self._for_a_pod()
                else:
                    await self._changed.wait()

    async def _for_a_pod(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), NO_POD_S)
        except TimeoutError:
            fields = f"involvedObject.kind=Job,involvedObject.name={self._job}"
            events = await self._client.list(Event.resource_type, self._namespace, fields=fields)
            refused = [one.get("message", "") for one in events["items"] if one.get("reason") == "FailedCreate"]
            if refused:
                raise EngineFault(f"no pod can be made: {refused[-1]}") from None


def statuses(pod: JSON) -> Iterator[JSON]:
    """Of all its containers."""
    status = pod.get("status", {})
    for kind in ("containerStatuses", "initContainerStatuses"):
        yield from status.get(kind) or ()


def status_of(pod: JSON, container: str) -> JSON:
    """Of one container; empty when there is none yet."""
    return next((one for one in statuses(pod) if one["name"] == container), {})


def running(pod: JSON, container: str) -> bool | None:
    """Whether it runs; None while it does not yet."""
    state = status_of(pod, container).get("state", {})
    return True if "running" in state else False if "terminated" in state else None


def terminated(pod: JSON, container: str) -> JSON | None:
    """How it ended the first time, if it did: with `exitCode`, `reason`."""
    one = status_of(pod, container)
    found: JSON | None = one.get("lastState", {}).get("terminated") or one.get("state", {}).get("terminated")
    return found


def hopeless(pod: JSON) -> str:
    """Why a pod will not run its step; "" while it may."""
    for one in statuses(pod):
        waiting = one.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in HOPELESS:
            return f"its pod cannot start: {waiting['reason']}: {waiting.get('message', one.get('image', ''))}"
    status = pod.get("status", {})
    if status.get("phase") == "Failed" and status.get("reason"):
        return f"its pod was ended: {status['reason']}: {status.get('message', '')}".rstrip(": ")
    return ""


def unscheduled(pod: JSON) -> str:
    """Why no node takes it; "" when one has, or nobody has looked."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message", ""))
    return ""
