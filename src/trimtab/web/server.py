"""The read-only web server: GET and HEAD, nothing else. It has no route that writes, and its pages load nothing from
elsewhere.

    /                      the page          /main.js, /style.css   its files
    /api/stream            live events (server-sent events): overview, timeline
    /api/views/COMPONENT/NAME   a component's view: {title, note, columns, rows}
    /api/pages/COMPONENT/PLURAL/NAMESPACE/NAME/SUBRESOURCE   a document of a component's endpoint, for a frame in which it may do nothing
    /api/data/COMPONENT/PLURAL/NAMESPACE/NAME/SUBRESOURCE?QUERY     what such a document asks for, by way of the page around it
    /healthz               200

NAMESPACE is `-` of a kind that has none.

The `Host` of a request must be an address or a name of this machine, so that a page of another site cannot read this one by
pointing its own name here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import mimetypes
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from trimtab.client import ApiError, Client
from trimtab.runtime import Component, View
from trimtab.web.hub import Hub, TooManyPages

STATIC = Path(__file__).with_name("static")
Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

PAGE_POLICY = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'self'"
"""Of documents that are about what users' programs printed: an origin of their own, and nothing that they could ask."""
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_PLACE = re.compile(
    r"/api/(?P<what>pages|data)/(?P<component>[a-z]+)/(?P<plural>[a-z]+)/(?P<namespace>-|[a-z0-9][a-z0-9-]*)/(?P<name>[a-z0-9][a-z0-9.-]*)/(?P<subresource>[a-z]+)"
)
_ANSWERS = ("application/json", "application/octet-stream", "application/vnd.google.protobuf")
"""Types of data that are passed on: none that a browser would run."""
_PASSED = (b"content-disposition",)
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class WebServer:
    """The ASGI application."""

    def __init__(self, hub: Hub, client: Client, components: Sequence[Component], hosts: Sequence[str] = ()) -> None:
        self._hub = hub
        self._client = client
        self._views: dict[tuple[str, str], View] = {(c.name, v.name): v for c in components for v in c.views}
        self._places = {
            (what, c.name, e.kind.resource_type.plural, e.subresource): e.kind.resource_type
            for c in components
            for e in c.endpoints
            for what, is_so in (("pages", e.page), ("data", e.data))
            if is_so
        }
        self._hosts = {"localhost", *hosts}
        self._files = _read_files(STATIC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._hub.close()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            await _text(send, 405, "This page can change nothing; use trimtab or kubectl.", [(b"allow", b"GET, HEAD")])
        elif not self._is_ours(scope):
            await _text(send, 421, "Unknown host name; open the dashboard by its address or as localhost.")
        elif path == "/healthz":
            await _text(send, 200, "ok")
        elif path == "/api/stream":
            await self._stream(receive, send)
        elif path.startswith("/api/views/"):
            await self._view(path, send)
        elif path.startswith(("/api/pages/", "/api/data/")):
            await self._endpoint(path, scope.get("query_string", b""), send)
        elif found := self._files.get("/index.html" if path == "/" else path):
            kind, body = found
            await _answer(send, 200, kind, body)
        else:
            await _text(send, 404, "No such page.")

    def _is_ours(self, scope: Scope) -> bool:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0].strip("[]") if not host.endswith("]") else host.strip("[]")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._hosts
        return True

    async def _stream(self, receive: Receive, send: Send) -> None:
        """Sends events until the page goes away or falls behind."""
        sending = asyncio.ensure_future(self._send_events(send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def _send_events(self, send: Send) -> None:
        started = False
        try:
            async with aclosing(self._hub.events()) as events:  # type: ignore[type-var]
                async for name, data in events:
                    if not started:
                        await _start(send, 200, b"text/event-stream")
                        started = True
                    body = b"event: %s\ndata: %s\n\n" % (name.encode(), data)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except TooManyPages as err:
            await _text(send, 503, str(err))
            return
        await send({"type": "http.response.body", "body": b""})

    async def _view(self, path: str, send: Send) -> None:
        component, _, name = path.removeprefix("/api/views/").partition("/")
        view = self._views.get((component, name))
        if view is None:
            await _text(send, 404, f"No view {component}/{name}.")
            return
        try:
            data = await view.data(self._client)
        except (ApiError, ConnectionError) as err:
            await _text(send, 503, f"The API does not answer: {err}")
            return
        await _answer(send, 200, "application/json", msgspec.json.encode({"title": view.title, "note": "", **data}))

    async def _endpoint(self, path: str, query: bytes, send: Send) -> None:
        asked = _PLACE.fullmatch(path)
        names = (asked["what"], asked["component"], asked["plural"], asked["subresource"]) if asked else None
        kind = self._places.get(names) if names else None
        if asked is None or kind is None:
            await _text(send, 404, "No such page.")
            return
        is_data = asked["what"] == "data"
        where = kind.path(asked["namespace"], asked["name"], asked["subresource"])
        parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if is_data else None
        try:
            found = await self._client.raw("GET", where, query=parameters)
        except ApiError as err:
            await _text(send, err.status if err.status in (400, 404) else 503, f"{err}")
        except ConnectionError as err:
            await _text(send, 503, f"The API does not answer: {err}")
        else:
            if is_data:
                said = found.headers.get("content-type", "").partition(";")[0]
                extra = [
                    (name, found.headers[name.decode()].encode()) for name in _PASSED if name.decode() in found.headers
                ]
                await _answer(send, 200, said if said in _ANSWERS else _ANSWERS[1], found.body, extra)
            else:
                await _answer(send, 200, "text/html; charset=utf-8", found.body, policy=PAGE_POLICY)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _read_files(directory: Path) -> dict[str, tuple[str, bytes]]:
    """The page's files, read once; they are small and few."""
    files = {}
    for path in directory.glob("*") if directory.is_dir() else ():
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        files[f"/{path.name}"] = (f"{kind}; charset=utf-8", path.read_bytes())
    return files


async def _start(
    send: Send, status: int, kind: bytes, extra: Sequence[tuple[bytes, bytes]] = (), policy: str = POLICY
) -> None:
    headers = [(b"content-type", kind), (b"content-security-policy", policy.encode()), *HEADERS, *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(
    send: Send,
    status: int,
    kind: str,
    body: bytes,
    extra: Sequence[tuple[bytes, bytes]] = (),
    policy: str = POLICY,
) -> None:
    await _start(send, status, kind.encode(), [(b"content-length", b"%d" % len(body)), *extra], policy)
    await send({"type": "http.response.body", "body": body})


async def _text(send: Send, status: int, text: str, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
    await _answer(send, status, "text/plain; charset=utf-8", f"{text}\n".encode(), extra)
