"""What cluster DNS answers about names of the cluster's own domain, and about addresses of its networks. Pure.

    SERVICE.NAMESPACE.svc.DOMAIN              the service's address, or each ready endpoint of a headless one
    ENDPOINT.SERVICE.NAMESPACE.svc...         that endpoint of a headless service: its hostname, or 10-0-0-3
    _PORT._PROTOCOL.SERVICE.NAMESPACE.svc...  SRV: port and name of the service, or of each endpoint of a headless one
    10-0-0-3.NAMESPACE.pod.DOMAIN             10.0.0.3
    3.0.0.10.in-addr.arpa                     PTR: the service, or the endpoint of a headless one
    NAME of type ExternalName                 a CNAME

Schema: the Kubernetes specification "DNS-Based Service Discovery", version 1.1.0.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trimtab.api.core import Service
from trimtab.api.networking import SERVICE_NAME_LABEL, Endpoint, EndpointSlice

SCHEMA_VERSION = "1.1.0"
REVERSE = ".in-addr.arpa"


@dataclass(frozen=True)
class Record:
    """One record: its type and its data in the text form of zone files. name "": the name that was asked for."""

    type: str
    data: str
    name: str = ""


@dataclass(frozen=True)
class Found:
    """exists: the name is known (perhaps without records of the wanted type). cname: look there instead. extra: addresses
    of names that the records mention."""

    exists: bool
    records: tuple[Record, ...] = ()
    cname: str = ""
    extra: tuple[Record, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(record.data for record in self.records if record.type == "A")


NOWHERE = Found(False)


@dataclass(frozen=True)
class Zone:
    """The domain, the networks whose addresses are ours, and the objects that names come from."""

    domain: str
    service_of: Callable[[str, str], Service | None]
    slices_of: Callable[[str | None], Sequence[EndpointSlice]]
    """Those of a namespace; None: all."""
    services: Callable[[], Sequence[Service]] = tuple
    networks: tuple[ipaddress.IPv4Network, ...] = ()
    """Of services and of pods."""


def resolve(name: str, zone: Zone) -> Found | None:
    """The answer for a lower-case name without the final dot; None when it is not of the cluster's."""
    if name.endswith(REVERSE):
        return _reverse(name, zone)
    if name != zone.domain and not name.endswith(f".{zone.domain}"):
        return None
    labels = name.removesuffix(zone.domain).rstrip(".").split(".") if name != zone.domain else []
    if not labels or labels in (["svc"], ["pod"], ["dns"]):
        return Found(True)
    if labels == ["ns", "dns"] and zone.networks:
        return Found(True, (Record("A", str(zone.networks[-1][1])),))
    if labels == ["dns-version"]:
        return Found(True, (Record("TXT", f'"{SCHEMA_VERSION}"'),))
    if labels[-1] == "pod":
        return _pod(labels[:-1], zone)
    if labels[-1] != "svc" or not 2 <= len(labels) <= 5:
        return NOWHERE
    if len(labels) == 2:
        return Found(True)
    return _service(labels[-3], labels[-2], labels[:-3], zone)


def _pod(labels: Sequence[str], zone: Zone) -> Found:
    if len(labels) == 1:
        return Found(True)
    address = _address(labels[0].replace("-", ".")) if len(labels) == 2 else None
    if address is None or not any(address in network for network in zone.networks):
        return NOWHERE
    return Found(True, (Record("A", str(address)),))


def _service(name: str, namespace: str, before: Sequence[str], zone: Zone) -> Found:
    service = zone.service_of(name, namespace)
    if service is None:
        return NOWHERE
    if service.spec.type == "ExternalName":
        return Found(True, cname=service.spec.external_name or "") if not before else NOWHERE
    own = f"{name}.{namespace}.svc.{zone.domain}"
    port = (before[0][1:], before[1][1:]) if len(before) == 2 and before[0][:1] == before[1][:1] == "_" else None
    if len(before) == 2 and port is None:
        return NOWHERE
    if service.spec.cluster_ip not in (None, "", "None"):
        return _clustered(service, own, before, port)
    return _headless(name, namespace, own, before, port, zone)


def _clustered(service: Service, own: str, before: Sequence[str], port: tuple[str, str] | None) -> Found:
    address = Record("A", service.spec.cluster_ip or "", own)
    ports = [p for p in service.spec.ports if port is None or ((p.name or "").lower(), p.protocol.lower()) == port]
    services = tuple(Record("SRV", f"0 100 {p.port} {own}.") for p in ports)
    if port is not None:
        return Found(True, services, extra=(address,)) if services else NOWHERE
    if before:
        return NOWHERE
    return Found(True, (Record("A", address.data), *services), extra=(address,))


def _headless(
    name: str, namespace: str, own: str, before: Sequence[str], port: tuple[str, str] | None, zone: Zone
) -> Found:
    host = before[0] if len(before) == 1 else ""
    records: dict[Record, None] = {}
    extra: dict[Record, None] = {}
    known = False
    for piece in zone.slices_of(namespace):
        if piece.metadata.labels.get(SERVICE_NAME_LABEL) != name or piece.address_type != "IPv4":
            continue
        ports = [
            p.port
            for p in piece.ports
            if p.port and (port is None or ((p.name or "").lower(), (p.protocol or "TCP").lower()) == port)
        ]
        known = known or bool(ports)
        for called, address in _named(piece):
            if host and called != host:
                continue
            if port is None:
                records[Record("A", address)] = None
            records.update({Record("SRV", f"0 100 {number} {called}.{own}."): None for number in ports})
            if ports:
                extra[Record("A", address, f"{called}.{own}")] = None
    if (host and not records) or (port is not None and not known):
        return NOWHERE
    return Found(True, tuple(records), extra=tuple(extra))


def _named(piece: EndpointSlice) -> Iterator[tuple[str, str]]:
    """The endpoints that names stand for: label and address of each."""
    for endpoint in piece.endpoints:
        if endpoint.conditions.ready is not False:
            for address in endpoint.addresses:
                yield _label(endpoint, address), address


def _label(endpoint: Endpoint, address: str) -> str:
    return (endpoint.hostname or address.replace(".", "-")).lower()


def _reverse(name: str, zone: Zone) -> Found | None:
    address = _address(".".join(reversed(name.removesuffix(REVERSE).split("."))))
    if address is None or not any(address in network for network in zone.networks):
        return None
    text = str(address)
    for service in zone.services():
        if service.spec.cluster_ip == text:
            return Found(True, (Record("PTR", f"{service.name}.{service.namespace}.svc.{zone.domain}."),))
    names: dict[Record, None] = {}
    for piece in zone.slices_of(None):
        owner = zone.service_of(piece.metadata.labels.get(SERVICE_NAME_LABEL, ""), piece.namespace or "")
        if owner is not None and owner.spec.cluster_ip in (None, "", "None"):
            own = f"{owner.name}.{owner.namespace}.svc.{zone.domain}."
            names.update({Record("PTR", f"{called}.{own}"): None for called, ip in _named(piece) if ip == text})
    return Found(True, tuple(names)) if names else NOWHERE


def _address(text: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None
