"""Logs, exec, attach and port-forward for the API server, on the agent's unix socket.

    GET /logs/NAMESPACE/POD?container=&follow=&tailLines=...        plain text, or WebSocket messages of it
    GET /exec | /attach | /portforward /NAMESPACE/POD?...           WebSocket
    GET /usage                                                      JSON: what the node and its pods use now

What the WebSockets of exec and attach carry is in `channels.py`, of port-forward in `forward.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from aiohttp import web

from trimtab.api.core import Pod
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.channels import CLOSE, ERROR, PROTOCOLS, RESIZE, STDERR, STDIN, STDOUT, Channels
from trimtab.components.node.cri import Cri
from trimtab.components.node.decide import all_containers, container_of
from trimtab.components.node.execute import Execution, execute, why_not_started
from trimtab.components.node.forward import SPDY_PROTOCOL, forward_channels, forward_streams
from trimtab.components.node.logs import LogOptions, read
from trimtab.components.node.sandboxes import ContainerView, RuntimeFailure
from trimtab.components.node.usage import Usage
from trimtab.runtime.process import Process

LOG_PROTOCOLS = ("binary.k8s.io", "base64.binary.k8s.io")
FORWARD_PROTOCOLS = (SPDY_PROTOCOL, "v4.channel.k8s.io", "v5.channel.k8s.io", "portforward.k8s.io")
CHUNK_BYTES = 32 * 1024
MESSAGE_BYTES_MAX = 16 << 20
OUTPUT_LEFT_S = 2.0
"""How long output is awaited after the process ended: a background process of its may hold the pipe open."""
PING_S = 30.0

log = logging.getLogger(__name__)


class Refused(Exception):
    """What a client gets instead of a stream: an HTTP status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Streams:
    """The streaming endpoint of one node."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._agent = process.adapter(NodeAgent)
        self._cri = process.adapter(Cri)
        self._run = process.settings.run_path("exec")

    def application(self) -> web.Application:
        """What `listen.py` serves."""
        app = web.Application()
        synced = self._process.informer(Pod).wait_synced
        for name, handle in (
            ("logs", self.logs),
            ("exec", self.exec),
            ("attach", self.attach),
            ("portforward", self.port_forward),
        ):
            app.router.add_get(f"/{name}/{{namespace}}/{{pod}}", _answering(handle, synced))
        app.router.add_get("/usage", _answering(self.usage, synced))
        return app

    # Finding what is meant

    def _pod(self, request: web.Request) -> Pod:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        pod = self._process.informer(Pod).get(name, namespace)
        if pod is None:
            raise Refused(404, f'pods "{name}" not found on this node')
        return pod

    def _views(self, pod: Pod, request: web.Request) -> tuple[ContainerView, ...]:
        name = request.query.get("container") or pod.spec.containers[0].name
        views = self._agent.containers_of(pod.metadata.uid).get(name, ())
        if not views:
            known = [c.name for c in all_containers(pod)]
            if name not in known:
                raise Refused(400, f"container {name} is not valid for pod {pod.name}; it has {', '.join(known)}")
            of = pod.status
            statuses = (*of.container_statuses, *of.init_container_statuses, *of.ephemeral_container_statuses)
            waiting = next((s.state.waiting for s in statuses if s.name == name), None)
            why = f": {waiting.reason}" if waiting is not None and waiting.reason else ""
            raise Refused(400, f'container "{name}" in pod "{pod.name}" is waiting to start{why}')
        return views

    def _running(self, request: web.Request) -> ContainerView:
        pod = self._pod(request)
        view = self._views(pod, request)[0]
        if view.state != "running":
            raise _not_running(view, pod)
        return view

    # Usage

    async def usage(self, request: web.Request) -> web.StreamResponse:
        try:
            return web.json_response(await self._process.adapter(Usage).measure())
        except RuntimeFailure as err:
            raise Refused(503, f"containerd does not say what its containers use: {err}") from None

    # Logs

    async def logs(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        views = self._views(pod, request)
        view = views[0]
        if _flag(request, "previous"):
            view = _previous(pod, views)
        options = _log_options(request, self._process.clock.now())
        pieces = read(self._agent.log_path(view), options, self._agent.ended(view.id))
        if request.headers.get("upgrade", "").lower() == "websocket":
            return await _log_messages(request, pieces)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            async for piece in pieces:
                await response.write(piece)
        except (FileNotFoundError, ConnectionError):
            pass  # the pod or the client is gone
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    # Exec

    async def exec(self, request: web.Request) -> web.StreamResponse:
        view = self._running(request)
        command = request.query.getall("command", [])
        if not command:
            raise Refused(400, "you must specify at least one command for the container")
        tty, stdin = _flag(request, "tty"), _flag(request, "stdin")
        channels = Channels(await _upgrade(request, PROTOCOLS))
        try:
            async with execute(self._cri, view.id, command, self._run, tty=tty, stdin=stdin) as execution:
                code = await _converse(channels, execution)
        except RuntimeFailure as err:
            await channels.finish(_failure(why_not_started(str(err), view.name, request.match_info["pod"])))
            return channels.socket
        if code is not None:
            await channels.finish(_status(code))
        return channels.socket

    # Attach

    async def attach(self, request: web.Request) -> web.StreamResponse:
        view = self._running(request)
        pod = self._pod(request)
        container = container_of(pod, view.name)
        stdin = _flag(request, "stdin") and container is not None and bool(container.stdin)
        tty = container is not None and bool(container.tty)
        # containerd ends a container's input with the connection that carries it. Output must go on then, or
        # `echo x | kubectl run -i` would lose it; so each has a connection of its own. That of the output has a silent input,
        # too: without, containerd takes the input to have ended. A terminal has one connection for both.
        apart = stdin and not tty
        listens = container is not None and bool(container.stdin)
        try:
            output = await self._cri.attach_url(view.id, stdin=listens, output=True, tty=tty)
            source = await self._cri.attach_url(view.id, stdin=True, output=False, tty=False) if apart else ""
        except RuntimeFailure as err:
            if "CONTAINER_EXITED" in str(err):  # it ended, and nobody told us yet
                raise _not_running(view, pod) from None
            raise
        once = container is not None and bool(container.stdin_once)
        channels = Channels(await _upgrade(request, PROTOCOLS))
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
            far = await stack.enter_async_context(_far(session, output))
            into = await stack.enter_async_context(_far(session, source)) if source else far
            inward = asyncio.create_task(_pump_in(channels, far, into if stdin else None, once=once))
            try:
                async for message in far:
                    if message.type == aiohttp.WSMsgType.BINARY and message.data:
                        await _passed_on(channels, message.data[0], message.data[1:])
            except ConnectionError:
                pass  # the client went away
            finally:
                inward.cancel()
        await channels.socket.close()
        return channels.socket

    # Port-forward

    async def port_forward(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        sandbox = next((s for s in self._agent.sandboxes_of(pod.metadata.uid) if s.ready), None)
        if sandbox is None:
            raise Refused(400, f"pod {pod.name} is not running")
        wanted = [part for text in request.query.getall("ports", []) for part in text.split(",")]
        if not all(p.isdigit() and 0 < int(p) < 65536 for p in wanted):
            raise Refused(400, "ports: give port numbers from 1 to 65535")
        ports = [int(p) for p in wanted]
        space = None if pod.spec.host_network else await self._cri.sandbox_netns(sandbox.id)
        socket = await _upgrade(request, FORWARD_PROTOCOLS)
        if socket.ws_protocol == SPDY_PROTOCOL:
            await forward_streams(socket, space)
        else:
            await forward_channels(socket, ports, space)
        return socket


def _not_running(view: ContainerView, pod: Pod) -> Refused:
    return Refused(400, f'container "{view.name}" in pod "{pod.name}" is not running')


def _previous(pod: Pod, views: Sequence[ContainerView]) -> ContainerView:
    """The container that the status calls the last state; it is the newest one while that waits to be started again."""
    name = views[0].name
    statuses = (*pod.status.container_statuses, *pod.status.init_container_statuses)
    last = next((s.last_state.terminated for s in statuses if s.name == name), None)
    wanted = last.container_id.removeprefix("containerd://") if last is not None else ""
    found = [v for v in views if v.id == wanted] or [v for v in views[1:] if v.state == "exited"]
    if not found:
        raise Refused(400, f'previous terminated container "{name}" in pod "{pod.name}" not found')
    return found[0]


Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _answering(handle: Handle, synced: Callable[[], Awaitable[object]]) -> Handle:
    """`handle`, once the agent knows its pods; what it refuses becomes an answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await synced()
        try:
            return await handle(request)
        except Refused as err:
            return web.Response(status=err.status, text=err.message)
        except RuntimeFailure as err:
            return web.Response(status=500, text=str(err))

    return answer


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("1", "true")


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise Refused(400, f"{name}: must be a whole number that is not negative, got {text[:40]!r}")
    return int(text)


