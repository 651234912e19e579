"""The service of the node agent: what the API says about profiling goes to the measurer, what that tells wakes the reconciler.

    Profiler default --> want()    Pods --> contain()    tells() --> the Profiler's reconciler

Both come as events of caches that this process has anyway; nothing is asked for twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trimtab.api import Ref
from trimtab.api.core import Pod
from trimtab.components.profiling.kinds import DEFAULT, GROUP_VERSION, Profiler, ProfilerSpec
from trimtab.components.profiling.measurer import Measurer, Order, containers_of
from trimtab.components.profiling.reconcile import profiler
from trimtab.components.profiling.terms import seconds, size_bytes
from trimtab.runtime.process import Process

SUBJECT = Ref(GROUP_VERSION, "Profiler", None, DEFAULT)
GATHER_S = 0.05
"""Changes of pods come in bursts: what the last one leaves is told."""


async def measure(process: Process) -> None:
    """Until cancelled."""
    measurer = process.adapter(Measurer)  # type: ignore[type-abstract]
    if not measurer.is_here:
        await asyncio.Event().wait()
    controllers = [c for c in process.controllers if c.reconciler is profiler]

    def changed(why: str) -> None:
        for controller in controllers:
            controller.wake(SUBJECT, why)

    measurer.tells(changed)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(measurer.run())
            group.create_task(_follow(process, measurer))
    finally:
        measurer.tells(lambda why: None)


async def _follow(process: Process, measurer: Measurer) -> None:
    profilers, pods = process.informer(Profiler), process.informer(Pod)
    news = asyncio.Event()

    def note(change: Any) -> None:
        news.set()

    unsubscribe = [profilers.subscribe(note), pods.subscribe(note)]
    try:
        await profilers.wait_synced()
        await pods.wait_synced()
        while True:
            news.clear()
            wanted = next(
                (p for p in profilers.list() if p.name == DEFAULT and not p.metadata.deletion_timestamp), None
            )
            if wanted is not None:
                measurer.contain(containers_of(list(pods.list())))
            measurer.want(order_of(wanted.spec) if wanted is not None else None)
            await news.wait()
            await asyncio.sleep(GATHER_S)
    finally:
        for stop in unsubscribe:
            stop()


def order_of(spec: ProfilerSpec) -> Order:
    """What a Profiler asks for. Its texts were checked when it was written."""
    return Order(
        hz=spec.hz,
        types=tuple(dict.fromkeys(spec.types)),
        cpu_percent=spec.budget.cpu_percent,
        memory_bytes=size_bytes(spec.budget.memory),
        retention_s=seconds(spec.retention),
        disk_bytes=size_bytes(spec.max_disk),
        scrape=tuple((s.url, seconds(s.interval), tuple(sorted(s.labels.items()))) for s in spec.scrape),
        debuginfod_urls=tuple(spec.debuginfod.urls),
        debuginfod_listen=spec.debuginfod.listen,
    )
