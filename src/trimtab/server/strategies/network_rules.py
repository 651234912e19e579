"""Rules of Ingresses and NetworkPolicies that follow from the object alone, in the words of the real server; addresses and ranges."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from trimtab.api import JSON
from trimtab.server import names
from trimtab.server.errors import Cause
from trimtab.server.problems import forbidden, invalid, invalids, one_of, required, selector, unsupported
from trimtab.server.strategies.pod_rules import PROTOCOLS, port_problems

NO_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
NO_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def ingress(obj: JSON) -> Iterator[Cause]:
    """Hosts, paths and backends."""
    spec = obj["spec"]
    for index, tls in enumerate(spec.get("tls") or ()):
        for number, host in enumerate(tls.get("hosts") or ()):
            yield from _host(host, f"spec.tls[{index}].hosts[{number}]")
    if spec.get("defaultBackend") is not None:
        yield from _backend(spec["defaultBackend"], "spec.defaultBackend")
    for index, rule in enumerate(spec.get("rules") or ()):
        at = f"spec.rules[{index}]"
        host = rule.get("host") or ""
        if host and is_ip(host):
            yield invalid(f"{at}.host", host, "must be a DNS name, not an IP address")
        elif host:
            yield from _host(host, f"{at}.host")
        for number, path in enumerate((rule.get("http") or {}).get("paths") or ()):
            here = f"{at}.http.paths[{number}]"
            yield from _path(path, here)
            yield from _backend(path.get("backend") or {}, f"{here}.backend")
    name = spec.get("ingressClassName")
    if name is not None:
        yield from invalids("spec.ingressClassName", name, names.dns_subdomain(name))


def _host(host: str, at: str) -> Iterator[Cause]:
    wild = "*" in host
    yield from invalids(at, host, names.wildcard_subdomain(host) if wild else names.dns_subdomain(host))


def _path(path: JSON, at: str) -> Iterator[Cause]:
    sort, text = path.get("pathType"), path.get("path") or ""
    if sort not in ("Exact", "ImplementationSpecific", "Prefix"):
        yield unsupported(f"{at}.pathType", sort, ("Exact", "ImplementationSpecific", "Prefix"))
        return
    if sort == "ImplementationSpecific" and not text:
        return
    if not text.startswith("/"):
        yield invalid(f"{at}.path", text, "must be an absolute path")
    elif sort != "ImplementationSpecific":
        for piece in ("//", "/./", "/../", "%2f", "%2F"):
            if piece in text:
                yield invalid(f"{at}.path", text, f"must not contain '{piece}'")
        for end in ("/..", "/."):
            if text.endswith(end):
                yield invalid(f"{at}.path", text, f"cannot end with '{end}'")


def _backend(backend: JSON, at: str) -> Iterator[Cause]:
    service, resource = backend.get("service"), backend.get("resource")
    if service is None:
        if resource is None:
            yield invalid(at, "", "resource or service backend is required")
        return
    if not service.get("name"):
        yield required(f"{at}.service.name")
    port = service.get("port") or {}
    if port.get("name") and port.get("number"):
        yield invalid(at, "", "cannot set both port name & port number")
    elif port.get("name"):
        yield from invalids(f"{at}.service.port.name", port["name"], names.port_name(port["name"]))
    elif port.get("number"):
        yield from invalids(f"{at}.service.port.number", port["number"], names.port_number(port["number"]))
    else:
        yield required(at, "port name or number is required")


def network_policy(obj: JSON) -> Iterator[Cause]:
    """Whom, from where and to where."""
    spec = obj.get("spec") or {}
    yield from selector(spec.get("podSelector"), "spec.podSelector")
    for way, who in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(way) or ()):
            at = f"spec.{way}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                yield from _policy_port(port, f"{at}.ports[{number}]")
            for number, peer in enumerate(rule.get(who) or ()):
                yield from _peer(peer, f"{at}.{who}[{number}]")
    for index, sort in enumerate(spec.get("policyTypes") or ()):
        if sort not in ("Ingress", "Egress"):
            yield unsupported(f"spec.policyTypes[{index}]", sort, ("Ingress", "Egress"))


def _policy_port(port: JSON, at: str) -> Iterator[Cause]:
    yield from one_of(port, "protocol", PROTOCOLS, at)
    number, end = port.get("port"), port.get("endPort")
    yield from port_problems(number, f"{at}.port")
    if isinstance(number, int) and end is not None and end < number:
        yield invalid(f"{at}.endPort", number, "must be greater than or equal to `port`")


def _peer(peer: JSON, at: str) -> Iterator[Cause]:
    block = peer.get("ipBlock")
    others = [name for name in ("podSelector", "namespaceSelector") if peer.get(name) is not None]
    for name in others:
        yield from selector(peer[name], f"{at}.{name}")
    if block is not None:
        whole = network(block.get("cidr") or "")
        if not block.get("cidr"):
            yield required(f"{at}.ipBlock.cidr")
        elif whole is None:
            yield invalid(f"{at}.ipBlock.cidr", block["cidr"], NO_CIDR)
        for index, text in enumerate(block.get("except") or ()):
            part = network(text)
            if part is None:
                yield invalid(f"{at}.ipBlock.except[{index}]", text, NO_CIDR)
            elif whole is not None and (
                part.version != whole.version or part == whole or not part.subnet_of(whole)  # type: ignore[arg-type]
            ):
                yield invalid(f"{at}.ipBlock.except[{index}]", text, "must be a strict subset of `cidr`")
    if block is None and not others:
        yield required(at, "must specify a peer")
    elif block is not None and others:
        yield forbidden(at, "may not specify both ipBlock and another peer")


def is_ip(text: str) -> bool:
    """Whether a text is an address of either family."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The range of addresses that a text is."""
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None
