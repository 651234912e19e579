"""Keeps the nftables table of this node equal to what Services and EndpointSlices say: one atomic replacement a change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from trimtab.api.core import Service
from trimtab.api.networking import EndpointSlice
from trimtab.client.cache import Change
from trimtab.components.node import machine, network
from trimtab.components.node.dns import ClusterDns
from trimtab.components.node.rules import frontends, ruleset
from trimtab.runtime.process import Process

GATHER_S = 0.002
"""Changes that come together are applied together."""
REFRESH_S = 300.0
"""Somebody else may have flushed all tables: put ours back every so often."""

log = logging.getLogger(__name__)


async def run_services(process: Process) -> None:
    """Service addresses and cluster DNS, until cancelled."""
    await network.up(process.settings)
    dns = ClusterDns(process)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(dns.run())
            group.create_task(_keep_rules(process))
    finally:
        await dns.close()


async def _keep_rules(process: Process) -> None:
    services, slices = process.informer(Service), process.informer(EndpointSlice)
    changed = asyncio.Event()

    def note(change: Change[Any]) -> None:
        changed.set()

    ends = [services.subscribe(note), slices.subscribe(note)]
    applied = ""
    try:
        await services.wait_synced()
        await slices.wait_synced()
        while True:
            changed.clear()
            settings = process.settings
            text = ruleset(
                settings.nft_table,
                settings.bridge,
                settings.pod_cidr,
                frontends(services.list(), slices.list()),
                bridge_filter=machine.bridge_filter(),
            )
            if text != applied:
                await network.run("nft", "-f", "-", stdin=text)
                applied = text
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), REFRESH_S)
            if not changed.is_set():
                applied = ""
            await asyncio.sleep(GATHER_S)
    finally:
        for end in ends:
            end()
