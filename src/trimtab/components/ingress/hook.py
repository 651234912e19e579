"""What keeps SIGTERM from a pod that still has requests, on a cluster whose nodes are not ours.

On our own engine the node agent waits for the condition `PROXIED` itself. A kubelet does not know it; but before it stops a
container it runs the container's preStop hook, and stops nothing until the hook has ended:

    pod deleted -> kubelet: GET http://SERVICE/detached/NAMESPACE?labels=... -> held until the proxy has let go -> SIGTERM
               \\-> `configure`: drained at the proxy, idle, removed -> condition `PROXIED` False -> 200

A kubelet does not say for which pod it asks, so the answer waits for every pod of that selector that is being deleted: the
asking one is among them, since it was marked before its kubelet could know. They are asked from the API anew and not taken
from the cache, which may not have heard yet. A container that is stopped for another reason (a failed liveness probe) finds
none and is answered at once. The hook needs nothing of the container's image, neither shell nor program.

The Service that hooks call is in `trimtab-system`; where it exists, `apps` writes the hook into what it renders. It has no
selector: its endpoint is this process, wherever it runs, and its address stays when the process moves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from trimtab.api import ObjectMeta
from trimtab.api.core import HOOK_NAMESPACE, HOOK_SERVICE, Pod, ServicePort, ServiceSpec
from trimtab.api.core import Service as ServiceKind
from trimtab.api.networking import (
    SERVICE_NAME_LABEL,
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
)
from trimtab.client import ApiError
from trimtab.components.ingress import attached
from trimtab.components.ingress.proxy import Proxy
from trimtab.runtime import Owned, Service

if TYPE_CHECKING:
    from aiohttp import web

    from trimtab.runtime.process import Process

MANAGER = "trimtab-ingress-hook"
PORT = 80
HELD_MAX = 2_000
"""Hooks that are held at one time; beyond that a kubelet is told to go on, and its app finishes what it has by itself."""


def hook_service() -> ServiceKind:
    """The Service that preStop hooks call."""
    return ServiceKind(
        metadata=ObjectMeta(name=HOOK_SERVICE, namespace=HOOK_NAMESPACE),
        spec=ServiceSpec(ports=[ServicePort(name="http", port=PORT)]),
    )


def endpoint(address: str, port: int) -> EndpointSlice:
    """The one endpoint of that Service: this process."""
    return EndpointSlice(
        metadata=ObjectMeta(name=HOOK_SERVICE, namespace=HOOK_NAMESPACE, labels={SERVICE_NAME_LABEL: HOOK_SERVICE}),
        address_type="IPv4",
        endpoints=[Endpoint(addresses=[address], conditions=EndpointConditions(ready=True))],
        ports=[EndpointPort(name="http", port=port, protocol="TCP")],
    )


class Hooks:
    """The hooks that are held."""

    def __init__(self, process: Process) -> None:
        self._client = process.client
        self._pods = process.informer(Pod)
        self._changed = asyncio.Event()
        self._held = 0

    async def run(self) -> None:
        """Follows pods until cancelled."""
        end = self._pods.subscribe(lambda change: self._wake())
        try:
            await asyncio.Event().wait()
        finally:
            end()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def hold(self, namespace: str, labels: str) -> None:
        """Returns once the proxy has let go of every pod of the selector that is being deleted now."""
        if self._held >= HELD_MAX:
            return
        self._held += 1
        try:
            await self._pods.wait_synced()
            listing = await self._client.list(Pod, namespace, labels=labels)
            leaving = {pod.metadata.uid: pod.name for pod in listing.items if held_by_proxy(pod)}
            while leaving:
                changed = self._changed
                leaving = {uid: name for uid, name in leaving.items() if self._still_held(namespace, name, uid)}
                if leaving:
                    await changed.wait()
        finally:
            self._held -= 1

    def _still_held(self, namespace: str, name: str, uid: str) -> bool:
        """Whether the proxy may still send requests to a pod that is being deleted, as far as the cache has heard."""
        pod = self._pods.get(name, namespace)
        if pod is None or pod.metadata.uid != uid:
            return False
        return pod.metadata.deletion_timestamp is None or held_by_proxy(pod)


def held_by_proxy(pod: Pod) -> bool:
    """Whether a pod is being deleted and the proxy has not said yet that it sends it nothing more."""
    condition = attached.said(pod)
    return (
        pod.metadata.deletion_timestamp is not None
        and attached.has_gate(pod)
        and condition is not None
        and condition.status != "False"
    )


async def serve_hooks(process: Process) -> None:
    """Serves hooks on a free port of the proxy's address and tells the cluster where, until cancelled."""
    from aiohttp import web

    hooks = Hooks(process)

    async def detached(request: web.Request) -> web.Response:
        try:
            await hooks.hold(request.match_info["namespace"], request.query.get("labels", ""))
        except (ApiError, ConnectionError) as err:
            return web.Response(status=503, text=f"{err}\n")
        return web.Response(text="no proxy sends requests to it\n")

    app = web.Application()
    app.router.add_get("/detached/{namespace}", detached)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    following = asyncio.ensure_future(hooks.run())
    try:
        address = process.adapter(Proxy).address  # type: ignore[type-abstract]
        site = web.TCPSite(runner, address, 0)
        await site.start()
        port = runner.addresses[0][1]
        await process.client.apply(endpoint(address, port), manager=MANAGER)
        await following
    finally:
        following.cancel()
        await runner.cleanup()


SERVICE = Service("hooks", serve_hooks, reads=(Pod,), owns=(Owned(EndpointSlice),))
"""For a cluster whose nodes are not ours."""
