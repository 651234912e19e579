"""Listens before what serves is in memory: an HTTP server of aiohttp that is imported and made when the first connection comes.

An engine without pods is asked for no logs and pulls no images, so its agent need not carry 10 MB for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from aiohttp import web

    from trimtab.runtime.process import Process

SHUTDOWN_S = 1.0

log = logging.getLogger(__name__)


class LateServer:
    """One listening socket. make: gives the application, at the first connection."""

    def __init__(self, make: Callable[[], web.Application]) -> None:
        self._make = make
        self._runner: web.AppRunner | None = None
        self._making = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._waiting: set[asyncio.Task[None]] = set()

    async def listen_unix(self, path: Path) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(self._protocol, path)

    async def listen_tcp(self, host: str) -> int:
        """Listens on a free port, and returns it."""
        self._server = await asyncio.get_running_loop().create_server(self._protocol, host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Ends listening and all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._waiting:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    def _protocol(self) -> asyncio.BaseProtocol:
        if self._runner is not None and self._runner.server is not None:
            return self._runner.server()
        return _Waiting(self._take)

    def _take(self, transport: asyncio.Transport) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(transport))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _serve(self, transport: asyncio.Transport) -> None:
        """Hands a connection over to the server, which is made if need be."""
        try:
            async with self._making:
                if self._runner is None:
                    from aiohttp import web

                    runner = web.AppRunner(
                        self._make(), access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
                    )
                    await runner.setup()
                    self._runner = runner
            assert self._runner.server is not None
            protocol = self._runner.server()
        except Exception:
            log.exception("what serves here cannot be made")
            transport.abort()
            return
        if transport.is_closing():
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()


class _Waiting(asyncio.Protocol):
    """A connection until there is something that serves it: nothing is read from it."""

    def __init__(self, take: Callable[[asyncio.Transport], None]) -> None:
        self._take = take

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast("asyncio.Transport", transport)
        connected.pause_reading()
        self._take(connected)


async def serve_streams(process: Process) -> None:
    """Logs, exec, attach and port-forward on the agent's unix socket; until cancelled."""

    def make() -> web.Application:
        from trimtab.components.node.streams import Streams

        return Streams(process).application()

    settings = process.settings
    shutil.rmtree(settings.run_path("exec"), ignore_errors=True)
    server = LateServer(make)
    path = settings.node_socket
    try:
        path.unlink(missing_ok=True)
        await server.listen_unix(path)
        path.chmod(0o660)
        with contextlib.suppress(LookupError):
            shutil.chown(path, user=settings.user)
        await asyncio.Event().wait()
    finally:
        await server.close()
        path.unlink(missing_ok=True)
