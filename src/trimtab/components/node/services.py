"""Keeps the node's nftables table equal to what the API says: services, their endpoints, network policies.

    Services, EndpointSlices, host ports of Pods -> rules.py  \\
                                                               Table -> a delta (nft.py) -> nft, one transaction
    NetworkPolicies, Pods, Namespaces         -> policies.py  /

What the agent gives out (the address of a pod that is about to start) comes in through `PodRules`, before any status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from trimtab.api.core import Namespace, Pod, Service
from trimtab.api.networking import EndpointSlice
from trimtab.api.policies import NetworkPolicy
from trimtab.client.cache import Change
from trimtab.components.node import machine, network
from trimtab.components.node.conntrack import Address, forget_strayed
from trimtab.components.node.dns import ClusterDns
from trimtab.components.node.guard import guard, guard_table
from trimtab.components.node.host_ports import EVERY_ADDRESS, HostPort, host_ports
from trimtab.components.node.network import CommandFailed
from trimtab.components.node.nft import Table, delta, replacement
from trimtab.components.node.pod_rules import PodRules
from trimtab.components.node.policies import addresses, policy_table
from trimtab.components.node.rules import Frontend, Place, frontends, service_table
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings

GATHER_S = 0.002
"""Changes that come together are applied together."""
REFRESH_S = 300.0
"""Somebody else may have flushed all tables: look every so often, and put ours back."""

log = logging.getLogger(__name__)


async def run_services(process: Process) -> None:
    """Service addresses, network policies and cluster DNS, until cancelled."""
    await network.up(process.settings)
    dns = ClusterDns(process)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(dns.run())
            group.create_task(Rules(process).run())
    finally:
        await dns.close()


def place_of(settings: Settings) -> Place:
    """This node, as its rules see it."""
    return Place(
        name=settings.node_name,
        interfaces=settings.bridge,
        pods=settings.pod_cidr,
        cluster=settings.cluster,
        reachable=settings.reachable,
        bridge_filter=machine.bridge_filter(),
    )


class Rules:
    """The table of one node, and what of it stands."""

    def __init__(self, process: Process) -> None:
        self._settings = process.settings
        self._place = place_of(process.settings)
        self._pod_rules = process.adapter(PodRules)
        self._services = process.informer(Service)
        self._slices = process.informer(EndpointSlice)
        self._policies = process.informer(NetworkPolicy)
        self._pods = process.informer(Pod)
        self._namespaces = process.informer(Namespace)
        self._changed = asyncio.Event()
        self._services_changed = self._policies_changed = True
        self._fronts: Sequence[Frontend] = ()
        self._held: Sequence[HostPort] = ()
        self._service_part = Table({}, {})
        self._policy_part = Table({}, {})
        self._standing: Table | None = None
        self._datagrams: dict[Address, frozenset[Address]] = {}

    async def run(self) -> None:
        """Follows the API until cancelled.

        Raises:
            CommandFailed: nft refused the whole table.
        """
        informers = (self._services, self._slices, self._policies, self._pods, self._namespaces)
        ends = [
            self._services.subscribe(self._note_service),
            self._slices.subscribe(self._note_service),
            self._policies.subscribe(self._note_policy),
            self._pods.subscribe(self._note_policy),
            self._namespaces.subscribe(self._note_policy),
            self._pod_rules.subscribe(self._note_claim),
        ]
        try:
            for informer in informers:
                await informer.wait_synced()
            while True:
                self._changed.clear()
                await self._apply()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), REFRESH_S)
                if not self._changed.is_set() and not await self._stands():
                    log.warning("somebody removed our tables: they are put back")
                    await network.run("nft", "-f", "-", stdin=guard(self._settings))
                    self._standing = None
                await asyncio.sleep(GATHER_S)
        except CommandFailed as err:
            self._pod_rules.failed(str(err))
            raise
        finally:
            for end in ends:
                end()

    def _note_service(self, change: Change[Any]) -> None:
        self._services_changed = True
        self._changed.set()

    def _note_policy(self, change: Change[Any]) -> None:
        self._note_claim()

    def _note_claim(self) -> None:
        self._policies_changed = True
        self._changed.set()

    async def _apply(self) -> None:
        generation = self._pod_rules.generation
        wanted = self._wanted()
        await self._put(wanted)
        self._pod_rules.applied(generation)
        await self._forget_strayed()

    def _wanted(self) -> Table:
        if self._policies_changed:
            held = host_ports(self._pods.list(), self._pod_rules.claims, self._place.name)
            self._services_changed |= held != self._held
            self._held = held
        if self._services_changed:
            self._services_changed = False
            self._fronts = frontends(self._services.list(), self._slices.list(), self._place.name)
            self._service_part = service_table(self._place, self._fronts, self._held)
        if self._policies_changed:
            self._policies_changed = False
            policies = self._policies.list()
            pods = addresses(self._pods.list(), self._pod_rules.claims, self._place.name) if policies else []
            self._policy_part = policy_table(policies, pods, self._namespaces.list())
        return self._service_part | self._policy_part

    async def _put(self, wanted: Table) -> None:
        name = self._settings.nft_table
        text = delta(name, self._standing, wanted) if self._standing is not None else None
        if text == "":
            return
        if text is not None:
            try:
                await network.run("nft", "-f", "-", stdin=text)
                self._standing = wanted
                return
            except CommandFailed as err:
                log.warning("the table is not as we left it, and is put there anew: %s", err)
        self._standing = None
        await network.run("nft", "-f", "-", stdin=replacement(name, wanted))
        self._standing = wanted

    async def _stands(self) -> bool:
        chains = ((self._settings.nft_table, "prerouting"), (guard_table(self._settings), "input"))
        try:
            for table, chain in chains:
                await network.run("nft", "list", "chain", "ip", table, chain)
        except CommandFailed:
            return False
        return True

    async def _forget_strayed(self) -> None:
        """Ends UDP flows to endpoints that are gone."""
        now: dict[Address, frozenset[Address]] = {}
        for front in self._fronts:
            if front.protocol == "udp":
                endpoints = frozenset((b.ip, b.port) for b in (*front.backends, *(front.outside or ())))
                for address in (front.address, *front.addresses, *front.balanced):
                    now[(address, front.port)] = endpoints
        own = (network.host_address(), self._settings.gateway, "127.0.0.1")
        for held in self._held:
            if held.protocol == "udp":
                for address in own if held.host == EVERY_ADDRESS else (held.host,):
                    now[(address, held.port)] = frozenset(((held.ip, held.target),))
        suspects = {
            key: endpoints
            for key, endpoints in now.items()
            if self._datagrams.get(key, frozenset()) - endpoints or (endpoints and not self._datagrams.get(key))
        }
        suspects |= {key: frozenset() for key in self._datagrams if key not in now}
        self._datagrams = now
        if suspects:
            try:
                await asyncio.to_thread(forget_strayed, suspects)
            except OSError as err:
                log.warning("old UDP flows could not be ended: %s", err)
