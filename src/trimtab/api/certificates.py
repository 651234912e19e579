"""certificates.k8s.io: who asks to have a key certified, by whom, and what came of it."""

from __future__ import annotations

from typing import Any

from msgspec import field

from trimtab.api.resource import Condition, Model, Resource, resource


class CertificateSigningRequestSpec(Model):
    request: str = ""
    """The PKCS#10 request as PEM, in base64."""
    signer_name: str = ""
    usages: list[str] = []
    expiration_seconds: int | None = None
    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, Any] = {}


class CertificateSigningRequestStatus(Model):
    conditions: list[Condition] = []
    certificate: str | None = None
    """The chain as PEM, in base64."""


@resource("certificates.k8s.io/v1", "certificatesigningrequests", namespaced=False, short_names=("csr",))
class CertificateSigningRequest(Resource):
    spec: CertificateSigningRequestSpec = field(default_factory=CertificateSigningRequestSpec)
    status: CertificateSigningRequestStatus = field(default_factory=CertificateSigningRequestStatus)
