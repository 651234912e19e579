"""The one-method protocol between the client and an API server, so that HTTP, in-process ASGI and fault injection are
interchangeable."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Request:
    """method in capitals; path without query; query values already as text; body is bytes of `content_type`."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    """True: the response is read as it comes (`chunks`); False: it is whole in `body`."""


class Response(Protocol):
    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""

    @property
    def body(self) -> bytes: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Of a streamed response: its bytes as they come, in pieces of any size. Ends when the server ends it."""

    async def close(self) -> None:
        """Ends a streamed response early."""


class Transport(Protocol):
    async def send(self, request: Request) -> Response:
        """Sends a request.

        Raises:
            ConnectionError: the server was not reached or went away. Whether the request was carried out is unknown.
        """

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body

    async def close(self) -> None:
        return None


def unreached(where: str, err: BaseException) -> ConnectionError:
    """What a transport raises, in one line that names the server."""
    reason = str(err) or type(err).__name__
    if isinstance(err, TimeoutError):
        reason = "no answer in time"
    return ConnectionError(f"the API server at {where} cannot be reached: {json.dumps(reason)[1:-1]}")
