"""Registries for tests, real ones on loopback: Debian's docker-registry, and our own server behind a login with tokens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import uvicorn

from engine_under_test import free_port

USER, PASSWORD = "ada", "s3cret:with:colons"
_BCRYPT = "$2b$05$trimtabtesttrimtabtesOKsWCkXG0VsKulDfW07jnEHr8Cz8Aym6"
START_TIMEOUT_S = 60.0

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


@contextlib.contextmanager
def docker_registry(directory: Path, *, login: bool = False) -> Iterator[str]:
    """`host:port` of a docker-registry process with its data in `directory`."""
    port = free_port()
    directory.mkdir(parents=True)
    auth = ""
    if login:
        (directory / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        auth = f"auth: {{htpasswd: {{realm: test, path: {directory / 'htpasswd'}}}}}\n"
    (directory / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory / 'data'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{auth}"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "config.yml")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


async def answering(host: str) -> None:
    """Returns when something answers at `http://host/v2/`."""
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.get(f"http://{host}/v2/"):
                    return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def served(app: App) -> AsyncIterator[str]:
    """`host:port` of this ASGI app under uvicorn, in this loop."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="on"))
    task = asyncio.create_task(server.serve())
    host = f"127.0.0.1:{port}"
    try:
        await answering(host)
        yield host
    finally:
        server.should_exit = True
        await task


def with_tokens(app: App, seen: list[str]) -> App:
    """The app behind the token protocol: /v2/ wants a bearer token for the scope, /token gives it to who knows the password.

    `seen` collects what was asked of /token.
    """

    async def guarded(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        host = headers["host"]
        if scope["path"] == "/token":
            query = parse_qs(scope["query_string"].decode())
            seen.append(f"{scope['method']} {query.get('scope', [''])[0]}")
            expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if headers.get("authorization") == expected:
                await _reply(send, 200, b'{"token":"letmein"}')
            else:
                await _reply(send, 401, b"{}")
        elif headers.get("authorization") == "Bearer letmein":
            await app(scope, receive, send)
        else:
            challenge = f'Bearer realm="http://{host}/token",service="test registry",scope="whatever"'
            await _reply(send, 401, b"{}", ("www-authenticate", challenge))

    return guarded


def with_blobs_elsewhere(app: App, elsewhere: str, leaked: list[str]) -> App:
    """The app, its blobs redirected to another host, as large registries do; `leaked` collects logins that arrive there."""

    async def redirecting(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "/blobs/" in scope["path"]:
            await _reply(send, 307, b"", ("location", f"http://{elsewhere}{scope['path']}?signature=a%2Fb"))
            return
        await app(scope, receive, send)

    return redirecting


def noting_logins(app: App, leaked: list[str]) -> App:
    """The app; each Authorization header that reaches it is noted."""

    async def noting(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            leaked.extend(value.decode() for key, value in scope["headers"] if key == b"authorization")
        await app(scope, receive, send)

    return noting


async def _reply(send: Any, status: int, body: bytes, *headers: tuple[str, str]) -> None:
    encoded = [(key.encode(), value.encode()) for key, value in (*headers, ("content-length", str(len(body))))]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
