"""The node agent's services: what runs for as long as the agent does.

pods       network and registry up, then containerd's events; pods that the API knows no more are removed
node       the Node object and its Lease
services   addresses of Services in nftables, cluster DNS
streams    logs, exec, attach and port-forward for the API server
upkeep     log rotation
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from trimtab.api import Ref
from trimtab.api.core import Pod, Service
from trimtab.client.cache import Change
from trimtab.components.node import network
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.reconcile import run_pod
from trimtab.components.node.registry import LocalRegistry
from trimtab.components.node.sandboxes import RuntimeFailure
from trimtab.components.node.tokens import TokenRequests
from trimtab.components.node.volumes import VolumeProblem
from trimtab.runtime.process import Process

ORPHAN_RETRY_S = 2.0
ORPHANS_AT_ONCE = 4

log = logging.getLogger(__name__)


async def run_pods(process: Process) -> None:
    """Keeps the agent's picture of the node current, and removes what belongs to no pod any more."""
    agent = process.adapter(NodeAgent)
    process.adapter(TokenRequests).client = process.client
    await network.up(process.settings)
    registry = LocalRegistry(process.settings)
    await registry.start()
    try:
        await follow(process, agent)
    finally:
        await registry.close()


async def follow(process: Process, agent: NodeAgent) -> None:
    """Follows the runtime, wakes pods, removes orphans; until cancelled."""
    services = process.informer(Service)
    await services.wait_synced()
    agent.services, agent.pods = services.list, process.informer(Pod).list
    async with woken(process, agent), asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        group.create_task(remove_orphans(process, agent))


@contextlib.asynccontextmanager
async def woken(process: Process, agent: NodeAgent) -> AsyncIterator[None]:
    """Lets the agent wake the pods' reconciler."""
    controllers = [c for c in process.controllers if c.reconciler is run_pod]

    def wake(ref: Ref, why: str) -> None:
        for controller in controllers:
            controller.wake(ref, why)

    agent.wakes(wake)
    try:
        yield
    finally:
        agent.wakes(lambda ref, why: None)


async def remove_orphans(process: Process, agent: NodeAgent) -> None:
    """Removes containers whose pod is gone from the API: at the start, and whenever a pod is removed without us."""
    pods = process.informer(Pod)
    again = asyncio.Event()

    def gone(change: Change[Any]) -> None:
        old, new = change.old, change.new
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            again.set()

    unsubscribe = pods.subscribe(gone)
    try:
        await pods.wait_synced()
        while True:
            again.clear()
            if not agent.connected or not await _remove_all(process, agent):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(again.wait(), ORPHAN_RETRY_S)
                continue
            await again.wait()
    finally:
        unsubscribe()


async def _remove_all(process: Process, agent: NodeAgent) -> bool:
    """Removes every orphan; False when one could not be (yet)."""
    pods = process.informer(Pod)
    living = {pod.metadata.uid for pod in pods.list() if pod.spec.node_name == agent.node.name}
    limit = asyncio.Semaphore(ORPHANS_AT_ONCE)

    async def remove(uid: str) -> bool:
        async with limit:
            try:
                await agent.remove_orphan(uid)
            except (RuntimeFailure, VolumeProblem, OSError) as err:
                log.warning("the remains of pod %s could not be removed, tried again: %s", uid, err)
                return False
            return True

    return all(await asyncio.gather(*(remove(uid) for uid in sorted(agent.known_uids() - living) if uid)))
