"""CertificateSigningRequest -> its certificate: what was approved is signed with the engine's CA (`signers.py`). Approving is a
person's, or a program's that was given the right; what breaks the rules of its signer gets the condition Failed."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from typing import Any

from trimtab.api import Condition
from trimtab.api.certificates import CertificateSigningRequest
from trimtab.api.core import Secret
from trimtab.components.workloads import conditions
from trimtab.components.workloads.signers import SIGNERS, Refused, certified_apart
from trimtab.runtime import Context, Desired, Requeue, reconciler

CA_NAMESPACE, CA_NAME = "trimtab-system", "engine-ca"
RETRY_S = 60.0


@reconciler(
    CertificateSigningRequest,
    reads=[Secret],
    name="signing",
    selects=lambda request: request.spec.signer_name in SIGNERS,
)
async def signing(subject: CertificateSigningRequest, ctx: Context) -> Desired | Requeue:
    """Signs what was approved."""
    status = subject.status
    decided = {condition.type for condition in status.conditions if condition.status == "True"}
    if "Approved" not in decided or decided & {"Denied", "Failed"}:
        return Desired()
    if status.certificate:
        return Desired(status={"certificate": status.certificate})
    authority = await ctx.get(Secret, CA_NAME, CA_NAMESPACE)
    if authority is None:
        return Requeue(RETRY_S, f"Secret {CA_NAMESPACE}/{CA_NAME} is not there, and nothing can be signed without it")
    work: dict[str, Any] = {
        "request": base64.b64decode(subject.spec.request).decode(),
        "signer": subject.spec.signer_name,
        "usages": subject.spec.usages,
        "seconds": subject.spec.expiration_seconds,
        "ca": _text(authority, "tls.crt"),
        "key": _text(authority, "tls.key"),
        "now": ctx.now.timestamp(),
    }
    try:
        signed = await asyncio.to_thread(certified_apart, work)
    except Refused as err:
        failed = Condition(type="Failed", status="True", reason="SignerValidationFailure", message=str(err))
        return Desired(status={"conditions": conditions.wire([failed])})
    except (ValueError, subprocess.TimeoutExpired) as err:
        return Requeue(RETRY_S, str(err))
    return Desired(status={"certificate": base64.b64encode(signed.encode()).decode()})


def _text(secret: Secret, name: str) -> str:
    return base64.b64decode(secret.data.get(name, "")).decode()
