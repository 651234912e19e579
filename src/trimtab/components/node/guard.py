"""What stands before the bridge has an address, and as long as it stands: rules that follow from the settings alone.

A bridge makes this machine a router, and an address on it makes what listens there reachable from every network that the
machine is on. The guard keeps apart: pods cannot reach the machine's loopback (which node ports on loopback would open),
the world outside reaches neither the API on the gateway's address nor, unless the engine listens beyond loopback, pods.
IPv6 between pods is dropped: pods have no IPv6 addresses but link-local ones, which no policy could judge.
"""

from __future__ import annotations

from trimtab.runtime.settings import Settings


def guard_table(settings: Settings) -> str:
    """The name of the two tables (IPv4 and IPv6)."""
    return f"{settings.nft_table}-guard"


def guard(settings: Settings) -> str:
    """The text for `nft -f -` that puts the guard there, or puts it right. Atomic."""
    name, ours = guard_table(settings), f'"{settings.bridge}*"'
    lines = [
        f"add table ip {name}",
        f"delete table ip {name}",
        f"table ip {name} {{",
        "chain loopback {",
        "type filter hook prerouting priority raw; policy accept;",
        f"iifname {ours} ip daddr 127.0.0.0/8 drop",
        "}",
        "chain input {",
        "type filter hook input priority filter; policy accept;",
        f'iifname != "lo" iifname != {ours} ip daddr {settings.gateway} drop',
        "}",
    ]
    if not settings.reachable:
        lines += [
            "chain forward {",
            "type filter hook forward priority -20; policy accept;",
            f"iifname != {ours} ip daddr {settings.cluster} ct state new drop",
            "}",
        ]
    lines += [
        "}",
        f"add table ip6 {name}",
        f"delete table ip6 {name}",
        f"table ip6 {name} {{",
        "chain forward {",
        "type filter hook forward priority -20; policy accept;",
        f"iifname {ours} drop",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"
