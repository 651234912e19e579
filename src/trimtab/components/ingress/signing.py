"""Signs one certificate. As a program (`python signing.py`, a request on stdin, the answer on stdout) it lets the controllers do so
without keeping `cryptography` in their memory for the rest of their days: 8 MB for what is needed once in two months.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

BACKDATED = timedelta(hours=1)
"""Clocks of clients go wrong."""
TIMEOUT_S = 30


def sign_apart(
    hosts: tuple[str, ...], ca_chain: str, ca_key: str, now: datetime, life: timedelta, ca_name: str
) -> tuple[str, str, datetime]:
    """As `sign`, in a process of its own unless this one has loaded `cryptography` already.

    Raises:
        ValueError: one line, when the CA cannot be used.
    """
    if "cryptography" in sys.modules:
        return sign(hosts, ca_chain, ca_key, now, life, ca_name)
    request = {"hosts": hosts, "chain": ca_chain, "key": ca_key, "now": now.isoformat(), "life_s": life.total_seconds()}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(request | {"name": ca_name}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ValueError(
            f"a certificate could not be signed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}"
        )
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise ValueError(answer["refused"])
    return answer["chain"], answer["key"], datetime.fromisoformat(answer["not_after"])


def sign(
    hosts: tuple[str, ...], ca_chain: str, ca_key: str, now: datetime, life: timedelta, ca_name: str
) -> tuple[str, str, datetime]:
    """A new key and a certificate for `hosts`: its chain and key as PEM, and until when it is good.

    Raises:
        ValueError: one line, when the CA cannot be used. ca_name: what the CA is called there.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    try:
        issuer = x509.load_pem_x509_certificates(ca_chain.encode())[0]
        signer = serialization.load_pem_private_key(ca_key.encode(), None)
    except (ValueError, TypeError):
        raise ValueError(
            f"{ca_name} holds no usable CA: tls.crt or tls.key is not PEM; restore it from a backup"
        ) from None
    if not isinstance(signer, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        raise ValueError(f"{ca_name} holds a key that cannot sign certificates; use ECDSA, RSA or Ed25519")
    if issuer.not_valid_after_utc <= now:
        raise ValueError(f"{ca_name} has expired; renew the engine's CA")
    key = ec.generate_private_key(ec.SECP256R1())
    not_after = min(now + life, issuer.not_valid_after_utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])] if len(hosts[0]) <= 64 else [])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=not list(subject))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM).decode()
    if issuer.issuer != issuer.subject:
        chain += ca_chain
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return chain, pem, not_after


def _general_name(host: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _main() -> None:
    request = json.load(sys.stdin)
    now, life = datetime.fromisoformat(request["now"]), timedelta(seconds=request["life_s"])
    try:
        chain, key, not_after = sign(
            tuple(request["hosts"]), request["chain"], request["key"], now, life, request["name"]
        )
        answer = {"chain": chain, "key": key, "not_after": not_after.isoformat()}
    except ValueError as err:
        answer = {"refused": str(err)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
