"""A day of a busy team, in simulated time: what comes and goes all day long leaves nothing behind.

Cron jobs every few minutes, rollouts, scaling, pods killed, jobs that fail: after each part of the day the control plane holds as much as
after the one before, in objects, in tasks, in open watches and in Python's own objects.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass

import pytest

from simulated_api import SimulatedApi, make_api
from simulated_node import SimulatedNode, template
from trimtab.api import ObjectMeta
from trimtab.api.batch import CronJob, CronJobSpec, JobTemplateSpec
from trimtab.api.core import Namespace, Pod
from trimtab.api.jobs import Job, JobSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import Deployment, DeploymentSpec
from trimtab.client import Client
from trimtab.components.workloads import COMPONENT
from trimtab.runtime.contract import Stage
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.faults import NO_FAULTS, Mortal
from trimtab.runtime.journal import Journal
from trimtab.runtime.life import Life, Setting
from trimtab.runtime.ownership import SYSTEM_NAMESPACE
from trimtab.runtime.process import RUNTIME_KINDS
from trimtab.runtime.simulation import SimulatedClock, simulate
from workload_stories import directories

HOUR_S = 3600.0
QUIET_S = 2 * HOUR_S
"""After so long events have expired and histories are trimmed."""
GROWTH_MAX = 1.02
"""Of Python's objects: caches are bounded, but not full after the first part."""


@dataclass(frozen=True)
class Held:
    """What a control plane holds when the team is at rest."""

    objects: dict[str, int]
    tasks: int
    watches: int
    references: int

    @classmethod
    def now(cls, api: SimulatedApi) -> Held:
        gc.collect()
        kinds = Counter(record.key.split("/")[2] for record in api.store.list(""))
        return cls(dict(kinds), len(asyncio.all_tasks()), len(api.server.watches), len(gc.get_objects()))


class Team:
    """Users who change things all day."""

    def __init__(self, client: Client, clock: SimulatedClock) -> None:
        self._client = client
        self._clock = clock
        self.rollouts = 0

    async def settle_in(self) -> None:
        job = JobSpec(template=template("exit-0", "tick", restart_policy="Never"))
        await self._apply(
            CronJob(
                metadata=ObjectMeta(name="tick", namespace="default"),
                spec=CronJobSpec(schedule="*/3 * * * *", job_template=JobTemplateSpec(spec=job)),
            )
        )
        failing = JobSpec(template=template("exit-1", "broken", restart_policy="Never"), backoff_limit=1)
        await self._apply(
            CronJob(
                metadata=ObjectMeta(name="broken", namespace="default"),
                spec=CronJobSpec(schedule="7 * * * *", job_template=JobTemplateSpec(spec=failing)),
            )
        )

    async def work(self, until_s: float) -> None:
        loop, random = asyncio.get_running_loop(), self._clock.random
        while loop.time() < until_s:
            self.rollouts += 1
            await self._apply(self._web(f"ok:{self.rollouts}", replicas=random.randint(1, 4)))
            await asyncio.sleep(random.uniform(60, 600))
            pods = (await self._client.list(Pod, "default", labels="app=web")).items
            if pods:
                await self._client.delete(random.choice(pods))
            name = f"once-{self.rollouts}"
            spec = JobSpec(
                template=template("flaky", "once", restart_policy="Never"),
                ttl_seconds_after_finished=300,
                completions=2,
            )
            await self._apply(Job(metadata=ObjectMeta(name=name, namespace="default"), spec=spec))
            await asyncio.sleep(random.uniform(60, 600))
        await self._apply(self._web("ok:rest", replicas=2))

    def _web(self, image: str, replicas: int) -> Deployment:
        return Deployment(
            metadata=ObjectMeta(name="web", namespace="default"),
            spec=DeploymentSpec(
                replicas=replicas,
                selector=LabelSelector(match_labels={"app": "web"}),
                template=template(image),
                revision_history_limit=3,
            ),
        )

    def _apply(self, obj: CronJob | Deployment | Job) -> Awaitable[object]:
        return self._client.apply(obj, manager="team")


async def _day(clock: SimulatedClock, hours: float, parts: int) -> tuple[list[Held], Team]:
    api = await make_api(clock)
    client = Client(api.transport())
    await ensure_crds(client, RUNTIME_KINDS)
    await client.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager="test")
    setting = Setting(api, Journal(None), directories(clock), clock, clock.random, [COMPONENT])
    life = Life(setting, NO_FAULTS, Mortal())
    node = asyncio.create_task(SimulatedNode(Stage(client, clock, {})).run(), name="node")
    team = Team(client, clock)
    await team.settle_in()
    held = []
    for part in range(1, parts + 1):
        end_s = part * hours * HOUR_S / parts
        await team.work(end_s - QUIET_S)
        await asyncio.sleep(end_s - asyncio.get_running_loop().time() + 90)  # between two ticks
        for task in (node, *life.tasks):
            assert not task.done(), task
        held.append(Held.now(api))
    await api.close()
    return held, team


@pytest.mark.parametrize(
    ("hours", "parts"), [pytest.param(9, 3, id="9h"), pytest.param(24, 4, id="24h", marks=pytest.mark.long)]
)
def test_a_day_of_churn_leaves_nothing_behind(hours: float, parts: int) -> None:
    held, team = simulate(lambda clock: _day(clock, hours, parts), seed=7)

    print(*held, f"{team.rollouts} rollouts", sep="\n", file=sys.stderr)
    first, *later = held
    assert team.rollouts > hours
    for part in later:
        assert part.objects == first.objects
        # A watch that is just being renewed is missing, with its tasks.
        assert first.watches - 1 <= part.watches <= first.watches
        assert first.tasks - 2 <= part.tasks <= first.tasks
    assert later[-1].references <= later[0].references * GROWTH_MAX
