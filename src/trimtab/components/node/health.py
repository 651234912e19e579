"""Watching running containers: one task a container runs its probes in Kubernetes' order and keeps the verdict.

    postStart hook -> startup probe until it succeeds -> liveness and readiness side by side

Each change of a verdict wakes the pod. Until a startup or readiness probe first succeeds it is asked more often than its
period says (0.1 s, 0.2 s ... the period), so that a pod is ready when it is, not up to ten seconds later; only attempts a
period apart count as failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from trimtab.api.core import Probe
from trimtab.components.node.decide import Health
from trimtab.components.node.probes import Answer, Handler, Target

PERIOD_S, TIMEOUT_S, FAILURES = 10, 1, 3
"""The API's defaults of a probe."""
EAGER_FIRST_S = 0.1
HOOK_TIMEOUT_S = 120.0


class Asker(Protocol):
    """Makes one attempt of a probe."""

    async def __call__(self, handler: Handler, target: Target, timeout_s: float) -> Answer: ...


@dataclass
class Watched:
    """The verdict on one running container, and the task that keeps it."""

    health: Health
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class HealthWatch:
    """All watched containers of the node. `changed(container_id)` is called when a verdict changes."""

    def __init__(self, ask: Asker, changed: Callable[[str], None]) -> None:
        self._ask = ask
        self._changed = changed
        self._watched: dict[str, Watched] = {}

    def verdicts(self) -> dict[str, Health]:
        return {ident: watched.health for ident, watched in self._watched.items()}

    def verdict(self, container_id: str) -> Health | None:
        watched = self._watched.get(container_id)
        return watched.health if watched is not None else None

    def watch(self, target: Target, *, fresh: bool, was_ready: bool) -> None:
        """Begins to watch a running container. fresh: it was just started, so its postStart hook runs; an adopted one
        keeps the verdict it had."""
        if target.container_id in self._watched:
            return
        container = target.container
        hook = container.lifecycle is not None and container.lifecycle.post_start is not None and fresh
        started = (
            container.startup_probe is None and not hook if fresh else was_ready or container.startup_probe is None
        )
        ready = container.readiness_probe is None if fresh else was_ready or container.readiness_probe is None
        watched = self._watched[target.container_id] = Watched(Health(started=started, ready=ready))
        needed = hook or container.startup_probe or container.liveness_probe or container.readiness_probe
        if needed:
            loop = asyncio.get_running_loop()
            name = f"health {container.name} {target.container_id[:12]}"
            watched.tasks.append(loop.create_task(self._run(target, watched, hook=hook), name=name))

    def forget(self, container_id: str) -> None:
        """The container has ended or is about to be stopped for good."""
        watched = self._watched.pop(container_id, None)
        if watched is not None:
            for task in watched.tasks:
                task.cancel()

    async def close(self) -> None:
        tasks = [task for watched in self._watched.values() for task in watched.tasks]
        for ident in list(self._watched):
            self.forget(ident)
        if tasks:
            await asyncio.wait(tasks)

    def _set(self, target: Target, watched: Watched, **changes: object) -> None:
        after = replace(watched.health, **changes)  # type: ignore[arg-type]
        if after != watched.health:
            watched.health = after
            self._changed(target.container_id)

    # One container

    async def _run(self, target: Target, watched: Watched, *, hook: bool) -> None:
        container = target.container
        if hook and not await self._post_start(target, watched):
            return
        startup = container.startup_probe
        if startup is not None and not watched.health.started and not await self._startup(target, watched, startup):
            return
        self._set(target, watched, started=True)
        async with asyncio.TaskGroup() as group:
            if container.readiness_probe is not None:
                group.create_task(self._readiness(target, watched, container.readiness_probe))
            if container.liveness_probe is not None:
                group.create_task(self._liveness(target, watched, container.liveness_probe))

    async def _post_start(self, target: Target, watched: Watched) -> bool:
        assert target.container.lifecycle is not None
        handler = target.container.lifecycle.post_start
        assert handler is not None
        answer = await self._ask(handler, target, HOOK_TIMEOUT_S)
        if not answer.ok:
            self._set(target, watched, failed=f"its postStart hook failed: {answer.why}")
        return answer.ok

    async def _startup(self, target: Target, watched: Watched, probe: Probe) -> bool:
        failures = 0
        async for counts in _attempts(probe, eager=True):
            answer = await self._attempt(probe, target)
            if answer.ok:
                return True
            failures += counts
            if failures >= (probe.failure_threshold or FAILURES):
                self._set(target, watched, failed=f"its startup probe failed {failures} times: {answer.why}")
                return False
        return False

    async def _readiness(self, target: Target, watched: Watched, probe: Probe) -> None:
        failures = successes = 0
        came = asyncio.Event()
        async for _ in _attempts(probe, eager=not watched.health.ready, until=came.is_set):
            answer = await self._attempt(probe, target)
            successes, failures = (successes + 1, 0) if answer.ok else (0, failures + 1)
            if answer.ok and successes >= (probe.success_threshold or 1):
                came.set()
                self._set(target, watched, ready=True)
            elif failures >= (probe.failure_threshold or FAILURES):
                self._set(target, watched, ready=False)

    async def _liveness(self, target: Target, watched: Watched, probe: Probe) -> None:
        failures = 0
        async for _ in _attempts(probe, eager=False):
            answer = await self._attempt(probe, target)
            failures = 0 if answer.ok else failures + 1
            if failures >= (probe.failure_threshold or FAILURES):
                self._set(target, watched, failed=f"its liveness probe failed {failures} times: {answer.why}")
                return

    async def _attempt(self, probe: Probe, target: Target) -> Answer:
        return await self._ask(probe, target, float(probe.timeout_seconds or TIMEOUT_S))


async def _attempts(probe: Probe, *, eager: bool, until: Callable[[], bool] = lambda: False) -> AsyncIterator[bool]:
    """Yields when an attempt is due: whether it counts as one of the period (eager ones in between do not)."""
    period_s = float(probe.period_seconds or PERIOD_S)
    await asyncio.sleep(float(probe.initial_delay_seconds or 0))
    loop = asyncio.get_running_loop()
    counted_at = loop.time() - period_s
    delay_s = EAGER_FIRST_S
    while True:
        counts = loop.time() - counted_at >= period_s * 0.999
        if counts:
            counted_at = loop.time()
        yield counts
        if eager and not until():
            await asyncio.sleep(min(delay_s, period_s))
            delay_s = min(delay_s * 2, period_s)
        else:
            await asyncio.sleep(max(0.0, counted_at + period_s - loop.time()) or period_s)
