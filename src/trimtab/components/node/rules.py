"""Service addresses as nftables rules: from Services and EndpointSlices to the text of one table. Pure.

One look-up for all services (`services`, a verdict map), a chain a service port that picks an endpoint at random, a chain
an endpoint that translates. A pod that reaches itself through its service is masqueraded, or its answer would never
leave it. A port without endpoints is refused at once, which is quicker for a client than silence.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trimtab.api.core import Service
from trimtab.api.networking import SERVICE_NAME_LABEL, Endpoint, EndpointSlice

MASQUERADE = 0x4000
"""The packet mark that asks for masquerading; the bit that Kubernetes' own proxy uses."""


@dataclass(frozen=True, order=True)
class Backend:
    ip: str
    port: int


@dataclass(frozen=True)
class Frontend:
    """One port of one service. backends in order; empty: refuse."""

    address: str
    protocol: str
    port: int
    backends: tuple[Backend, ...]
    name: str
    """For the comment: `shop/web:http`."""


def frontends(services: Iterable[Service], slices: Iterable[EndpointSlice]) -> list[Frontend]:
    """Every service port that has an address of its own, with the endpoints that should get new connections."""
    by_service: dict[tuple[str, str], list[EndpointSlice]] = {}
    for piece in slices:
        if piece.address_type == "IPv4":
            owner = piece.metadata.labels.get(SERVICE_NAME_LABEL, "")
            by_service.setdefault((piece.namespace or "", owner), []).append(piece)
    out = []
    for service in services:
        address = service.spec.cluster_ip
        if not address or address == "None" or not _is_ipv4(address) or service.spec.type == "ExternalName":
            continue
        pieces = by_service.get((service.namespace or "", service.name), [])
        for port in service.spec.ports:
            protocol = port.protocol.lower()
            if protocol not in ("tcp", "udp", "sctp"):
                continue
            name = f"{service.namespace}/{service.name}:{port.name or port.port}"
            out.append(Frontend(address, protocol, port.port, tuple(_backends(pieces, port.name or "")), name))
    return sorted(out, key=lambda f: (f.address, f.protocol, f.port))


def _backends(pieces: Sequence[EndpointSlice], port_name: str) -> list[Backend]:
    """Ready endpoints; when there are none, those that still serve while they terminate, as Kubernetes' proxy does."""
    ready: set[Backend] = set()
    fallback: set[Backend] = set()
    for piece in pieces:
        for port in piece.ports:
            if (port.name or "") != port_name or port.port is None:
                continue
            for endpoint in piece.endpoints:
                found = {Backend(a, port.port) for a in endpoint.addresses if _is_ipv4(a)}
                if endpoint.conditions.ready is not False:
                    ready |= found
                elif _still_serves(endpoint):
                    fallback |= found
    return sorted(ready or fallback)


def _still_serves(endpoint: Endpoint) -> bool:
    return bool(endpoint.conditions.serving and endpoint.conditions.terminating)


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def ruleset(table: str, bridge: str, pod_cidr: str, fronts: Sequence[Frontend], *, bridge_filter: bool) -> str:
    """The text for `nft -f -` that replaces the whole table in one transaction.

    bridge_filter: the kernel shows us packets between pods on the bridge; if not, what pods send each other through a
    service is masqueraded, so that the answer comes back through us.
    """
    backends = sorted({(front.protocol, backend) for front in fronts for backend in front.backends})
    lines = [
        f"add table ip {table}",
        f"delete table ip {table}",
        f"table ip {table} {{",
        *_map("services", [f"{_key(f)} : goto {_chain(f)}" for f in fronts if f.backends]),
        *_set("unserved", [_key(f) for f in fronts if not f.backends]),
        *(line for protocol, backend in backends for line in _endpoint_chain(protocol, backend)),
        *(line for front in fronts if front.backends for line in _service_chain(front)),
        "chain prerouting {",
        "type nat hook prerouting priority dstnat; policy accept;",
        "ip daddr . meta l4proto . th dport vmap @services",
        "}",
        "chain output {",
        "type nat hook output priority -100; policy accept;",
        "ip daddr . meta l4proto . th dport vmap @services",
        "}",
        "chain postrouting {",
        "type nat hook postrouting priority srcnat; policy accept;",
        f"meta mark & {MASQUERADE:#x} == {MASQUERADE:#x} masquerade",
        f'ip saddr {pod_cidr} ip daddr != {pod_cidr} oifname != "{bridge}" masquerade',
    ]
    if not bridge_filter:
        lines.append(f"ip saddr {pod_cidr} ip daddr {pod_cidr} ct status dnat masquerade")
    lines.append("}")
    for hook in ("forward", "output"):
        lines += [
            f"chain refuse-{hook} {{",
            f"type filter hook {hook} priority filter; policy accept;",
            "meta l4proto tcp ip daddr . meta l4proto . th dport @unserved reject with tcp reset",
            "ip daddr . meta l4proto . th dport @unserved reject with icmp type port-unreachable",
            "}",
        ]
    lines.append("}")
    return "\n".join(lines) + "\n"


def _key(front: Frontend) -> str:
    return f"{front.address} . {front.protocol} . {front.port}"


def _chain(front: Frontend) -> str:
    return f"svc-{front.address.replace('.', '-')}-{front.protocol}-{front.port}"


def _endpoint(protocol: str, backend: Backend) -> str:
    return f"ep-{backend.ip.replace('.', '-')}-{protocol}-{backend.port}"


def _map(name: str, elements: Sequence[str]) -> list[str]:
    lines = [f"map {name} {{", "type ipv4_addr . inet_proto . inet_service : verdict"]
    if elements:
        lines.append(f"elements = {{ {', '.join(elements)} }}")
    return [*lines, "}"]


def _set(name: str, elements: Sequence[str]) -> list[str]:
    lines = [f"set {name} {{", "type ipv4_addr . inet_proto . inet_service"]
    if elements:
        lines.append(f"elements = {{ {', '.join(elements)} }}")
    return [*lines, "}"]


def _endpoint_chain(protocol: str, backend: Backend) -> list[str]:
    return [
        f"chain {_endpoint(protocol, backend)} {{",
        f"ip saddr {backend.ip} meta mark set meta mark | {MASQUERADE:#x}",
        f"meta l4proto {protocol} dnat to {backend.ip}:{backend.port}",
        "}",
    ]


def _service_chain(front: Frontend) -> list[str]:
    targets = [_endpoint(front.protocol, backend) for backend in front.backends]
    if len(targets) == 1:
        jump = f"goto {targets[0]}"
    else:
        choices = ", ".join(f"{number} : goto {target}" for number, target in enumerate(targets))
        jump = f"numgen random mod {len(targets)} vmap {{ {choices} }}"
    return [f"chain {_chain(front)} {{", f'comment "{_comment(front.name)}"', jump, "}"]


def _comment(name: str) -> str:
    return name if len(name) <= 120 else hashlib.sha256(name.encode()).hexdigest()
