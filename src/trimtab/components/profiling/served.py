"""What answers at the endpoints of a Profiler, in a process that is there while it is used (`gateway.py` starts it).

    API --unix socket--> /UID/query?view=top&...      --> queries/ask.py on the stored profiles: JSON
                         /UID/page?selector=...       --> queries/page.py: a document with its data in it
                         POST /UID/profiles           --> pprof or OTLP, into the store
                         GET /UID/profiles?format=... --> pprof or speedscope JSON of a query
                         /UID/buildid/ID/debuginfo    --> the debuginfod protocol; PUT and POST take a file in
    debuggers --loopback--> /buildid/ID/debuginfo     --> the same, to read

It runs as the engine's user where nothing else of the engine is in reach. What it takes in is looked at in a sandbox of its own
(`trimtab.confinement.sandbox`), or checked while it is decoded. One question at a time: what they hold in memory adds up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from trimtab.components.profiling.answering import Answers, Reply

Message = MutableMapping[str, Any]

IDLE_S = 60.0
BODY_BYTES_MAX = 64 << 20
"""Of a pushed profile; an upload of debug information goes to a file as it comes."""
CHUNK_BYTES = 256 * 1024
_UID = re.compile(r"[0-9a-f-]{36}")
_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'self'"


class Refused(Exception):
    """status and one line for who asked."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Served:
    """The ASGI application."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._thread = ThreadPoolExecutor(1)
        self._active = 0
        self.idle_since = 0.0

    @property
    def busy(self) -> bool:
        return bool(self._active) or bool(self._answers.left)

    def close(self) -> None:
        self._thread.shutdown()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self._active += 1
        try:
            await self._answer(scope, receive, send)
        except Refused as err:
            await _text(send, err.status, str(err))
        except ValueError as err:
            await _text(send, 400, str(err))
        except TimeoutError as err:
            await _text(send, 504, str(err) or "it took too long")
        except OSError as err:
            await _text(send, 507, f"{err.filename or 'the disk'}: {err.strerror or err}")
        finally:
            self._active -= 1
            self.idle_since = asyncio.get_running_loop().time()

    async def _answer(self, scope: Message, receive: Any, send: Any) -> None:
        path, method = scope["path"].lstrip("/"), scope["method"]
        first, _, rest = path.partition("/")
        if first == "buildid":
            if method not in ("GET", "HEAD"):
                raise Refused(405, "uploads go through the API: trimtab profile push FILE")
            await self._buildid(rest, method, receive, send)
            return
        what, _, rest = rest.partition("/")
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if not _UID.fullmatch(first):
            raise Refused(404, "there is no such endpoint")
        if what == "buildid":
            await self._buildid(rest, method, receive, send)
        elif what == "query" and not rest and method == "GET":
            await _reply(send, await self._in_thread(self._answers.query, query))
        elif what == "page" and not rest and method == "GET":
            await _reply(send, await self._in_thread(self._answers.page, query))
        elif what == "profiles" and not rest and method == "GET":
            await _reply(send, await self._in_thread(self._answers.export, query))
        elif what == "profiles" and not rest and method == "POST":
            body = await _body(receive)
            await _reply(send, await self._in_thread(self._answers.push, body, _content_type(scope), query))
        else:
            raise Refused(404, "there is no such endpoint")

    async def _buildid(self, rest: str, method: str, receive: Any, send: Any) -> None:
        if method in ("GET", "HEAD"):
            if rest.partition("/")[2].startswith("source/"):
                raise Refused(404, "sources are not kept here, only debug information and programs")
            found: Path | None = await self._in_thread(self._answers.debug_file, rest)
            if found is None:
                raise Refused(404, "there is no such file here")
            await _file(send, found, method)
        elif method in ("PUT", "POST"):
            with self._answers.upload(rest) as upload:
                async for piece in _pieces(receive):
                    upload.write(piece)
                told = {"build_id": await self._in_thread(upload.take)}
                await _reply(send, Reply("application/json", json.dumps(told).encode()))
        else:
            raise Refused(405, "GET, PUT or POST")

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


# HTTP


def _content_type(scope: Message) -> str:
    return (
        next((v.decode("latin-1") for k, v in scope["headers"] if k.lower() == b"content-type"), "")
        .split(";")[0]
        .strip()
    )


async def _pieces(receive: Any) -> AsyncIterator[bytes]:
    while (message := await receive())["type"] != "http.disconnect":
        yield message.get("body", b"")
        if not message.get("more_body"):
            return
    raise Refused(400, "the connection ended before the body did")


async def _body(receive: Any) -> bytes:
    body = bytearray()
    async for piece in _pieces(receive):
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise Refused(413, f"the profile is larger than {BODY_BYTES_MAX >> 20} MiB: send shorter ones")
    return bytes(body)


async def _start(send: Any, status: int, kind: str, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
    headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store"), (b"content-security-policy", _POLICY)]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *extra]})


async def _text(send: Any, status: int, text: str) -> None:
    await _start(send, status, "text/plain; charset=utf-8")
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


async def _reply(send: Any, reply: Reply) -> None:
    name = [(b"content-disposition", f'attachment; filename="{reply.file}"'.encode())] if reply.file else []
    await _start(send, 200, reply.kind, name)
    await send({"type": "http.response.body", "body": reply.body})


async def _file(send: Any, path: Path, method: str) -> None:
    with path.open("rb") as file:
        size = path.stat().st_size
        extra = [(b"content-length", str(size).encode()), (b"x-debuginfod-size", str(size).encode())]
        await _start(send, 200, "application/octet-stream", extra)
        if method == "GET":
            while piece := file.read(CHUNK_BYTES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


# The process


async def serve(root: Path, listening: Sequence[socket.socket], urls: Sequence[str]) -> None:
    """Serves until nobody has wanted anything for a while, or the gateway has gone (its end of our input)."""
    import uvicorn

    loop = asyncio.get_running_loop()
    with Answers(root, urls, lambda: int(time.time())) as answers:
        app = Served(answers)
        app.idle_since = loop.time()
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
        server = uvicorn.Server(config)
        gone = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(gone), sys.stdin)

        async def end_with_gateway() -> None:
            while await gone.read(4096):
                pass
            server.should_exit = True

        async def end_when_idle() -> None:
            while app.busy or loop.time() - app.idle_since < IDLE_S:  # noqa: ASYNC110 (it is time alone that passes)
                await asyncio.sleep(IDLE_S / 4)
            server.should_exit = True

        tasks = [loop.create_task(work()) for work in (end_with_gateway, end_when_idle)]
        try:
            await server.serve(sockets=list(listening))
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            transport.close()
            app.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
