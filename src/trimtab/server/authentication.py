"""Who is asking: from a request to a `User`, or 401.

In this order: whoever the kernel names at the other end of the engine's unix socket, where root names its actor itself
(`peers.py`); a TLS client certificate of the engine's CA
(CN is the user, O the groups); a bearer token, which is the administrator's or a ServiceAccount's signed one.
Over TLS, `Impersonate-*` headers need the permission to impersonate, which is checked by the caller.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trimtab.server.errors import StatusError, unauthorized
from trimtab.server.http import Request, Scope

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
ANONYMOUS = "system:anonymous"
UNAUTHENTICATED = "system:unauthenticated"
PEER_CERTIFICATE = "trimtab.peer_certificate"
"""Key in the ASGI scope's `extensions`: the verified peer certificate, as `ssl` gives it."""


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. `trusted`: came over the engine's own socket; `until`: when the token expires, in Unix seconds (0: never)."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    trusted: bool = False
    until: float = 0.0
    extra: tuple[tuple[str, str], ...] = ()
    """What else is known of who asks, by the names of Kubernetes: which token it was, for which pod."""

    def wire(self) -> dict[str, object]:
        out: dict[str, object] = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            out["uid"] = self.uid
        if self.extra:
            out["extra"] = {name: [value] for name, value in self.extra}
        return out


class TokenReader(Protocol):
    def __call__(self, token: str, audiences: Sequence[str] = ()) -> User | None:
        """The user of a token, or None when it is not one of these."""


class AdminToken:
    """The administrator's token, kept in a file that only the engine can read; read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._token = b""

    def __call__(self, token: str, audiences: Sequence[str] = ()) -> User | None:
        self._refresh()
        if not self._token or not hmac.compare_digest(token.encode(), self._token):
            return None
        return User("system:admin", (MASTERS, AUTHENTICATED))

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._token = b""
            return
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            self._token = self._path.read_bytes().strip()
            self._stamp = stamp


class Authenticator:
    """Finds the user of a request; `readers` are asked in order about a bearer token."""

    def __init__(self, readers: Sequence[TokenReader], *, anonymous: bool = True) -> None:
        self._readers = readers
        self._anonymous = anonymous

    def token_user(self, token: str, audiences: Sequence[str] = ()) -> User | None:
        return next((user for reader in self._readers if (user := reader(token, audiences)) is not None), None)

    def __call__(self, request: Request, *, trusted: bool, passwords: bool = False) -> User:
        """passwords: a token may also come as the password of Basic, under any name, which is asked for where nothing was shown.

        Raises `StatusError` 401: what was shown is not valid.
        """
        if trusted:
            name = request.headers.get("impersonate-user", "system:admin")
            groups = tuple(request.groups_asked) or (MASTERS,)
            return User(name, (*groups, AUTHENTICATED), trusted=True)
        certified = _certificate_user(request.scope)
        if certified is not None:
            return certified
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            if scheme or not self._anonymous:
                raise unauthorized()
            if passwords:
                raise _asked()
            return User(ANONYMOUS, (UNAUTHENTICATED,))
        if passwords and scheme.lower() == "basic":
            scheme, token = "bearer", _password(token)
        if scheme.lower() != "bearer":
            raise unauthorized()
        user = self.token_user(token.strip())
        if user is None:
            raise _asked() if passwords else unauthorized()
        return user


def _asked() -> StatusError:
    refusal = unauthorized()
    refusal.headers = [("www-authenticate", 'Basic realm="Trimtab: any name, and a token as the password"')]
    return refusal


def _password(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[2]
    except ValueError:
        raise unauthorized() from None


def _certificate_user(scope: Scope) -> User | None:
    certificate = (scope.get("extensions") or {}).get(PEER_CERTIFICATE)
    if not certificate:
        return None
    fields = [pair for relative in certificate.get("subject", ()) for pair in relative]
    name = next((value for key, value in fields if key == "commonName"), "")
    if not name:
        return None
    groups = tuple(value for key, value in fields if key == "organizationName")
    return User(name, (*groups, AUTHENTICATED))


def impersonated(request: Request) -> User | None:
    """The user that a request over TLS wants to act as, or None.

    Raises:
        StatusError: 400 when groups are named without a user.
    """
    name = request.headers.get("impersonate-user", "")
    if not name:
        if request.groups_asked:
            raise StatusError(400, "BadRequest", "requested impersonation of groups without impersonating a user")
        return None
    groups = request.groups_asked
    if name.startswith("system:serviceaccount:") and not groups:
        namespace = name.split(":")[2]
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    if name == ANONYMOUS:
        return User(name, (UNAUTHENTICATED,))
    return User(name, (*groups, AUTHENTICATED), request.headers.get("impersonate-uid", ""))
