"""Logs, exec, attach and port-forward of pods: checked here, done by the node agent.

A log is a plain response, copied as it comes, unless WebSocket is asked for. The others are WebSocket upgrades, handed over whole
(`tunnel.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httptools

from trimtab.server import errors
from trimtab.server.http import Answer, Request, Stream
from trimtab.server.kinds import Kind
from trimtab.server.objects import decode
from trimtab.server.paths import Target
from trimtab.server.tunnel import Tunnel

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

CONNECT_S = 5.0
CHUNK_BYTES = 64 * 1024
ERROR_MAX_BYTES = 64 * 1024


async def stream_reply(server: ApiServer, kind: Kind, target: Target, request: Request) -> Answer:
    """Raises `StatusError`: 404 no such pod, 400 not started or no WebSocket, 503 no node agent."""
    record = server.store.get(kind.key(target.namespace, target.name))
    if record is None:
        raise errors.not_found(kind.plural, kind.group, target.name)
    pod = decode(record)
    if not pod["spec"].get("nodeName"):
        raise errors.bad_request(f"pod {target.name} does not have a host assigned")
    _check_container(pod["spec"], target.name, request.query.get("container", ""), target.subresource)
    socket = socket_of(server, pod["spec"]["nodeName"])
    if socket is None:
        raise errors.unavailable("this API server has no node agent: logs and streams are not available")
    query = request.scope.get("query_string", b"").decode("latin-1")
    action = "logs" if target.subresource == "log" else target.subresource
    path = f"/{action}/{quote(target.namespace)}/{quote(target.name)}" + (f"?{query}" if query else "")
    upgrades = request.headers.get("upgrade", "").lower() == "websocket"
    if upgrades:
        if target.subresource != "log":
            server.wrote(kind, "entered", pod, subresource=target.subresource)
        return Tunnel(socket, path, request.user.name)
    # A stream without WebSocket is refused by the agent, which first looks whether there is anything to stream: clients ask
    # in the older way, too, after any refusal, and show what that one said.
    return await _copied(str(socket), path, request)


def socket_of(server: ApiServer, node: str) -> Path | None:
    """The agent's socket: that of a further node where it has one, else this machine's own."""
    base, own = server.settings.node_sockets, server.settings.node_socket
    if base is not None and own is not None and (further := base / Path(node).name).is_dir():
        return further / own.name
    return own


def _check_container(spec: dict[str, list[dict[str, str]]], pod: str, container: str, subresource: str) -> None:
    """Raises `StatusError` 400 for a container that the pod does not have, or when it must be named and is not."""
    if subresource == "portforward":
        return
    lists = ("containers", "initContainers", "ephemeralContainers")
    names = [c["name"] for name in lists for c in spec.get(name) or ()]
    if container and container not in names:
        raise errors.bad_request(f"container {container} is not valid for pod {pod}")
    own = [c["name"] for c in spec["containers"]]
    if not container and len(own) > 1:
        raise errors.bad_request(f"a container name must be specified for pod {pod}, choose one of: [{' '.join(own)}]")


class _Response:
    """What the node agent says, as `httptools` reads it."""

    def __init__(self) -> None:
        self.content_type = "text/plain"
        self.started = False
        self.done = False
        self.pieces: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.content_type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.started = True

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.done = True

    def take(self) -> bytes:
        piece = b"".join(self.pieces)
        self.pieces.clear()
        return piece


async def _copied(socket: str, path: str, request: Request) -> Stream:
    """The node agent's response, copied as it comes."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_unix_connection(socket)
    except (OSError, TimeoutError) as err:
        raise errors.unavailable(f"the node agent cannot be reached: {err}") from None
    response = _Response()
    parser = httptools.HttpResponseParser(response)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n".encode("latin-1"))

    async def receive() -> bool:
        """Reads some more; False at the end."""
        data = await reader.read(CHUNK_BYTES)
        if not data:
            return False
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as err:
            raise errors.unavailable(f"the node agent's answer is not HTTP: {err}") from None
        return not response.done

    try:
        while not response.started:
            if not await receive() and not response.started:
                raise errors.unavailable("the node agent closed the connection without an answer: try again")
        status = parser.get_status_code()
        if status >= 400:
            text = response.take()
            while not response.done and len(text) < ERROR_MAX_BYTES and await receive():
                text += response.take()
            message = (text + response.take()).decode(errors="replace").strip()
            raise _node_error(status, message)
    except BaseException:
        writer.close()
        raise

    async def run(write: Callable[[bytes], Awaitable[None]]) -> None:
        gone = asyncio.ensure_future(request.disconnected())
        gone.add_done_callback(lambda _: writer.close())
        try:
            more = not response.done
            while True:
                piece = response.take()
                if piece:
                    await write(piece)
                if not more or gone.done():
                    break
                try:
                    more = await receive()
                except (ConnectionError, errors.StatusError):
                    break
        finally:
            gone.cancel()
            writer.close()

    return Stream(run, response.content_type, status)


def _node_error(status: int, message: str) -> errors.StatusError:
    reason = {400: "BadRequest", 404: "NotFound", 409: "Conflict"}.get(status, "InternalError")
    return errors.StatusError(status, reason, message or f"the node agent answered {status}")
