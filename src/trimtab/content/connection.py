"""Speaking to registries: plain or TLS, without login, with a password, or with a token that the registry sends us for.

A request goes out as it is known to work (with the token or password of last time); a 401 says what is wanted, which is
then got once and tried again. Tokens are per registry and scope, and live in memory only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from trimtab.content.credentials import Credentials, Login
from trimtab.content.errors import Unauthorized, Unreachable
from trimtab.content.reference import Reference
from trimtab.content.store import CHUNK_BYTES

CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 60.0  # between two pieces of an answer; a whole layer may take as long as it takes
ATTEMPTS = 3  # for answers that ask for patience (429, 5xx) and connections that break before the answer
PAUSE_S = 0.5
_PAUSE_MAX_S = 20.0
_DOCKER_HUB = "registry-1.docker.io"
_CHALLENGE = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_TOKEN_BYTES_MAX = 1 << 20

Body = Callable[[], AsyncIterator[bytes]]


class Connection:
    """Sessions and logins to any number of registries. Close it."""

    def __init__(self, credentials: Credentials, plain_http: frozenset[str]) -> None:
        self._credentials = credentials
        self._plain_http = plain_http
        self._authorizations: dict[tuple[str, str], str] = {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        self._session = aiohttp.ClientSession(
            timeout=timeout, trust_env=True, auto_decompress=False, headers={"accept-encoding": "identity"}
        )

    async def close(self) -> None:
        await self._session.close()

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        reference: Reference,
        path: str,
        scope: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, logged in if the registry wants it; an error status is the caller's to judge (`check`).

        `path` is a path, or the whole address that a registry gave. Raises Unauthorized, Unreachable.
        """
        base = self._base(reference.registry)
        url = path if "://" in path else base + path
        same_host = urlsplit(url).netloc == urlsplit(base).netloc
        asked = False
        attempt = 1
        while True:
            sent = dict(headers or {})
            authorization = self._authorizations.get((reference.registry, scope))
            if authorization is not None and same_host:
                sent["authorization"] = authorization
            try:
                response = await self._session.request(
                    method,
                    URL(url, encoded=True),
                    headers=sent,
                    data=body() if body is not None else None,
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if attempt < ATTEMPTS and not isinstance(error, aiohttp.ClientConnectorError):
                    attempt += 1
                    await asyncio.sleep(PAUSE_S * attempt)
                    continue
                raise Unreachable(f"cannot reach the registry {reference.registry}: {_cause(error)}") from None
            if response.status == 401 and not asked and same_host:
                asked = True
                challenge = response.headers.get("www-authenticate", "")
                response.release()
                self._authorizations[reference.registry, scope] = await self._answer(reference, challenge, scope)
                continue
            if (response.status == 429 or response.status >= 500) and attempt < ATTEMPTS:
                attempt += 1
                pause_s = _pause_s(response, attempt)
                response.release()
                await asyncio.sleep(pause_s)
                continue
            break
        try:
            yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"the registry {reference.registry} broke off: {_cause(error)}") from None
        finally:
            response.release()

    async def check(self, response: aiohttp.ClientResponse, reference: Reference, doing: str) -> None:
        """Raises the error that an error status means."""
        if response.status < 400:
            return
        said = _message(await response.content.read(4096))
        if response.status in (401, 403):
            login = await self._credentials.login(reference.registry)
            if login is None:
                raise Unauthorized(
                    f"{doing}: {reference.registry} wants a login, and docker's config.json has none for it; "
                    f"run `docker login {reference.registry}` or add it to auths"
                )
            raise Unauthorized(
                f"{doing}: {reference.registry} refuses the login{f' of {login.user}' if login.user else ''} "
                f"in docker's config.json{f' ({said})' if said else ''}"
            )
        if response.status == 429:
            raise Unreachable(f"{doing}: {reference.registry} answers too many requests; wait, or log in for more")
        raise Unreachable(f"{doing}: {reference.registry} answers {response.status}{f' ({said})' if said else ''}")

    async def body(self, response: aiohttp.ClientResponse, reference: Reference) -> AsyncIterator[bytes]:
        """The answer's bytes. Raises Unreachable if they break off."""
        try:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"the registry {reference.registry} broke off: {_cause(error)}; run it again") from None

    def _base(self, registry: str) -> str:
        host = _DOCKER_HUB if registry == "docker.io" else registry
        plain = registry in self._plain_http or _is_loopback(registry)
        return f"{'http' if plain else 'https'}://{host}"

    async def _answer(self, reference: Reference, challenge: str, scope: str) -> str:
        """The Authorization header that this challenge asks for."""
        login = await self._credentials.login(reference.registry)
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            if login is None:
                return ""
            return _basic(login)
        if scheme.lower() != "bearer":
            raise Unauthorized(f"{reference.registry} wants a login of the unknown kind {scheme[:40]!r}")
        wanted = dict(_CHALLENGE.findall(rest))
        realm = wanted.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise Unauthorized(f"{reference.registry} names no place to log in at")
        if realm.startswith("http://") and not _is_loopback(urlsplit(realm).netloc):
            raise Unauthorized(f"{reference.registry} wants the login sent to {realm} without TLS; refused")
        return "Bearer " + await self._token(reference, realm, wanted.get("service", ""), scope, login)

    async def _token(self, reference: Reference, realm: str, service: str, scope: str, login: Login | None) -> str:
        try:
            if login is not None and login.token:
                form = {"grant_type": "refresh_token", "refresh_token": login.token, "client_id": "trimtab"}
                form |= {"service": service, "scope": scope}
                response = await self._session.post(realm, data=form)
            else:
                query = [("service", service)] if service else []
                query += [("scope", one) for one in scope.split()]
                headers = {"authorization": _basic(login)} if login is not None else {}
                response = await self._session.get(realm, params=query, headers=headers)
            async with response:
                data = await response.content.read(_TOKEN_BYTES_MAX)
                if response.status >= 400:
                    await self._refused(reference, response.status, login)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(
                f"cannot reach {realm}, where {reference.registry} wants the login: {_cause(error)}"
            ) from None
        try:
            answer = msgspec.json.decode(data)
            token = answer.get("token") or answer.get("access_token")
        except (msgspec.MsgspecError, AttributeError):
            token = None
        if not isinstance(token, str):
            raise Unauthorized(f"{reference.registry} gave no token for {reference.repository}")
        return token

    async def _refused(self, reference: Reference, status: int, login: Login | None) -> None:
        if status in (401, 403):
            who = f"the login of {login.user or 'the token'}" if login is not None else "a request without login"
            raise Unauthorized(
                f"{reference.registry} refuses {who} for {reference.repository}; run `docker login {reference.registry}`"
            )
        raise Unreachable(f"logging in to {reference.registry} answers {status}")


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def _is_loopback(registry: str) -> bool:
    host = urlsplit(f"//{registry}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _pause_s(response: aiohttp.ClientResponse, attempt: int) -> float:
    asked = response.headers.get("retry-after", "")
    return min(float(asked), _PAUSE_MAX_S) if asked.isdigit() else PAUSE_S * attempt


def _cause(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known to DNS"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS there"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno).lower()
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return str(error) or type(error).__name__


def _message(data: bytes) -> str:
    """The registry's own words, if it has any."""
    try:
        answer: Any = msgspec.json.decode(data)
        return str(answer["errors"][0]["message"])[:200]
    except (msgspec.MsgspecError, LookupError, TypeError):
        return ""
