"""The channels of an exec or attach stream, in whichever of Kubernetes' WebSocket subprotocols the client speaks.

A message carries one channel's bytes: 0 stdin, 1 stdout, 2 stderr, 3 how it ended, 4 a terminal's new size, and in v5 255, which
closes the channel that follows. The subprotocols differ in two ways: those named `base64.` send text (the channel's digit, then
base64), and those before v4 end without a word when all went well, else with a plain text in place of a `Status`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
"""Who names none speaks `channel.k8s.io`."""
_DIGITS = range(ord("0"), ord("9") + 1)


class Channels:
    """One open stream."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        protocol = socket.ws_protocol or "channel.k8s.io"
        self._text = "base64." in protocol
        self._tells = protocol.startswith(("v4.", "v5."))

    async def send(self, channel: int, data: bytes) -> None:
        """Raises `ConnectionError` when the client has left."""
        if self._text:
            await self.socket.send_str(f"{channel}{base64.b64encode(data).decode()}")
        else:
            await self.socket.send_bytes(bytes([channel]) + data)

    async def received(self) -> AsyncIterator[tuple[int, bytes]]:
        """The client's messages, each a channel and its bytes, until it leaves. What is no message of the protocol is passed over."""
        async for message in self.socket:
            if message.type == aiohttp.WSMsgType.BINARY and not self._text and message.data:
                yield message.data[0], message.data[1:]
            elif message.type == aiohttp.WSMsgType.TEXT and self._text and message.data:
                with contextlib.suppress(binascii.Error, ValueError):
                    if ord(message.data[0]) in _DIGITS:
                        yield int(message.data[0]), base64.b64decode(message.data[1:], validate=True)

    async def end(self, status: dict[str, Any]) -> None:
        """Says how it ended."""
        if self._tells:
            await self.send(ERROR, json.dumps(status).encode())
        elif status["status"] != "Success":
            await self.send(ERROR, status.get("message", "").encode())

    async def finish(self, status: dict[str, Any]) -> None:
        """Says how it ended, to a client that may have left, and closes."""
        with contextlib.suppress(ConnectionError):
            await self.end(status)
            await self.socket.close()
