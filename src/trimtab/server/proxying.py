"""The proxy subresources of pods and services: HTTP to what listens in a pod, through this server.

    /api/v1/namespaces/shop/pods/[https:]web-0[:8080]/proxy/a/path?query
    /api/v1/namespaces/shop/services/[https:]web[:http]/proxy/a/path?query

Found out first (`proxy_answer`, the rules of k8s.io/kubernetes `registry/core/pod` and `registry/core/service`): which address that
is; only that of a pod, whatever an EndpointSlice says. Then (`Proxied`) the request goes there without the caller's credentials, and the
answer comes back as it arrives. Links of a page that begin at the root are made to go through the proxy (`proxy_links.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httptools

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.http import Reply, Request, Send, error_reply
from trimtab.server.kinds import Kind
from trimtab.server.objects import decode
from trimtab.server.paths import Target
from trimtab.server.proxy_links import relinked, relinked_page

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

CONNECT_S = 10.0
CHUNK_BYTES = 64 * 1024
PAGE_MAX_BYTES = 1024 * 1024
"""A longer page is passed on with its links as they are."""
_ITS_OWN = re.compile(r"(/+[^/]+){7}")
"""/api/v1/namespaces/NAMESPACE/pods/NAME/proxy"""
_SCHEMES = ("", "http", "https")
_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_OURS = _HOP_BY_HOP | {"authorization", "accept-encoding", "expect", "content-length"}
"""Of a request: what concerns this server alone. Pages must come unpacked, so that their links can be read."""


def proxy_answer(server: ApiServer, kind: Kind, target: Target, request: Request) -> Reply | Proxied:
    """Raises `StatusError`: 404 no such object, 400 no such address, 503 nobody there."""
    if request.headers.get("upgrade"):
        raise errors.bad_request("the proxy passes no upgrades on: use port-forward")
    scheme, name, port = _split(target.name, kind)
    host, port = (_pod_place if kind.kind == "Pod" else _service_place)(server, target, name, port)
    raw = request.scope.get("raw_path") or quote(request.path, safe="/%:@!$&'()*+,;=~-._").encode()
    path = raw.decode("latin-1")
    before = _ITS_OWN.match(path)
    assert before is not None  # the path was read as one of a proxy
    inside = path[before.end() :]
    query = request.scope.get("query_string", b"").decode("latin-1")
    if not inside and request.method in ("GET", "HEAD"):
        return Reply(b"", 301, headers=[("location", f"{path}/" + (f"?{query}" if query else ""))])
    https = scheme == "https"
    inside = (inside or "/") + (f"?{query}" if query else "")
    return Proxied(host, int(port or (443 if https else 80)), https, inside, before[0])


def _split(text: str, kind: Kind) -> tuple[str, str, str]:
    """Scheme, name and port of `name`, `name:port` or `scheme:name:port`."""
    parts = text.split(":")
    if len(parts) < 3:
        parts = ["", *parts, ""][:3]
    if len(parts) != 3 or not parts[1] or parts[0] not in _SCHEMES:
        raise errors.bad_request(f'invalid {kind.singular_name} request "{text}"')
    return parts[0], parts[1], parts[2]


def _pod_place(server: ApiServer, target: Target, name: str, port: str) -> tuple[str, str]:
    record = server.store.get(f"/core/pods/{target.namespace}/{name}")
    if record is None:
        raise errors.not_found("pods", "", name)
    pod = decode(record)
    ports = (declared for c in pod["spec"]["containers"] for declared in c.get("ports") or ())
    if not port and (first := next(ports, None)) is not None:
        port = str(first["containerPort"])
    if port and not _is_port(port):
        raise errors.bad_request(f'invalid pod request "{target.name}"')
    return _reachable((pod.get("status") or {}).get("podIP") or ""), port


def _service_place(server: ApiServer, target: Target, name: str, port: str) -> tuple[str, str]:
    record = server.store.get(f"/core/services/{target.namespace}/{name}")
    if record is None:
        raise errors.not_found("services", "", name)
    if port.isdigit():
        declared = decode(record)["spec"].get("ports") or ()
        found = next((p for p in declared if p["port"] == int(port)), None)
        if found is None:
            raise errors.unavailable(f'no service port {port} found for service "{name}"')
        port = found.get("name") or ""
    places = list(_places(server, target.namespace, name, port))
    if not places:
        raise errors.unavailable(f'no endpoints available for service "{target.name}"')
    return random.choice(places)


def _places(server: ApiServer, namespace: str, service: str, port: str) -> list[tuple[str, str]]:
    """The addresses of a service's port; only those that a pod of its namespace has."""
    found = []
    for record in server.store.list(f"/discovery.k8s.io/endpointslices/{namespace}/"):
        slice_ = decode(record)
        if (slice_["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != service:
            continue
        numbers = [p["port"] for p in slice_.get("ports") or () if (p.get("name") or "") == port and p.get("port")]
        for endpoint in slice_.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is not False and numbers:
                mine = _addresses_of(server, namespace, endpoint.get("targetRef") or {})
                found += [(address, str(numbers[0])) for address in endpoint.get("addresses") or () if address in mine]
    return found


def _addresses_of(server: ApiServer, namespace: str, reference: JSON) -> set[str]:
    if reference.get("kind") != "Pod":
        return set()
    record = server.store.get(f"/core/pods/{namespace}/{reference.get('name') or ''}")
    return set() if record is None else {ip["ip"] for ip in (decode(record).get("status") or {}).get("podIPs") or ()}


def _reachable(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        raise errors.bad_request("address not allowed") from None
    if found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified:
        raise errors.bad_request("address not allowed")
    return address


def _is_port(text: str) -> bool:
    return text.isdigit() and 0 < int(text) < 65536


@dataclass(slots=True)
class _Head:
    """An answer as `httptools` reads it."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    begun: bool = False
    ended: bool = False
    pieces: list[bytes] = field(default_factory=list)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.ended = True

    def take(self) -> bytes:
        piece = b"".join(self.pieces)
        self.pieces.clear()
        return piece

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


@dataclass(slots=True)
class Proxied:
    """The answer to a proxied request: asked for when it is sent, so that waiting for it takes nobody's turn."""

    host: str
    port: int
    https: bool
    path: str
    before: str
    """The path of the proxy itself."""
    socket: Path | None = None
    """Of something of the engine itself (`endpoints.py`), instead of host and port; its pages are passed on as they are."""
    told: tuple[tuple[str, str], ...] = ()
    """Headers for it; what the client says in their names is not passed on."""
    guard: Callable[[Callable[[], object]], Callable[[], None]] | None = None
    """Told how to end it; returns what to call when it has ended."""

    async def send(self, request: Request, send: Send) -> None:
        closed = None
        task = asyncio.ensure_future(self._exchange(request, send))
        if self.guard is not None:
            closed = self.guard(task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            if closed is not None:
                closed()

    async def _exchange(self, request: Request, send: Send) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await self._connect()
        except (OSError, TimeoutError) as err:
            why = (
                "i/o timeout" if isinstance(err, TimeoutError) else (getattr(err, "strerror", None) or str(err)).lower()
            )
            where = f"unix {self.socket.name}" if self.socket is not None else f"tcp {self.host}:{self.port}"
            refusal = errors.unavailable(f"error trying to reach service: dial {where}: {why}")
            await error_reply(refusal).send(request, send)
            return
        asking = asyncio.ensure_future(self._ask(request, writer))
        try:
            await self._answer(request, reader, send)
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await asking
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.socket is not None:
            return await asyncio.open_unix_connection(self.socket)
        return await asyncio.open_connection(self.host, self.port, ssl=_unchecked() if self.https else None)

    async def _ask(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Sends the request; then, as nothing is to be said any more, waits for the client to leave."""
        kept = [
            (name, value)
            for name, value in request.headers.items()
            if name not in _OURS and not name.startswith(("impersonate-", "x-remote-", "x-trimtab-"))
        ]
        kept += self.told
        length = request.headers.get("content-length")
        chunked = length is None and "chunked" in request.headers.get("transfer-encoding", "").lower()
        if length is not None:
            kept.append(("content-length", length))
        elif chunked:
            kept.append(("transfer-encoding", "chunked"))
        kept += [("x-forwarded-uri", f"{self.before}{self.path.partition('?')[0]}"), ("connection", "close")]
        if request.address:
            kept.append(("x-forwarded-for", request.address))
        lines = [f"{request.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in kept)]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        async for piece in request.pieces():
            if piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        await request.disconnected()
        writer.transport.abort()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, send: Send) -> None:
        head = _Head()
        parser = httptools.HttpResponseParser(head)

        async def more() -> bool:
            """Reads some; False at the end."""
            data = await reader.read(CHUNK_BYTES)
            if data:
                parser.feed_data(data)
            return bool(data) and not head.ended

        try:
            while not head.begun or 100 <= parser.get_status_code() < 200:
                if head.begun:
                    head = _again(head)
                if not await more() and not head.begun:
                    raise ConnectionError("EOF")
            head.status = parser.get_status_code()
        except (OSError, httptools.HttpParserError) as err:
            await error_reply(errors.unavailable(f"error trying to reach service: {err}")).send(request, send)
            return
        page = (
            self.socket is None
            and head.get("content-type").partition(";")[0].strip() == "text/html"
            and not head.get("content-encoding")
        )
        bodiless = request.method == "HEAD" or head.status in (204, 304)
        headers = [(name, value) for name, value in head.headers if name not in _HOP_BY_HOP]
        headers = [(name, relinked(value, self.before) if name == "location" else value) for name, value in headers]
        if page and not bodiless:
            headers = [(name, value) for name, value in headers if name != "content-length"]
        await send(
            {
                "type": "http.response.start",
                "status": head.status,
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            }
        )
        await self._body(head, more, send, page=page, bodiless=bodiless)

    async def _body(
        self, head: _Head, more: Callable[[], Awaitable[bool]], send: Send, *, page: bool, bodiless: bool
    ) -> None:
        """Raises `ConnectionError` when the answer ends early: then the client's connection ends, too."""
        kept = b""
        while not bodiless:
            piece = head.take()
            if page:
                kept += piece
                if len(kept) > PAGE_MAX_BYTES:
                    page, piece, kept = False, kept, b""
            if piece and not page:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if head.ended or (not await more() and not head.pieces):
                break
        rest = head.take()
        last = await asyncio.to_thread(relinked_page, kept + rest, self.before) if page and not bodiless else rest
        await send({"type": "http.response.body", "body": last})


def _again(head: _Head) -> _Head:
    """The same, for the answer that follows an interim one."""
    head.begun = head.ended = False
    head.headers.clear()
    return head


def _unchecked() -> ssl.SSLContext:
    """What pods show on `https:` is not checked, as in the real server: their certificates name no address of theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
