"""Bytes in both directions between a client and the node agent, once the request that opens them was allowed.

exec, attach and port-forward speak WebSocket subprotocols between the client and the node agent; the API server has nothing to
say in them. So it forwards the upgrade request and then only moves bytes, with back-pressure both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

FORWARDED = frozenset({b"connection", b"upgrade", b"origin", b"host"})
"""Of the client's headers, beside `sec-websocket-*`; its credentials stay here."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The answer to an upgrade request: go on with the node agent. `path` with its query."""

    node_socket: Path
    path: str
    user: str
    guard: Callable[[Callable[[], None]], Callable[[], None]] | None = None
    """Told how to end the stream once it is open; returns what to call when it has ended."""


class End(asyncio.Protocol):
    """One end. What arrives here is written to the other one."""

    def __init__(self) -> None:
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.closed: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports only behave like one

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        if self.other is not None and self.other.transport is not None and self.other.transport.can_write_eof():
            self.other.transport.write_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed is not None:
            self.closed()
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


async def open_tunnel(
    client: asyncio.Transport, tunnel: Tunnel, method: bytes, headers: list[tuple[bytes, bytes]], early: bytes
) -> None:
    """Connects the client's transport with the node agent and sends it the request. `early`: what the client sent since.

    Raises:
        OSError: the node agent is not there.
    """
    near = End()
    loop = asyncio.get_running_loop()
    _, far = await loop.create_unix_connection(End, str(tunnel.node_socket))
    near.other, far.other = far, near
    near.connection_made(client)
    assert far.transport is not None
    lines = [b"%b %b HTTP/1.1" % (method, tunnel.path.encode("latin-1"))]
    lines += [
        b"%b: %b" % (name, value) for name, value in headers if name in FORWARDED or name.startswith(b"sec-websocket-")
    ]
    lines.append(b"x-remote-user: " + tunnel.user.encode("latin-1", "replace"))
    far.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + early)
    client.set_protocol(near)
    if tunnel.guard is not None:
        near.closed = tunnel.guard(client.abort)
    if client.is_closing():
        far.transport.close()
    else:
        client.resume_reading()
