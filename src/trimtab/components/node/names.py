"""What cluster DNS answers about names of the cluster's own domain. Pure.

    SERVICE.NAMESPACE.svc.DOMAIN            the service's address, or each ready endpoint of a headless one
    POD-HOSTNAME.SERVICE.NAMESPACE.svc...   that endpoint of a headless service (StatefulSets)
    NAME of type ExternalName               a CNAME

Schema: the Kubernetes specification "DNS-Based Service Discovery".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.api.core import Service
from trimtab.api.networking import SERVICE_NAME_LABEL, EndpointSlice


@dataclass(frozen=True)
class Found:
    """exists: the name is known (perhaps without addresses of the wanted type). cname: look there instead."""

    exists: bool
    addresses: tuple[str, ...] = ()
    cname: str = ""


NOWHERE = Found(False)


def resolve(
    name: str,
    domain: str,
    service_of: Callable[[str, str], Service | None],
    slices_of: Callable[[str], Sequence[EndpointSlice]],
) -> Found | None:
    """The answer for a lower-case name without the final dot; None when it is not of the cluster's domain."""
    if name != domain and not name.endswith(f".{domain}"):
        return None
    labels = name.removesuffix(domain).rstrip(".").split(".") if name != domain else []
    if not labels or labels == ["svc"]:
        return Found(True)
    if labels[-1] != "svc" or not 3 <= len(labels) <= 4:
        return Found(True) if len(labels) == 2 and labels[-1] == "svc" else NOWHERE
    host = labels[0] if len(labels) == 4 else ""
    service_name, namespace = labels[-3], labels[-2]
    service = service_of(service_name, namespace)
    if service is None:
        return NOWHERE
    if service.spec.type == "ExternalName":
        return Found(True, cname=service.spec.external_name or "") if not host else NOWHERE
    headless = service.spec.cluster_ip in (None, "", "None")
    if not headless:
        return Found(True, (service.spec.cluster_ip or "",)) if not host else NOWHERE
    addresses: dict[str, None] = {}
    for piece in slices_of(namespace):
        if piece.metadata.labels.get(SERVICE_NAME_LABEL) != service_name or piece.address_type != "IPv4":
            continue
        for endpoint in piece.endpoints:
            if endpoint.conditions.ready is not False and (not host or endpoint.hostname == host):
                addresses.update(dict.fromkeys(endpoint.addresses))
    if host and not addresses:
        return NOWHERE
    return Found(True, tuple(addresses))
