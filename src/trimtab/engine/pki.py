"""The keys of an engine: its CA, the API's serving certificate, the administrator's token.

    DATA/pki/  ca.crt ca.key          10 years; also signs what ingresses serve (Secret trimtab-system/engine-ca)
               apiserver.crt .key     1 year; made anew also when a name changed
               admin.token            what admin.kubeconfig presents; `system:admin` to the API server
               images.key images.pub  sign the images that this engine makes (docs/signed-images.md)
               sa.key                 signs ServiceAccount tokens; made by the API server, which alone reads it

Certificates are renewed once a third of their life is left. The CA keeps its key, so what it signed stays valid, also for
clients that know only the certificate before it.

Every file is written atomically, private ones with mode 0600, by a process that runs as the engine's user (accounts.py).
A key and its certificate are kept in one order (key first), so that a crash in between is seen and made good.
`cryptography` is imported only when something must be made: an ordinary start pays nothing for it.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_LIFETIME = timedelta(days=3650)
SERVING_LIFETIME = timedelta(days=365)
_BACKDATED = timedelta(hours=1)
"""Clients whose clock is a little behind must not refuse a certificate made just now."""


def serving_names(settings: Settings) -> tuple[list[str], list[str]]:
    """The DNS names and IP addresses that clients reach the API under, sorted."""
    domain = settings.cluster_domain
    names = {
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{domain}",
    }
    host = socket.gethostname()
    if host and host.isascii():
        names.add(host.lower())
    first_service = str(ipaddress.IPv4Network(settings.service_cidr)[1])
    first_pod = str(ipaddress.IPv4Network(settings.pod_cidr)[1])
    addresses = {"127.0.0.1", first_service, first_pod}
    if settings.listen not in ("0.0.0.0", "::"):
        addresses.add(settings.listen)
    else:
        addresses |= _own_addresses()
    return sorted(names), sorted(addresses)


def _own_addresses() -> set[str]:
    """The address that this machine would use towards the world; none where it has no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # documentation range: nothing is sent
            return {str(probe.getsockname()[0])}
        except OSError:
            return set()


def complete(settings: Settings, now: float | None = None) -> bool:
    """Whether every key is there and the serving certificate has the right names and a third of its life left."""
    folder = settings.data_path("pki")
    wanted = ("ca.crt", "ca.key", "apiserver.crt", "apiserver.key", "admin.token", "images.key", "images.pub")
    if not all((folder / name).exists() for name in wanted):
        return False
    now = time.time() if now is None else now
    return _left(folder / "ca.crt", now) > CA_LIFETIME / 3 and _serves(folder / "apiserver.crt", settings, now)


def _left(certificate: Path, now: float) -> timedelta:
    """How long a certificate is still valid; nothing when it cannot be read."""
    try:
        decoded = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    except (ssl.SSLError, OSError):
        return timedelta(0)
    return timedelta(seconds=ssl.cert_time_to_seconds(decoded["notAfter"]) - now)


def _serves(certificate: Path, settings: Settings, now: float) -> bool:
    try:
        decoded = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    except (ssl.SSLError, OSError):
        return False
    names, addresses = serving_names(settings)
    alternatives = decoded.get("subjectAltName", ())
    has_names = sorted(value for kind, value in alternatives if kind == "DNS")
    has_addresses = sorted(value for kind, value in alternatives if kind == "IP Address")
    return (has_names, has_addresses) == (names, addresses) and _left(certificate, now) > SERVING_LIFETIME / 3


def ensure(settings: Settings) -> None:
    """Makes what is missing, renews what is about to expire; leaves everything else alone. Runs as the engine's user.

    Raises:
        EngineError: a file is damaged in a way that must not be papered over (the CA), or cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = settings.data_path("pki")
    if not (folder / "admin.token").exists():
        _write(folder / "admin.token", secrets.token_hex(32).encode(), 0o600)
    ca_key = _key(folder / "ca.key")
    ca = None
    if (folder / "ca.crt").exists():
        try:
            ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        except ValueError as err:
            raise EngineError(
                f"{folder / 'ca.crt'} is damaged ({err}): bring it back from a backup (`trimtab restore`)"
            ) from None
        if ca.public_key() != ca_key.public_key():
            raise EngineError(
                f"{folder}: ca.key does not belong to ca.crt: bring both back from one backup (`trimtab restore`)"
            )
    if ca is None or ca.not_valid_after_utc - datetime.now(UTC) <= CA_LIFETIME / 3:
        ca = _sign_ca(settings, ca_key)
        _write(folder / "ca.crt", ca.public_bytes(serialization.Encoding.PEM), 0o644)
    if not _serves(folder / "apiserver.crt", settings, time.time()) or not (folder / "apiserver.key").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign_serving(settings, key, ca, ca_key)
        _write(folder / "apiserver.key", _private_pem(key), 0o600)
        _write(folder / "apiserver.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _ensure_image_key(folder)


def _ensure_image_key(folder: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = _key(folder / "images.key").public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if not (folder / "images.pub").exists() or (folder / "images.pub").read_bytes() != pem:
        _write(folder / "images.pub", pem, 0o644)


def image_key(settings: Settings) -> str:
    """The private key, in PEM, of the images that this engine makes. As root only.

    Raises:
        EngineError: it is not there; a start makes it.
    """
    path = settings.data_path("pki", "images.key")
    try:
        return path.read_text()
    except OSError as err:
        raise EngineError(f"{path} cannot be read ({err.strerror}): `trimtab start` makes it") from None


def new_authority(settings: Settings) -> tuple[bytes, bytes]:
    """A new CA as PEM: certificate and key. For a cluster that keeps it itself."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return _sign_ca(settings, key).public_bytes(serialization.Encoding.PEM), _private_pem(key)


def serving_pem(authority: bytes, authority_key: bytes, address: str, lifetime: timedelta) -> bytes:
    """A new key and a certificate for one address, signed by this CA; all of it PEM.

    Raises:
        EngineError: the CA is damaged.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    try:
        ca = x509.load_pem_x509_certificates(authority)[0]
        ca_key = serialization.load_pem_private_key(authority_key, None)
    except (ValueError, TypeError) as err:
        raise EngineError(f"the CA in the Secret engine-ca is damaged ({err}): delete it, and start again") from None
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise EngineError("the key in the Secret engine-ca is no EC key: delete it, and start again")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trimtab")])
    certificate = (
        _certificate(subject, ca.subject, key.public_key(), lifetime)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + _private_pem(key)


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in a file, made when there is none."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(path, _private_pem(key), 0o600)
        return key
    try:
        loaded = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as err:
        raise EngineError(f"{path} is damaged ({err}): bring it back from a backup (`trimtab restore`)") from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise EngineError(f"{path} is no EC key: bring it back from a backup (`trimtab restore`)")
    return loaded


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _sign_ca(settings: Settings, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"trimtab {settings.id}")])
    return (
        _certificate(name, name, key.public_key(), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _sign_serving(
    settings: Settings, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    names, addresses = serving_names(settings)
    alternatives = [x509.DNSName(n) for n in names]
    alternatives_ip = [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    return (
        _certificate(subject, ca.subject, key.public_key(), SERVING_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([*alternatives, *alternatives_ip]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as err:
        temporary.unlink(missing_ok=True)
        raise EngineError(f"{path} cannot be written: {err.strerror}") from None
