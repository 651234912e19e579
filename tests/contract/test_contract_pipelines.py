"""Pipelines under the contract kit: pushes come in, runs fail and succeed, the App gets what is green; and what goes wrong is said."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from simulated_api import make_api
from store_release import EARLIER
from trimtab.api import ObjectMeta
from trimtab.client.clock import Clock
from trimtab.components.apps.kinds import App, AppSpec
from trimtab.components.pipelines import COMPONENT
from trimtab.components.pipelines.kinds import (
    Pipeline,
    PipelineApp,
    PipelineRun,
    PipelineRunSpec,
    PipelineSpec,
)
from trimtab.components.pipelines.runner import PHASES, Order, Progress, Runner
from trimtab.runtime.contract import Case, Scenario, Stage, contract

GOOD, BAD, LATER = "a" * 40, "b" * 40, "c" * 40
NO_IMAGE = "d" * 40
CUT_OFF = 0.2


class Machine:
    """Plays repositories and runs: a run takes a while, and some are cut off, as when the node agent ends."""

    is_here = True

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.repositories: set[str] = set()
        self.files: set[str] = set()
        self.running: dict[str, tuple[Order, float, bool]] = {}
        self.violations: list[str] = []

    async def serve(self, process: Any) -> None:
        await asyncio.Event().wait()

    async def repository(self, uid: str) -> bool | None:
        return True if uid in self.repositories else None

    async def make_repository(self, uid: str) -> bool:
        await asyncio.sleep(0.2)
        self.repositories.add(uid)
        return True

    async def remove_repository(self, uid: str) -> None:
        await asyncio.sleep(0.2)
        self.repositories.discard(uid)

    def look(self, uid: str) -> Progress | None:
        if uid not in self.running:
            return None
        order, ends, cut_off = self.running[uid]
        if self.clock.now().timestamp() < ends:
            return Progress(
                run="r", total=1, steps=[{"name": "unit", "state": "running", "seconds": 0.0, "reason": ""}]
            )
        if cut_off:
            return None
        if order.commit == BAD:
            return Progress("Failed", "unit failed", "r", 3.0, 1, [{"name": "unit", "state": "failed"}])
        images = [] if order.commit == NO_IMAGE else [{"step": "publish", "reference": f"shop@sha256:{order.commit}"}]
        return Progress("Succeeded", "", "r", 3.0, 1, [{"name": "unit", "state": "succeeded"}], images)

    def begin(self, order: Order) -> None:
        now = self.clock.now().timestamp()
        if any(ends > now for _, ends, _ in self.running.values()):
            self.violations.append("two runs at a time")
        self.files.add(order.uid)
        random = self.clock.random
        self.running[order.uid] = order, now + random.uniform(1.0, 5.0), random.random() < CUT_OFF

    async def remove_run(self, uid: str) -> None:
        await asyncio.sleep(0.1)
        self.running.pop(uid, None)
        self.files.discard(uid)


def adapters(clock: Clock) -> Mapping[type, Any]:
    return {Runner: Machine(clock)}


def machine(stage: Stage) -> Machine:
    found: Machine = stage.adapter(Runner)  # type: ignore[type-abstract, assignment]
    return found


def carry(before: Mapping[type, Any], after: Mapping[type, Any]) -> None:
    """The backup has the repositories; of runs it has what those left that it knows, so that nothing is too much."""
    after[Runner].repositories |= before[Runner].repositories


def leaks(stage: Stage) -> list[str]:
    here = machine(stage)
    return [
        *here.violations,
        *(f"repository {uid}" for uid in here.repositories),
        *(f"files {uid}" for uid in here.files),
    ]


def pipeline(name: str = "shop", **spec: Any) -> Pipeline:
    given: dict[str, Any] = {"app": PipelineApp(name=name)} | spec
    return Pipeline(metadata=ObjectMeta(name=name, namespace="default"), spec=PipelineSpec(**given))


def pushed(name: str, commit: str, pipeline: str = "shop") -> PipelineRun:
    spec = PipelineRunSpec(pipeline=pipeline, commit=commit, ref="refs/heads/main", trigger="push")
    return PipelineRun(metadata=ObjectMeta(name=name, namespace="default"), spec=spec)


APP = App(metadata=ObjectMeta(name="shop", namespace="default"), spec=AppSpec(image="shop@sha256:0"))


def push(name: str, commit: str) -> Any:
    async def step(stage: Stage) -> None:
        await stage.apply(pushed(name, commit))
        while (run := await stage.get(PipelineRun, name)) is not None and run.status.phase not in PHASES:
            await stage.changed(PipelineRun)

    return step


async def last_green_serves(stage: Stage) -> str | None:
    runs = {run.name: run.status.phase for run in await stage.list(PipelineRun)}
    if runs != {"2-bad": "Failed", "3-later": "Succeeded"}:
        return f"expected the last two runs, ended: {runs}"
    app, found = await stage.get(App, "shop"), await stage.get(Pipeline, "shop")
    if app is None or app.spec.image != f"shop@sha256:{LATER}":
        return f"the App has {app and app.spec.image}"
    if found is None or [c.reason for c in found.status.conditions] != ["UpToDate"]:
        return f"the Pipeline is not up to date: {found}"
    return None


EXPECTED = {
    "homeless": "AppMissing",
    "imageless": "NoImage",
    "resting": "RunUnderWay",
    "broken": "LastRunFailed",
    "fresh": "NoRunYet",
}


async def troubles_are_told(stage: Stage) -> str | None:
    said = {p.name: p.status.conditions[0].reason for p in await stage.list(Pipeline) if p.status.conditions}
    if said != EXPECTED:
        return f"Pipelines say {said}"
    runs = {r.name: r.status.conditions[0].reason for r in await stage.list(PipelineRun) if r.status.conditions}
    expected = {"lost": "PipelineMissing", "1": "Green", "2": "Green", "3": "Suspended", "4": "StepFailed"}
    return None if runs == expected else f"runs say {runs}"


JUDGED = COMPONENT
SCENARIOS = [
    Scenario(
        "pushes",
        objects=[pipeline(keep_runs=2), APP],
        steps=[push("1-good", GOOD), push("2-bad", BAD), push("3-later", LATER)],
        goal=last_green_serves,
        adapters=adapters,
        carry=carry,
        leaks=leaks,
        kinds=[App],
        ignore=[Pipeline, PipelineRun],
    ),
    Scenario(
        "troubles",
        objects=[
            *(pipeline(name, suspend=name == "resting") for name in EXPECTED),
            pushed("lost", GOOD, "nobody"),
            pushed("1", GOOD, "homeless"),
            pushed("2", NO_IMAGE, "imageless"),
            pushed("3", GOOD, "resting"),
            pushed("4", BAD, "broken"),
        ],
        goal=troubles_are_told,
        adapters=adapters,
        carry=carry,
        leaks=leaks,
        kinds=[App],
        ignore=[Pipeline, PipelineRun],
    ),
]


@pytest.mark.parametrize("case", contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER), ids=str)
def test_pipelines_contract(case: Case) -> None:
    case.run()
