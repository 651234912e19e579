"""The small part of HTTP that the API needs, on bare ASGI: a request whose body is read with a limit, a whole reply, a stream.

No framework stands between a GET and its cached bytes.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

import msgspec

from trimtab.server.errors import StatusError, bad_request, body_timeout, too_large
from trimtab.server.tunnel import Tunnel

if TYPE_CHECKING:
    from trimtab.server.authentication import User
    from trimtab.server.proxying import Proxied
    from trimtab.server.turns import Turn

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_MAX_BYTES = 3 * 1024 * 1024
"""What a client may send at once; the real server's limit."""
GZIP_MIN_BYTES = 128 * 1024
"""Smaller replies cost more to compress than to send (the real server's threshold)."""

BODY_S = 60.0
"""How long a body may take to come (the real server's limit of a request)."""
INTEGER_MAX = (1 << 63) - 1
"""What a number of the query may be: an int64, as in the real server."""

TRUE = frozenset(("true", "1", "t", "True", "TRUE", "T"))


class Disconnected(Exception):
    """The client went away before its request was read."""


class Request:
    """One request. `query` holds the last value of each parameter; header names are lower case."""

    __slots__ = ("_lists", "_receive", "_send", "groups_asked", "headers", "method", "path", "query", "scope", "user")

    user: User

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.method: str = scope.get("method", "GET")
        self.path: str = scope["path"]
        self.headers: dict[str, str] = {}
        self.groups_asked: list[str] = []
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if name == "impersonate-group":
                self.groups_asked.append(value)
            self.headers[name] = value
        raw = scope.get("query_string", b"")
        self._lists = parse_qs(raw.decode("latin-1"), keep_blank_values=True) if raw else {}
        self.query: dict[str, str] = {name: values[-1] for name, values in self._lists.items()}

    def flag(self, name: str) -> bool:
        """A boolean of the query, in any spelling that clients use; a bare `?watch` is true."""
        value = self.query.get(name)
        if value is None:
            return False
        return value == "" or value.lower() in TRUE

    def values(self, name: str) -> list[str]:
        return self._lists.get(name, [])

    def integer(self, name: str) -> int | None:
        """A number of the query. Raises `StatusError` 400."""
        text = self.query.get(name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= INTEGER_MAX):
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            raise bad_request(f'invalid value "{shown}" for query parameter "{name}": write a non-negative integer')
        return int(text)

    @property
    def address(self) -> str:
        """Where the client is; empty for a socket of this machine."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def body(self, limit_bytes: int = BODY_MAX_BYTES) -> bytes:
        """The whole body, unpacked.

        Raises:
            StatusError: 413 when it is larger than the limit; 400 when its encoding is unknown or broken; 504 when it did not
                come to its end in time.
            Disconnected: the client went away.
        """
        if int(self.headers.get("content-length") or 0) > limit_bytes:
            raise too_large(limit_bytes)
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_S):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > limit_bytes:
                        raise too_large(limit_bytes)
                    pieces.append(piece)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise body_timeout(BODY_S) from None
        body = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        encoding = self.headers.get("content-encoding", "identity")
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise bad_request(f'the content encoding "{encoding}" is not known: send gzip or identity')
        return _unzip(body, limit_bytes)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, unlimited, as it was sent. Ends with it, or when the client goes away."""
        while (message := await self._receive())["type"] != "http.disconnect":
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    async def disconnected(self) -> None:
        """Returns when the client has gone away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _unzip(body: bytes, limit_bytes: int) -> bytes:
    import io

    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            out = file.read(limit_bytes + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise bad_request(f"the body is not gzip as its content-encoding says: {err}") from None
    if len(out) > limit_bytes:
        raise too_large(limit_bytes)
    return out


@dataclass(slots=True)
class Reply:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()
    warnings: list[str] = field(default_factory=list)

    async def send(self, request: Request, send: Send) -> None:
        body = self.body
        headers = [
            (b"content-type", self.content_type.encode("latin-1")),
            (b"cache-control", b"no-cache, private"),
            *((name.encode(), value.encode("latin-1", "replace")) for name, value in self.headers),
            *((b"warning", warning_header(text)) for text in self.warnings),
        ]
        if len(body) >= GZIP_MIN_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
            body = gzip.compress(body, 1)
            headers.append((b"content-encoding", b"gzip"))
            headers.append((b"vary", b"accept-encoding"))
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})


Run = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]


async def nothing_more(write: Callable[[bytes], Awaitable[None]]) -> None:
    """The `run` of an answer that is complete after its `begin`."""


@dataclass(slots=True)
class Stream:
    """An answer that is written piece by piece, after the headers went out: first by `begin`, then by `run`.

    What `begin` does costs time that others wait for, so that each of its pieces takes a turn; `run` waits for what happens.
    """

    run: Run
    content_type: str = "application/json"
    status: int = 200
    warnings: list[str] = field(default_factory=list)
    begin: Run | None = None
    close: Callable[[], None] | None = None
    """Called at the end, however it came."""
    turn: Turn | None = None
    """The one that the request has; None: it has not to wait for others."""

    async def send(self, request: Request, send: Send) -> None:
        headers = [
            (b"content-type", self.content_type.encode("latin-1")),
            (b"cache-control", b"no-cache, private"),
            *((b"warning", warning_header(text)) for text in self.warnings),
        ]
        turn = self.turn

        async def write(piece: bytes) -> None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        async def write_in_turn(piece: bytes) -> None:
            if turn is not None:
                turn.end()
            await write(piece)
            if turn is not None:
                await turn.again()
            else:
                await asyncio.sleep(0)

        try:
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            if self.begin is not None:
                await self.begin(write_in_turn)
            if turn is not None:
                turn.end()
            await self.run(write)
            await send({"type": "http.response.body", "body": b""})
        finally:
            if turn is not None:
                turn.end()
            if self.close is not None:
                self.close()


Answer: TypeAlias = "Reply | Stream | Tunnel | Proxied"


def json_reply(value: object, status: int = 200, warnings: Sequence[str] = ()) -> Reply:
    return Reply(msgspec.json.encode(value), status, warnings=list(warnings))


def error_reply(err: StatusError) -> Reply:
    return Reply(msgspec.json.encode(err.body()), err.code, headers=err.headers)


def warning_header(text: str) -> bytes:
    """One `Warning` header as RFC 7234 has it; control characters would end the header."""
    clean = "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{clean}"'.encode("latin-1", "replace")
