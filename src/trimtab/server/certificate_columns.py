"""The columns of CertificateSigningRequests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from trimtab.api import JSON
from trimtab.server.tables import age, duration


def signing_request_cells(obj: JSON, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    seconds = spec.get("expirationSeconds")
    return [
        obj["metadata"]["name"],
        age(obj["metadata"].get("creationTimestamp"), now),
        spec.get("signerName") or "<none>",
        spec.get("username") or "",
        duration(seconds) if seconds is not None else "<none>",
        _condition(obj.get("status") or {}),
    ]


def _condition(status: JSON) -> str:
    types = {condition.get("type") for condition in status.get("conditions") or ()}
    said = "Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"
    if "Failed" in types:
        said += ",Failed"
    return f"{said},Issued" if status.get("certificate") else said
