"""The host's own resolvers, and what a pod's resolv.conf says because of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from trimtab.components.node import machine
from trimtab.components.node.configs import NodeFacts, Resolver
from trimtab.components.node.network import PodNetwork
from trimtab.runtime.settings import Settings

RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
"""The first that exists: where systemd-resolved runs, /etc/resolv.conf names its stub on loopback, which no pod reaches."""
SEARCHES_MAX = 3


def host_resolver() -> Resolver:
    """Servers, search domains and options of the host."""
    path = next((p for p in RESOLV_CONF if p.exists()), None)
    servers, searches, options = [], [], []
    for line in path.read_text().splitlines() if path is not None else ():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and _usable(words[1]):
            servers.append(words[1])
        elif words[0] == "search":
            searches = [word for word in words[1:] if word != "."]
        elif words[0] == "options":
            options = words[1:]
    return Resolver(tuple(servers), tuple(searches), tuple(options))


def _usable(address: str) -> bool:
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return True


def facts_for(settings: Settings) -> Callable[[str], NodeFacts]:
    """What the pod with a uid is configured with, the host's resolvers being read anew each time."""
    gateway = PodNetwork.of(settings).gateway

    def facts(uid: str) -> NodeFacts:
        host = host_resolver()
        return NodeFacts(
            cgroup_parent=machine.cgroups().parent(settings.cgroup, uid),
            cluster_dns=Resolver((gateway,), host.searches[:SEARCHES_MAX]),
            host_dns=host,
            cluster_domain=settings.cluster_domain,
            profiles=settings.data_path("node", "seccomp"),
        )

    return facts
