"""`trimtab exec`: the streams of a command in a container, joined to this process's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import termios
import threading
import tty as terminal_modes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.target import Target
from trimtab.client.channels import RESIZE, STATUS, STDERR, STDIN, STDOUT, channels, end_input, exit_status
from trimtab.client.kubeconfig import ClusterAccess, default_kubeconfig, read_kubeconfig

if TYPE_CHECKING:
    import aiohttp

CHUNK_BYTES = 32 * 1024


async def converse(target: Target, path: str, query: Sequence[tuple[str, str]], *, stdin: bool, tty: bool) -> int:
    """Runs a command in a container and joins its streams to ours; returns its exit status.

    Raises:
        ApiError: the server refused. ConnectionError: it was not reached, or went away.
    """
    async with channels(_where(target), path, query) as socket:
        with _raw_terminal() if tty else contextlib.nullcontext():
            return await _pump(socket, stdin=stdin, tty=tty)


def _where(target: Target) -> Path | ClusterAccess:
    """How the API that is meant is reached."""
    if target.is_embedded:
        settings = target.settings()
        if os.access(settings.api_socket, os.W_OK):
            return settings.api_socket
        return read_kubeconfig(settings.data_path("admin.kubeconfig"))
    return read_kubeconfig(target.kubeconfig or default_kubeconfig(), target.context)


async def _pump(socket: aiohttp.ClientWebSocketResponse, *, stdin: bool, tty: bool) -> int:
    loop = asyncio.get_running_loop()
    sending: list[asyncio.Task[None]] = []
    if tty:
        loop.add_signal_handler(signal.SIGWINCH, lambda: sending.append(loop.create_task(_send_size(socket))))
        await _send_size(socket)
    feeding = loop.create_task(_feed(socket)) if stdin else None
    status: dict[str, Any] | None = None
    try:
        async for message in socket:
            if not isinstance(message.data, bytes) or not message.data:
                continue
            channel, content = message.data[0], message.data[1:]
            if channel in (STDOUT, STDERR):
                stream = (sys.stdout if channel == STDOUT else sys.stderr).buffer
                stream.write(content)
                stream.flush()
            elif channel == STATUS:
                status = json.loads(content)
    finally:
        if feeding is not None:
            feeding.cancel()
        if tty:
            loop.remove_signal_handler(signal.SIGWINCH)
    return exit_status(status)


async def _send_size(socket: aiohttp.ClientWebSocketResponse) -> None:
    size = shutil.get_terminal_size()
    await socket.send_bytes(bytes([RESIZE]) + json.dumps({"Width": size.columns, "Height": size.lines}).encode())


async def _feed(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Sends our standard input as it comes, then its end. It is read by a thread that nobody waits for: a blocked read
    must not hold up our exit."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        with contextlib.suppress(RuntimeError, OSError):  # the loop is closed: the command has ended
            while content := os.read(sys.stdin.fileno(), CHUNK_BYTES):
                loop.call_soon_threadsafe(pieces.put_nowait, content)
            loop.call_soon_threadsafe(pieces.put_nowait, b"")

    threading.Thread(target=read, daemon=True, name="stdin").start()
    while content := await pieces.get():
        await socket.send_bytes(bytes([STDIN]) + content)
    await end_input(socket)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go to the container as they are pressed; the terminal is put back afterwards."""
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    terminal_modes.setraw(handle, termios.TCSANOW)  # what was typed before is not thrown away
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
