"""The API server as a process: store, server and two listeners (TLS for the network, a unix socket for the engine) in one
event loop.

What a connection does is in `connection.py`. Nothing here polls: an idle engine sleeps.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from trimtab.server import errors
from trimtab.server.admitting import Check
from trimtab.server.app import Application, create_app
from trimtab.server.authentication import PEER_CERTIFICATE, User
from trimtab.server.connection import CONNECTIONS_MAX, Connection, Open
from trimtab.server.errors import StatusError
from trimtab.server.http import Request, error_reply
from trimtab.server.peers import PEER, peer_of
from trimtab.server.server import ApiServer, ServerSettings
from trimtab.server.tunnel import Tunnel, open_tunnel
from trimtab.store import Store

log = logging.getLogger(__name__)

DRAIN_S = 5.0
"""How long a stop waits for requests that are being answered."""
BACKLOG = 1024
FILES_MAX = 65_536
OWN_FILES = 256
"""Of them for the store, node agents and webhooks: never given to clients."""
IP_FREEBIND = 15
"""Linux' number; Python has no name for it."""


class ListenError(Exception):
    """An address cannot be listened on; one line says which and what to do."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the API listens; `port` None leaves the network out."""

    unix: Path | None = None
    """Root is trusted here, and so is the server's own user unless `peers` names it."""
    peers: Mapping[int, User] = field(default_factory=dict)
    """Who else may use the unix socket, by uid, and as whom. When somebody else may, the directory's group may connect."""
    host: str = "127.0.0.1"
    port: int | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    """Client certificates of this CA are accepted."""
    inside: str | None = None
    """One more address for the same port, listened on before this machine has it: the pods' gateway, whose bridge the node
    agent makes later."""


