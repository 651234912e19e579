"""The wire between a further node and this machine: one pair of interfaces and the routes over it.

    node: default route --uplink--> host: a route to the node's pods; the host forwards between nodes, to services' endpoints,
                                          and (translated by the host's own rules) to the world outside

The names of both ends begin like the bridge, `tt-ID`, which is how every rule of the engine knows its own interfaces.
Addresses are those that `Settings.uplink` gives. Only plain values here: a node's process 1 reads this without any library.
"""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Run = Callable[..., None]


def outside(run: Run, wire: dict[str, Any], pid: int) -> None:
    """Makes the wire, with its far end in the network namespace of `pid`, and the routes on this side."""
    run("ip", "link", "add", wire["host_if"], "type", "veth", "peer", "name", wire["node_if"], "netns", str(pid))
    run("ip", "address", "add", f"{wire['host_ip']}/30", "dev", wire["host_if"])
    run("ip", "link", "set", wire["host_if"], "up")
    run("ip", "route", "replace", wire["pods"], "via", wire["node_ip"], "dev", wire["host_if"], "src", wire["host_ip"])
    # A node port on the host's loopback leads to pods of this node, too; the guard keeps them from loopback.
    for name in ("ip_forward", f"conf/{wire['host_if']}/route_localnet"):
        with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as file:
            file.write("1")


def inside(run: Run, wire: dict[str, Any]) -> None:
    """Gives the far end its address and the node its default route."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{wire['node_ip']}/30", "dev", wire["node_if"])
    run("ip", "link", "set", wire["node_if"], "up")
    run("ip", "route", "add", "default", "via", wire["host_ip"])


def cut(run: Run, wire: dict[str, Any]) -> None:
    """A partition: the wire is down, the routes over it stay away until `mend`."""
    run("ip", "link", "set", wire["host_if"], "down")


def mend(run: Run, wire: dict[str, Any]) -> None:
    """Ends a partition."""
    run("ip", "link", "set", wire["host_if"], "up")
    run("ip", "route", "replace", wire["pods"], "via", wire["node_ip"], "dev", wire["host_if"], "src", wire["host_ip"])
