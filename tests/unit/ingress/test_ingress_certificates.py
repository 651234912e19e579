"""Certificates from the engine's CA: what they say, when they are renewed, and what a bad Secret is told."""

from __future__ import annotations

import asyncio
import base64
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from ingress_world import engine_ca
from trimtab.api import ObjectMeta
from trimtab.api.core import Secret
from trimtab.components.ingress.certificates import (
    LIFETIME,
    Pair,
    covers,
    inspect,
    is_issued,
    issue,
    pair_of,
    renew_at,
    still_good,
)

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CA = engine_ca(NOW)


def issued(namespace, name, hosts, ca, now):
    return asyncio.run(issue(namespace, name, hosts, ca, now))


def test_a_process_that_never_loaded_cryptography_has_it_signed_by_another(monkeypatch):
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "cryptography")
        without.setattr("trimtab.components.ingress.signing.sign", None)
        pair = pair_of(issued("shop", "web-tls", ["shop.example.com"], CA, NOW))
        with pytest.raises(ValueError, match=r"engine-ca holds no usable CA: tls\.crt or tls\.key is not PEM"):
            issued("shop", "web-tls", ["shop.example.com"], Pair("torn", "torn"), NOW)

    leaf = x509.load_pem_x509_certificate(pair.chain.encode())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(CA.chain.encode()))
    assert inspect(pair)[1] == ("shop.example.com",)


def test_an_issued_certificate_verifies_against_the_ca():
    secret = issued("shop", "web-tls", ["shop.example.com", "*.shop.example.com", "127.0.0.1"], CA, NOW)
    pair = pair_of(secret)
    leaf = x509.load_pem_x509_certificate(pair.chain.encode())
    root = x509.load_pem_x509_certificate(CA.chain.encode())
    for name in (x509.DNSName("shop.example.com"), x509.DNSName("a.shop.example.com")):
        verifier = PolicyBuilder().store(Store([root])).time(NOW).build_server_verifier(name)
        assert verifier.verify(leaf, [])
    assert leaf.not_valid_after_utc == NOW + LIFETIME
    assert inspect(pair) == (NOW + LIFETIME, ("shop.example.com", "*.shop.example.com", "127.0.0.1"))
    assert secret.type == "kubernetes.io/tls"


def test_it_is_good_until_two_thirds_of_its_life():
    secret = issued("shop", "web-tls", ["a.b", "c.d"], CA, NOW)
    assert still_good(secret, ["a.b"], CA, NOW)
    assert renew_at(secret) == NOW + timedelta(days=60)
    assert not still_good(secret, ["a.b"], CA, NOW + timedelta(days=60))
    assert not still_good(secret, ["a.b", "e.f"], CA, NOW)
    assert not still_good(secret, ["a.b"], engine_ca(NOW), NOW)


def test_a_touched_secret_is_not_good():
    secret = issued("shop", "web-tls", ["a.b"], CA, NOW)
    other = issued("shop", "web-tls", ["a.b"], CA, NOW)
    secret.data = {**secret.data, "tls.key": other.data["tls.key"]}
    assert not is_issued(secret)
    assert not still_good(secret, ["a.b"], CA, NOW)
    with pytest.raises(ValueError, match=r"tls\.key is not the key of the certificate in tls\.crt"):
        inspect(pair_of(secret))


def test_a_certificate_never_outlives_its_ca():
    short = engine_ca(NOW, days=10)
    _, names = inspect(pair_of(issued("shop", "x", ["a.b"], short, NOW)))
    assert names == ("a.b",)
    assert renew_at(issued("shop", "x", ["a.b"], short, NOW)) < NOW + timedelta(days=10)
    with pytest.raises(ValueError, match="Secret trimtab-system/engine-ca has expired; renew the engine's CA"):
        issued("shop", "x", ["a.b"], short, NOW + timedelta(days=11))


def test_an_intermediate_ca_sends_its_chain():
    key = ec.generate_private_key(ec.SECP256R1())
    root_key = serialization.load_pem_private_key(CA.key.encode(), None)
    root = x509.load_pem_x509_certificate(CA.chain.encode())
    middle = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "middle")]))
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=100))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    chain = middle.public_bytes(serialization.Encoding.PEM).decode()
    pair = pair_of(issued("shop", "x", ["a.b"], Pair(chain, pem), NOW))
    assert len(x509.load_pem_x509_certificates(pair.chain.encode())) == 2


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "Secret shop/s has no tls.crt; a TLS Secret needs tls.crt and tls.key"),
        ({"tls.crt": "eA=="}, "Secret shop/s has no tls.key"),
        ({"tls.crt": "?", "tls.key": "?"}, "Secret shop/s: tls.crt is not base64 of PEM text"),
    ],
)
def test_a_secret_without_a_pair(data, text):
    with pytest.raises(ValueError) as err:
        pair_of(Secret(metadata=ObjectMeta(name="s", namespace="shop"), data=data))
    assert str(err.value).startswith(text)


@pytest.mark.parametrize(
    ("chain", "key", "text"),
    [
        ("nonsense", CA.key, "tls.crt is not a PEM certificate"),
        (CA.chain, "nonsense", "tls.key is not an unencrypted PEM private key"),
    ],
)
def test_a_pair_that_is_none(chain, key, text):
    with pytest.raises(ValueError, match=text):
        inspect(Pair(chain, key))


def test_an_unusable_ca():
    with pytest.raises(
        ValueError, match=r"holds no usable CA: tls\.crt or tls\.key is not PEM; restore it from a backup"
    ):
        issued("shop", "x", ["a.b"], Pair("x", "y"), NOW)


def test_names():
    assert covers(["*.b.c"], "a.b.c")
    assert not covers(["*.b.c"], "x.a.b.c")
    assert not covers(["a.b.c"], "*.b.c")
    assert covers(["*.b.c"], "*.b.c")


def test_base64_of_data_is_what_kubernetes_wants():
    secret = issued("shop", "x", ["a.b"], CA, NOW)
    assert base64.b64decode(secret.data["tls.crt"]).startswith(b"-----BEGIN CERTIFICATE-----")
