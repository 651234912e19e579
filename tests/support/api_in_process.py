"""The API server in the test's own process, on a store in memory: requests in, decoded answers out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from trimtab.client.asgi import AsgiTransport
from trimtab.client.transport import Request, Response
from trimtab.server import ApiServer, ServerSettings, create_app
from trimtab.server.admitting import Check
from trimtab.server.audit import WriteNote
from trimtab.store import Store

DEADLINE_S = 60.0

JSON_TYPE = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    def ok(self) -> Any:
        """The body of a success; fails with the server's words otherwise."""
        assert self.status < 300, f"{self.status}: {self.body}"
        return self.body


class Watching:
    """An open watch."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._lines = self._read()

    async def _read(self) -> AsyncIterator[Any]:
        rest = b""
        async for piece in self._response.chunks():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)

    async def next(self) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await anext(self._lines)

    async def take(self, count: int) -> list[tuple[str, str]]:
        """(type, name) of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events]

    async def rest(self) -> list[Any]:
        """All events until the server ends the watch."""
        async with asyncio.timeout(DEADLINE_S):
            return [event async for event in self._lines]

    async def close(self) -> None:
        await self._response.close()


class Api:
    """Requests as somebody. `path` may have a query."""

    def __init__(self, server: ApiServer, *, trusted: bool = True, headers: dict[str, str] | None = None) -> None:
        self.server = server
        self._app = create_app(server, trusted=trusted)
        self._headers = headers or {}
        self._transport = AsgiTransport(self._app, headers=self._headers)

    def with_headers(self, *, trusted: bool = False, **headers: str) -> Api:
        """The same server for somebody else: `authorization="Bearer ..."`."""
        return Api(self.server, trusted=trusted, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def _request(self, method: str, path: str, body: Any, content_type: str, headers: dict[str, str]) -> Request:
        path, _, query = path.partition("?")
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return Request(method, path, dict(parse_qsl(query, keep_blank_values=True)), raw, content_type, headers)

    async def call(
        self, method: str, path: str, body: Any = None, content_type: str = JSON_TYPE, **headers: str
    ) -> Answer:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        response = await self._transport.send(self._request(method, path, body, content_type, named))
        text = response.body
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return Answer(response.status, json.loads(text) if is_json and text else text, dict(response.headers))

    async def lines(self, path: str, **headers: str) -> tuple[int, list[Any]]:
        """The status of the answer to a GET, and its body as one JSON value a line: a watch's, once it has ended."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        response = await self._transport.send(self._request("GET", path, None, JSON_TYPE, named))
        return response.status, [json.loads(line) for line in response.body.splitlines()]

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        return await self.call("POST", path, body, **headers)

    async def put(self, path: str, body: Any) -> Answer:
        return await self.call("PUT", path, body)

    async def patch(self, path: str, body: Any, content_type: str = MERGE) -> Answer:
        return await self.call("PATCH", path, body, content_type)

    async def apply(self, path: str, body: Any, manager: str = "tester", *, force: bool = False) -> Answer:
        separator = "&" if "?" in path else "?"
        query = f"{path}{separator}fieldManager={manager}" + ("&force=true" if force else "")
        return await self.call("PATCH", query, body, APPLY)

    async def delete(self, path: str, body: Any = None) -> Answer:
        return await self.call("DELETE", path, body)

    async def watch(self, path: str, **headers: str) -> Watching:
        request = self._request("GET", path, None, JSON_TYPE, {k.replace("_", "-"): v for k, v in headers.items()})
        request.stream = True
        response = await self._transport.send(request)
        assert response.status == 200, [piece async for piece in response.chunks()]
        return Watching(response)

    async def gone(self, path: str) -> None:
        """Waits until an object is no more."""
        await self.eventually(path, lambda answer: answer.status == 404)

    async def eventually(self, path: str, holds: Any) -> Any:
        """Waits until a condition of the answer to a GET holds; returns its body."""
        changed = self.server.store.watch("/", self.server.store.revision)
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds(answer := await self.get(path)):
                    await changed.batch()
                return answer.body
        except TimeoutError:
            raise AssertionError(f"waited in vain for {path}; last: {answer.status} {answer.body}") from None
        finally:
            changed.close()

    async def close(self) -> None:
        await self._transport.close()


@asynccontextmanager
async def running_api(
    *,
    settings: ServerSettings | None = None,
    admission: list[tuple[str, str, Check]] | None = None,
    window: int = 10_000,
    on_write: Callable[[WriteNote], None] | None = None,
) -> AsyncIterator[Api]:
    """A server on an empty store, bootstrapped, its controllers running."""
    store = await Store.open(None, inline=True, window=window)
    server = ApiServer(store, settings=settings, admission=admission or [], on_write=on_write)
    await server.start()
    api = Api(server)
    try:
        yield api
    finally:
        await api.close()
        await server.stop()
        await store.close()
