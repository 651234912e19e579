"""The client's end of `exec`: one WebSocket, subprotocol `v5.channel.k8s.io`, whose first byte names the channel.

0 stdin   1 stdout   2 stderr   3 the final Status   4 terminal size   255 end of a channel
"""

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
from typing import TYPE_CHECKING, Any

from trimtab.cli.target import Target
from trimtab.client.errors import error_from

if TYPE_CHECKING:
    import aiohttp

STDIN, STDOUT, STDERR, STATUS, RESIZE, END = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK_BYTES = 32 * 1024


async def converse(target: Target, path: str, query: Sequence[tuple[str, str]], *, stdin: bool, tty: bool) -> int:
    """Runs a command in a container and joins its streams to ours; returns its exit status.

    Raises:
        ApiError: the server refused. ConnectionError: it was not reached, or went away.
    """
    import aiohttp

    base, headers, connector, server_name = _connection(target)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            socket = await session.ws_connect(
                f"{base}{path}",
                params=query,
                protocols=PROTOCOLS,
                headers=headers,
                max_msg_size=0,
                server_hostname=server_name,
            )
        except aiohttp.WSServerHandshakeError as err:
            await _explain(session, f"{base}{path}", query, headers, server_name, err)
            raise
        except aiohttp.ClientError as err:
            raise ConnectionError(f"the API server at {base} cannot be reached: {err}") from None
        async with socket:
            with _raw_terminal() if tty else contextlib.nullcontext():
                return await _pump(socket, stdin=stdin, tty=tty)


def _connection(target: Target) -> tuple[str, dict[str, str], aiohttp.BaseConnector, str | None]:
    """Base URL, headers, connector and TLS name of the API that is meant."""
    import aiohttp

    from trimtab.client.kubeconfig import default_kubeconfig, read_kubeconfig

    if target.is_embedded:
        settings = target.settings()
        if os.access(settings.api_socket, os.W_OK):
            return "http://trimtab", {}, aiohttp.UnixConnector(str(settings.api_socket)), None
        access = read_kubeconfig(settings.data_path("admin.kubeconfig"))
    else:
        access = read_kubeconfig(target.kubeconfig or default_kubeconfig(), target.context)
    headers = dict(access.headers)
    if token := access.current_token():
        headers["Authorization"] = f"Bearer {token}"
    return access.server, headers, aiohttp.TCPConnector(ssl=access.ssl_context() or True), access.tls_server_name


async def _explain(
    session: aiohttp.ClientSession,
    url: str,
    query: Sequence[tuple[str, str]],
    headers: dict[str, str],
    server_name: str | None,
    err: aiohttp.WSServerHandshakeError,
) -> None:
    """The refusal's text is not kept by the handshake: ask again as a plain request, which is refused alike."""
    async with session.get(url, params=query, headers=headers, server_hostname=server_name) as answer:
        body = await answer.read()
    raise error_from(answer.status if answer.status >= 400 else err.status, body) from None


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


def exit_status(status: dict[str, Any] | None) -> int:
    """The exit status in the final Status: 0 on success, the command's own on NonZeroExitCode.

    Raises:
        ConnectionError: the stream ended without one. ApiError: the command could not be run.
    """
    if status is None:
        raise ConnectionError("the connection ended before the command did")
    if status.get("status") == "Success":
        return 0
    for cause in status.get("details", {}).get("causes", ()):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise error_from(status.get("code", 500), json.dumps(status).encode())


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
    if socket.protocol == PROTOCOLS[0]:
        await socket.send_bytes(bytes([END, STDIN]))


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
