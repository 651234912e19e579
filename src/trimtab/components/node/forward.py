"""Port-forward: TCP connections into a pod, carried by one WebSocket.

Two ways, by the client's choice: channels (`v4.channel.k8s.io`: port number i has the channels 2i for data and 2i+1 for an
error, each beginning with the port as two bytes; one connection a port), and SPDY streams (kubectl: any number of
connections, each a pair of streams with the same request id).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from trimtab.components.node import netns
from trimtab.components.node.spdy import Data, Leaving, Opened, Ping, Reset, Spdy, SpdyError

SPDY_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
CHUNK_BYTES = 32 * 1024
WAITING_MAX = 64
"""Chunks from the client that a slow server in the pod may have waiting; then the client is not read."""
CONNECTIONS_MAX = 256

Send = Callable[[bytes], Awaitable[None]]


class Unreachable(Exception):
    """Nobody listens on that port in the pod; the text says so."""


@dataclass
class Forwarded:
    """One connection into the pod. `None` in the queue: the client sends no more."""

    port: int
    source: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(WAITING_MAX))

    async def carry(self, space: str | None, send: Send) -> None:
        """Copies both ways until the server in the pod closes. space: the pod's network namespace.

        Raises:
            Unreachable: nobody listens.
        """
        try:
            reader, writer = await netns.connect(space, self.port)
        except OSError as err:
            reason = (err.strerror or str(err)).lower()
            raise Unreachable(f"port {self.port} in the pod: {reason}") from None
        feeding = asyncio.create_task(self._feed(writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                await send(data)
        except ConnectionError:
            pass  # either side is gone
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _feed(self, writer: asyncio.StreamWriter) -> None:
        while (data := await self.source.get()) is not None:
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def forward_channels(socket: web.WebSocketResponse, ports: Sequence[int], space: str | None) -> None:
    """Serves the channel protocol until the client or every server has closed."""
    connections = [Forwarded(port) for port in ports]
    for number, port in enumerate(ports):
        for channel in (2 * number, 2 * number + 1):
            await socket.send_bytes(bytes([channel]) + struct.pack("<H", port))

    async def carry(number: int) -> None:
        async def send(data: bytes) -> None:
            await socket.send_bytes(bytes([2 * number]) + data)

        try:
            await connections[number].carry(space, send)
        except Unreachable as err:
            with contextlib.suppress(ConnectionError):
                await socket.send_bytes(bytes([2 * number + 1]) + str(err).encode())
            return
        with contextlib.suppress(ConnectionError):
            await socket.close()

    tasks = [asyncio.create_task(carry(number)) for number in range(len(ports))]
    try:
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY and message.data:
                channel = message.data[0]
                if channel % 2 == 0 and channel // 2 < len(connections):
                    await connections[channel // 2].source.put(message.data[1:])
    finally:
        await _end(tasks)


class _Session:
    """One client's SPDY streams."""

    def __init__(self, socket: web.WebSocketResponse, space: str | None) -> None:
        self._socket = socket
        self._space = space
        self._spdy = Spdy()
        self._errors: dict[str, int] = {}
        """Request id to its error stream."""
        self._open: dict[int, Forwarded] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        try:
            async for message in self._socket:
                if message.type != aiohttp.WSMsgType.BINARY:
                    continue
                for event in self._spdy.feed(message.data):
                    if isinstance(event, Leaving):
                        return
                    await self._take(event)
        except (SpdyError, ConnectionError):
            pass  # the client is gone, or never spoke SPDY: closing is the answer
        finally:
            await _end(list(self._tasks))
            with contextlib.suppress(ConnectionError):
                await self._socket.close()

    async def _take(self, event: Opened | Data | Reset | Ping) -> None:
        match event:
            case Opened():
                await self._opened(event)
            case Data(stream=stream, data=data, ended=ended):
                connection = self._open.get(stream)
                if connection is not None:
                    if data:
                        await connection.source.put(data)
                    if ended:
                        await connection.source.put(None)
            case Reset(stream=stream):
                connection = self._open.get(stream)
                if connection is not None:
                    await connection.source.put(None)
            case Ping(ident=ident):
                if ident % 2:  # a client's; ours would be even
                    await self._socket.send_bytes(self._spdy.pong(ident))

    async def _opened(self, event: Opened) -> None:
        await self._socket.send_bytes(self._spdy.accept(event.stream))
        request = event.headers.get("requestid", "")
        port = event.headers.get("port", "")
        if event.headers.get("streamtype") == "error":
            self._errors[request] = event.stream
        elif port.isdigit() and 0 < int(port) < 65536 and len(self._open) < CONNECTIONS_MAX:
            connection = self._open[event.stream] = Forwarded(int(port))
            task = asyncio.create_task(self._carry(event.stream, request, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            await self._fail(event.stream, request, f"port {port or '?'} cannot be forwarded")

    async def _carry(self, stream: int, request: str, connection: Forwarded) -> None:
        async def send(data: bytes) -> None:
            await self._socket.send_bytes(Spdy.data(stream, data))

        with contextlib.suppress(ConnectionError):
            try:
                await connection.carry(self._space, send)
            except Unreachable as err:
                await self._fail(stream, request, str(err))
            else:
                await self._fail(stream, request, "")
        self._open.pop(stream, None)

    async def _fail(self, stream: int, request: str, text: str) -> None:
        """Ends a pair of streams; an empty text is a good end."""
        error = self._errors.pop(request, None)
        if error is not None:
            await self._socket.send_bytes(Spdy.data(error, text.encode(), ended=True))
        await self._socket.send_bytes(Spdy.data(stream, b"", ended=True))


async def forward_streams(socket: web.WebSocketResponse, space: str | None) -> None:
    """Serves kubectl's streams until the client leaves."""
    await _Session(socket, space).serve()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
