"""What Kubernetes refuses in the ports, resolver, host aliases and kernel parameters of a pod."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from trimtab.api import JSON
from trimtab.server.errors import Cause
from trimtab.server.problems import duplicate, invalid, required

NAMESERVERS_MAX = 3
SEARCHES_MAX = 32
SEARCHES_LENGTH_MAX = 2048
PORT_MAX = 65535
SYSCTL_LENGTH_MAX = 253
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")


def network_problems(spec: JSON, path: str) -> Iterator[Cause]:
    """What is wrong; `path` is that of the spec."""
    yield from _dns(spec, path)
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        if not _is_ip(alias.get("ip") or ""):
            yield _no_ip(f"{path}.hostAliases[{index}].ip", alias.get("ip"))
    yield from _sysctls(spec, path)
    together: set[str] = set()
    for name in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(name) or ()):
            # Those that run one after the other have the host's ports each for itself.
            taken = together if name == "containers" else set[str]()
            for number, port in enumerate(container.get("ports") or ()):
                same = name == "containers" and bool(spec.get("hostNetwork"))
                yield from _port(port, f"{path}.{name}[{index}].ports[{number}]", same, taken)


def _sysctls(spec: JSON, path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, sysctl in enumerate((spec.get("securityContext") or {}).get("sysctls") or ()):
        at, name = f"{path}.securityContext.sysctls[{index}].name", sysctl.get("name") or ""
        if not name:
            yield required(at)
        elif len(name) > SYSCTL_LENGTH_MAX or not _SYSCTL.fullmatch(name):
            yield invalid(
                at, name, f"must have at most {SYSCTL_LENGTH_MAX} characters and match regex ^{_SYSCTL.pattern}$"
            )
        elif name in seen:
            yield duplicate(at, name)
        seen.add(name)


def _port(port: JSON, at: str, same: bool, taken: set[str]) -> Iterator[Cause]:
    for field in ("containerPort", "hostPort"):
        value = port.get(field)
        if field == "containerPort" and not value:
            yield Cause(f"{at}.{field}", "Required value", "FieldValueRequired")
        elif value is not None and not (1 <= value <= PORT_MAX or (field == "hostPort" and value == 0)):
            yield Cause(f"{at}.{field}", f"Invalid value: {value}: must be between 1 and {PORT_MAX}, inclusive")
    host = port.get("hostPort")
    if not host:
        return
    if same and host != port.get("containerPort"):
        yield Cause(f"{at}.hostPort", f"Invalid value: {host}: must match `containerPort` when `hostNetwork` is true")
    if port.get("hostIP") and not _is_ip(port["hostIP"]):
        yield _no_ip(f"{at}.hostIP", port["hostIP"])
    key = f"{port.get('protocol')}/{port.get('hostIP') or ''}/{host}"
    if key in taken:
        yield Cause(f"{at}.hostPort", f'Duplicate value: "{key}"', "FieldValueDuplicate")
    taken.add(key)


def _dns(spec: JSON, path: str) -> Iterator[Cause]:
    config = spec.get("dnsConfig") or {}
    servers, searches = config.get("nameservers") or (), config.get("searches") or ()
    at = f"{path}.dnsConfig"
    if spec.get("dnsPolicy") == "None" and not servers:
        text = "Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"
        yield Cause(f"{at}.nameservers", text, "FieldValueRequired")
    if len(servers) > NAMESERVERS_MAX:
        text = f"Invalid value: must not have more than {NAMESERVERS_MAX} nameservers"
        yield Cause(f"{at}.nameservers", text)
    for index, server in enumerate(servers):
        if not _is_ip(server):
            yield _no_ip(f"{at}.nameservers[{index}]", server)
    if len(searches) > SEARCHES_MAX or len(" ".join(searches)) > SEARCHES_LENGTH_MAX:
        text = f"must not have more than {SEARCHES_MAX} search paths or {SEARCHES_LENGTH_MAX} characters"
        yield Cause(f"{at}.searches", f"Invalid value: {text}")
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            yield Cause(f"{at}.options[{index}]", "Required value: must not be empty", "FieldValueRequired")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _no_ip(at: str, value: object) -> Cause:
    return Cause(at, f'Invalid value: "{value}": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)')
