"""One HTTP/1.1 connection: from bytes to requests of the application, and from its answers back to bytes.

    bytes -> httptools -> head -> a task for the application -> head and body of the answer in one write

An answer follows another in the order of their requests; a request that came early (pipelined) waits. Nothing is read while
much of a body waits for its reader, nothing written while the client does not take what was. A head that is too large or
does not come to its end, and a connection that nobody uses, are ended here.

It speaks ASGI to the application, with the parts of the scope that the application looks at. An ASGI server of its own kind
would bring its configuration, logging and protocols: 3 to 4 MB more, and a quarter more CPU time for a GET (`benchmarks/api_choices.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools

from trimtab.server.http import AsgiApp, Message

log = logging.getLogger(__name__)

HEAD_MAX_BYTES = 1024 * 1024
"""Of a request line and headers together (Go's default, which the real server has)."""
HEAD_S = 32.0
"""From the first byte of a head to its last (the real server's)."""
KEEP_ALIVE_S = 300.0
"""Longer than any client keeps an idle connection, so that none writes into one that is just being closed."""
UNREAD_MAX_BYTES = 64 * 1024
"""Of a body that its reader has not taken yet; no more is read from the client until it does."""
DISCARDED_MAX_BYTES = 4 * 1024 * 1024
"""Of a body that nobody wants any more, since the answer is out: read to its end, so that the client sees the answer."""
JOINED_MAX_BYTES = 64 * 1024
"""A larger body is not copied behind its head, but written after it."""

CONNECTIONS_MAX = 20_000
"""Of all listeners together: twice as many as there may be watches."""

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_DISCONNECT: Message = {"type": "http.disconnect"}
_REFUSED = b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n%b"

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Open:
    """What is open on all listeners of a server."""

    connections: dict[Connection, None] = field(default_factory=dict)
    """In the order in which they were made."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    limit: int = CONNECTIONS_MAX

    def make_room(self, newest: Connection) -> None:
        """Ends connections of the network that nobody uses, those first that have rested longest, some at once; the newest one
        where all others are in use. A client whose connection was ended while it rested makes another."""
        resting = sorted((one for one in self.connections if one.rests), key=lambda one: one.last_used)
        for connection in resting[: max(1, self.limit // 100)] or [newest]:
            connection.transport.abort()


class Connection(asyncio.Protocol):
    """One connection of one client. A subclass may take over upgrade requests (`upgraded`)."""

    def __init__(self, application: AsgiApp, opened: Open) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else happens
        self.loop = asyncio.get_running_loop()
        self.extensions: MutableMapping[str, Any] = {}
        """The scope's, of every request of this connection."""
        self.client: tuple[str, int] | None = None
        """The address and port of the other end; None for a unix socket."""
        self.url = b""
        self.headers: Headers = []
        self._application = application
        self._open = opened
        self._parser: Any = httptools.HttpRequestParser(self)
        """None once nothing more is to be read. (It holds this connection: the two are a cycle until then.)"""
        self._head_bytes = 0
        self._head_unended = 0
        """What has come since the head began, while it has not ended."""
        self._expects_continue = False
        self._reading: Exchange | None = None
        """Whose body comes in."""
        self._answering: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._read_paused = False
        self.writable: asyncio.Future[None] | None = None
        """Done when the client takes more; None while it does."""
        self._alarm: asyncio.TimerHandle | None = None
        self.last_used = self.loop.time()
        self._head_since = 0.0

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports only behave like one
        self._open.connections[self] = None
        peer = transport.get_extra_info("peername")
        self.client = peer[:2] if isinstance(peer, tuple) else None
        self._head_since = self.last_used
        self._alarm = self.loop.call_later(HEAD_S, self._look)
        if self.client is not None and len(self._open.connections) > self._open.limit:
            self._open.make_room(self)

    @property
    def rests(self) -> bool:
        """Whether it is one of the network on which nothing is being answered, nor has been asked."""
        return self.client is not None and self._answering is None and self._reading is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.connections.pop(self, None)
        self._cancel_alarm()
        self.resume_writing()
        if self._answering is not None:
            self._answering.lost()
        self._waiting.clear()
        self._parser = None

    def eof_received(self) -> None:
        """The client has no more to say; the transport closes."""

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.writable is not None:
            if not self.writable.done():
                self.writable.set_result(None)
            self.writable = None

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        if self._head_since:  # a header that does not end is told to nobody else
            self._head_unended += len(data)
            if self._head_unended > HEAD_MAX_BYTES:
                self.refuse(b"431 Request Header Fields Too Large")
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as err:
            rest = data[err.args[0] :]
            if self.asks_websocket() and self._answering is None:
                self._cancel_alarm()
                self.upgraded(rest)
            elif rest:
                self.data_received(rest)  # it asked for something else (h2c): answered as if it had not
        except httptools.HttpParserError:
            self.refuse(b"400 Bad Request")

    # What the parser tells

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._head_bytes = 0
        self._expects_continue = False
        self._head_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self.headers.append((name, value))
        self._count_head(len(name) + len(value) + 4)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_MAX_BYTES:
            self.refuse(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        self._head_since = 0.0
        self._head_unended = 0
        parser = self._parser
        if parser is None or (parser.should_upgrade() and self.asks_websocket()):
            return
        exchange = Exchange(
            self,
            self.scope(),
            old=parser.get_http_version() == "1.0",
            keep_alive=parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        self.headers = []  # what comes behind the body is no part of the head
        self._reading = exchange
        if self._answering is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)
            self.pause_reading()

    def scope(self) -> dict[str, Any]:
        """What the application is told of the request whose head has come."""
        if self.url.startswith(b"/"):
            raw_path, _, query = self.url.partition(b"?")
        else:
            parsed = httptools.parse_url(self.url)
            raw_path, query = parsed.path or b"/", parsed.query or b""
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "method": self._parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "extensions": self.extensions,
            "client": self.client,
        }

    def on_body(self, body: bytes) -> None:
        if self._reading is not None:
            self._reading.feed(body)

    def on_message_complete(self) -> None:
        if self._reading is not None:
            self._reading.feed_end()
            self._reading = None

    # Upgrades

    def asks_websocket(self) -> bool:
        """Whether the head that has come asks to go on as a WebSocket."""
        wanted = False
        protocol = b""
        for name, value in self.headers:
            if name == b"connection":
                wanted = b"upgrade" in [token.strip() for token in value.lower().split(b",")]
            elif name == b"upgrade":
                protocol = value.lower()
        return wanted and protocol == b"websocket"

    def upgraded(self, early: bytes) -> None:
        """A WebSocket is asked for; `early` came behind the head."""
        self.refuse(b"400 Bad Request")

    # Answering

    def _start(self, exchange: Exchange) -> None:
        self._answering = exchange
        task = self.loop.create_task(exchange.run(self._application))
        self._open.tasks.add(task)
        task.add_done_callback(self._open.tasks.discard)

    def answered(self, *, keep_alive: bool) -> None:
        """An answer is complete: on with the next request, or the end."""
        self._answering = None
        self.last_used = self.loop.time()
        if not keep_alive:
            self.transport.close()
        if self.transport.is_closing():
            return
        if self._waiting:
            self._start(self._waiting.popleft())
        if not self._waiting:
            self.resume_reading()

    def pause_reading(self) -> None:
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()

    def refuse(self, status: bytes) -> None:
        """Answers, with one line, what cannot be read as HTTP, and ends."""
        self._parser = None
        self._reading = None
        self._waiting.clear()
        if self._answering is not None:
            self._answering.keep_alive = False  # its own answer first; then the connection ends
        else:
            self.transport.write(_REFUSED % (status, status))
            self.transport.close()

    def shutdown(self) -> None:
        """The server stops: ends as soon as nothing is being answered."""
        if self._answering is None:
            self.transport.close()
        else:
            self._answering.keep_alive = False

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _look(self) -> None:
        """Ends what has been waiting for too long; else looks again when that may be."""
        now = self.loop.time()
        due = (self._head_since + HEAD_S) if self._head_since else (self.last_used + KEEP_ALIVE_S)
        if self._answering is not None:
            due = now + KEEP_ALIVE_S
        if due <= now:
            self.transport.close()
        else:
            self._alarm = self.loop.call_at(due, self._look)


class Exchange:
    """One request and its answer, as ASGI's `receive` and `send`."""

    __slots__ = (
        "_chunked",
        "_complete",
        "_connection",
        "_continue",
        "_ended",
        "_gone",
        "_head",
        "_old",
        "_pieces",
        "_scope",
        "_started",
        "_told",
        "_unread",
        "_waiter",
        "keep_alive",
    )

    def __init__(
        self, connection: Connection, scope: dict[str, Any], *, old: bool, keep_alive: bool, expects_continue: bool
    ) -> None:
        """old: of HTTP/1.0."""
        self.keep_alive = keep_alive
        self._connection = connection
        self._scope = scope
        self._old = old
        self._continue = expects_continue
        self._pieces: list[bytes] = []
        self._unread = 0
        self._ended = False
        self._told = False
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._started = False
        self._complete = False
        self._head = b""
        self._chunked = False

    # The request's body

    def feed(self, body: bytes) -> None:
        self._unread += len(body)
        if self._complete:
            if self._unread > DISCARDED_MAX_BYTES:
                self._connection.transport.abort()
            return
        self._pieces.append(body)
        if self._unread > UNREAD_MAX_BYTES:
            self._connection.pause_reading()
        self._wake()

    def feed_end(self) -> None:
        self._ended = True
        self._wake()

    def lost(self) -> None:
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        if self._continue and not self._started:
            self._continue = False
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._gone or self._complete):
            if self._pieces or (self._ended and not self._told):
                body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces = []
                if self._unread > UNREAD_MAX_BYTES:
                    self._connection.resume_reading()
                self._unread = 0
                self._told = self._ended
                return {"type": "http.request", "body": body, "more_body": not self._ended}
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        return _DISCONNECT

    # The answer

    async def run(self, application: AsgiApp) -> None:
        try:
            await application(self._scope, self.receive, self.send)
        except Exception:
            log.exception("%s %s failed while it was answered", self._scope["method"], self._scope["path"])
        if not self._complete and not self._gone:  # half an answer must not look like a whole one
            self._connection.transport.abort()

    async def send(self, message: Message) -> None:
        connection = self._connection
        if connection.writable is not None:
            await connection.writable
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self._head = self._encoded_head(message["status"], message["headers"])
            self._started = True
            return
        body = message.get("body", b"")
        last = not message.get("more_body", False)
        if self._scope["method"] == "HEAD":
            body = b""
        elif self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if last:
                body += b"0\r\n\r\n"
        if self._head and len(body) <= JOINED_MAX_BYTES:
            connection.transport.write(self._head + body)
        else:
            if self._head:
                connection.transport.write(self._head)
            if body:
                connection.transport.write(body)
        self._head = b""
        if last:
            self._complete = True
            self._wake()
            connection.answered(keep_alive=self.keep_alive)

    def _encoded_head(self, status: int, headers: Headers) -> bytes:
        pieces = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status]
        sized = self._scope["method"] == "HEAD"
        for name, value in headers:
            sized = sized or name == b"content-length"
            pieces.append(b"%b: %b\r\n" % (name, value))
        if not sized and self._old:
            self.keep_alive = False  # the end of the connection is the end of the body
        elif not sized:
            self._chunked = True
            pieces.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            pieces.append(b"connection: close\r\n")
        elif self._old:
            pieces.append(b"connection: keep-alive\r\n")
        head = b"".join(pieces)
        if head.count(b"\n") != len(pieces) or head.count(b"\r") != len(pieces):
            raise ValueError("a header would end its line early")
        return head + b"\r\n"
