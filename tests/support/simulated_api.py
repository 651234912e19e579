"""The real API server for simulated time: in-process, its store in memory, its clock the simulation's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trimtab.client.asgi import AsgiTransport
from trimtab.client.clock import Clock
from trimtab.client.transport import Transport
from trimtab.runtime.scenario import Records
from trimtab.server.app import create_app
from trimtab.server.server import ApiServer
from trimtab.store import Put, Store

Message = MutableMapping[str, Any]


class SimulatedApi:
    """Implements `trimtab.runtime.contract.Api`."""

    def __init__(self, store: Store, server: ApiServer, clock: Clock) -> None:
        self.store = store
        self.server = server
        self._clock = clock
        self._app = create_app(server)

    def transport(self) -> Transport:
        return AsgiTransport(self._answer)

    async def _answer(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        await self._app(scope, receive, send)

    async def restart(self, *, compact: bool) -> None:
        if compact:
            await self.store.compact(self.store.revision)
        await self._serve(self.store)

    async def records(self) -> Records:
        return {record.key: record.value for record in sorted(self.store.list(""), key=lambda r: r.revision)}

    async def restore(self, records: Records) -> None:
        before, store = self.store, await Store.open(None, inline=True)
        for key, value in records.items():
            await store.write([Put(key, value)])
        await self._serve(store)
        await before.close()

    async def _serve(self, store: Store) -> None:
        before, self.store = self.server, store
        self.server = ApiServer(store, clock=self._clock)
        await self.server.start()
        self._app = create_app(self.server)
        await before.stop()

    async def close(self) -> None:
        await self.server.stop()
        await self.store.close()


async def make_api(clock: Clock) -> SimulatedApi:
    store = await Store.open(None, inline=True)
    server = ApiServer(store, clock=clock)
    await server.start()
    return SimulatedApi(store, server, clock)
