"""Named objects over HTTP: a plain server that takes PUT and GET, or one that speaks S3 (signed by AWS Signature Version 4).

Connections are kept, one a thread. Every request has an end: no answer within seconds, or a body that only trickles, is an error.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

from trimtab.ci.cache.remote import RemoteError
from trimtab.ci.runs.ports import EngineFault

ANSWER_S = 5.0
WRITTEN_S = 30.0
"""After the last byte of an object was sent."""
SLOWEST_BYTES_S = 64 << 10
CHUNK_BYTES = 1 << 18
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
Sign = Callable[[str, str, str], dict[str, str]]
"""Method, path as it is sent, and the body's sha256 -> the headers that prove who asks."""


class Server:
    """Objects below a path of a server."""

    def __init__(self, name: str, base: str, sign: Sign) -> None:
        parts = urlsplit(base)
        self.name = name
        self._host = parts.hostname or ""
        self._port = parts.port
        self._tls = parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self._sign = sign
        self._own = threading.local()
        self._all: list[http.client.HTTPConnection] = []

    def get(self, name: str, write: Callable[[bytes], object]) -> bool:
        """Gives the bytes of an object to `write`; False for one that is not there."""
        response = self._ask("GET", name)
        if response.status == 404:
            response.read()
            return False
        self._expect(response, name, 200)
        since, size = time.monotonic(), 0
        try:
            while chunk := response.read(CHUNK_BYTES):
                write(chunk)
                size += len(chunk)
                if time.monotonic() - since > ANSWER_S + size / SLOWEST_BYTES_S:
                    self._drop()
                    raise RemoteError(f"it sends less than {SLOWEST_BYTES_S >> 10} KiB a second")
            if response.length:
                self._drop()
                raise RemoteError(f"it broke off in the middle of {name}")
        except (OSError, http.client.HTTPException) as err:
            self._drop()
            raise RemoteError(f"it broke off in the middle of {name}: {_cause(err)}") from None
        return True

    def has(self, name: str) -> bool:
        """Whether it is there."""
        response = self._ask("HEAD", name)
        response.read()
        if response.status == 404:
            return False
        self._expect(response, name, 200)
        return True

    def put(self, name: str, body: BinaryIO, size_bytes: int, sha256: str) -> None:
        """Writes an object."""
        response = self._ask("PUT", name, body, size_bytes, sha256)
        self._expect(response, name, 200, 201, 204)
        response.read()

    def _ask(
        self, method: str, name: str, body: BinaryIO | None = None, size_bytes: int = 0, sha256: str = EMPTY_SHA256
    ) -> http.client.HTTPResponse:
        path = quote(f"{self._path}/{name}")
        for attempt in (1, 2):
            connection = self._connection()
            fresh = connection.sock is None
            try:
                headers = self._sign(method, path, sha256)
                if body is not None:
                    headers |= {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
                    body.seek(0)
                connection.request(method, path, body=None if body is None else _Watched(body), headers=headers)
                if connection.sock is not None:
                    connection.sock.settimeout(ANSWER_S if body is None else WRITTEN_S)
                response = connection.getresponse()
                if connection.sock is not None:
                    connection.sock.settimeout(ANSWER_S)
                return response
            except (OSError, http.client.HTTPException) as err:
                self._drop()
                # A kept connection may have been closed by the other side: that is no answer yet.
                if fresh or attempt == 2 or isinstance(err, TimeoutError):
                    raise RemoteError(_cause(err)) from None
        raise AssertionError("unreachable")

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            if self._tls:
                context = ssl.create_default_context()
                connection = http.client.HTTPSConnection(self._host, self._port, timeout=ANSWER_S, context=context)
            else:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_S)
            self._own.connection = connection
            self._all.append(connection)
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()

    def _expect(self, response: http.client.HTTPResponse, name: str, *statuses: int) -> None:
        if response.status in statuses:
            return
        self._drop()
        hint = "; its credentials are refused" if response.status in (401, 403) else ""
        raise RemoteError(f"it answers {response.status} {response.reason} for {name}{hint}")

    def close(self) -> None:
        """Ends all connections; no request may be under way."""
        for connection in self._all:
            connection.close()


class _Watched:
    """A body that sees to it that it is taken at a pace."""

    def __init__(self, body: BinaryIO) -> None:
        self._body = body
        self._since = time.monotonic()
        self._size = 0

    def read(self, count: int = -1, /) -> bytes:
        if time.monotonic() - self._since > ANSWER_S + self._size / SLOWEST_BYTES_S:
            raise RemoteError(f"it takes less than {SLOWEST_BYTES_S >> 10} KiB a second")
        data = self._body.read(count)
        self._size += len(data)
        return data


def http_server(address: str, environ: Mapping[str, str] = os.environ) -> Server:
    """A server that takes PUT and GET. Who asks: `$TRIMTAB_CI_CACHE_TOKEN`, else user and password of the address."""
    parts = urlsplit(address)
    headers: dict[str, str] = {}
    if token := environ.get("TRIMTAB_CI_CACHE_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    elif parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    place = parts.netloc.rpartition("@")[2]
    base = f"{parts.scheme}://{place}{parts.path}"
    return Server(base, base, lambda method, path, sha256: dict(headers))


def s3_server(address: str, environ: Mapping[str, str] = os.environ) -> Server:
    """A bucket: `s3://BUCKET/PREFIX?endpoint=https://...&region=...`; keys of the usual environment variables. Raises `EngineFault`."""
    parts = urlsplit(address)
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access or not secret:
        raise EngineFault("the cache is in S3, but AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set")
    region = asked.get("region") or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = asked.get("endpoint") or environ.get("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com"
    host = urlsplit(endpoint).netloc
    token = environ.get("AWS_SESSION_TOKEN", "")

    def sign(method: str, path: str, sha256: str) -> dict[str, str]:
        return signed(method, host, path, sha256, access, secret, region, token, time.gmtime())

    base = f"{endpoint.rstrip('/')}/{parts.netloc}{parts.path}"
    return Server(f"s3://{parts.netloc}{parts.path}", base, sign)


def signed(
    method: str,
    host: str,
    path: str,
    sha256: str,
    access: str,
    secret: str,
    region: str,
    token: str,
    now: time.struct_time,
) -> dict[str, str]:
    """The headers of a request to S3: AWS Signature Version 4. path: as it is sent, quoted."""
    stamp, day = time.strftime("%Y%m%dT%H%M%SZ", now), time.strftime("%Y%m%d", now)
    headers = {"host": host, "x-amz-content-sha256": sha256, "x-amz-date": stamp}
    if token:
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"{method}\n{path}\n\n{lines}\n{names}\n{sha256}"
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _cause(err: BaseException) -> str:
    if isinstance(err, TimeoutError):
        return f"it does not answer within {ANSWER_S:.0f} s"
    if isinstance(err, http.client.RemoteDisconnected):
        return "it closes the connection without an answer"
    return getattr(err, "strerror", None) or str(err) or type(err).__name__
