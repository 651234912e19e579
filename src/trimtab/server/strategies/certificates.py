"""Rules of CertificateSigningRequests (k8s.io/kubernetes `registry/certificates`, `apis/certificates/validation`): what was asked for
never changes, who asked is written down by the server, approval and certificate come through subresources of their own."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.audit import asking
from trimtab.server.authentication import MASTERS
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.problems import duplicate, invalid, required, unsupported
from trimtab.server.strategies.base import Strategy, Surroundings

if TYPE_CHECKING:
    from cryptography.x509 import CertificateSigningRequest

GROUP = "certificates.k8s.io"
SUBRESOURCE = "approval"
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
DECISIONS = ("Approved", "Denied")
_LEGACY_SIGNER = "kubernetes.io/legacy-unknown"
_EXPIRES_MIN_S = 600
_USAGES = sorted(
    {
        "signing",
        "digital signature",
        "content commitment",
        "key encipherment",
        "key agreement",
        "data encipherment",
        "cert sign",
        "crl sign",
        "encipher only",
        "decipher only",
        "any",
        "server auth",
        "client auth",
        "code signing",
        "email protection",
        "s/mime",
        "ipsec end system",
        "ipsec tunnel",
        "ipsec user",
        "timestamping",
        "ocsp signing",
        "microsoft sgc",
        "netscape sgc",
    }
)
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----\n.+?\n-----END \1-----", re.DOTALL)


class CertificateStrategy(Strategy):
    def admit(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        if old is None and (new.get("spec") or {}).get("signerName") == CLIENT_SIGNER:
            try:
                wanted = parsed(new["spec"].get("request") or "")
            except ValueError:
                return  # its rules say it better
            from cryptography.x509.oid import NameOID

            groups = [part.value for part in wanted.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
            if MASTERS in groups:
                text = f"use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
                raise errors.forbidden(kind.plural, kind.group, new["metadata"].get("name") or "", text)

    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        if old is not None:
            new["spec"] = old["spec"]
            return []
        spec = new.setdefault("spec", {})
        for name in ("username", "uid", "groups", "extra"):
            spec.pop(name, None)
        now = asking.get()
        if now is not None:
            who = now.user.wire()
            spec |= {name: who[name] for name in ("username", "uid", "groups", "extra") if who.get(name)}
        new["status"] = {}
        return []

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        return list(_spec_problems(new["spec"])) if old is None else []

    def part_problems(self, around: Surroundings, kind: Kind, subresource: str, new: JSON, old: JSON) -> list[Cause]:
        return list(_condition_problems((new.get("status") or {}).get("conditions") or ()))


def parsed(request: str) -> CertificateSigningRequest:
    """What a request in base64 asks for, its signature checked. Raises `ValueError` with one line."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        pem = base64.b64decode(request, validate=True)
    except binascii.Error:
        raise ValueError("PEM block type must be CERTIFICATE REQUEST") from None
    block = _BLOCK.search(pem.decode("latin-1"))
    if block is None or block[1] != "CERTIFICATE REQUEST":
        raise ValueError("PEM block type must be CERTIFICATE REQUEST")
    try:
        found = x509.load_pem_x509_csr(pem)
        if not found.is_signature_valid:
            raise ValueError("the signature of the request is not valid")
    except (InvalidSignature, UnsupportedAlgorithm) as err:
        raise ValueError(str(err) or "the signature of the request is not valid") from None
    return found


def _spec_problems(spec: JSON) -> Iterator[Cause]:
    request = spec.get("request") or ""
    try:
        parsed(request)
    except ValueError as err:
        yield invalid("spec.request", request, str(err))
    usages = spec.get("usages") or []
    if not usages:
        yield required("spec.usages")
    seen = set()
    for index, usage in enumerate(usages):
        if usage not in _USAGES:
            yield unsupported(f"spec.usages[{index}]", usage, _USAGES)
        if usage in seen:
            yield duplicate(f"spec.usages[{index}]", usage)
        seen.add(usage)
    signer = spec.get("signerName") or ""
    domain, slash, path = signer.partition("/")
    if signer == _LEGACY_SIGNER:
        yield invalid("spec.signerName", signer, "the legacy signerName is not allowed via this API version")
    elif not signer:
        yield required("spec.signerName")
    elif not (slash and path and "." in domain):
        text = 'must be a fully qualified domain and path of the form "example.com/signer-name"'
        yield invalid("spec.signerName", signer, text)
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _EXPIRES_MIN_S:
        text = "may not specify a duration less than 600 seconds (10 minutes)"
        yield invalid("spec.expirationSeconds", seconds, text)


def _condition_problems(conditions: Sequence[JSON]) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        at, kind, status = f"status.conditions[{index}]", condition.get("type") or "", condition.get("status") or ""
        allowed = ("True",) if kind in (*DECISIONS, "Failed") else ("False", "True", "Unknown")
        if not kind:
            yield required(f"{at}.type")
        if not status:
            yield required(f"{at}.status")
        elif status not in allowed:
            yield unsupported(f"{at}.status", status, allowed)
        if kind in DECISIONS and seen & set(DECISIONS) - {kind}:
            yield invalid("status.conditions", kind, "Approved and Denied conditions are mutually exclusive")
        if kind in seen:
            yield duplicate(f"{at}.type", kind)
        seen.add(kind)


def with_part(old: JSON, wanted: JSON, subresource: str, now: str) -> JSON:
    """The request `old` with what a write through `approval` or `status` may change of it: there the conditions, here all of
    the status but the decision."""
    status, asked = dict(old.get("status") or {}), wanted.get("status") or {}
    before = status.get("conditions") or []
    conditions = [dict(one) for one in asked.get("conditions") or () if isinstance(one, dict)]
    if subresource != SUBRESOURCE:
        status = dict(asked)
        decided = [one for one in before if one.get("type") in DECISIONS]
        conditions = decided + [one for one in conditions if one.get("type") not in DECISIONS]
    for one in conditions:
        same: JSON = next(
            (o for o in before if (o.get("type"), o.get("status")) == (one.get("type"), one.get("status"))), {}
        )
        if not one.get("lastUpdateTime"):
            one["lastUpdateTime"] = now
        if not one.get("lastTransitionTime"):
            one["lastTransitionTime"] = same.get("lastTransitionTime") or now
    if conditions:
        status["conditions"] = conditions
    else:
        status.pop("conditions", None)
    return {**old, "metadata": wanted["metadata"], "status": status}


def removed(old: JSON, new: JSON) -> Iterable[str]:
    """The decisions, and failures, that a write would take back."""

    def types(obj: Mapping[str, JSON]) -> list[str]:
        return [one.get("type") or "" for one in (obj.get("status") or {}).get("conditions") or ()]

    return [kind for kind in (*DECISIONS, "Failed") if kind in types(old) and kind not in types(new)]
