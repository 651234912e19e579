"""What runs in one process of an engine: informers shared by all, a controller per reconciler, services, heartbeats.

    client -> informers -> controllers (queue -> run -> apply) -> client
                 `-> the journal (changes that others made)

`run_process` is what the engine's processes and `trimtab run` call. A `Process` is also what a component's service is given.
All tasks live in one task group: a bug that ends one of them ends the process, and the supervisor starts it anew; the
failure of one key or one service does not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from trimtab.api import Ref, Resource
from trimtab.client.cache import Change
from trimtab.client.client import Client
from trimtab.client.clock import Clock, SystemClock
from trimtab.client.informer import Informer
from trimtab.runtime.component import Component, Place, Reconciler
from trimtab.runtime.controller import Controller
from trimtab.runtime.effects import Effect
from trimtab.runtime.events import Events
from trimtab.runtime.graph import conflicts
from trimtab.runtime.heartbeat import beat
from trimtab.runtime.journal import Entry, Journal
from trimtab.runtime.ownership import MANAGER_PREFIX, OWNER_LABEL, Identity, controller_instead
from trimtab.runtime.services import run_service
from trimtab.runtime.settings import Settings

A = TypeVar("A")
K = TypeVar("K", bound=Resource)

RUNTIME_KINDS: tuple[type[Resource], ...] = (Effect,)
"""Kinds that the runtime itself needs installed, besides those of the components."""
QUIET_KINDS = ("Event", "Lease", "Effect")
"""Changes of these by others are not journaled: they are bookkeeping."""
PRUNE_EVERY_S = 3600.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stats:
    """Runs of one reconciler."""

    runs: int = 0
    total_s: float = 0.0


async def _go_on(step: str) -> None:
    return None


class Process:
    """One process: its client, journal, settings, clock, adapters and shared caches."""

    def __init__(
        self,
        *,
        client: Client,
        journal: Journal,
        settings: Settings,
        adapters: Mapping[type, Any] | None = None,
        clock: Clock | None = None,
        place: Place = "controllers",
        components: Sequence[Component] = (),
        events: bool = True,
        observes: bool | None = None,
        checkpoint: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.client = client
        self.journal = journal
        self.settings = settings
        self.place = place
        self.clock: Clock = clock or SystemClock()
        self.components = tuple(components)
        self._component_managers = tuple(f"{MANAGER_PREFIX}{component.name}-" for component in components)
        self.events = Events(self, to_api=events)
        self.controllers: list[Controller] = []
        self.failures: list[tuple[str, Ref, Exception]] = []
        """The last failures of reconcilers, for tests and for the error at hand."""
        self.failing: dict[tuple[str, Ref], str] = {}
        """What fails now: reconciler and subject, and what the last attempt said."""
        self.stats: dict[str, Stats] = {}
        """Runs of each reconciler that went well."""
        self.complaints: list[str] = []
        """What the breaker said, the last few."""
        self.reasons: dict[str, set[str]] = {}
        """Every condition reason that a component has set, by component."""
        self.checkpoint = checkpoint or _go_on
        """Called between the steps of effects; simulated time injects faults there."""
        self._adapters = dict(adapters or {})
        self.informers: dict[type[Resource], Informer[Any]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[Controller | type[Resource], asyncio.Task[None]] = {}
        self._observes = place == "controllers" if observes is None else observes
        if problems := conflicts(self.components):
            raise ValueError("; ".join(problems))
        for component in self.components:
            for reconciler in component.reconcilers:
                if reconciler.place == place:
                    self.controllers.append(Controller(self, component.name, reconciler))

    def adapter(self, protocol: type[A]) -> A:
        """The adapter bound for `protocol` when the process was put together.

        Raises:
            LookupError: none was bound.
        """
        try:
            return cast("A", self._adapters[protocol])
        except KeyError:
            raise LookupError(
                f"no adapter is bound for {protocol.__name__}; pass it in adapters={{...}} where the process is put together"
            ) from None

    def informer(self, kind: type[K]) -> Informer[K]:
        """The shared live copy of `kind`; starts with the first call. Await its `wait_synced` before trusting it."""
        informer = self.informers.get(kind)
        if informer is None:
            informer = Informer(
                self.client,
                kind,
                clock=self.clock,
                labels=kind.watched,
                index_labels=(OWNER_LABEL,),
                otherwise=controller_instead,
            )
            if self._observes and kind.__name__ not in QUIET_KINDS:
                informer.subscribe(self._observed)
            self.informers[kind] = informer
            if self._group is not None:
                self._start_informer(self._group, kind)
        return informer

    def _start_informer(self, group: asyncio.TaskGroup, kind: type[Resource]) -> None:
        self._tasks[kind] = group.create_task(self.informers[kind].run(), name=f"informer {kind.__name__}")

    # Reconcilers of kinds that are known only while it runs

    def join(self, component: str, reconciler: Reconciler[Any]) -> Controller:
        """Starts a reconciler of a component beside those that it declares; its kinds must be installed. Call it while `run` runs."""
        assert self._group is not None, "join: the process does not run yet"
        controller = Controller(self, component, reconciler)
        self.controllers.append(controller)
        self._tasks[controller] = self._group.create_task(controller.run(), name=controller.identity.label)
        return controller

    async def part(self, controller: Controller) -> None:
        """Ends a reconciler that joined, and the watches that nobody else needs."""
        self.controllers.remove(controller)
        await self._end(controller)
        needed = {kind for other in self.controllers for kind in other.declared.kinds}
        for kind in controller.declared.joined:
            if kind not in needed and kind in self.informers:
                del self.informers[kind]
                for other in self.controllers:
                    other.leave(kind)
                await self._end(kind)

    async def _end(self, what: Controller | type[Resource]) -> None:
        task = self._tasks.pop(what)
        task.cancel()
        await asyncio.wait([task])

    @property
    def synced(self) -> bool:
        return all(informer.synced for informer in self.informers.values())

    @property
    def idle(self) -> bool:
        """Nothing runs or is ready to run; something may be due later."""
        return self.synced and all(controller.idle for controller in self.controllers)

    async def run(self) -> None:
        """Runs all that belongs to this place until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for kind in list(self.informers):
                self._start_informer(group, kind)
            for controller in self.controllers:
                group.create_task(controller.run(), name=controller.identity.label)
            for component in self.components:
                for service in component.services:
                    if service.place == self.place:
                        group.create_task(run_service(self, component, service), name=f"service {service.name}")
            group.create_task(self.events.run(), name="events")
            if self.journal.path is not None and self.place == "controllers":
                group.create_task(self._prune(), name="journal retention")

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_EVERY_S)
            await asyncio.to_thread(self.journal.prune, self.clock.now())

    # What controllers tell

    FAILURES_KEPT = 50

    def failed(self, identity: Identity, subject: Ref, err: Exception) -> None:
        self.failures.append((identity.label, subject, err))
        del self.failures[: -self.FAILURES_KEPT]
        self.failing[identity.label, subject] = str(err) or type(err).__name__

    def complained(self, identity: Identity, subject: Ref, condition: str, why: str) -> None:
        self.complaints.append(f"{identity.label}: {subject}: {condition}: {why}")
        del self.complaints[: -self.FAILURES_KEPT]
        log.warning("%s", self.complaints[-1])

    def went_well(self, identity: Identity, subject: Ref, took_s: float) -> None:
        stats = self.stats.setdefault(identity.label, Stats())
        stats.runs += 1
        stats.total_s += took_s
        self.failing.pop((identity.label, subject), None)

    def forgotten(self, identity: Identity, subject: Ref) -> None:
        """A subject is gone, or no longer concerns the reconciler."""
        self.failing.pop((identity.label, subject), None)

    def _observed(self, change: Change[Any]) -> None:
        """A change that none of our reconcilers made goes to the journal under the name of who made it."""
        if change.own or change.subresource or change.by.startswith(self._component_managers):
            return
        obj: Resource = change.latest
        cause: Ref | None = None
        if change.new is None:
            verb = "deleted"
            owners = [owner for owner in obj.metadata.owner_references if owner.controller]
            cause = Ref(owners[0].api_version, owners[0].kind, obj.namespace, owners[0].name) if owners else None
        elif change.old is None:
            # What is there at our start is no news.
            if not self.informers[change.kind].synced:
                return
            verb = "created"
        else:
            if not change.by and change.new.metadata.deletion_timestamp == change.old.metadata.deletion_timestamp:
                return
            verb = "changed" if change.by else "deleting"
        self.journal.append(
            Entry(at=self.clock.now(), component="api", actor=change.by, verb=verb, object=obj.ref, cause=cause)
        )


async def run_process(
    components: Sequence[Component],
    place: Place,
    settings: Settings,
    client: Client,
    journal: Journal,
    adapters: Mapping[type, Any] | None = None,
    *,
    clock: Clock | None = None,
    elect: bool = False,
) -> None:
    """Runs the reconcilers and services of `place` until cancelled; writes the health file that the supervisor reads.

    elect: on a real cluster several replicas may run; only the holder of the leader lease works.
    """
    process = Process(
        client=client,
        journal=journal,
        settings=settings,
        adapters=adapters,
        clock=clock,
        place=place,
        components=components,
    )
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        stack.callback(journal.flush)
        heartbeat = group.create_task(beat(process), name="heartbeat")
        try:
            if elect:
                from trimtab.runtime.leases import while_leading

                await while_leading(client, f"trimtab-{place}", process.run, clock=process.clock)
            else:
                await process.run()
        finally:
            heartbeat.cancel()
