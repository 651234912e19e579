"""Certificates: issued from the engine's CA where an Ingress asks for TLS and nobody brought a Secret, renewed in time.

An issued Secret says in annotations for which hosts it is, from which CA, until when it is good and what the hash of its
content is. So whether it still will do is answered without parsing it, and the `cryptography` package is loaded only where a
stranger's certificate is looked at; what is issued is signed in a process of its own (`signing.py`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from trimtab.api import ObjectMeta, Ref
from trimtab.api.core import Secret
from trimtab.components.ingress.signing import sign_apart

CA_SECRET = Ref("v1", "Secret", "trimtab-system", "engine-ca")
"""Holds the engine's CA in `tls.crt` and `tls.key`; the engine creates it at boot."""

HOSTS = "proxy.trimtab.dev/hosts"
ISSUER = "proxy.trimtab.dev/issuer"
NOT_AFTER = "proxy.trimtab.dev/not-after"
RENEW_AFTER = "proxy.trimtab.dev/renew-after"
CONTENT = "proxy.trimtab.dev/content"

LIFETIME = timedelta(days=90)
RENEW_SHARE = 2 / 3
"""A certificate is renewed when so much of its life is over: a month is left to notice that it does not work."""


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its private key, as PEM text."""

    chain: str
    key: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.chain}\0{self.key}".encode()).hexdigest()[:32]


def pair_of(secret: Secret) -> Pair:
    """The pair in a Secret of type kubernetes.io/tls.

    Raises:
        ValueError: one line naming the key that is missing or malformed.
    """
    texts = []
    for key in ("tls.crt", "tls.key"):
        value = secret.data.get(key)
        if not value:
            raise ValueError(f"{secret.ref} has no {key}; a TLS Secret needs tls.crt and tls.key")
        try:
            texts.append(base64.b64decode(value, validate=True).decode("ascii"))
        except (binascii.Error, UnicodeDecodeError):
            raise ValueError(f"{secret.ref}: {key} is not base64 of PEM text") from None
    return Pair(*texts)


def is_issued(secret: Secret) -> bool:
    """Whether this component issued what the Secret holds now."""
    try:
        return CONTENT in secret.metadata.annotations and secret.metadata.annotations[CONTENT] == pair_of(secret).digest
    except ValueError:
        return False


def renew_at(secret: Secret) -> datetime | None:
    """When an issued Secret is due for renewal; None when its annotation is gone."""
    try:
        return datetime.fromisoformat(secret.metadata.annotations[RENEW_AFTER])
    except (KeyError, ValueError):
        return None


def still_good(secret: Secret, hosts: Iterable[str], ca: Pair, now: datetime) -> bool:
    """Whether an issued Secret is untouched, from this CA, for these hosts at least, and not due for renewal."""
    notes = secret.metadata.annotations
    due = renew_at(secret)
    return (
        is_issued(secret)
        and notes.get(ISSUER) == _issuer_id(ca)
        and set(hosts) <= set(notes.get(HOSTS, "").split(","))
        and due is not None
        and now < due
    )


async def issue(namespace: str, name: str, hosts: Sequence[str], ca: Pair, now: datetime) -> Secret:
    """A new key and a certificate for `hosts` (names, wildcards, addresses) from the CA, as a Secret.

    Raises:
        ValueError: one line, when the CA cannot be used.
    """
    work = (tuple(hosts), ca.chain, ca.key, now, LIFETIME, str(CA_SECRET))
    chain, key, not_after = await asyncio.to_thread(sign_apart, *work)
    pair = Pair(chain, key)
    renew = now + (not_after - now) * RENEW_SHARE
    return Secret(
        metadata=ObjectMeta(
            name=name,
            namespace=namespace,
            annotations={
                HOSTS: ",".join(hosts),
                ISSUER: _issuer_id(ca),
                NOT_AFTER: not_after.isoformat(),
                RENEW_AFTER: renew.isoformat(),
                CONTENT: pair.digest,
            },
        ),
        type="kubernetes.io/tls",
        data={
            "tls.crt": base64.b64encode(pair.chain.encode()).decode(),
            "tls.key": base64.b64encode(pair.key.encode()).decode(),
        },
    )


@lru_cache(maxsize=256)
def inspect(pair: Pair) -> tuple[datetime, tuple[str, ...]]:
    """Until when a stranger's certificate is good, and its names. Cached, for it is asked in every run.

    Raises:
        ValueError: one line, when it is no certificate, or the key is not its key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        leaf = x509.load_pem_x509_certificates(pair.chain.encode())[0]
    except ValueError:
        raise ValueError("tls.crt is not a PEM certificate") from None
    try:
        key = serialization.load_pem_private_key(pair.key.encode(), None)
    except (ValueError, TypeError):
        raise ValueError("tls.key is not an unencrypted PEM private key") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ValueError("tls.key is not the key of the certificate in tls.crt")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        hosts = []
    return leaf.not_valid_after_utc, tuple(host.lower() for host in hosts)


def covers(names: Iterable[str], host: str) -> bool:
    """Whether a certificate with these names is good for `host` (a name or a wildcard)."""
    found = set(names)
    return host in found or (not host.startswith("*.") and "*." + host.partition(".")[2] in found)


def _issuer_id(ca: Pair) -> str:
    return hashlib.sha256(ca.chain.encode()).hexdigest()[:32]
