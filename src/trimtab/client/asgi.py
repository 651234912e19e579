"""An API server in the same process: requests go straight into its ASGI application.

No sockets, no threads, no time of its own, so it works under the simulated event loop. A plain request runs in a task of
its own, shielded from the caller: a caller that dies does not take the server's half-done work with it, just as over a
network. A streamed response (a watch) is the application's task feeding a queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

from trimtab.client.transport import Request, Response

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


log = logging.getLogger(__name__)


class AsgiTransport:
    """Sends requests to an ASGI application that trusts its caller (as over the engine's socket)."""

    def __init__(self, app: AsgiApp, *, headers: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._headers = tuple((headers or {}).items())
        self._streams: dict[_Streamed, None] = {}

    async def send(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        if not request.stream:
            exchange = _Plain(request.body)
            await asyncio.shield(loop.create_task(exchange.run(self._app, _scope(request, self._headers))))
            return exchange
        streamed = _Streamed(request.body)
        task = streamed.task = loop.create_task(streamed.run(self._app, _scope(request, self._headers)))
        self._streams[streamed] = None
        task.add_done_callback(lambda _: self._streams.pop(streamed, None))
        try:
            await streamed.started.wait()
        except asyncio.CancelledError:
            await streamed.close()
            raise
        return streamed

    async def close(self) -> None:
        for streamed in list(self._streams):
            await streamed.close()


# The same few paths, queries and headers come again and again.


@lru_cache(4096)
def _quoted(path: str) -> bytes:
    return quote(path).encode()


@lru_cache(4096)
def _encoded(query: tuple[tuple[str, str], ...]) -> bytes:
    return urlencode(query).encode()


@lru_cache(256)
def _header_list(headers: tuple[tuple[str, str], ...], content_type: str) -> list[tuple[bytes, bytes]]:
    pairs = [("host", "trimtab"), ("content-type", content_type), *headers]
    return [(name.lower().encode(), value.encode()) for name, value in pairs]


def _scope(request: Request, extra: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    headers = _header_list((*extra, *request.headers.items()), request.content_type)
    if request.body:
        headers = [*headers, (b"content-length", str(len(request.body)).encode())]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": _quoted(request.path),
        "query_string": _encoded(tuple(request.query.items())) if request.query else b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": ("trimtab", None),
    }


def _response_headers(message: Message) -> dict[str, str]:
    return {name.decode().lower(): value.decode("latin-1") for name, value in message.get("headers", ())}


class _Plain:
    """A request whose response is whole in `body`."""

    def __init__(self, body: bytes) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._request = body
        self._received = False

    async def run(self, app: AsgiApp, scope: dict[str, Any]) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._received:
            await asyncio.get_running_loop().create_future()  # we never hang up
        self._received = True
        return {"type": "http.request", "body": self._request, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = _response_headers(message)
        elif piece := message.get("body"):
            self.body = self.body + piece if self.body else piece

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body

    async def close(self) -> None:
        return None


class _Streamed:
    """A request whose response comes in pieces; `None` in the queue is its end."""

    body = b""

    def __init__(self, body: bytes) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.started = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._request = body
        self._received = False
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._closed = asyncio.Event()

    async def run(self, app: AsgiApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            self.status = self.status or 500
            log.exception("%s %s failed", scope["method"], scope["path"])
        finally:
            self.started.set()
            self._queue.put_nowait(None)

    async def _receive(self) -> Message:
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": self._request, "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = _response_headers(message)
            self.started.set()
        elif piece := message.get("body"):
            self._queue.put_nowait(piece)

    async def chunks(self) -> AsyncIterator[bytes]:
        while (piece := await self._queue.get()) is not None:
            yield piece

    async def close(self) -> None:
        self._closed.set()
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])
