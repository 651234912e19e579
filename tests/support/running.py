"""Components running in simulated time on the real API server, for tests that look at one behaviour at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from simulated_api import SimulatedApi, make_api
from trimtab.api import JSON, ObjectMeta, Resource
from trimtab.api.core import Namespace
from trimtab.client import Client
from trimtab.runtime.component import Component
from trimtab.runtime.conditions import live_conditions
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.faults import NO_FAULTS, FaultyTransport
from trimtab.runtime.journal import Journal
from trimtab.runtime.journal_read import JournalReader
from trimtab.runtime.life import simulated_settings
from trimtab.runtime.ownership import SYSTEM_NAMESPACE
from trimtab.runtime.process import RUNTIME_KINDS, Process
from trimtab.runtime.simulation import SimulatedClock

K = TypeVar("K", bound=Resource)


class Running:
    def __init__(
        self, api: SimulatedApi, process: Process, transport: FaultyTransport, task: asyncio.Task[None]
    ) -> None:
        self.api = api
        self.process = process
        self.transport = transport
        self.client = Client(api.transport())
        self.journal = JournalReader(process.journal.database)
        self._task = task

    async def settle(self, for_s: float = 2.0) -> None:
        """Lets simulated time pass; a process that ended by itself is an error."""
        await asyncio.wait([self._task], timeout=for_s)
        if self._task.done():
            await self._task
            raise AssertionError("the process ended")

    async def apply(self, obj: K) -> K:
        return await self.client.apply(obj, manager="user")

    async def get(self, kind: type[K], name: str, namespace: str | None = "default") -> K | None:
        return await self.client.get(kind, name, namespace if kind.resource_type.namespaced else None)

    async def raw(self, kind: type[Resource], name: str, namespace: str | None = "default") -> JSON:
        found = await self.client.wire.get(kind.resource_type, name, namespace)
        assert found is not None
        return found

    async def names(self, kind: type[Resource], namespace: str | None = "default") -> list[str]:
        return sorted(obj.name for obj in (await self.client.list(kind, namespace)).items)

    async def condition(self, obj: Resource, type: str) -> tuple[str, str, str] | None:
        """(status, reason, message) of a condition of the live object."""
        live = await self.get(obj.__class__, obj.name, obj.namespace)
        assert live is not None
        for condition in live_conditions(live):
            if condition.type == type:
                return condition.status, condition.reason, condition.message
        return None

    def writes(self) -> list[str]:
        """What the process has sent besides GETs so far."""
        return list(self.transport.writes)


@asynccontextmanager
async def running(
    clock: SimulatedClock,
    *components: Component,
    adapters: Mapping[type, Any] | None = None,
    kinds: tuple[type[Resource], ...] = (),
    namespaces: tuple[str, ...] = (),
    events: bool = False,
) -> AsyncIterator[Running]:
    api = await make_api(clock)
    admin = Client(api.transport())
    await ensure_crds(admin, [*RUNTIME_KINDS, *(kind for c in components for kind in c.kinds), *kinds])
    for name in (SYSTEM_NAMESPACE, *namespaces):
        await admin.apply(Namespace(metadata=ObjectMeta(name=name)), manager="user")
    transport = FaultyTransport(api.transport(), random.Random(0), NO_FAULTS)
    process = Process(
        client=Client(transport),
        journal=Journal(None),
        settings=simulated_settings(),
        adapters=adapters,
        clock=clock,
        components=components,
        events=events,
    )
    task = asyncio.get_running_loop().create_task(process.run(), name="process")
    try:
        yield Running(api, process, transport, task)
    finally:
        task.cancel()
        await asyncio.wait([task])
        process.journal.close()
        await api.close()
