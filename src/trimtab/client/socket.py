"""The engine's own API server over its unix socket: HTTP/1.1 with `httptools`, which is all that a socket of our own needs.

A general client costs every process 10 MB and every command a tenth of a second for proxies, TLS, cookies and redirects, of
which a unix socket has none. Connections are kept and used one request at a time; a watch has one of its own until it ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import cast
from urllib.parse import quote, urlencode

import httptools

from trimtab.client.transport import Request, Response, Whole, unreached

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
"""Kubernetes API servers cut a plain request off after 60 s themselves."""
SILENCE_MAX_S = 900.0
"""A watch is ended by the server within ten minutes (we ask for that); longer silence is a dead connection."""
IDLE_S = 60.0
"""An idle connection is kept so long; the server keeps it longer, so that it is never the one that closes first."""
UNREAD_MAX_BYTES = 1 << 20
"""A stream whose reader is slow is not read further beyond this."""


class SocketTransport:
    """Use as `async with`, or close it when done.

    path: the socket. user: whom root acts for, for the record; the kernel says who everybody else is. agent and token are
    the requests' own.
    """

    def __init__(self, path: Path | str, user: str | None = None) -> None:
        self.server = str(path)
        """For error texts and for the user."""
        self.default_namespace = "default"
        self._headers = {"host": "trimtab"} | ({"impersonate-user": user} if user else {})
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()

    async def send(self, request: Request) -> Response:
        """Raises `ConnectionError`, with one line that names the socket."""
        head = self._head(request)
        while True:
            connection, used_before = await self._connection()
            try:
                answer = await self._exchange(connection, head, request)
            except _ClosedUnasked as err:
                # The server closed a connection that rested, at the moment in which we used it: nothing of the
                # request was answered. What only reads is asked again; of the rest nobody knows whether it was done.
                if used_before and request.method == "GET":
                    continue
                raise unreached(self.server, err) from err
            except (OSError, TimeoutError, httptools.HttpParserError) as err:
                raise unreached(self.server, err) from err
            return answer

    def _head(self, request: Request) -> bytes:
        query = f"?{urlencode(dict(request.query), quote_via=quote)}" if request.query else ""
        headers = {**self._headers, **{name.lower(): value for name, value in request.headers.items()}}
        if request.body:
            headers["content-type"] = request.content_type
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            headers["content-length"] = str(len(request.body))
        lines = [f"{request.method} {quote(request.path, safe='/:@%=&+,;~!$()*')}{query} HTTP/1.1"]
        lines += [f"{name}: {_clean(value)}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + request.body

    async def _connection(self) -> tuple[_Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.rest_ends()
                self._busy.add(connection)
                return connection, True
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_unix_connection(_Connection, self.server)
        except (OSError, TimeoutError) as err:
            raise unreached(self.server, err) from err
        self._busy.add(connection)
        return connection, False

    async def _exchange(self, connection: _Connection, head: bytes, request: Request) -> Response:
        done = False
        try:
            async with asyncio.timeout(SILENCE_MAX_S if request.stream else ANSWER_TIMEOUT_S):
                await connection.begin(head)
                if request.stream and connection.status < 400:
                    done = True
                    return _Streamed(self, connection)
                body = b"".join([piece async for piece in connection.pieces()])
            answer = Whole(connection.status, connection.headers, body)
            done = True
            self.give_back(connection)
            return answer
        finally:
            if not done:  # failed, timed out or cancelled: what still comes would be taken for another's answer
                self.drop(connection)

    def give_back(self, connection: _Connection) -> None:
        """Keeps a connection whose answer was read to its end."""
        self._busy.discard(connection)
        if connection.usable:
            self._idle.append(connection)
            connection.rest(IDLE_S, self._idle)
        else:
            connection.abort()

    def drop(self, connection: _Connection) -> None:
        self._busy.discard(connection)
        connection.abort()

    async def close(self) -> None:
        """Closes all connections; streams end."""
        for connection in (*self._idle, *self._busy):
            connection.rest_ends()
            connection.abort()
        self._idle.clear()
        self._busy.clear()

    async def __aenter__(self) -> SocketTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _ClosedUnasked(ConnectionError):
    """The other end closed before it answered anything."""


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._lost: Exception | None = None
        self._is_lost = False
        self._changed = asyncio.Event()
        self._resting: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._complete = True
        self._keeps_alive = True

    @property
    def usable(self) -> bool:
        """Whether another request may be sent over it."""
        return not self._is_lost and self._complete and self._keeps_alive and not self._pieces

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as err:
            self._lost = ConnectionError(f"the answer is not HTTP: {err}")
            self.abort()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._lost = self._lost or exc
        self.rest_ends()
        self._changed.set()

    # What the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        # A header may come several times, as warnings do: that is one with all of its values.
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._unread += len(body)
        if self._unread > UNREAD_MAX_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = True
        self._keeps_alive = self._parser.should_keep_alive()

    # What the transport does

    async def begin(self, head: bytes) -> None:
        """Sends a request and waits for the head of its answer.

        Raises:
            _ClosedUnasked: the other end closed first. ConnectionError: what came is no HTTP.
        """
        self._reset()
        self._complete = False
        assert self._transport is not None
        self._transport.write(head)
        while not self.status:
            if self._is_lost:
                if isinstance(self._lost, ConnectionError):
                    raise _ClosedUnasked(str(self._lost)) from self._lost
                raise _ClosedUnasked("the connection was closed without an answer")
            await self._wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `ConnectionError` when it ends in the middle."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._unread -= len(piece)
                yield piece
            if self._complete:
                return
            if self._is_lost:
                raise self._lost or ConnectionError("the connection was closed in the middle of an answer")
            if self._transport is not None and not self._transport.is_reading():
                self._transport.resume_reading()
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def rest(self, limit_s: float, among: list[_Connection]) -> None:
        """Closes it after some time, unless it is used before."""

        def over() -> None:
            if self in among:
                among.remove(self)
            self.abort()

        self._resting = asyncio.get_running_loop().call_later(limit_s, over)

    def rest_ends(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Streamed:
    """An answer that is read as it comes."""

    body = b""

    def __init__(self, owner: SocketTransport, connection: _Connection) -> None:
        self._owner = owner
        self._connection = connection
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self._is_over = False

    async def chunks(self) -> AsyncIterator[bytes]:
        pieces = self._connection.pieces()
        while True:
            try:
                async with asyncio.timeout(SILENCE_MAX_S):
                    piece = await anext(pieces, None)
            except (OSError, TimeoutError) as err:
                await self.close()
                raise unreached(self._owner.server, err) from err
            if piece is None:
                self._is_over = True
                self._owner.give_back(self._connection)
                return
            yield piece

    async def close(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._owner.drop(self._connection)


def _clean(value: str) -> str:
    """A header's value on one line."""
    return value.replace("\r", " ").replace("\n", " ")
