"""The real API server for simulated time: in-process, its store in memory, its clock the simulation's."""

from __future__ import annotations

from trimtab.client.asgi import AsgiTransport
from trimtab.client.clock import Clock
from trimtab.client.transport import Transport
from trimtab.server.app import create_app
from trimtab.server.server import ApiServer
from trimtab.store import Store


class SimulatedApi:
    """Implements `trimtab.runtime.contract.Api`."""

    def __init__(self, store: Store, server: ApiServer) -> None:
        self.store = store
        self.server = server
        self._app = create_app(server)

    def transport(self) -> Transport:
        return AsgiTransport(self._app)

    async def close(self) -> None:
        await self.server.stop()
        await self.store.close()


async def make_api(clock: Clock) -> SimulatedApi:
    store = await Store.open(None, inline=True)
    server = ApiServer(store, clock=clock)
    await server.start()
    return SimulatedApi(store, server)