def _log_options(request: web.Request, now: datetime) -> LogOptions:
    since = None
    seconds = _number(request, "sinceSeconds")
    if seconds is not None:
        since = now - timedelta(seconds=seconds)
    if text := request.query.get("sinceTime"):
        try:
            since = datetime.fromisoformat(text)
        except ValueError:
            raise Refused(400, f"sinceTime: must be an RFC 3339 time, got {text[:40]!r}") from None
        since = since if since.tzinfo else since.replace(tzinfo=UTC)
    return LogOptions(
        follow=_flag(request, "follow"),
        tail=_number(request, "tailLines"),
        since=since,
        timestamps=_flag(request, "timestamps"),
        limit_bytes=_number(request, "limitBytes"),
    )


async def _upgrade(request: web.Request, protocols: tuple[str, ...]) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(
        protocols=protocols, max_msg_size=MESSAGE_BYTES_MAX, heartbeat=PING_S, compress=False
    )
    if not socket.can_prepare(request).ok:
        raise Refused(400, "this stream needs a WebSocket upgrade: use kubectl 1.31 or newer")
    await socket.prepare(request)
    return socket


# Exec's conversation


async def _converse(channels: Channels, execution: Execution) -> int | None:
    """Carries input and output until the process has ended: its exit code, or None when the client left before."""
    inward = asyncio.create_task(_input(channels, execution))
    outputs = [asyncio.create_task(_output(channels, STDOUT, execution.stdout))]
    if execution.stderr is not None:
        outputs.append(asyncio.create_task(_output(channels, STDERR, execution.stderr)))
    ended = asyncio.create_task(execution.wait())
    try:
        await asyncio.wait([ended, inward], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            return None
        await execution.release()
        await asyncio.wait(outputs, timeout=OUTPUT_LEFT_S)
        return ended.result()
    finally:
        for task in (inward, ended, *outputs):
            task.cancel()
        await asyncio.gather(inward, ended, *outputs, return_exceptions=True)


async def _input(channels: Channels, execution: Execution) -> None:
    """Returns when the client has left."""
    async for channel, data in channels.received():
        with contextlib.suppress(RuntimeFailure):
            if channel == STDIN:
                await execution.write(data)
            elif channel == RESIZE:
                await _resize(execution, data)
            elif channel == CLOSE and data[:1] == bytes([STDIN]):
                await execution.close_stdin()


async def _resize(execution: Execution, data: bytes) -> None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        size = json.loads(data)
        await execution.resize(int(size["Width"]), int(size["Height"]))


async def _output(channels: Channels, channel: int, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            await channels.send(channel, data)


def _status(code: int) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: error executing command, exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _failure(message: str) -> dict[str, Any]:
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}


# The other conversations


async def _log_messages(request: web.Request, pieces: AsyncIterator[bytes]) -> web.WebSocketResponse:
    """A log as WebSocket messages: binary ones, or base64 in text, as the client asks."""
    socket = await _upgrade(request, LOG_PROTOCOLS)
    text = socket.ws_protocol == "base64.binary.k8s.io"
    reading = asyncio.create_task(_left(socket))
    sending = asyncio.create_task(_sent(socket, pieces, text=text))
    try:
        await asyncio.wait([reading, sending], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (reading, sending):
            task.cancel()
        await asyncio.gather(reading, sending, return_exceptions=True)
    with contextlib.suppress(ConnectionError):
        await socket.close()
    return socket


async def _left(socket: web.WebSocketResponse) -> None:
    """Returns when the client has left; what it says is of no interest."""
    async for _ in socket:
        pass


async def _sent(socket: web.WebSocketResponse, pieces: AsyncIterator[bytes], *, text: bool) -> None:
    with contextlib.suppress(FileNotFoundError, ConnectionError):  # the pod or the client is gone
        async for piece in pieces:
            if text:
                await socket.send_str(base64.b64encode(piece).decode())
            else:
                await socket.send_bytes(piece)


async def _passed_on(channels: Channels, channel: int, data: bytes) -> None:
    """One message of containerd's for the client. How the stream ended is told in the client's own way."""
    if channel != ERROR:
        await channels.send(channel, data)
        return
    with contextlib.suppress(ValueError):
        await channels.end(json.loads(data))


def _far(session: aiohttp.ClientSession, url: str) -> Any:
    """A connection to containerd's streaming server."""
    return session.ws_connect(url, protocols=("v4.channel.k8s.io",), max_msg_size=MESSAGE_BYTES_MAX)


async def _pump_in(
    channels: Channels,
    far: aiohttp.ClientWebSocketResponse,
    into: aiohttp.ClientWebSocketResponse | None,
    *,
    once: bool,
) -> None:
    """What the client sends: its input goes to `into`. Ends with the client; or, as Kubernetes has it, with its input where
    that is not all that the container gets (`once`)."""
    with contextlib.suppress(ConnectionError):
        async for channel, data in channels.received():
            if channel == CLOSE and data[:1] == bytes([STDIN]) and into is not None and into is not far:
                await into.close()
                if not once:
                    break
            elif channel == STDIN and into is not None and not into.closed:
                await into.send_bytes(bytes([channel]) + data)
            elif channel == RESIZE:
                await far.send_bytes(bytes([channel]) + data)
    if into is not None:
        await into.close()
    await far.close()
