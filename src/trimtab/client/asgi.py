"""An API server in the same process: requests go straight into its ASGI application.

No sockets, no threads, no time of its own, so it works under the simulated event loop. A plain request runs in a task of
its own, shielded from the caller: a caller that dies does not take the server's half-done work with it, just as over a
network. A streamed response (a watch) is the application's task feeding a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote, urlencode

from trimtab.client.transport import Request, Response

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class AsgiTransport:
    """Sends requests to an ASGI application as `user` (a member of `groups`), trusted as over the engine's socket."""

    def __init__(self, app: AsgiApp, *, headers: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._headers = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        self._streams: dict[_Exchange, None] = {}

    async def send(self, request: Request) -> Response:
        exchange = _Exchange(request, self._headers)
        task = asyncio.get_running_loop().create_task(exchange.run(self._app))
        if not request.stream:
            await asyncio.shield(task)
            return exchange
        exchange.task = task
        self._streams[exchange] = None
        task.add_done_callback(lambda _: self._streams.pop(exchange, None))
        try:
            await exchange.started.wait()
        except asyncio.CancelledError:
            await exchange.close()
            raise
        return exchange

    async def close(self) -> None:
        for exchange in list(self._streams):
            await exchange.close()


class _Exchange:
    """One request and its response. `None` in the queue is the end of the stream."""

    def __init__(self, request: Request, headers: list[tuple[bytes, bytes]]) -> None:
        self.request = request
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.task: asyncio.Task[None] | None = None
        self.started = asyncio.Event()
        self._extra = headers
        self._sent_body = False
        self._pieces: list[bytes] = []
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._closed: asyncio.Future[None] | None = None

    async def run(self, app: AsgiApp) -> None:
        try:
            await app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except Exception as err:
            if not self.started.is_set():
                self.status = 500
                self.body = repr(err).encode()
            if not self.request.stream:
                raise
        finally:
            if not self.request.stream:
                self.body = self.body or b"".join(self._pieces)
            self.started.set()
            self._queue.put_nowait(None)

    def _scope(self) -> dict[str, Any]:
        request = self.request
        headers = [
            (b"host", b"trimtab"),
            (b"content-type", request.content_type.encode()),
            (b"content-length", str(len(request.body)).encode()),
            *self._extra,
            *((k.lower().encode(), v.encode()) for k, v in request.headers.items()),
        ]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": quote(request.path).encode(),
            "query_string": urlencode(request.query).encode(),
            "root_path": "",
            "headers": headers,
            "client": None,
            "server": ("trimtab", None),
        }

    async def _receive(self) -> Message:
        if not self._sent_body:
            self._sent_body = True
            return {"type": "http.request", "body": self.request.body, "more_body": False}
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._closed)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode().lower(): v.decode("latin-1") for k, v in message.get("headers", ())}
            self.started.set()
            return
        piece = message.get("body", b"")
        if not piece:
            return
        if self.request.stream:
            self._queue.put_nowait(piece)
        else:
            self._pieces.append(piece)

    async def chunks(self) -> AsyncIterator[bytes]:
        while (piece := await self._queue.get()) is not None:
            yield piece

    async def close(self) -> None:
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        task = self.task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
