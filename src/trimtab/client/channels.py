"""The client's end of `exec` and `attach`: one WebSocket, subprotocol `v5.channel.k8s.io`, whose first byte names the channel.

0 stdin   1 stdout   2 stderr   3 the final Status   4 terminal size   255 end of a channel
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.client.errors import error_from
from trimtab.client.kubeconfig import ClusterAccess

if TYPE_CHECKING:
    import aiohttp

STDIN, STDOUT, STDERR, STATUS, RESIZE, END = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


@asynccontextmanager
async def channels(
    where: Path | ClusterAccess, path: str, query: Sequence[tuple[str, str]], *, ping_s: float | None = None
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """An open stream of `.../exec` or `.../attach`; closed at the end. where: the engine's own socket, or a cluster. ping_s: how often
    the other end is asked whether it is there; one that does not answer has left.

    Raises:
        ApiError: the server refused. ConnectionError: it was not reached.
    """
    import aiohttp

    base, headers, connector, server_name = _connection(where)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            socket = await session.ws_connect(
                f"{base}{path}",
                params=query,
                protocols=PROTOCOLS,
                headers=headers,
                max_msg_size=0,
                heartbeat=ping_s,
                server_hostname=server_name,
            )
        except aiohttp.WSServerHandshakeError as err:
            await _explain(session, f"{base}{path}", query, headers, server_name, err)
            raise
        except aiohttp.ClientError as err:
            raise ConnectionError(f"the API server at {base} cannot be reached: {err}") from None
        async with socket:
            yield socket


def _connection(where: Path | ClusterAccess) -> tuple[str, dict[str, str], aiohttp.BaseConnector, str | None]:
    """Base URL, headers, connector and TLS name."""
    import aiohttp

    agent = {"User-Agent": "trimtab"}  # who the timeline says it was
    if isinstance(where, Path):
        return "http://trimtab", agent, aiohttp.UnixConnector(str(where)), None
    headers = {**agent, **where.headers}
    if token := where.current_token():
        headers["Authorization"] = f"Bearer {token}"
    return where.server, headers, aiohttp.TCPConnector(ssl=where.ssl_context() or True), where.tls_server_name


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


async def end_input(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Tells the other end that there is no more input, where its protocol can be told."""
    if socket.protocol == PROTOCOLS[0]:
        await socket.send_bytes(bytes([END, STDIN]))


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
