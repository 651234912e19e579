"""Who may approve a CertificateSigningRequest, and who may sign it: the admission plugins CertificateApproval and CertificateSigning.

The permission is on the signer: `approve` or `sign` of `signers` in certificates.k8s.io, by its name or `DOMAIN/*`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.authentication import User
from trimtab.server.authorization import Attributes
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.strategies.certificates import SUBRESOURCE, removed

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer


def refuse_decision(server: ApiServer, kind: Kind, subresource: str, new: JSON, live: JSON, user: User) -> None:
    """Raises `StatusError`: 403 for who may not decide about this signer, 422 for what takes back what was decided."""
    name = live["metadata"]["name"]
    signer = live["spec"].get("signerName") or ""
    verb, words = ("approve", "approve requests") if subresource == SUBRESOURCE else ("sign", "sign requests")
    asked = (Attributes(verb, kind.group, "signers", "", each) for each in (signer, f"{signer.partition('/')[0]}/*"))
    if not any(server.authorizer.allows(user, each) for each in asked):
        text = f'user not permitted to {words} with signerName "{signer}"'
        raise errors.forbidden(kind.plural, kind.group, name, text)
    found = []
    if subresource == SUBRESOURCE:
        for gone in removed(live, new):
            text = f'Forbidden: updates may not remove a condition of type "{gone}"'
            found.append(Cause("status.conditions", text, "FieldValueForbidden"))
    before = (live.get("status") or {}).get("certificate")
    after = (new.get("status") or {}).get("certificate")
    if subresource != SUBRESOURCE and before and after != before:
        text = "Forbidden: updates may not modify existing certificate content"
        found.append(Cause("status.certificate", text, "FieldValueForbidden"))
    if found:
        raise errors.invalid(kind.kind, kind.group, name, found)
