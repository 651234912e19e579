"""The API server that a kubeconfig names, over HTTP.

One `aiohttp` session per transport, made at the first request. All failures to reach the server or to get its whole answer
become `ConnectionError` with one line that names the address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from trimtab.client.kubeconfig import ClusterAccess, read_kubeconfig
from trimtab.client.transport import Request, Response, Whole, unreached

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
"""Kubernetes API servers cut a plain request off after 60 s themselves."""
SILENCE_MAX_S = 900.0
"""A watch is ended by the server within ten minutes (we ask for that); longer silence is a dead connection."""
FOREIGN_ANSWER_BYTES_MAX = 64 << 20
"""Of a server that somebody else named: what it sends is held in memory."""


def foreign_address(host: str, *, proven: bool) -> str:
    """Why a server that somebody else named may not be at this address, in one line; empty when it may. proven: it shows a certificate that is
    checked, as nothing does that listens on loopback for whoever is on this machine.

    A cloud's metadata (link-local) knows this machine's credentials; no address at all, and one of many machines, is loopback by another name.
    """
    at = ipaddress.ip_address(host.partition("%")[0])
    at = getattr(at, "ipv4_mapped", None) or at
    if at.is_link_local or at.is_multicast or at.is_unspecified:
        return f"a cluster may not be at {host}: it is a link-local, multicast or unspecified address"
    if at.is_loopback and not proven:
        return f"a cluster may be at {host}, this machine itself, only over https with a certificate that is checked"
    return ""


class HttpTransport:
    """Use `for_kubeconfig`. Close it when done (or use it in `async with`)."""

    def __init__(self, access: ClusterAccess, *, foreign: bool = False) -> None:
        """foreign: somebody else named the server, who may be up to something: it must be one that may be reached (`foreign_address`), sends no
        one elsewhere, and answers no more than `FOREIGN_ANSWER_BYTES_MAX`."""
        self._access = access
        self._foreign = foreign
        self._problem: OSError | None = None
        """Why the server may not be where its name leads."""
        self._where = access.server
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def for_kubeconfig(cls, path: Path | str, context: str | None = None) -> HttpTransport:
        """The cluster of a kubeconfig's current (or named) context.

        Raises:
            KubeconfigError: one line with the file, what is wrong in it and what to do.
        """
        return cls(read_kubeconfig(Path(path), context))

    @property
    def server(self) -> str:
        """The URL, for error texts and for the user."""
        return self._where

    @property
    def default_namespace(self) -> str:
        return self._access.namespace

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None or self._session.closed:
                import aiohttp

                connector = aiohttp.TCPConnector(
                    ssl=self._access.ssl_context() or True,
                    limit=0,
                    socket_factory=self._foreign_socket if self._foreign else None,
                )
                self._session = aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                    auto_decompress=True,
                    trust_env=True,
                )
            return self._session

    async def send(self, request: Request) -> Response:
        import aiohttp
        from yarl import URL

        session = await self._open()
        headers = {**self._access.headers, **request.headers}
        if request.body:
            headers["Content-Type"] = request.content_type
        if token := self._access.current_token():
            headers["Authorization"] = f"Bearer {token}"
        url = URL(self._access.server + request.path).with_query(dict(request.query))
        read_timeout_s = SILENCE_MAX_S if request.stream else ANSWER_TIMEOUT_S
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s)
        try:
            answer = await session.request(
                request.method,
                url,
                data=request.body or None,
                headers=headers,
                timeout=timeout,
                server_hostname=self._access.tls_server_name,
                allow_redirects=not self._foreign,
            )
            if request.stream and answer.status < 400:
                return _Streamed(answer, self._where)
            async with answer:
                body = await self._body(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise unreached(self._where, self._problem or err) from err
        return Whole(answer.status, {k.lower(): v for k, v in answer.headers.items()}, body)

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        if not self._foreign:
            return await answer.read()
        out = bytearray()
        async for piece in answer.content.iter_any():
            out += piece
            if len(out) > FOREIGN_ANSWER_BYTES_MAX:
                raise OSError(f"it answers with more than {FOREIGN_ANSWER_BYTES_MAX >> 20} MiB")
        return bytes(out)

    def _foreign_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Called with what the name is resolved to, right before it is connected to. Raises `OSError`."""
        family, kind, protocol, _, (host, *_) = address
        proven = self._access.server.startswith("https://") and not self._access.insecure
        if problem := foreign_address(str(host), proven=proven):
            self._problem = OSError(problem)  # of several addresses' errors nobody hears one
            raise self._problem
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> HttpTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Streamed:
    body = b""

    def __init__(self, answer: aiohttp.ClientResponse, where: str) -> None:
        self._answer = answer
        self._where = where
        self.status = answer.status
        self.headers = {k.lower(): v for k, v in answer.headers.items()}

    async def chunks(self) -> AsyncIterator[bytes]:
        import aiohttp

        try:
            async for piece in self._answer.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise unreached(self._where, err) from err

    async def close(self) -> None:
        self._answer.close()
