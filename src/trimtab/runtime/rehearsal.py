"""One run of a scenario in simulated time: the API, the world, the user, and a process that may die and come back.

prepare -> start -> the user's steps, under faults -> calm -> wait for rest -> look
        -> delete everything, under faults -> calm -> wait for rest -> look what is left

It may also begin where another one was: with its `Snapshot`, on a machine that has nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.api import ObjectMeta, Resource
from trimtab.api.core import Namespace
from trimtab.client.cache import Cache
from trimtab.client.client import Client, decode
from trimtab.client.errors import ApiError
from trimtab.runtime.component import Component
from trimtab.runtime.conditions import NON_CONVERGENT, live_conditions
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.effects import Effect
from trimtab.runtime.faults import NO_FAULTS, Mortal, Rates
from trimtab.runtime.fingerprint import differences, dump, fingerprint, wire
from trimtab.runtime.journal import Journal
from trimtab.runtime.life import Life, Setting
from trimtab.runtime.ownership import OWNER_LABEL, RECONCILER_LABEL, SYSTEM_NAMESPACE, Identity
from trimtab.runtime.process import RUNTIME_KINDS
from trimtab.runtime.scenario import MakeApi, Records, Scenario, Stage, StageFunction
from trimtab.runtime.simulation import SimulatedClock

FAULTS_S = 40.0
"""The faults of each half of the story fall within this much simulated time."""
TIME_STEP_S_MIN = 1e-6
"""Less than this is rounding: simulated time would not move."""
STEP_S_MAX = 3600.0
"""Simulated time that one step may take."""
LOOK_S = 0.5
LOOK_LAST_S = 10.0
SETTLE_S = 70.0
"""Longer than the longest back-off and the latest event, so that what was still on its way has come."""
LONG_S = 1500.0
"""Longer than two resyncs: a reconciler at rest writes nothing then either."""


class Broken(AssertionError):
    """A scenario did not end as it must."""


@dataclass(frozen=True)
class Snapshot:
    """What a backup holds: all that the API stores; when it was taken, in simulated seconds; and beside it, in fresh fakes,
    what a new machine still finds (`Scenario.carry`)."""

    at_s: float
    records: Records
    adapters: Mapping[type, Any] | None = None


@dataclass(frozen=True)
class Beginning:
    """Where a rehearsal begins, if not with nothing. world: whose adapters there are. steps: whether the user takes the
    scenario's steps (again)."""

    snapshot: Snapshot
    world: Snapshot
    steps: bool = False


StageProblem = Callable[[Stage], Awaitable[str | None]]


