"""Services of type LoadBalancer on one machine: the load balancer is the machine, and its address the service's.

    Services -> assign() -> status.loadBalancer -> rules.py: address and port lead to the endpoints

Each port of the machine belongs to one service: the eldest that asks for it, and none where a program of the machine
listens. Whoever goes without is told so in a condition, and gets the port when it is free. A service with a
`loadBalancerClass` belongs to somebody else. From other machines such an address is reached only if the engine listens beyond
loopback, as its ingress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from trimtab.api import Condition
from trimtab.api.core import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus
from trimtab.client.cache import Change
from trimtab.components.node.network import host_address
from trimtab.runtime.process import Process

MANAGER = "node-balancer"
PORTS_ERROR = "LoadBalancerPortsError"
"""Kubernetes' own name for this condition of a Service."""
REASONS = {
    "PortInUse": "A port of a Service of type LoadBalancer is taken on this machine; the message says by whom. It gets the "
    "machine's address when the port is free."
}
LISTEN = "0A"
RETRY_S = 30.0
"""A program that listens on a wanted port may end; nobody tells us."""

Key = tuple[str, str]


def assign(services: Iterable[Service], address: str, taken: frozenset[int]) -> dict[Key, tuple[bool, str]]:
    """For each service of type LoadBalancer: whether it has the address, and if not, why.

    taken: TCP ports that programs of this machine listen on. A service that has the address already keeps it.
    """
    owners: dict[tuple[str, int], str] = {}
    out: dict[Key, tuple[bool, str]] = {}
    epoch = datetime.min.replace(tzinfo=UTC)

    def has(service: Service) -> bool:
        return any(ingress.ip == address for ingress in service.status.load_balancer.ingress)

    wanting = [s for s in services if s.spec.type == "LoadBalancer" and not s.spec.load_balancer_class]
    for service in sorted(
        wanting, key=lambda s: (not has(s), s.metadata.creation_timestamp or epoch, s.namespace or "", s.name)
    ):
        key = (service.namespace or "", service.name)
        ports = [(port.protocol, port.port) for port in service.spec.ports]
        problem = next((f"port {n} is service {owners[p, n]}'s" for p, n in ports if (p, n) in owners), "")
        if not problem and not has(service):
            problem = next(
                (f"a program of this machine listens on port {n}" for p, n in ports if p == "TCP" and n in taken), ""
            )
        if problem:
            out[key] = (False, f"{problem}: choose another port, or use an Ingress")
            continue
        owners.update(dict.fromkeys(ports, "/".join(key)))
        out[key] = (True, "")
    return out


def listening(address: str, tables: Iterable[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> frozenset[int]:
    """The TCP ports that programs listen on, on every address or on this one."""
    own = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    found = set()
    for table in tables:
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            ip, _, port = fields[1].partition(":")
            if fields[3] == LISTEN and (not ip.strip("0") or ip == own):
                found.add(int(port, 16))
    return frozenset(found)


def status_for(service: Service, address: str, decided: tuple[bool, str] | None, now: datetime) -> ServiceStatus:
    """The status that the service should have of us."""
    if decided is None:
        return ServiceStatus()
    granted, problem = decided
    if granted:
        return ServiceStatus(load_balancer=LoadBalancerStatus(ingress=[LoadBalancerIngress(ip=address)]))
    condition = Condition(type=PORTS_ERROR, status="True", reason="PortInUse", message=problem)
    before = next((c for c in service.status.conditions if c.type == PORTS_ERROR), None)
    condition.last_transition_time = before.last_transition_time if before is not None else now
    return ServiceStatus(conditions=[condition])


def _ours(status: ServiceStatus) -> tuple[list[str | None], list[tuple[str, str]]]:
    return (
        [ingress.ip for ingress in status.load_balancer.ingress],
        [(c.reason, c.message) for c in status.conditions if c.type == PORTS_ERROR],
    )


async def run_balancer(process: Process) -> None:
    """Gives services of type LoadBalancer this machine's address, until cancelled. Of several nodes on the machine the first
    does it: the others' addresses are known to nobody outside."""
    if process.settings.node_name in process.settings.nodes:
        await asyncio.Event().wait()
    services = process.informer(Service)
    changed = asyncio.Event()

    def note(change: Change[Any]) -> None:
        changed.set()

    end = services.subscribe(note)
    try:
        await services.wait_synced()
        while True:
            changed.clear()
            waiting = await _give(process, services.list())
            try:
                await asyncio.wait_for(changed.wait(), RETRY_S if waiting else None)
            except TimeoutError:
                continue
    finally:
        end()


async def _give(process: Process, services: Iterable[Service]) -> bool:
    """Writes what differs; whether somebody goes without."""
    wanting = [s for s in services if s.spec.type == "LoadBalancer" or _ours(s.status) != ([], [])]
    if not wanting:
        return False
    address = host_address()
    decisions: Mapping[Key, tuple[bool, str]] = assign(wanting, address, listening(address))
    for service in wanting:
        if service.spec.load_balancer_class and service.spec.type == "LoadBalancer":
            continue
        wanted = status_for(service, address, decisions.get((service.namespace or "", service.name)), datetime.now(UTC))
        if _ours(service.status) != _ours(wanted):
            kind = Service.resource_type
            body = {
                "apiVersion": kind.api_version,
                "kind": kind.kind,
                "metadata": {"name": service.name, "namespace": service.namespace},
                "status": to_builtins(wanted),
            }
            await process.client.wire.apply(kind, body, manager=MANAGER, subresource="status")
    return any(not granted for granted, _ in decisions.values())
