"""Service addresses as nftables rules: from Services and EndpointSlices to sets, maps and chains of one table. Pure.

One look-up for all services (`services`, a verdict map), one for all node ports, a chain a service port whose one rule
picks an endpoint at random and translates. A service with affinity has a chain and a set of clients for each endpoint, which
the kernel keeps. A pod that reaches itself through its service is masqueraded, or its answer would never leave it. A port
without endpoints is refused at once, which is quicker for a client than silence.

No packet is marked: several engines on one machine would read each other's marks.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trimtab.api.core import Service, ServicePort
from trimtab.api.networking import SERVICE_NAME_LABEL, Endpoint, EndpointSlice
from trimtab.components.node.host_ports import EVERY_ADDRESS, HostPort
from trimtab.components.node.nft import Chain, Set, Table

AFFINITY_S = 10_800
"""Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`."""
AFFINE_CLIENTS_MAX = 65_535
NOBODY = ipaddress.IPv4Network("255.255.255.255/32")
"""No client has this address."""
PORT = "ipv4_addr . inet_proto . inet_service"


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
    node_port: int = 0
    addresses: tuple[str, ...] = ()
    """External addresses: those of the load balancer, which `sources` restrict, are in `balanced`."""
    balanced: tuple[str, ...] = ()
    outside: tuple[Backend, ...] | None = None
    """The endpoints for node port and external addresses, where these differ from `backends` (traffic policies)."""
    sources: tuple[str, ...] = ()
    affinity_s: int = 0


@dataclass(frozen=True)
class Place:
    """The node whose rules these are."""

    name: str
    interfaces: str
    """What the names of this engine's interfaces begin with: bridge and uplinks."""
    pods: str
    """The range of this node's pods."""
    cluster: str
    """The range of all nodes' pods."""
    reachable: bool = False
    """Others than this machine and its pods may use services, too."""
    bridge_filter: bool = True
    """The kernel shows us packets between pods on the bridge; if not, what pods send each other through a service is
    masqueraded, so that the answer comes back through us."""


def frontends(services: Iterable[Service], slices: Iterable[EndpointSlice], node: str = "") -> list[Frontend]:
    """Every service port that has an address of its own, with the endpoints that should get new connections.

    node: whose rules; the policies `Local` keep to its endpoints.
    """
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
        out += [
            _frontend(service, port, pieces, node)
            for port in service.spec.ports
            if port.protocol.lower() in ("tcp", "udp", "sctp")
        ]
    return sorted(out, key=lambda f: (f.address, f.protocol, f.port))


def _frontend(service: Service, port: ServicePort, pieces: Sequence[EndpointSlice], node: str) -> Frontend:
    spec = service.spec
    everywhere = _backends(pieces, port.name or "", None)
    here = _backends(pieces, port.name or "", node)
    inside = here if spec.internal_traffic_policy == "Local" else everywhere
    outside = here if spec.external_traffic_policy == "Local" else everywhere
    affinity_s = 0
    if spec.session_affinity == "ClientIP":
        config = spec.session_affinity_config
        asked = config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
        affinity_s = asked or AFFINITY_S
    balanced: tuple[str, ...] = ()
    if spec.type == "LoadBalancer":
        balanced = tuple(a.ip for a in service.status.load_balancer.ingress if a.ip and _is_ipv4(a.ip))
    return Frontend(
        address=spec.cluster_ip or "",
        protocol=port.protocol.lower(),
        port=port.port,
        backends=inside,
        name=f"{service.namespace}/{service.name}:{port.name or port.port}",
        node_port=(port.node_port or 0) if spec.type in ("NodePort", "LoadBalancer") else 0,
        addresses=tuple(a for a in spec.external_ips if _is_ipv4(a)),
        balanced=balanced,
        outside=None if outside == inside else outside,
        sources=_ranges(spec.load_balancer_source_ranges),
        affinity_s=affinity_s,
    )


def _backends(pieces: Sequence[EndpointSlice], port_name: str, node: str | None) -> tuple[Backend, ...]:
    """Ready endpoints (of one node, or of all); when there are none, those that still serve while they terminate, as
    Kubernetes' proxy does."""
    ready: set[Backend] = set()
    fallback: set[Backend] = set()
    for piece in pieces:
        for port in piece.ports:
            if (port.name or "") != port_name or port.port is None:
                continue
            for endpoint in piece.endpoints:
                if node is not None and endpoint.node_name != node:
                    continue
                found = {Backend(a, port.port) for a in endpoint.addresses if _is_ipv4(a)}
                if endpoint.conditions.ready is not False:
                    ready |= found
                elif _still_serves(endpoint):
                    fallback |= found
    return tuple(sorted(ready or fallback))


def _still_serves(endpoint: Endpoint) -> bool:
    return bool(endpoint.conditions.serving and endpoint.conditions.terminating)


def _ranges(texts: Iterable[str]) -> tuple[str, ...]:
    """IPv4 ranges that do not overlap, which nft demands; a text that is none lets nobody in."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.IPv4Network(text.strip(), strict=False))
        except ValueError:
            found.append(NOBODY)
    return tuple(str(network) for network in ipaddress.collapse_addresses(found))


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def service_table(place: Place, fronts: Sequence[Frontend], held: Sequence[HostPort] = ()) -> Table:
    """The part of the node's table that makes services, and ports of the node that pods ask for (`held`), reachable."""
    services: dict[str, str] = {}
    ports: dict[str, str] = {}
    unserved: dict[str, str] = {}
    sets: dict[str, Set] = {}
    chains: dict[str, Chain] = {}
    for front in fronts:
        where = _where(front)
        _choose(front, f"svc-{where}", front.backends, sets, chains)
        if front.backends:
            services[_key(front.address, front)] = f"goto svc-{where}"
        else:
            unserved[_key(front.address, front)] = ""
        _outside(front, services, ports, unserved, sets, chains)
    backends = [b for front in fronts for b in (*front.backends, *(front.outside or ()))]
    ours = ipaddress.IPv4Network(place.pods)
    addresses = sorted({b.ip for b in backends} | {port.ip for port in held})
    to_every, to_one = _held(held, chains)
    sets |= {
        "hostports": Set("inet_proto . inet_service : verdict", to_every),
        "hostips": Set(f"{PORT} : verdict", to_one),
        "services": Set(f"{PORT} : verdict", services),
        "nodeports": Set("inet_proto . inet_service : verdict", ports),
        "unserved": Set(PORT, unserved),
        "hairpin": Set("ipv4_addr . ipv4_addr", {f"{ip} . {ip}": "" for ip in addresses}),
        "remote": Set("ipv4_addr", {ip: "" for ip in addresses if ipaddress.IPv4Address(ip) not in ours}),
    }
    return Table(sets, chains | _frame(place))


def _outside(
    front: Frontend,
    services: dict[str, str],
    ports: dict[str, str],
    unserved: dict[str, str],
    sets: dict[str, Set],
    chains: dict[str, Chain],
) -> None:
    """Node port, external and load balancer's addresses of one port."""
    if not (front.node_port or front.addresses or front.balanced):
        return
    where = _where(front)
    backends = front.backends if front.outside is None else front.outside
    target = f"svc-{where}"
    if front.outside is not None:
        target = f"ext-{where}"
        _choose(front, target, backends, sets, chains)
    if not backends:
        unserved |= {_key(address, front): "" for address in (*front.addresses, *front.balanced)}
        return
    if front.node_port:
        ports[f"{front.protocol} . {front.node_port}"] = f"goto {target}"
    services |= {_key(address, front): f"goto {target}" for address in front.addresses}
    if front.sources and front.balanced:
        chains[f"lb-{where}"] = Chain((f"ip saddr != {{ {', '.join(front.sources)} }} drop", f"goto {target}"))
        target = f"lb-{where}"
    services |= {_key(address, front): f"goto {target}" for address in front.balanced}


def _choose(
    front: Frontend, name: str, backends: Sequence[Backend], sets: dict[str, Set], chains: dict[str, Chain]
) -> None:
    """The chain that picks an endpoint and translates."""
    if not backends:
        return
    comment = f'comment "{_comment(front.name)}"'
    if front.affinity_s:
        targets = []
        for backend in backends:
            target = f"{name}-{backend.ip.replace('.', '-')}-{backend.port}"
            traits = ("flags dynamic,timeout", f"timeout {front.affinity_s}s", f"size {AFFINE_CLIENTS_MAX}")
            sets[f"{target}-clients"] = Set("ipv4_addr", {}, traits)
            translate = f"meta l4proto {front.protocol} dnat to {backend.ip}:{backend.port}"
            chains[target] = Chain((f"update @{target}-clients {{ ip saddr }}", translate))
            targets.append(target)
        known = [f"ip saddr @{target}-clients goto {target}" for target in targets]
        choices = ", ".join(f"{number} : goto {target}" for number, target in enumerate(targets))
        pick = f"numgen random mod {len(targets)} vmap {{ {choices} }} {comment}"
        chains[name] = Chain((*known, pick))
        return
    if len(backends) == 1:
        to = f"dnat to {backends[0].ip}:{backends[0].port}"
    else:
        choices = ", ".join(f"{number} : {b.ip} . {b.port}" for number, b in enumerate(backends))
        to = f"dnat ip to numgen random mod {len(backends)} map {{ {choices} }}"
    chains[name] = Chain((f"meta l4proto {front.protocol} {to} {comment}",))


def _held(held: Sequence[HostPort], chains: dict[str, Chain]) -> tuple[dict[str, str], dict[str, str]]:
    """Ports on every address of the node, and on one. Where two pods ask for the same, the first one's holds."""
    to_every: dict[str, str] = {}
    to_one: dict[str, str] = {}
    for port in held:
        chain = f"host-{port.host.replace('.', '-')}-{port.protocol}-{port.port}"
        if chain in chains:
            continue
        comment = f'comment "{_comment(port.name)}"'
        chains[chain] = Chain((f"meta l4proto {port.protocol} dnat to {port.ip}:{port.target} {comment}",))
        key = f"{port.protocol} . {port.port}"
        if port.host == EVERY_ADDRESS:
            to_every[key] = f"goto {chain}"
        else:
            to_one[f"{port.host} . {key}"] = f"goto {chain}"
    return to_every, to_one


def _frame(place: Place) -> dict[str, Chain]:
    """The base chains, which look everything up."""
    lookups = (
        "ip daddr . meta l4proto . th dport vmap @services",
        "fib daddr type local meta l4proto . th dport vmap @nodeports",
        "ip daddr . meta l4proto . th dport vmap @hostips",
        "fib daddr type local meta l4proto . th dport vmap @hostports",
    )
    closed = () if place.reachable else (f'iifname != "{place.interfaces}*" return',)
    leaving = [
        "ip saddr . ip daddr @hairpin masquerade",
        "ip saddr 127.0.0.0/8 ct status dnat masquerade",
        f'ip saddr {place.cluster} ip daddr != {place.cluster} oifname != "{place.interfaces}*" masquerade',
        f"ip saddr != {place.cluster} ip daddr @remote ct status dnat masquerade",
    ]
    if not place.bridge_filter:
        leaving.append(f"ip saddr {place.pods} ip daddr {place.pods} ct status dnat masquerade")
    refusals = (
        "meta l4proto tcp ip daddr . meta l4proto . th dport @unserved reject with tcp reset",
        "ip daddr . meta l4proto . th dport @unserved reject with icmp type port-unreachable",
    )
    return {
        "prerouting": Chain((*closed, *lookups), "type nat hook prerouting priority dstnat; policy accept;"),
        "output": Chain(lookups, "type nat hook output priority -100; policy accept;"),
        "postrouting": Chain(tuple(leaving), "type nat hook postrouting priority srcnat; policy accept;"),
        "refuse-forward": Chain(refusals, "type filter hook forward priority filter; policy accept;"),
        "refuse-output": Chain(refusals, "type filter hook output priority filter; policy accept;"),
    }


def _key(address: str, front: Frontend) -> str:
    return f"{address} . {front.protocol} . {front.port}"


def _where(front: Frontend) -> str:
    return f"{front.address.replace('.', '-')}-{front.protocol}-{front.port}"


def _comment(name: str) -> str:
    return name if len(name) <= 120 else hashlib.sha256(name.encode()).hexdigest()
