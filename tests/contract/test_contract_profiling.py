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
from trimtab.components.apps.kinds import App, AppSpec
from trimtab.components.profiling import COMPONENT
from trimtab.components.profiling.comparer import Comparer, Deploy
from trimtab.components.profiling.kinds import Profiler, ProfilerSpec
from trimtab.components.profiling.measurer import Labels, Measurer, Order, Seen
from trimtab.components.profiling.queries.shapes import CompareAnswer, CompareState, Function, Grown, Side
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
                    self.see(Seen("Measuring", "19 Hz", "bpf", self.order.hz, 0.3, 40_000_000, samples=7))
                await self.news.wait()
        finally:
            self.order, self.seen = None, Seen()

    async def serve(self, process: Any) -> None:
        await asyncio.Event().wait()


class Profiles:
    """Plays the query server: away at times, then without samples enough, then with what there is to say of an image."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    async def compare(self, deploy: Deploy) -> CompareAnswer:
        await asyncio.sleep(self.clock.random.uniform(0.1, 2.0))
        if self.clock.random.random() < 0.3:
            raise ConnectionError("profiles cannot be compared: the server went away")
        passed = self.clock.now().timestamp() - deploy.since
        if passed < 150:
            return CompareAnswer(state="waiting", before_image=deploy.before, after_image=deploy.after)
        state, grown = VERDICTS[deploy.app]
        sides = Side(total=10, samples=2_000), Side(total=12, samples=1_600)
        return CompareAnswer(
            state=state, before_image=deploy.before, after_image=deploy.after, before=sides[0], after=sides[1],
            functions=40, grown=grown,
        )  # fmt: skip


SLOWER = Grown(function=Function("slower", "/app/main.py", 7), before=0.1, after=0.2, least=0.05)
VERDICTS: dict[str, tuple[CompareState, list[Grown]]] = {
    "slowed": ("compared", [SLOWER]),
}
SAID = {
    "slowed": ("False", "FunctionsGrew", "aaaaaaaaaaaa -> bbbbbbbbbbbb: slower (/app/main.py:7) 10.0 % -> 20.0 % (of the App's CPU time, "
               "as the requests it served are not known; 2,000 and 1,600 samples)"),
}  # fmt: skip


def image(letter: str) -> str:
    return "shop@sha256:" + letter * 64


def app(name: str) -> App:
    return App(metadata=ObjectMeta(name=name, namespace="default"), spec=AppSpec(image=image("a")))


async def serves(stage: Stage, letter: str) -> None:
    for name in VERDICTS:
        known = await stage.get(App, name)
        assert known is not None
        await stage.client.patch(known, {"status": {"image": image(letter)}}, manager="user", subresource="status")


async def first_image(stage: Stage) -> None:
    await serves(stage, "a")


async def another_image(stage: Stage) -> None:
    """Once the one that they have is known."""
    while True:
        found = await stage.get(Profiler, "default")
        if found is not None and len(found.status.deploys) == len(VERDICTS):
            break
        await asyncio.sleep(10.0)
    await serves(stage, "b")


async def deploys_are_compared(stage: Stage) -> str | None:
    for name, expected in SAID.items():
        found = await stage.get(App, name)
        assert found is not None
        said = [(c.status, c.reason, c.message) for c in found.status.conditions if c.type == "ProfileSteady"]
        if said != [expected]:
            return f"{name} says {said}"
    return None


async def nobody_measures(stage: Stage) -> None:
    """Once what grew is said."""
    while True:
        if await deploys_are_compared(stage) is None:
            break
        await asyncio.sleep(10.0)
    found = await stage.get(Profiler, "default")
    assert found is not None
    await stage.client.delete(found)


async def nothing_is_said(stage: Stage) -> str | None:
    if await stage.get(Profiler, "default") is not None:
        return "the Profiler is still there"
    for name in VERDICTS:
        found = await stage.get(App, name)
        assert found is not None
        if left := [c.type for c in found.status.conditions if c.type == "ProfileSteady"]:
            return f"{name} has {left}"
    return None


def adapters(clock: Clock) -> Mapping[type, Any]:
    return {Measurer: Machine(clock), Comparer: Profiles(clock)}


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
    ),
    Scenario(
        "deploys",
        objects=[named("default"), *(app(name) for name in VERDICTS)],
        steps=[first_image, another_image],
        goal=deploys_are_compared,
        adapters=adapters,
        leaks=leaks,
        kinds=[App],
    ),
    Scenario(
        "taken-back",
        objects=[named("default"), *(app(name) for name in VERDICTS)],
        steps=[first_image, another_image, nobody_measures],
        goal=nothing_is_said,
        adapters=adapters,
        leaks=leaks,
        kinds=[App],
    ),
]


@pytest.mark.parametrize("case", contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER), ids=str)
def test_contract(case: Case) -> None:
    case.run()
