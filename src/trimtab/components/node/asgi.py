"""Serves an ASGI application (plain HTTP requests) from aiohttp, which the agent has in memory anyway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aiohttp import web

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def handler(app: App, prefix: str = "") -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """An aiohttp handler that runs `app`, which sees paths without `prefix`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path.removeprefix(prefix),
            "raw_path": request.raw_path.encode(),
            "query_string": request.query_string.encode(),
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
        }
        response = web.StreamResponse()

        async def receive() -> Message:
            return {"type": "http.request", "body": await request.read(), "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.set_status(message["status"])
                for name, value in message.get("headers", ()):
                    response.headers[name.decode("latin-1")] = value.decode("latin-1")
                await response.prepare(request)
            elif message.get("body") and request.method != "HEAD":
                await response.write(message["body"])

        await app(scope, receive, send)
        await response.write_eof()
        return response

    return handle