class Rehearsal:
    """Runs a scenario once. `crash_at_effect`: die at the n-th step of effects, once, and have no other faults."""

    def __init__(
        self,
        component: Component,
        others: Sequence[Component],
        scenario: Scenario,
        clock: SimulatedClock,
        rates: Rates,
        *,
        crash_at_effect: int | None = None,
        expected: list[tuple[str, str]] | None = None,
        long: bool = False,
        keep_journal: bool = False,
        beginning: Beginning | None = None,
    ) -> None:
        self.component = component
        self.components = (component, *others)
        self.scenario = scenario
        self.clock = clock
        self.rng = random.Random(clock.seed)
        self.rates = rates
        self.crash_at_effect = crash_at_effect
        self.expected = expected
        self.long = long
        self.keep_journal = keep_journal
        self.disturbed = rates is not NO_FAULTS or crash_at_effect is not None
        self.journal = Journal(None)
        self.adapters: Mapping[type, Any] = scenario.adapters(clock)
        self.beginning = beginning
        self.early: Snapshot | None = None
        """Of a long rehearsal: before the user's first step."""
        self.late: Snapshot | None = None
        """Of a long rehearsal: when the goal was reached."""
        self.effect_steps: list[str] = []
        self.reasons: set[str] = set()
        self.found: list[tuple[str, str]] = []
        self.kinds = self._kinds()
        self._life: Life | None = None
        self._rates_now = rates
        self._calm_at_s = 0.0
        self._crashes_left = 0
        self._tasks: list[asyncio.Task[None]] = []

    def _kinds(self) -> tuple[type[Resource], ...]:
        kinds: dict[type[Resource], None] = dict.fromkeys(RUNTIME_KINDS)
        for component in self.components:
            kinds |= dict.fromkeys(component.kinds)
            for reconciler in component.reconcilers:
                kinds |= dict.fromkeys((reconciler.subject, *reconciler.reads))
                kinds |= dict.fromkeys(owned.kind for owned in reconciler.owns)
                kinds |= dict.fromkeys(writes.kind for writes in reconciler.writes)
        kinds |= dict.fromkeys(self.scenario.kinds)
        kinds |= dict.fromkeys(type(obj) for obj in self.scenario.objects)
        return tuple(kinds)

    async def run(self, make_api: MakeApi) -> None:
        """Tells the whole story.

        Raises:
            Broken: what is wrong, with the last lines of the journal.
        """
        self.api = await make_api(self.clock)
        self.stage = Stage(Client(self.api.transport()), self.clock, self.adapters)
        self.setting = Setting(self.api, self.journal, self.adapters, self.clock, self.rng, self.components)
        try:
            await self._prepare()
            await self._first_half()
            await self._second_half()
        finally:
            await self._close()

    @property
    def life(self) -> Life:
        assert self._life is not None
        return self._life

    async def _close(self) -> None:
        if self._life is not None:
            await self._life.end()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.stage.close()
        if not self.keep_journal:
            self.journal.close()
        await self.api.close()

    # Before

    async def _prepare(self) -> None:
        if self.beginning is not None:
            await self._restore(self.beginning)
            return
        await ensure_crds(self.stage.client, self.kinds)
        namespaces = dict.fromkeys(["default", SYSTEM_NAMESPACE])
        namespaces |= dict.fromkeys(obj.namespace for obj in self.scenario.objects if obj.namespace)
        for name in namespaces:
            await self.stage.apply(Namespace(metadata=ObjectMeta(name=name)))
        for obj in self.scenario.objects:
            await self.stage.apply(obj)
        self._begin_world()

    async def _restore(self, beginning: Beginning) -> None:
        await asyncio.sleep(beginning.snapshot.at_s)
        await self.api.restore(beginning.snapshot.records)
        if beginning.world.adapters is not None and self.scenario.carry is not None:
            self.scenario.carry(beginning.world.adapters, self.adapters)
        elif self.scenario.outside is not None:
            self.scenario.outside(beginning.snapshot.records, self.adapters)
        await ensure_crds(self.stage.client, self.kinds)
        self._begin_world()

    def _begin_world(self) -> None:
        if self.scenario.world is not None:
            self._spawn(self.scenario.world(self.stage), "world")

    def _spawn(self, work: Any, name: str) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work, name=name))

    # The two halves

    async def _first_half(self) -> None:
        self._start()
        steps = self.scenario.steps if self.beginning is None or self.beginning.steps else ()
        if self.long and steps:
            await self._live(SETTLE_S)
            self.early = await self._snapshot()
        for step in steps:
            await self._live(self.rng.random() * FAULTS_S / (len(steps) + 1))
            await self._do(step)
        await self._finish(self._goal)
        self._check_health()
        await self._check_stillness()
        await self._check_state()
        if self.long:
            self.late = await self._snapshot()

    async def _snapshot(self) -> Snapshot:
        kept = self.scenario.adapters(self.clock)
        if self.scenario.carry is not None:
            self.scenario.carry(self.adapters, kept)
        return Snapshot(asyncio.get_running_loop().time(), await self.api.records(), kept)

    async def _second_half(self) -> None:
        self._disturb()
        await self._do(self.scenario.uninstall or self._delete_all)
        await self._finish(self._remains)
        if self.scenario.leaks is not None and (leaked := self.scenario.leaks(self.stage)):
            raise self._broken(f"left in the outside world after everything was deleted: {', '.join(leaked)}")
        self._note_life()

    async def _do(self, step: StageFunction) -> None:
        """A user's step, which may wait for what the component does, while processes live, die and are started anew."""
        task = asyncio.ensure_future(step(self.stage))
        await self._live(STEP_S_MAX, until=task)
        if not task.done():
            raise self._broken(f"a step is not done after {STEP_S_MAX:.0f} s")
        await task

    def _start(self) -> None:
        self._disturb()
        if self.crash_at_effect is not None:
            mortal = Mortal(self.crash_at_effect, effects_only=True)
        else:
            mortal = Mortal(self._next_death())
        self._life = Life(self.setting, self._rates_now, mortal)

    def _disturb(self) -> None:
        """Faults from now on, for `FAULTS_S`."""
        self._rates_now = self.rates
        self._calm_at_s = asyncio.get_running_loop().time() + (FAULTS_S if self.disturbed else 0.0)
        for _ in range(self.rng.randint(0, self.rates.api_restarts_max)):
            self._spawn(self._restart_api(), "the API server dies")
        self._crashes_left = self.rates.crashes_max
        if self._life is not None:
            self._life.use(self.rates)
            if (death := self._next_death()) is not None:
                self._life.mortal.dies_at = self._life.mortal.steps + death

    async def _restart_api(self) -> None:
        away_s = self.rng.random() * self.rates.api_away_s_max
        await asyncio.sleep(self.rng.random() * (FAULTS_S - away_s))
        outage = self.setting.outage
        outage.away = True
        outage.count += 1
        await self.api.restart(compact=self.rng.random() < 0.5)
        await asyncio.sleep(away_s)
        outage.away = False

    def _next_death(self) -> int | None:
        if not self._crashes_left or self.rng.random() < 0.3:
            return None
        self._crashes_left -= 1
        return self.rng.randrange(1, self.rates.crash_within)

    def _calm(self) -> None:
        self._rates_now = NO_FAULTS
        self._crashes_left = 0
        self.life.use(NO_FAULTS)
        if self.crash_at_effect is None:
            self.life.mortal.dies_at = None

    async def _live(self, for_s: float, until: asyncio.Future[None] | None = None) -> None:
        """Lets time pass (at most until `until` is done); buries a process that died and starts it anew."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + for_s
        also: list[asyncio.Future[Any]] = [until] if until is not None else []
        while (left_s := until_s - loop.time()) > TIME_STEP_S_MIN and not (until is not None and until.done()):
            died = loop.create_task(self.life.mortal.died.wait(), name="death")
            await asyncio.wait(
                [died, *also, *self._tasks, *self.life.tasks], timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            died.cancel()
            self._check_tasks()
            if self.life.mortal.died.is_set():
                self._note_life()
                await self.life.end()
                self._life = Life(self.setting, self._rates_now, Mortal(self._next_death()))

    def _note_life(self) -> None:
        """Keeps what a life leaves behind for the checks at the end."""
        self._check_bugs()
        self.effect_steps += self.life.effects.steps
        self.life.effects.steps = []
        for process in self.life.processes:
            self.reasons |= process.reasons.get(self.component.name, set())

    def _check_tasks(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise self._broken(f"the scenario's world failed: {error!r}") from error
        self._tasks = [task for task in self._tasks if not task.done()]
        if (failure := self.life.failure()) is not None:
            raise self._broken(f"the process ended: {failure!r}") from failure

    async def _finish(self, problem: StageProblem) -> None:
        """Waits out the faults, then until everything rests and `problem` finds nothing."""
        loop = asyncio.get_running_loop()
        await self._live(self._calm_at_s - loop.time())
        self._calm()
        deadline_s = loop.time() + self.scenario.within_s
        look_s = LOOK_S
        while True:
            await self._live(look_s)
            look_s = min(look_s * 2, LOOK_LAST_S)
            self._check_bugs()
            wrong = await problem(self.stage) if self.life.idle else "it does not come to rest"
            if wrong is None:
                # What was on its way (late events, retries after a back-off) arrives within this time.
                before = self.life, self.life.writes()
                await self._live(SETTLE_S)
                if (self.life, self.life.writes()) == before and self.life.idle:
                    return
                wrong = f"it does not come to rest; the last writes are {'; '.join(self.life.writes()[-3:])}"
            if loop.time() > deadline_s:
                await self._check_caches()
                raise self._broken(f"not reached in {self.scenario.within_s:.0f} s: {wrong}")

    # What is looked at

    async def _goal(self, stage: Stage) -> str | None:
        return await self.scenario.goal(stage)

    def _check_bugs(self) -> None:
        """Failures that no fault explains."""
        for process in self.life.processes:
            for who, subject, err in process.failures:
                if not isinstance(err, (ApiError, ConnectionError)):
                    raise self._broken(f"{who} failed on {subject}: {type(err).__name__}: {err}") from err

    def _check_health(self) -> None:
        for process in self.life.processes:
            for controller in process.controllers:
                for subject in process.informer(controller.reconciler.subject).list():
                    for condition in live_conditions(subject):
                        if condition.type == NON_CONVERGENT:
                            raise self._broken(f"{subject.ref}: NonConvergent: {condition.message}")
            if process.complaints:
                raise self._broken(process.complaints[0])

    async def _check_stillness(self) -> None:
        before = len(self.life.writes())
        await self._live(LONG_S if self.long else self.scenario.quiet_s)
        if fresh := self.life.writes()[before:]:
            raise self._broken(f"still writes although nothing changes: {'; '.join(fresh[:4])} ({len(fresh)} writes)")
        self._check_bugs()

    async def _check_state(self) -> None:
        """The API holds what it does without faults."""
        raw = await self._check_caches()
        compared = [kind for kind in self.kinds if kind not in self.scenario.ignore and kind is not Effect]
        self.found = fingerprint([obj for kind in compared for obj in wire(kind, raw[kind])], self.scenario.aliases)
        if self.expected is not None and (lines := differences(self.expected, self.found)):
            raise self._broken("ends in another state than without faults:\n    " + "\n    ".join(lines))

    async def _check_caches(self) -> dict[type[Resource], Sequence[bytes]]:
        """What the informers hold is what the API holds: nobody changed an object that it was lent. Returns the latter."""
        raw = await dump(self.stage.client, self.kinds)
        for process in self.life.processes:
            for kind, informer in process.informers.items():
                self._check_cache(informer.cache, raw.get(kind, ()))
        return raw

    def _check_cache(self, cache: Cache[Any], raw: Iterable[bytes]) -> None:
        for body in raw:
            obj = decode(cache.kind, body)
            entry = cache.entries.get((obj.namespace or "", obj.name))
            if entry is not None and entry.version == obj.metadata.resource_version and entry.obj != obj:
                raise self._broken(
                    f"{obj.ref} was changed in the cache by a reconciler: copy what you read before you change it"
                )

    async def _delete_all(self, stage: Stage) -> None:
        for component in self.components:
            for reconciler in component.reconcilers:
                for subject in await stage.list(reconciler.subject):
                    if RECONCILER_LABEL not in subject.metadata.labels:
                        await stage.delete(subject)
        for obj in self.scenario.objects:
            await stage.delete(obj)

    async def _remains(self, stage: Stage) -> str | None:
        """Everything deleted: what of the component is still there?"""
        retained = {owned.kind for c in self.components for r in c.reconcilers for owned in r.owns if owned.retain}
        finalizers = {Identity(c.name, r.name).finalizer for c in self.components for r in c.reconcilers}
        for kind in self.kinds:
            for obj in await stage.list(kind):
                if kind is Effect:
                    return f"the record of effect '{obj.spec.key}' is left"  # type: ignore[attr-defined]
                if OWNER_LABEL in obj.metadata.labels and kind not in retained:
                    return f"{obj.ref} is left"
                if left := finalizers & set(obj.metadata.finalizers):
                    return f"{obj.ref} still has the finalizer {sorted(left)[0]}"
        return None

    # Saying what was, and what is wrong

    def told(self) -> list[str]:
        """The journal, a line each; of a rehearsal with `keep_journal`."""
        rows = self.journal.database.execute("SELECT at, actor, verb, object, message FROM entries ORDER BY id")
        return [" ".join(str(value) for value in row) for row in rows]

    def _broken(self, problem: str) -> Broken:
        rows = self.journal.database.execute(
            "SELECT at, actor, verb, object, message FROM entries ORDER BY id DESC LIMIT 25"
        ).fetchall()
        lines = [
            f"    {at % 10**10 / 1e6:10.3f} {actor} {verb} {obj or ''} {message}"
            for at, actor, verb, obj, message in reversed(rows)
        ]
        if self._life is not None:
            for process in self._life.processes:
                lines += [f"    failed: {who} {ref}: {err!r}" for who, ref, err in process.failures[-5:]]
        return Broken(f"{self.scenario.name}: {problem}\n  the last entries of the journal:\n" + "\n".join(lines))
