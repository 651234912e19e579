"""ServiceAccount tokens: JWTs that this server signs, and that anybody can check who asks it for the public key.

They are bound to their ServiceAccount's uid (and a pod's, when asked for), so a token dies with what it was made for. The key is
an elliptic one (ES256), made from the secret that only the server has; `/openid/v1/jwks` tells its public half, and
`/.well-known/openid-configuration` where that is (OpenID Connect Discovery 1.0, as kube-apiserver serves it). Tokens that were
signed with the secret itself (HS256, by earlier versions) are read until they expire.

`cryptography` is loaded with the first token: 8 MB that an engine without pods does not need.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server.authentication import AUTHENTICATED, User
from trimtab.server.clock import Clock, new_uid
from trimtab.server.objects import meta_of
from trimtab.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CONFIGURATION_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/openid/v1/jwks"
KEYS_TYPE = "application/jwk-set+json"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve P-256: keys are the numbers below it."""
_COORDINATE_BYTES = 32
_KNOWN_MAX = 1024
"""Tokens whose signature was checked lately, so that a client's next request need not pay for it."""
_EXTRA = "authentication.kubernetes.io/"
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
        self._secret = _key(key_file) if key_file is not None else secrets.token_bytes(KEY_BYTES)
        self._known: OrderedDict[str, JSON] = OrderedDict()

    def issue(
        self, namespace: str, name: str, uid: str, audiences: Sequence[str], seconds: int, bound: JSON | None
    ) -> tuple[str, str]:
        """A token and when it expires (RFC 3339). `bound`: the pod's kind, name and uid."""
        now = int(self._clock.now().timestamp())
        private: JSON = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        if bound is not None:
            private[bound["kind"].lower()] = {"name": bound["name"], "uid": bound["uid"]}
            if bound.get("node"):
                private["node"] = bound["node"]
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
        head = _b64(msgspec.json.encode({"alg": "ES256", "kid": self._key_id, "typ": "JWT"}))
        text = f"{head}.{_b64(msgspec.json.encode(claims))}"
        expires = datetime.fromtimestamp(now + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"{text}.{self._signed(text)}", expires

    def user(self, token: str, audiences: Sequence[str] = ()) -> User | None:
        """The ServiceAccount of a valid token; None for anything else."""
        claims = self._known.get(token) or self._claims(token)
        if claims is None:
            return None
        self._known[token] = claims
        self._known.move_to_end(token)
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)
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
        extra = {"credential-id": f"JTI={claims['jti']}"}
        for kind in ("node", "pod"):
            if found := private.get(kind):
                extra |= {f"{kind}-name": found["name"], f"{kind}-uid": found["uid"]}
        told = tuple((_EXTRA + name, value) for name, value in extra.items())
        return User(claims["sub"], groups, account["uid"], until=claims["exp"], extra=told)

    def configuration(self, address: str) -> JSON:
        """What OpenID Connect clients ask first. address: of this server, as clients reach it."""
        return {
            "issuer": self._issuer,
            "jwks_uri": f"https://{address}{KEYS_PATH}",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def keys(self) -> JSON:
        """The public half of the key, as a JSON Web Key Set."""
        return {"keys": [{"use": "sig", "kid": self._key_id, "alg": "ES256", **self._public}]}

    # Signatures

    @cached_property
    def _key(self) -> EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives.asymmetric import ec

        digest = hmac.new(self._secret, b"trimtab.dev service account tokens", hashlib.sha512).digest()
        return ec.derive_private_key(1 + int.from_bytes(digest) % (_ORDER - 1), ec.SECP256R1())

    @cached_property
    def _public(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        x, y = (_b64(number.to_bytes(_COORDINATE_BYTES)) for number in (numbers.x, numbers.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}

    @cached_property
    def _key_id(self) -> str:
        """The key's thumbprint (RFC 7638)."""
        return _b64(hashlib.sha256(msgspec.json.encode(self._public)).digest())

    def _signed(self, text: str) -> str:
        from cryptography.hazmat.primitives.asymmetric import ec, utils
        from cryptography.hazmat.primitives.hashes import SHA256

        pair = utils.decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(SHA256())))
        return _b64(b"".join(number.to_bytes(_COORDINATE_BYTES) for number in pair))

    def _claims(self, token: str) -> JSON | None:
        """What a token says, if it was signed here."""
        text, _, signature = token.rpartition(".")
        head, _, body = text.partition(".")
        try:
            algorithm = msgspec.json.decode(_unb64(head), type=dict).get("alg")
            if algorithm == "ES256":
                signed = self._verifies(text, _unb64(signature))
            else:
                signed = algorithm == "HS256" and hmac.compare_digest(_unb64(signature), self._keyed(text))
            return msgspec.json.decode(_unb64(body), type=dict) if signed else None
        except (binascii.Error, ValueError):
            return None

    def _verifies(self, text: str, signature: bytes) -> bool:
        if len(signature) != 2 * _COORDINATE_BYTES:
            return False
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, utils
        from cryptography.hazmat.primitives.hashes import SHA256

        pair = (int.from_bytes(signature[:_COORDINATE_BYTES]), int.from_bytes(signature[_COORDINATE_BYTES:]))
        try:
            self._key.public_key().verify(utils.encode_dss_signature(*pair), text.encode(), ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    def _keyed(self, text: str) -> bytes:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).digest()

    def _lives(self, key: str, uid: str) -> bool:
        record = self._store.get(key)
        return record is not None and meta_of(record).uid == uid


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
