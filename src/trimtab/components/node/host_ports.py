"""Ports of the node that lead to a pod's container: `hostPort`, by the same rules as node ports. Pure.

    pods of this node -> host_ports -> rules.py: prerouting, output -> the pod
    a new pod         -> taken      -> reconcile.py: another pod has the port, so it fails, as in Kubernetes
                      -> conflict   -> agent.py: it does not start while a program of the machine has the port

From other machines they are reached only if the engine listens beyond loopback, as everything of the node's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.api.core import Container, ContainerPort, Pod

EVERY_ADDRESS = "0.0.0.0"
FINISHED = ("Succeeded", "Failed")
LISTENS = {"tcp": "0A", "udp": "07"}
"""The kernel's word, in /proc/net, for a socket to which anybody may send."""


@dataclass(frozen=True, order=True)
class HostPort:
    """A port of this node. host: one address of the node, or every one."""

    host: str
    protocol: str
    port: int
    ip: str
    target: int
    name: str
    """The pod, for the comment: `shop/web`."""

    def clashes(self, host: str, protocol: str, port: int) -> bool:
        """Whether somebody else could not have this port."""
        if (self.protocol, self.port) != (protocol, port):
            return False
        return self.host == host or EVERY_ADDRESS in (self.host, host)


def host_ports(pods: Iterable[Pod], claims: Mapping[str, str], node: str) -> tuple[HostPort, ...]:
    """What the pods of a node that have an address of their own ask for. claims: uid -> address, newer than any status."""
    found: set[HostPort] = set()
    for pod in pods:
        ip = claims.get(pod.metadata.uid) or pod.status.pod_ip
        if pod.spec.node_name == node and ip and not pod.spec.host_network and pod.status.phase not in FINISHED:
            found.update(_asked(pod, ip))
    return tuple(sorted(found))


def _asked(pod: Pod, ip: str) -> Iterator[HostPort]:
    for port in _ports(pod):
        if port.host_port:
            host = port.host_ip or EVERY_ADDRESS
            name = f"{pod.namespace}/{pod.name}"
            yield HostPort(host, port.protocol.lower(), port.host_port, ip, port.container_port, name)


def _ports(pod: Pod) -> Iterator[ContainerPort]:
    sidecars: list[Container] = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    for container in (*pod.spec.containers, *sidecars):
        yield from container.ports


def asks_for_ports(pod: Pod) -> bool:
    """Whether the pod asks for a port of the node."""
    return not pod.spec.host_network and any(port.host_port for port in _ports(pod))


def taken(pod: Pod, others: Iterable[Pod]) -> str:
    """Which other pod has a host port of this one, in words, or "". others: pods that run on this node."""
    wanted = list(_asked(pod, ""))
    if pod.spec.host_network or not wanted:
        return ""
    for other in others:
        held = _asked(other, "") if not other.spec.host_network else _own_ports(other)
        for port in held:
            if any(one.clashes(port.host, port.protocol, port.port) for one in wanted):
                return f"port {port.port}/{port.protocol.upper()} of this node is taken by pod {port.name}"
    return ""


def conflict(pod: Pod, others: Iterable[Pod], listening: Mapping[str, frozenset[tuple[str, int]]]) -> str:
    """Why a pod cannot have its host ports now, or "".

    others: pods that run on this node. listening: by protocol, address and port of this node's programs.
    """
    if pod.spec.host_network:
        return ""
    if said := taken(pod, others):
        return said
    for one in _asked(pod, ""):
        for host, number in listening.get(one.protocol, ()):
            if one.clashes(host, one.protocol, number):
                return (
                    f"a program of this machine listens on port {one.port}/{one.protocol.upper()}: "
                    "choose another hostPort, or use a Service"
                )
    return ""


def _own_ports(pod: Pod) -> Iterator[HostPort]:
    """The ports that a pod on the node's network says it listens on."""
    for port in _ports(pod):
        host = port.host_ip or EVERY_ADDRESS
        name = f"{pod.namespace}/{pod.name}"
        yield HostPort(host, port.protocol.lower(), port.container_port, "", port.container_port, name)


def listening(proc_net: Path = Path("/proc/self/net")) -> dict[str, frozenset[tuple[str, int]]]:
    """By protocol: the addresses and ports on which programs of this network wait for anybody."""
    return {protocol: frozenset(_listening(proc_net, protocol, word)) for protocol, word in LISTENS.items()}


def _listening(proc_net: Path, protocol: str, word: str) -> Iterator[tuple[str, int]]:
    for name in (protocol, f"{protocol}6"):
        table = proc_net / name
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            address, _, port = fields[1].partition(":")
            anybody = fields[2].endswith(":0000")
            if fields[3] == word and anybody and (host := _address(address)) is not None:
                yield host, int(port, 16)


def _address(text: str) -> str | None:
    """An IPv4 address as the kernel prints it (each word in the machine's order); None for one of IPv6 alone."""
    if not text.strip("0"):
        return EVERY_ADDRESS
    if len(text) == 8:
        return ".".join(str(byte) for byte in reversed(bytes.fromhex(text)))
    mapped = text.startswith("0000000000000000FFFF0000")
    return _address(text[-8:]) if mapped else None
