"""Where the pods behind a Service are: the ready endpoints of one of its ports, read from the store.

The API process goes to the pods themselves, as a node's rules for the service's address would, so that it needs none: pods have
addresses that the machine reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from trimtab.api import JSON
from trimtab.server.objects import decode
from trimtab.server.webhooks.configurations import Service
from trimtab.store import Store

SERVICE_LABEL = "kubernetes.io/service-name"


class NoEndpoint(Exception):
    """There is nobody to ask; the text says why."""


def endpoint(store: Store, service: Service, random: Random) -> tuple[str, int]:
    """Host and port of one that is ready.

    Raises:
        NoEndpoint: no such service or port, or nobody is ready.
    """
    record = store.get(f"/core/services/{service.namespace}/{service.name}")
    if record is None:
        raise NoEndpoint(f'service "{service.name}" not found')
    spec = decode(record).get("spec") or {}
    if spec.get("type") == "ExternalName":
        return spec.get("externalName") or "", service.port
    port = next((port for port in spec.get("ports") or () if port.get("port") == service.port), None)
    if port is None:
        raise NoEndpoint(f'no service port {service.port} found for service "{service.name}"')
    found = list(_ready(store, service, port)) or list(_endpoints(store, service, port))
    if not found:
        raise NoEndpoint(f'no endpoints available for service "{service.name}"')
    return random.choice(found)


def _ready(store: Store, service: Service, port: JSON) -> Iterator[tuple[str, int]]:
    for record in store.list(f"/discovery.k8s.io/endpointslices/{service.namespace}/"):
        if service.name.encode() not in record.value:
            continue
        slice_ = decode(record)
        if (slice_["metadata"].get("labels") or {}).get(SERVICE_LABEL) != service.name:
            continue
        number = _number(slice_.get("ports"), port)
        for one in slice_.get("endpoints") or ():
            if number and (one.get("conditions") or {}).get("ready", True):
                yield from ((address, number) for address in one.get("addresses") or ())


def _endpoints(store: Store, service: Service, port: JSON) -> Iterator[tuple[str, int]]:
    """Of a service without a selector, whose endpoints somebody has written by hand."""
    record = store.get(f"/core/endpoints/{service.namespace}/{service.name}")
    for subset in (decode(record).get("subsets") or ()) if record is not None else ():
        number = _number(subset.get("ports"), port)
        for address in subset.get("addresses") or ():
            if number and address.get("ip"):
                yield address["ip"], number


def _number(ports: list[JSON] | None, port: JSON) -> int:
    return next((p.get("port") or 0 for p in ports or () if (p.get("name") or "") == (port.get("name") or "")), 0)
