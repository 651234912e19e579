"""ServiceAccount tokens: JWTs that this server signs and reads itself.

They are bound to their ServiceAccount's uid (and a pod's, when asked for), so a token dies with what it was made for. HS256
with a key that only the server has: nobody else needs to verify them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from trimtab.api import JSON
from trimtab.server.authentication import AUTHENTICATED, User
from trimtab.server.clock import Clock, new_uid
from trimtab.server.objects import meta_of
from trimtab.store import Store

KEY_BYTES = 32
DEFAULT_S = 3600
MIN_S = 600
MAX_S = 2**32


class ServiceAccountTokens:
    """Makes and reads the tokens of one engine."""

    def __init__(self, store: Store, key_file: Path | None, issuer: str, clock: Clock) -> None:
        self._store = store
        self._issuer = issuer
        self._clock = clock
        self._key = _key(key_file) if key_file is not None else secrets.token_bytes(KEY_BYTES)

    def issue(
        self, namespace: str, name: str, uid: str, audiences: Sequence[str], seconds: int, bound: JSON | None
    ) -> tuple[str, str]:
        """A token and when it expires (RFC 3339). `bound`: the pod's kind, name and uid."""
        now = int(self._clock.now().timestamp())
        private: JSON = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        if bound is not None:
            private[bound["kind"].lower()] = {"name": bound["name"], "uid": bound["uid"]}
        claims = {
            "aud": list(audiences) or [self._issuer],
            "exp": now + seconds,
            "iat": now,
            "iss": self._issuer,
            "jti": new_uid(self._clock),
            "kubernetes.io": private,
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }
        head = _b64(msgspec.json.encode({"alg": "HS256", "typ": "JWT"}))
        text = f"{head}.{_b64(msgspec.json.encode(claims))}"
        expires = datetime.fromtimestamp(now + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"{text}.{self._signature(text)}", expires

    def user(self, token: str, audiences: Sequence[str] = ()) -> User | None:
        """The ServiceAccount of a valid token; None for anything else."""
        text, _, signature = token.rpartition(".")
        if text.count(".") != 1 or not hmac.compare_digest(signature.encode(), self._signature(text).encode()):
            return None
        try:
            claims: JSON = msgspec.json.decode(_unb64(text.partition(".")[2]))
        except (binascii.Error, ValueError):
            return None
        now = self._clock.now().timestamp()
        wanted = audiences or (self._issuer,)
        if claims["iss"] != self._issuer or not claims["nbf"] <= now < claims["exp"]:
            return None
        if not set(wanted) & set(claims["aud"]):
            return None
        private = claims["kubernetes.io"]
        namespace, account = private["namespace"], private["serviceaccount"]
        if not self._lives(f"/core/serviceaccounts/{namespace}/{account['name']}", account["uid"]):
            return None
        pod = private.get("pod")
        if pod is not None and not self._lives(f"/core/pods/{namespace}/{pod['name']}", pod["uid"]):
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return User(claims["sub"], groups, account["uid"], until=claims["exp"])

    def _lives(self, key: str, uid: str) -> bool:
        record = self._store.get(key)
        return record is not None and meta_of(record).uid == uid

    def _signature(self, text: str) -> str:
        return _b64(hmac.new(self._key, text.encode(), hashlib.sha256).digest())


def _key(path: Path) -> bytes:
    """The key of a file, made when there is none."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_BYTES)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, key)
            os.fsync(file)
        finally:
            os.close(file)
    if len(key) < KEY_BYTES:
        raise ValueError(
            f"{path}: the token key has {len(key)} bytes, it needs {KEY_BYTES}: remove it to get a new one"
        )
    return key


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
