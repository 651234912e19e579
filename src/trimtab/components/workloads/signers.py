"""Signs certificates for the signers of kubernetes.io, by their rules.

    kube-apiserver-client             whoever the request names, to this API (CN is the user, O the groups)
    kube-apiserver-client-kubelet     a node, to this API
    kubelet-serving                   a node's own server

The rules are Kubernetes' (`controller/certificates/signer`, `apis/certificates/helpers.go`). As a program (a request on stdin, the
answer on stdout) this file signs one certificate, so that the controllers do not keep `cryptography` in their memory for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography import x509

CLIENT = "kubernetes.io/kube-apiserver-client"
NODE_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
NODE_SERVING = "kubernetes.io/kubelet-serving"
SIGNERS = (CLIENT, NODE_CLIENT, NODE_SERVING)
LIFETIME_S = 365 * 24 * 3600
LIFETIME_S_MIN = 600
BACKDATED = timedelta(minutes=5)
"""Clocks go wrong."""
TIMEOUT_S = 30
_SIGNATURE, _ENCIPHER = "digital signature", "key encipherment"
_SERVER, _CLIENT = "server auth", "client auth"


class Refused(ValueError):
    """The request breaks a rule of its signer; the text says which."""


def certified(request: str, signer: str, usages: list[str], seconds: int | None, ca: str, key: str, now: float) -> str:
    """The certificate as PEM. request, ca and key are PEM.

    Raises:
        Refused: the signer does not sign that.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID

    wanted = x509.load_pem_x509_csr(request.encode())
    names = _names(wanted)
    _check(wanted, names, signer, set(usages))
    issuer = x509.load_pem_x509_certificates(ca.encode())[0]
    private = serialization.load_pem_private_key(key.encode(), None)
    if not isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        raise ValueError("the engine's CA has a key that cannot sign certificates")
    public = wanted.public_key()
    begins = datetime.fromtimestamp(now, UTC)
    life = min(LIFETIME_S, max(LIFETIME_S_MIN, seconds)) if seconds is not None else LIFETIME_S
    purposes = {_SERVER: ExtendedKeyUsageOID.SERVER_AUTH, _CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}
    chosen = [purpose for name, purpose in purposes.items() if name in usages]
    builder = (
        x509.CertificateBuilder()
        .subject_name(wanted.subject)
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(begins - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(begins + timedelta(seconds=life) - BACKDATED, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=_SIGNATURE in usages,
                content_commitment=False,
                key_encipherment=_ENCIPHER in usages,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage(chosen), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=not list(wanted.subject))
    signed = builder.sign(private, None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _names(wanted: x509.CertificateSigningRequest) -> x509.SubjectAlternativeName | None:
    from cryptography import x509

    try:
        return wanted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _check(
    wanted: x509.CertificateSigningRequest, names: x509.SubjectAlternativeName | None, signer: str, usages: set[str]
) -> None:
    """Raises `Refused`."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if signer == CLIENT:
        if not {_CLIENT} <= usages <= {_CLIENT, _SIGNATURE, _ENCIPHER}:
            raise Refused(f"usages did not match [{_CLIENT} {_SIGNATURE} {_ENCIPHER}]")
        return
    purpose = _SERVER if signer == NODE_SERVING else _CLIENT
    if [part.value for part in wanted.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] != ["system:nodes"]:
        raise Refused("subject organization is not system:nodes")
    held: dict[str, list[Any]] = {
        "DNS": names.get_values_for_type(x509.DNSName) if names else [],
        "IP": names.get_values_for_type(x509.IPAddress) if names else [],
        "Email": names.get_values_for_type(x509.RFC822Name) if names else [],
        "URI": names.get_values_for_type(x509.UniformResourceIdentifier) if names else [],
    }
    if signer == NODE_SERVING and not held["DNS"] and not held["IP"]:
        raise Refused("DNS or IP subjectAltName is required")
    for what in ("Email", "URI") if signer == NODE_SERVING else held:
        if held[what]:
            raise Refused(f"{what} subjectAltNames are not allowed")
    common = [str(part.value) for part in wanted.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if usages not in ({_SIGNATURE, purpose}, {_SIGNATURE, _ENCIPHER, purpose}):
        raise Refused(f"usages did not match [{_SIGNATURE} {_ENCIPHER} {purpose}]")
    if not common or not common[0].startswith("system:node:"):
        raise Refused("subject common name does not begin with system:node:")


def certified_apart(work: dict[str, Any]) -> str:
    """As `certified`, in a process of its own. Raises `Refused`, and `ValueError` with one line for what went wrong here."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise ValueError(f"a certificate could not be signed: {last}")
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise Refused(answer["refused"])
    return str(answer["certificate"])


def _main() -> None:
    work = json.load(sys.stdin)
    try:
        answer = {"certificate": certified(**work)}
    except Refused as err:
        answer = {"refused": str(err)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
