"""The API server that a kubeconfig names, over HTTP.

One `aiohttp` session per transport, made at the first request. All failures to reach the server or to get its whole answer
become `ConnectionError` with one line that names the address.
"""

from __future__ import annotations

import asyncio
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


class HttpTransport:
    """Use `for_kubeconfig`. Close it when done (or use it in `async with`)."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
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

                connector = aiohttp.TCPConnector(ssl=self._access.ssl_context() or True, limit=0)
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
            )
            if request.stream and answer.status < 400:
                return _Streamed(answer, self._where)
            async with answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise unreached(self._where, err) from err
        return Whole(answer.status, {k.lower(): v for k, v in answer.headers.items()}, body)

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
