"""One HTTPS request to a webhook, over a connection that is kept for the next one.

Everything has a limit: the time, the size of the answer, the number of redirects, how long a connection rests. What goes wrong is a
`CallFailed` in the words of the real server's client.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httptools
import msgspec

from trimtab.server.clock import Clock
from trimtab.server.webhooks.configurations import ClientConfig
from trimtab.server.webhooks.services import NoEndpoint, endpoint
from trimtab.store import Store

ANSWER_MAX_BYTES = 8 * 1024 * 1024
"""Several times what a patch of the largest object needs."""
REDIRECTS_MAX = 10
IDLE_S = 30.0
CHUNK_BYTES = 64 * 1024
IDLE_MAX = 32
"""Connections kept to one webhook."""
_UNKNOWN_AUTHORITY = (2, 7, 18, 19, 20, 21)
"""OpenSSL's codes for a chain that ends in nobody who is known."""
_STATUS = {
    400: "the server rejected our request for an unknown reason",
    401: "the server has asked for the client to provide credentials",
    403: "unknown",
    404: "the server could not find the requested resource",
    405: "the server does not allow this method on the requested resource",
    409: "the server reported a conflict",
    429: "the server has received too many requests and has asked us to try again later",
    503: "the server is currently unable to handle the request",
    504: "the server was unable to return a response in the time allotted, but may still be processing the request",
}


class CallFailed(Exception):
    """The webhook could not be asked, or its answer is none."""


class _Closed(Exception):
    """The other end closed before it answered anything."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What a connection is for: two requests may share one when all of this is the same."""

    host: str
    port: int
    name: str
    """The name that the certificate must have."""
    ca: bytes