def serve(
    store_path: Path,
    listen: Listen,
    settings: ServerSettings,
    admission: Sequence[tuple[str, str, Check]] = (),
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Runs the API server until SIGTERM or SIGINT. Blocks.

    on_ready: called once requests are answered.

    Raises:
        StoreError, ListenError: it cannot start; one line says why.
    """
    uvloop.run(run_server(store_path, listen, settings, admission, on_ready))


async def run_server(
    store_path: Path,
    listen: Listen,
    settings: ServerSettings,
    admission: Sequence[tuple[str, str, Check]] = (),
    on_ready: Callable[[], None] | None = None,
) -> None:
    """As `serve`, inside a running event loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = await Store.open(store_path)
    try:
        server = ApiServer(store, settings=settings, admission=admission)
        listeners = Listeners(server)
        try:
            await listeners.open(listen)
            await server.start()
            gc.collect()
            gc.freeze()  # what lives since the boot lives on: no need to look at it again and again
            if on_ready is not None:
                on_ready()
            await stop.wait()
        finally:
            await server.stop()
            await listeners.close()
    finally:
        await store.close()


class Listeners:
    """The listening sockets of one server, and the connections that came through them."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._state = Open(limit=_connections_max())
        self._servers: list[asyncio.AbstractServer] = []
        self._unix: Path | None = None
        self._tls: ssl.SSLContext | None = None

    async def open(self, listen: Listen) -> None:
        """Raises `ListenError`."""
        loop = asyncio.get_running_loop()
        if listen.unix is not None:
            self._unix = listen.unix
            bound = _bind_unix(listen.unix, shared=bool(listen.peers))
            protocol = self._protocol(create_app(self._server, trusted=True), listen.peers)
            self._servers.append(await loop.create_unix_server(protocol, sock=bound, backlog=BACKLOG))
        if listen.port is not None:
            protocol = self._protocol(create_app(self._server, trusted=False))
            tls = self._tls = _tls(listen) if listen.certificate is not None else None
            bindings = [_bind(listen.host, listen.port)]
            if listen.inside is not None:
                bindings.append(_bind(listen.inside, listen.port, beforehand=True))
            for bound in bindings:
                self._servers.append(await loop.create_server(protocol, sock=bound, ssl=tls, backlog=BACKLOG))

    def _protocol(self, app: Application, peers: Mapping[int, User] | None = None) -> Callable[[], asyncio.Protocol]:
        return lambda: Protocol(app, self._state, peers)

    def renew(self, listen: Listen) -> None:
        """Serves new connections with the certificate, and checks them with the client CA, that the files hold now; every
        namespace gets the CA's. Open connections go on.

        Raises:
            ListenError: the certificate cannot be used; the one before it is still served.
        """
        if self._tls is not None:
            _tls(listen)
            _load(self._tls, listen)
        self._server.publish_ca()

    async def close(self) -> None:
        """Stops listening, lets requests finish, closes connections."""
        for listener in self._servers:
            listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=DRAIN_S)
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)


class Protocol(Connection):
    """A connection with client certificates, or the identities of a socket's peers, and upgrades that go on to the node agent."""

    def __init__(self, application: Application, opened: Open, peers: Mapping[int, User] | None) -> None:
        """peers: of a unix socket; None over the network."""
        super().__init__(application, opened)
        self._app = application
        self._opened = opened
        self._peers = peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._peers is not None and (peer := peer_of(transport.get_extra_info("socket"), self._peers)) is not None:
            self.extensions[PEER] = peer
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and (certificate := tls.getpeercert()):
            self.extensions[PEER_CERTIFICATE] = certificate

    def upgraded(self, early: bytes) -> None:
        self.transport.pause_reading()
        task = self.loop.create_task(self._tunnel(early))
        self._opened.tasks.add(task)
        task.add_done_callback(self._opened.tasks.discard)

    async def _tunnel(self, early: bytes) -> None:
        """Answers an upgrade request: with a tunnel to the node agent, or with why not."""
        scope = self.scope()
        request = Request(scope, _no_body, _no_send)
        try:
            answer = await self._app.answer(request)
            if isinstance(answer, Tunnel):
                self._opened.connections.pop(self, None)
                await open_tunnel(
                    self.transport,
                    answer,
                    request.method.encode(),
                    self.headers,
                    early,
                )
                return
            refusal = errors.bad_request("there is nothing to upgrade to here")
        except StatusError as err:
            refusal = err
        except OSError as err:
            refusal = errors.unavailable(f"the node agent cannot be reached: {err}")
        reply = error_reply(refusal)
        head = f"HTTP/1.1 {reply.status} {refusal.reason}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(reply.body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + reply.body)
        self.transport.close()


def _connections_max() -> int:
    """How many connections there may be: as many as there may be files, which is raised as far as this process may, but for some
    that the server itself needs."""
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FILES_MAX:
        files = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return min(CONNECTIONS_MAX, files - OWN_FILES)


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b""}


async def _no_send(message: object) -> None:
    raise RuntimeError("an upgrade request is answered by its protocol")


def _bind_unix(path: Path, *, shared: bool) -> socket.socket:
    """A listening place that only its owner can reach, or (`shared`) its group, too, which is the directory's where that is
    setgid. A left-over of a dead server is removed: the store's lock tells that it is dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117 if shared else 0o177)
    try:
        bound.bind(str(path))
    except OSError as err:
        bound.close()
        raise ListenError(f"{path}: cannot be listened on: {err.strerror or err}") from None
    finally:
        os.umask(before)
    return bound


def _bind(host: str, port: int, *, beforehand: bool = False) -> socket.socket:
    """A bound socket. beforehand: the address need not be one of this machine yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if beforehand:
        bound.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    try:
        bound.bind((host, port))
    except OSError as err:
        bound.close()
        if err.errno == errno.EADDRINUSE:
            raise ListenError(
                f"port {port} on {host} is in use: stop what listens there, or choose another with --port"
            ) from None
        raise ListenError(f"port {port} on {host} cannot be listened on: {err.strerror}") from None
    return bound


def _tls(listen: Listen) -> ssl.SSLContext:
    assert listen.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, listen)
    return context


def _load(context: ssl.SSLContext, listen: Listen) -> None:
    assert listen.certificate is not None
    try:
        context.load_cert_chain(listen.certificate, listen.key)
    except (OSError, ssl.SSLError) as err:
        raise ListenError(f"{listen.certificate}: this serving certificate cannot be used: {err}") from None
    if listen.client_ca is not None:
        context.load_verify_locations(cafile=str(listen.client_ca))
        context.verify_mode = ssl.CERT_OPTIONAL
