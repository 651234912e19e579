"""What of a NetworkPolicy this node cannot enforce: refused when it is written, since a policy that silently does nothing is
worse than none. Pure but for one look at the kernel.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from trimtab.api import JSON
from trimtab.components.node import machine
from trimtab.runtime import Denied


def check_policy(new: JSON, old: JSON | None) -> list[str]:
    """An admission check of NetworkPolicies: returns warnings.

    Raises:
        Denied: naming the field and the fix.
    """
    if not machine.bridge_filter():
        raise Denied(
            "spec",
            "this machine's kernel does not show packets between pods to the firewall, so no policy could be enforced: "
            "load the module br_netfilter",
        )
    warnings = []
    spec: dict[str, Any] = new.get("spec") or {}
    for direction, ends in (("ingress", "from"), ("egress", "to")):
        for number, rule in enumerate(spec.get(direction) or ()):
            for index, port in enumerate(rule.get("ports") or ()):
                _check_port(f"spec.{direction}[{number}].ports[{index}]", port)
            for index, peer in enumerate(rule.get(ends) or ()):
                path = f"spec.{direction}[{number}].{ends}[{index}].ipBlock"
                block = peer.get("ipBlock") or {}
                if block and _check_block(path, block) == 6:
                    warnings.append(f"{path}: pods have no IPv6 here, so this block matches nobody")
    return warnings


def _check_port(path: str, port: JSON) -> None:
    if port.get("protocol") not in (None, "TCP", "UDP", "SCTP"):
        raise Denied(f"{path}.protocol", f'{port["protocol"]} is not supported; use "TCP", "UDP" or "SCTP"')
    first, last = port.get("port"), port.get("endPort")
    if isinstance(first, int) and not 1 <= first <= 65535:
        raise Denied(f"{path}.port", f"{first} is no port; use 1 to 65535, or a container port's name")
    if last is not None and not (isinstance(first, int) and first <= last <= 65535):
        raise Denied(f"{path}.endPort", f"{last} needs a number as port that is not above it, and is at most 65535")


def _check_block(path: str, block: dict[str, Any]) -> int:
    whole = _network(f"{path}.cidr", str(block.get("cidr", "")))
    for number, text in enumerate(block.get("except") or ()):
        hole = _network(f"{path}.except[{number}]", str(text))
        if hole.version != whole.version or not hole.subnet_of(whole):  # type: ignore[arg-type]
            raise Denied(f"{path}.except[{number}]", f"{text} is not within {block['cidr']}; leave it out")
    return whole.version


def _network(path: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Denied(path, f"{text!r} is no address range; write one like 10.0.0.0/8") from None
