"""What is signed for the signers of kubernetes.io, and what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trimtab.components.workloads.signers import CLIENT, NODE_CLIENT, NODE_SERVING, Refused, certified_apart

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NODE_USAGES = ["digital signature", "server auth"]


def pem(thing: Any) -> str:
    return str(thing.public_bytes(serialization.Encoding.PEM).decode())


@pytest.fixture(scope="module")
def authority() -> tuple[str, str]:
    """A CA: its certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem(made), private.decode()


def request(common: str, *groups: str, names: list[x509.GeneralName] | None = None) -> str:
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    subject += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return pem(builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()))


def signed(
    authority: tuple[str, str], wanted: str, signer: str, usages: list[str], seconds: int | None = None
) -> x509.Certificate:
    ca, key = authority
    work = {"request": wanted, "signer": signer, "usages": usages, "seconds": seconds, "ca": ca, "key": key}
    made = certified_apart(work | {"now": NOW.timestamp()})
    found = x509.load_pem_x509_certificate(made.encode())
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
    return found


def test_a_client_gets_the_names_it_asked_for_and_no_authority(authority: tuple[str, str]) -> None:
    found = signed(authority, request("ann", "devs"), CLIENT, ["client auth", "digital signature"], 3600)
    assert found.subject.rfc4514_string() == "O=devs,CN=ann"
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    purposes = list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert purposes == [ExtendedKeyUsageOID.CLIENT_AUTH]
    usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)
    assert found.not_valid_after_utc - found.not_valid_before_utc == timedelta(hours=1)


@pytest.mark.parametrize(("seconds", "days"), [(None, 365), (10**9, 365)])
def test_a_year_is_the_most_that_is_given(authority: tuple[str, str], seconds: int | None, days: int) -> None:
    found = signed(authority, request("ann"), CLIENT, ["client auth"], seconds)
    assert found.not_valid_after_utc - found.not_valid_before_utc == timedelta(days=days)


def test_a_node_serves_under_the_names_of_its_request(authority: tuple[str, str]) -> None:
    wanted = request("system:node:n1", "system:nodes", names=[x509.DNSName("n1.example.com")])
    found = signed(authority, wanted, NODE_SERVING, NODE_USAGES)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1.example.com"]
    assert signed(
        authority, request("system:node:n1", "system:nodes"), NODE_CLIENT, ["digital signature", "client auth"]
    )


@pytest.mark.parametrize(
    ("signer", "common", "groups", "names", "usages", "why"),
    [
        (CLIENT, "ann", [], [], ["server auth"], "usages did not match"),
        (CLIENT, "ann", [], [], ["client auth", "cert sign"], "usages did not match"),
        (NODE_SERVING, "system:node:n1", ["devs"], ["a"], NODE_USAGES, "subject organization is not system:nodes"),
        (NODE_SERVING, "system:node:n1", ["system:nodes"], [], NODE_USAGES, "DNS or IP subjectAltName is required"),
        (NODE_SERVING, "n1", ["system:nodes"], ["a"], NODE_USAGES, "does not begin with system:node:"),
        (
            NODE_CLIENT,
            "system:node:n1",
            ["system:nodes"],
            ["a"],
            ["client auth"],
            "DNS subjectAltNames are not allowed",
        ),
        (NODE_CLIENT, "system:node:n1", ["system:nodes"], [], ["client auth"], "usages did not match"),
    ],
)
def test_what_breaks_a_signers_rules_is_not_signed(
    authority: tuple[str, str],
    signer: str,
    common: str,
    groups: list[str],
    names: list[str],
    usages: list[str],
    why: str,
) -> None:
    wanted = request(common, *groups, names=[x509.DNSName(name) for name in names])
    with pytest.raises(Refused, match=why):
        signed(authority, wanted, signer, usages)
