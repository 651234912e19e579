"""Leader election by a Lease object, so that of several replicas on a cluster one works.

The algorithm is that of client-go's leaderelection: the holder renews; others take over when the lease has not changed for
its duration by *their own* clock, so clocks need not agree. Losing the lease cancels the work at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime

from trimtab.api import JSON
from trimtab.api.cluster import Lease
from trimtab.client.client import Client
from trimtab.client.clock import Clock, jittered
from trimtab.client.errors import AlreadyExists, ApiError
from trimtab.runtime.ownership import SYSTEM_NAMESPACE

DURATION_S = 15.0
RENEW_S = 3.0
GIVE_UP_S = 10.0
"""The holder stops working when it could not renew for this long: before others may take over."""


class LeaseLost(ConnectionError):
    """It could not be renewed in time, or another holds it: one line. What worked has ended, and may begin anew."""


def default_identity() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


async def while_leading(
    client: Client,
    name: str,
    work: Callable[[], Awaitable[None]],
    *,
    clock: Clock,
    namespace: str = SYSTEM_NAMESPACE,
    identity: str = "",
) -> None:
    """Waits for the lease, then runs `work` for as long as it is held.

    Raises:
        LeaseLost: the work has to start anew.
    """
    lease = _Lease(client, name, namespace, identity or default_identity(), clock)
    while True:
        if await lease.try_hold():
            break
        await asyncio.sleep(jittered(RENEW_S, clock))
    worker = asyncio.ensure_future(work())
    renewer = asyncio.ensure_future(lease.keep())
    try:
        done, _ = await asyncio.wait([worker, renewer], return_when=asyncio.FIRST_COMPLETED)
        if worker in done:
            await worker
        else:
            raise LeaseLost(f"the lease {namespace}/{name} {lease.why_lost()}; starting anew")
    finally:
        for task in (worker, renewer):
            task.cancel()
        await asyncio.gather(worker, renewer, return_exceptions=True)
        await lease.release()


class _Lease:
    def __init__(self, client: Client, name: str, namespace: str, identity: str, clock: Clock) -> None:
        self.holder = ""
        self._client = client
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._version = ""
        self._seen_at = 0.0

    async def try_hold(self) -> bool:
        """Takes or renews the lease; False when another holds it."""
        now_s = asyncio.get_running_loop().time()
        try:
            lease = await self._client.get(Lease, self._name, self._namespace)
            if lease is None:
                await self._create()
                return True
            self.holder = lease.spec.holder_identity or ""
            if lease.metadata.resource_version != self._version:
                self._version, self._seen_at = lease.metadata.resource_version, now_s
            if self.holder not in ("", self._identity) and now_s - self._seen_at < DURATION_S:
                return False
            transitions = (lease.spec.lease_transitions or 0) + (self.holder != self._identity)
            await self._replace(lease, transitions)
        except (ApiError, ConnectionError):
            return False
        self.holder = self._identity
        return True

    async def keep(self) -> None:
        """Renews until that has failed for too long."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < GIVE_UP_S:
            await asyncio.sleep(RENEW_S)
            began = loop.time()
            try:
                held = await asyncio.wait_for(self.try_hold(), GIVE_UP_S)
            except TimeoutError:
                continue
            if held:
                renewed = began
            elif self.holder not in ("", self._identity):
                return

    def why_lost(self) -> str:
        if self.holder in ("", self._identity):
            return f"could not be renewed for {GIVE_UP_S:.0f} s"
        return f"was lost to {self.holder}"

    async def release(self) -> None:
        """Lets the next one in at once. Best effort."""
        if self.holder != self._identity:
            return
        try:
            lease = await self._client.get(Lease, self._name, self._namespace)
            if lease is not None and lease.spec.holder_identity == self._identity:
                await self._replace(lease, lease.spec.lease_transitions or 0, holder="")
        except (ApiError, ConnectionError):
            return

    async def _create(self) -> None:
        body = self._body(self._identity, 0, "")
        try:
            await self._client.wire.create(Lease.resource_type, body, manager="trimtab-lease")
        except AlreadyExists as err:
            raise ConnectionError("another was first") from err

    async def _replace(self, lease: Lease, transitions: int, holder: str | None = None) -> None:
        body = self._body(self._identity if holder is None else holder, transitions, lease.metadata.resource_version)
        if holder is None and lease.spec.holder_identity == self._identity and lease.spec.acquire_time:
            body["spec"]["acquireTime"] = _micro_time(lease.spec.acquire_time)
        await self._client.wire.replace(Lease.resource_type, body, manager="trimtab-lease")

    def _body(self, holder: str, transitions: int, version: str) -> JSON:
        now = _micro_time(self._clock.now())
        meta: JSON = {"name": self._name, "namespace": self._namespace}
        if version:
            meta["resourceVersion"] = version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": int(DURATION_S),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }


def _micro_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
