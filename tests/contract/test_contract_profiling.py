"""Profiling under the contract kit: one agent while there is a Profiler to act, told whose containers are whose, and its state said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from simulated_api import make_api
from store_release import EARLIER
from trimtab.api import ObjectMeta
from trimtab.api.core import ContainerStatus, Pod, PodStatus
from trimtab.client.clock import Clock
from trimtab.components.profiling import COMPONENT
from trimtab.components.profiling.kinds import Profiler, ProfilerSpec
from trimtab.components.profiling.measurer import Labels, Measurer, Order, Seen
from trimtab.runtime.contract import Case, Scenario, Stage, contract

CONTAINER = "0123abcd"


class Machine:
    """Plays the agent: it takes a while to start, and sometimes ends before it has."""

    is_here = True

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.order: Order | None = None
        self.containers: dict[str, Labels] = {}
        self.seen = Seen()
        self.failures = 3
        self.news = asyncio.Event()
        self.changed: Callable[[str], None] = lambda why: None

    def want(self, order: Order | None) -> None:
        if order != self.order:
            self.order = order
            self.news.set()

    def contain(self, containers: Mapping[str, Labels]) -> None:
        self.containers = dict(containers)

    def look(self) -> Seen:
        return self.seen

    def tells(self, changed: Callable[[str], None]) -> None:
        self.changed = changed

    def see(self, seen: Seen) -> None:
        self.seen = seen
        self.changed(seen.reason)

    async def run(self) -> None:
        try:
            while True:
                self.news.clear()
                if self.order is not None:
                    self.see(Seen("Starting"))
                    await asyncio.sleep(self.clock.random.uniform(0.1, 3.0))
                    if self.failures and self.clock.random.random() < 0.5:
                        self.failures -= 1
                        self.see(Seen("AgentFailed", "the agent was killed (signal 9); it is started again"))
                        continue
                    self.see(Seen("Measuring", "19 Hz", "bpf", self.order.hz, 0.3, 40_000_000))
                await self.news.wait()
        finally:
            self.order, self.seen = None, Seen()

    async def serve(self, process: Any) -> None:
        await asyncio.Event().wait()


def adapters(clock: Clock) -> Mapping[type, Any]:
    return {Measurer: Machine(clock)}


def machine(stage: Stage) -> Machine:
    found: Machine = stage.adapter(Measurer)  # type: ignore[type-abstract, assignment]
    return found


def leaks(stage: Stage) -> list[str]:
    order = machine(stage).order
    return [f"an agent for {order}"] if order is not None else []


def named(name: str, **spec: Any) -> Profiler:
    return Profiler(metadata=ObjectMeta(name=name), spec=ProfilerSpec(**spec))


def pod() -> Pod:
    digest = "docker.io/library/shop@sha256:" + "a" * 64
    status = ContainerStatus(name="web", container_id=f"containerd://{CONTAINER}", image_id=digest)
    return Pod(
        metadata=ObjectMeta(name="shop-1", namespace="default", labels={"app.kubernetes.io/name": "shop"}),
        status=PodStatus(container_statuses=[status]),
    )


async def reasons(stage: Stage, name: str) -> tuple[str, ...]:
    found = await stage.get(Profiler, name)
    return tuple(c.reason for c in found.status.conditions) if found is not None else ()


async def measures(stage: Stage) -> str | None:
    here = machine(stage)
    if here.order is None or here.order.hz != 49:
        return f"the agent was asked for {here.order}"
    if (said := await reasons(stage, "default")) != ("Measuring",):
        return f"default says {said}"
    if (said := await reasons(stage, "other")) != ("NotActing",):
        return f"other says {said}"
    return None


async def quicker(stage: Stage) -> None:
    found = await stage.get(Profiler, "default")
    assert found is not None
    await stage.client.patch(found, {"spec": {"hz": 49}}, manager="user")


JUDGED = COMPONENT
SCENARIOS = [
    Scenario(
        "one-acts",
        objects=[named("default"), named("other")],
        steps=[quicker],
        goal=measures,
        adapters=adapters,
        leaks=leaks,
    )
]


@pytest.mark.parametrize("case", contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER), ids=str)
def test_contract(case: Case) -> None:
    case.run()