class _Connection:
    """One connection, one request at a time."""

    def __init__(self, place: _Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.place = place
        self._reader = reader
        self._writer = writer
        self.resting: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._size = 0
        self._done = False
        self.usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        self._done = True
        self.usable = self._parser.should_keep_alive()

    @property
    def alive(self) -> bool:
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def post(self, target: str, host: str, body: bytes) -> bytes:
        """Sends a request and reads the answer to its end.

        Raises:
            _Closed: the other end closed first. CallFailed: the answer is too large or no HTTP. OSError.
        """
        self._reset()
        self._parser = parser = httptools.HttpResponseParser(self)
        head = (
            f"POST {target} HTTP/1.1\r\nhost: {host}\r\nuser-agent: trimtab-apiserver-admission\r\naccept: application/json\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode("latin-1") + body)
        begun = False
        try:
            while not self._done:
                data = await self._reader.read(CHUNK_BYTES)
                if not data:
                    if not begun:
                        raise _Closed
                    if self._ends_with_the_connection():
                        break
                    raise CallFailed("unexpected EOF")
                begun = True
                parser.feed_data(data)
                if self._size > ANSWER_MAX_BYTES:
                    raise CallFailed(f"the answer is larger than {ANSWER_MAX_BYTES} bytes")
        except ConnectionError:
            if begun:
                raise
            raise _Closed from None
        except httptools.HttpParserError as err:
            raise CallFailed(f"net/http: HTTP/1.x transport connection broken: {err}") from None
        self.status = parser.get_status_code()
        return b"".join(self._pieces)

    def _ends_with_the_connection(self) -> bool:
        return "content-length" not in self.headers and "chunked" not in self.headers.get("transfer-encoding", "")

    def close(self) -> None:
        if self.resting is not None:
            self.resting.cancel()
        self._writer.transport.abort()


class Caller:
    """Asks webhooks. Its connections rest for a while after each answer; `close` ends them all."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._idle: dict[_Place, list[_Connection]] = {}
        self._contexts: dict[bytes, ssl.SSLContext] = {}

    async def post(self, client: ClientConfig, body: bytes, timeout_s: float) -> bytes:
        """The body of the answer to an AdmissionReview.

        Raises:
            CallFailed: with the reason.
        """
        url = client.url
        if client.service is not None:
            service = client.service
            path = service.path if service.path.startswith("/") else f"/{service.path}"
            url = f"https://{service.name}.{service.namespace}.svc:{service.port}{path}"
        parts = urlsplit(url)
        seconds = max(1, -int(-timeout_s // 1))
        asked = f"{parts.scheme}://{parts.netloc}{parts.path or '/'}?timeout={seconds}s"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(client, asked, body)
        except TimeoutError:
            raise CallFailed(f'Post "{asked}": context deadline exceeded') from None

    async def _follow(self, client: ClientConfig, url: str, body: bytes) -> bytes:
        for _ in range(REDIRECTS_MAX):
            try:
                status, headers, answer = await self._exchange(client, url, body)
            except (OSError, NoEndpoint, CallFailed) as err:
                raise CallFailed(f'Post "{url}": {_text(err)}') from None
            if status not in (301, 302, 303, 307, 308):
                return _checked(status, headers, answer)
            url = urljoin(url, headers.get("location", ""))
            if status not in (307, 308) or urlsplit(url).scheme != "https":
                raise CallFailed(f'Post "{url}": a redirect ({status}) that would lose the review is not followed')
        raise CallFailed(f'Post "{url}": stopped after {REDIRECTS_MAX} redirects')

    async def _exchange(self, client: ClientConfig, url: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        name = host
        if client.service is not None and host == f"{client.service.name}.{client.service.namespace}.svc":
            host, port = endpoint(self._store, client.service, self._clock.random)
        place = _Place(host, port, name, client.ca_bundle)
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        while True:
            connection = self._rested(place)
            fresh = connection is None
            if connection is None:
                connection = await self._connect(place)
            try:
                answer = await connection.post(target, parts.netloc, body)
            except _Closed:
                connection.close()
                if fresh:
                    raise CallFailed("EOF") from None
                continue  # it was closed while it rested: nothing of this was heard
            except BaseException:
                connection.close()
                raise
            self._keep(connection)
            return connection.status, connection.headers, answer

    async def _connect(self, place: _Place) -> _Connection:
        context = self._context(place.ca)
        try:
            reader, writer = await asyncio.open_connection(
                place.host, place.port, ssl=context, server_hostname=place.name, limit=CHUNK_BYTES
            )
        except ssl.SSLError:
            raise
        except OSError as err:
            raise CallFailed(_dial_text(place, err)) from None
        return _Connection(place, reader, writer)

    def _context(self, ca: bytes) -> ssl.SSLContext:
        context = self._contexts.get(ca)
        if context is None:
            try:
                context = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
            except (ssl.SSLError, UnicodeDecodeError):
                raise CallFailed("unable to load root certificates: unable to parse bytes as PEM block") from None
            # As the real server: any certificate of the bundle is trusted, be it a root or not, and old ones are read leniently.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            self._contexts[ca] = context
        return context

    def _rested(self, place: _Place) -> _Connection | None:
        waiting = self._idle.get(place, [])
        while waiting:
            connection = waiting.pop()
            if connection.resting is not None:
                connection.resting.cancel()
            if connection.alive:
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        waiting = self._idle.setdefault(connection.place, [])
        if not connection.usable or len(waiting) >= IDLE_MAX:
            connection.close()
            return
        waiting.append(connection)
        connection.resting = asyncio.get_running_loop().call_later(IDLE_S, self._forget, connection)

    def _forget(self, connection: _Connection) -> None:
        waiting = self._idle.get(connection.place, [])
        with contextlib.suppress(ValueError):
            waiting.remove(connection)
        if not waiting:
            self._idle.pop(connection.place, None)
            if not any(place.ca == connection.place.ca for place in self._idle):
                self._contexts.pop(connection.place.ca, None)
        connection.close()

    def close(self) -> None:
        for waiting in self._idle.values():
            for connection in waiting:
                connection.close()
        self._idle.clear()


class _Refusal(msgspec.Struct):
    kind: str = ""
    message: str = ""


def _checked(status: int, headers: dict[str, str], answer: bytes) -> bytes:
    """The answer, when its status says that it is one. Raises `CallFailed`."""
    if 200 <= status <= 206:
        if not answer:
            media = headers.get("content-type", "")
            raise CallFailed(f"0-length response with status code: {status} and content type: {media}")
        return answer
    try:
        said = msgspec.json.decode(answer, type=_Refusal)
    except msgspec.DecodeError:
        said = _Refusal()
    if said.kind == "Status" and said.message:
        raise CallFailed(said.message)
    if status in _STATUS:
        raise CallFailed(_STATUS[status])
    if status >= 500:
        raise CallFailed('an error on the server ("unknown") has prevented the request from succeeding')
    raise CallFailed(f"the server responded with the status code {status} but did not return more information")


def _text(err: Exception) -> str:
    if isinstance(err, ssl.SSLCertVerificationError):
        if err.verify_code in _UNKNOWN_AUTHORITY:
            why = "certificate signed by unknown authority"
        elif err.verify_code == 10:
            why = "certificate has expired or is not yet valid"
        else:
            why = err.verify_message
        return f"tls: failed to verify certificate: x509: {why}"
    if isinstance(err, ssl.SSLError):
        return f"tls: {err.reason or err}"
    return str(err) or type(err).__name__


def _dial_text(place: _Place, err: OSError) -> str:
    if isinstance(err, socket.gaierror):
        return f"dial tcp: lookup {place.host}: no such host"
    return f"dial tcp {place.host}:{place.port}: connect: {(err.strerror or str(err)).lower()}"
