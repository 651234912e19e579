"""One run of a scenario in simulated time: the API, the world, the user, and a process that may die and come back.

prepare -> start -> the user's steps, under faults -> calm -> wait for rest -> look
        -> delete everything, under faults -> calm -> wait for rest -> look what is left
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.api import ObjectMeta, Resource
from trimtab.api.core import Namespace
from trimtab.client.client import Client
from trimtab.client.errors import ApiError
from trimtab.runtime.component import Component
from trimtab.runtime.conditions import NON_CONVERGENT, live_conditions
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.effects import Effect
from trimtab.runtime.faults import NO_FAULTS, EffectFaults, FaultyTransport, Mortal, Rates
from trimtab.runtime.fingerprint import differences, dump, fingerprint
from trimtab.runtime.journal import Journal
from trimtab.runtime.ownership import OWNER_LABEL, RECONCILER_LABEL, SYSTEM_NAMESPACE, Identity
from trimtab.runtime.process import RUNTIME_KINDS, Process
from trimtab.runtime.scenario import MakeApi, Scenario, Stage
from trimtab.runtime.settings import Settings
from trimtab.runtime.simulation import SimulatedClock

FAULTS_S = 40.0
"""The faults of each half of the story fall within this much simulated time."""
LOOK_S = 0.5
LONG_S = 1500.0
"""Longer than two resyncs: a reconciler at rest writes nothing then either."""


class Broken(AssertionError):
    """A scenario did not end as it must."""


def simulated_settings() -> Settings:
    return Settings(id="51de00", data="/nonexistent/data", run="/nonexistent/run")


class Life:
    """One life of the component's processes (one for each place), from start to crash or to the end."""

    def __init__(self, rehearsal: Rehearsal, rates: Rates, dies_at: int | None, effect_only: bool) -> None:
        rng = rehearsal.rng
        self.mortal = Mortal(dies_at if not effect_only else None)
        self.effect_mortal = Mortal(dies_at) if effect_only else self.mortal
        self.transports: list[FaultyTransport] = []
        self.effects = EffectFaults(rng, rates, self.effect_mortal)
        self.processes: list[Process] = []
        self.tasks: list[asyncio.Task[None]] = []
        components = rehearsal.components
        places = dict.fromkeys(r.place for component in components for r in component.reconcilers)
        for place in places:
            transport = FaultyTransport(rehearsal.api.transport(), rng, rates, self.mortal)
            process = Process(
                client=Client(transport),
                journal=rehearsal.journal,
                settings=rehearsal.settings,
                adapters=rehearsal.adapters,
                clock=rehearsal.clock,
                place=place,
                components=components,
                events=False,
                observes=place == "controllers",
                checkpoint=self.effects,
            )
            self.transports.append(transport)
            self.processes.append(process)
        for process in self.processes:
            self.tasks.append(asyncio.get_running_loop().create_task(process.run(), name=f"process {process.place}"))

    @property
    def idle(self) -> bool:
        return all(process.idle for process in self.processes)

    @property
    def writes(self) -> int:
        return sum(len(transport.writes) for transport in self.transports)

    def calm(self) -> None:
        for transport in self.transports:
            transport.calm()
        self.effects.calm()
        self.effect_mortal.dies_at = None

    async def end(self) -> None:
        self.mortal.bury()
        self.effect_mortal.bury()
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)

    def failure(self) -> BaseException | None:
        """What ended a process that should be running."""
        for task in self.tasks:
            if task.done() and not task.cancelled():
                return task.exception()
        return None


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
        self.settings = simulated_settings()
        self.journal = Journal(None)
        self.adapters: Mapping[type, Any] = scenario.adapters(clock)
        self.effect_steps: list[str] = []
        self.reasons: set[str] = set()
        self.found: list[tuple[str, str]] = []
        self.kinds = self._kinds()
        self.life: Life | None = None
        self._past_writes = 0
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
        try:
            await self._prepare()
            await self._first_half()
            await self._second_half()
        finally:
            await self._close()

    async def _close(self) -> None:
        if self.life is not None:
            await self.life.end()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.journal.close()
        await self.api.close()

    # Before

    async def _prepare(self) -> None:
        await ensure_crds(self.stage.client, self.kinds)
        namespaces = dict.fromkeys(["default", SYSTEM_NAMESPACE])
        namespaces |= dict.fromkeys(obj.namespace for obj in self.scenario.objects if obj.namespace)
        for name in namespaces:
            await self.stage.apply(Namespace(metadata=ObjectMeta(name=name)))
        for obj in self.scenario.objects:
            await self.stage.apply(obj)
        if self.scenario.world is not None:
            self._spawn(self.scenario.world(self.stage), "world")

    def _spawn(self, work: Any, name: str) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work, name=name))

    # The two halves

    async def _first_half(self) -> None:
        until_s = self._begin()
        for step in self.scenario.steps:
            await self._live(self.rng.random() * FAULTS_S / (len(self.scenario.steps) + 1))
            await step(self.stage)
        await self._finish(until_s, self._goal)
        self._check_health()
        await self._check_stillness()
        await self._check_caches()
        await self._check_state()

    async def _second_half(self) -> None:
        until_s = self._begin()
        await (self.scenario.uninstall or self._delete_all)(self.stage)
        await self._finish(until_s, self._remains)
        if self.scenario.leaks is not None and (leaked := self.scenario.leaks(self.stage)):
            raise self._broken(f"left in the outside world after everything was deleted: {', '.join(leaked)}")
        self._note_life()

    def _begin(self) -> float:
        """Starts the component (again) with faults on; returns until when they last."""
        if self.life is None:
            self.life = self._new_life(first=True)
        elif self.rates is not NO_FAULTS:
            for transport in self.life.transports:
                transport._rates = self.rates
            self.life.effects._rates = self.rates
            if self.rates.crashes_max:
                self.life.mortal.dies_at = self.life.mortal.steps + self.rng.randrange(1, self.rates.crash_within)
        return asyncio.get_running_loop().time() + FAULTS_S

    def _new_life(self, *, first: bool = False) -> Life:
        dies_at: int | None = None
        effect_only = self.crash_at_effect is not None
        if effect_only:
            dies_at = self.crash_at_effect if first else None
        elif self.rates.crashes_max and self.rng.random() < 0.7:
            dies_at = self.rng.randrange(1, self.rates.crash_within)
        return Life(self, self.rates, dies_at, effect_only)

    async def _live(self, for_s: float) -> None:
        """Lets time pass; buries a process that died and starts it anew."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + for_s
        while (left_s := until_s - loop.time()) > 0:
            assert self.life is not None
            died = [
                asyncio.ensure_future(m.died.wait())
                for m in {id(m): m for m in (self.life.mortal, self.life.effect_mortal)}.values()
            ]
            done, pending = await asyncio.wait(
                [*died, *self._tasks, *self.life.tasks], timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            for waiter in died:
                waiter.cancel()
            self._check_tasks()
            if self.life.mortal.died.is_set() or self.life.effect_mortal.died.is_set():
                await self._bury()

    async def _bury(self) -> None:
        assert self.life is not None
        self._note_life()
        await self.life.end()
        self.life = self._new_life()

    def _note_life(self) -> None:
        assert self.life is not None
        self._past_writes += self.life.writes
        self.effect_steps += self.life.effects.steps
        self.life.effects.steps = []
        for process in self.life.processes:
            self.reasons |= process.reasons.get(self.component.name, set())

    def _check_tasks(self) -> None:
        assert self.life is not None
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise self._broken(f"the scenario's world failed: {error!r}") from error
        self._tasks = [task for task in self._tasks if not task.done()]
        if (failure := self.life.failure()) is not None:
            raise self._broken(f"the process ended: {failure!r}") from failure

    async def _finish(self, faults_until_s: float, problem: Any) -> None:
        """Waits out the faults, then until everything rests and `problem` finds nothing."""
        loop = asyncio.get_running_loop()
        if self.rates is not NO_FAULTS or self.crash_at_effect is not None:
            await self._live(max(0.0, faults_until_s - loop.time()))
        assert self.life is not None
        if self.crash_at_effect is None:
            self.life.calm()
        deadline_s = loop.time() + self.scenario.within_s
        while True:
            await self._live(LOOK_S)
            self._check_bugs()
            if self.life.idle:
                wrong = await problem(self.stage)
                if wrong is None:
                    return
                if loop.time() > deadline_s:
                    raise self._broken(f"not reached in {self.scenario.within_s:.0f} s: {wrong}")
            elif loop.time() > deadline_s:
                raise self._broken(f"does not come to rest in {self.scenario.within_s:.0f} s")

    # What is looked at

    async def _goal(self, stage: Stage) -> str | None:
        return await self.scenario.goal(stage)

    def _check_bugs(self) -> None:
        """Failures that no fault explains."""
        assert self.life is not None
        for process in self.life.processes:
            for who, subject, err in process.failures:
                if not isinstance(err, (ApiError, ConnectionError)):
                    raise self._broken(f"{who} failed on {subject}: {type(err).__name__}: {err}") from err

    def _check_health(self) -> None:
        assert self.life is not None
        for process in self.life.processes:
            for controller in process.controllers:
                for subject in process.informer(controller.reconciler.subject).list():
                    for condition in live_conditions(subject):
                        if condition.type == NON_CONVERGENT:
                            raise self._broken(f"{subject.ref}: NonConvergent: {condition.message}")
            if process.complaints:
                raise self._broken(process.complaints[0])

    async def _check_stillness(self) -> None:
        assert self.life is not None
        before = [len(transport.writes) for transport in self.life.transports]
        await self._live(LONG_S if self.long else self.scenario.quiet_s)
        for count, transport in zip(before, self.life.transports, strict=True):
            if fresh := transport.writes[count:]:
                raise self._broken(
                    f"still writes although nothing changes: {'; '.join(fresh[:4])} ({len(fresh)} writes)"
                )
        self._check_bugs()

    async def _check_caches(self) -> None:
        """What the informers hold is what the API holds: nobody changed an object that it was lent."""
        assert self.life is not None
        for process in self.life.processes:
            for kind, informer in process.informers.items():
                live = {(obj.namespace or "", obj.name): obj for obj in await self.stage.list(kind)}
                for key, entry in informer.cache.entries.items():
                    if key in live and entry.version == live[key].metadata.resource_version and entry.obj != live[key]:
                        raise self._broken(
                            f"{entry.obj.ref} was changed in the cache by a reconciler: copy what you read before you change it"
                        )

    async def _check_state(self) -> None:
        kinds = [kind for kind in self.kinds if kind not in self.scenario.ignore and kind is not Effect]
        self.found = fingerprint(await dump(self.stage.client, kinds), self.scenario.aliases)
        if self.expected is not None:
            if lines := differences(self.expected, self.found):
                raise self._broken("ends in another state than without faults:\n    " + "\n    ".join(lines))

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

    # Saying what is wrong

    def _broken(self, problem: str) -> Broken:
        rows = self.journal.database.execute(
            "SELECT at, actor, verb, object, message FROM entries ORDER BY id DESC LIMIT 25"
        ).fetchall()
        lines = [
            f"    {at % 10**10 / 1e6:10.3f} {actor} {verb} {obj or ''} {message}"
            for at, actor, verb, obj, message in reversed(rows)
        ]
        if self.life is not None:
            for process in self.life.processes:
                lines += [f"    failed: {who} {ref}: {err!r}" for who, ref, err in process.failures[-5:]]
        return Broken(f"{self.scenario.name}: {problem}\n  the last entries of the journal:\n" + "\n".join(lines))
