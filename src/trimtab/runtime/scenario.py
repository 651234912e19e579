"""What a component's author writes for the contract kit: a story, and how to tell that it ended well.

A scenario sets up objects, lets a user act, perhaps plays the rest of the world (a node that runs pods, a DNS zone), and says
what must hold at the end. The kit (`contract.py`) tells the story once without faults and then many times with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from trimtab.api import JSON, Resource
from trimtab.client.client import Client
from trimtab.client.clock import Clock
from trimtab.client.informer import Informer
from trimtab.client.transport import Transport

K = TypeVar("K", bound=Resource)
A = TypeVar("A")

USER = "user"
"""The field manager of what scenarios write."""


Records = Mapping[str, bytes]


class Api(Protocol):
    """An API server for one run, as the tests put it together."""

    def transport(self) -> Transport:
        """A way to it that outlives its restarts."""

    async def restart(self, *, compact: bool) -> None:
        """As after `kill -9`: watches end, nothing is remembered but what is stored. compact: nor any history of it."""

    async def records(self) -> Records:
        """All that it stores, by key, oldest change first."""

    async def restore(self, records: Records) -> None:
        """Goes on as a new server that stores just this, with resource versions of its own."""

    async def close(self) -> None: ...


MakeApi = Callable[[Clock], Awaitable[Api]]


class Stage:
    """What a scenario's functions act on: the API without faults, as a user sees it, and the fakes behind the adapters."""

    def __init__(self, client: Client, clock: Clock, adapters: Mapping[type, Any]) -> None:
        self.client = client
        self.clock = clock
        self.adapters = adapters
        self._watched: dict[type[Resource], asyncio.Task[None]] = {}
        self._change = asyncio.Event()

    def adapter(self, protocol: type[A]) -> A:
        found: A = self.adapters[protocol]
        return found

    async def get(self, kind: type[K], name: str, namespace: str | None = "default") -> K | None:
        return await self.client.get(kind, name, namespace if kind.resource_type.namespaced else None)

    async def list(self, kind: type[K], namespace: str | None = None) -> Sequence[K]:
        return (await self.client.list(kind, namespace)).items

    async def changed(self, *kinds: type[Resource], settle_s: float = 0.5, within_s: float = 60.0) -> None:
        """Waits for the next change of any object of these kinds since the last call, then `settle_s` more; at most
        `within_s`. For worlds: looking only when something changed makes a thousand seeds affordable."""
        for kind in kinds:
            if kind not in self._watched:
                informer = Informer(self.client, kind, clock=self.clock)
                informer.subscribe(lambda _: self._change.set())
                task = asyncio.get_running_loop().create_task(informer.run(), name=f"stage: {kind.__name__}")
                self._watched[kind] = task
        with suppress(TimeoutError):
            await asyncio.wait_for(self._change.wait(), within_s)
        await asyncio.sleep(settle_s)
        self._change.clear()

    def close(self) -> None:
        for task in self._watched.values():
            task.cancel()

    async def apply(self, obj: K) -> K:
        return await self.client.apply(obj, manager=USER)

    async def delete(self, obj: Resource) -> None:
        await self.client.delete(obj.ref, propagation="Background")  # as kubectl; without, Jobs leave their pods


StageFunction = Callable[[Stage], Awaitable[None]]


def _no_adapters(clock: Clock) -> Mapping[type, Any]:
    return {}


@dataclass(frozen=True)
class Scenario:
    """One story.

    name: for test ids.
    objects: what a user has applied before the component starts (namespaces that they need are made).
    steps: what the user then does, in this order, at random times.
    goal: after the last step, when all is quiet: None, or one line that says what is wrong.
    world: plays what is not under test (e.g. a kubelet that makes pods ready), for the whole time, without faults. It
        must come to rest when nothing changes.
    adapters: fresh fakes for every run, keyed by protocol.
    leaks: what is left in the fakes after everything was deleted; must be empty.
    carry: from the fakes of one run to fresh ones, takes over what is still there on a new machine: the world outside, and
        volumes that a backup brought back. None: nothing is.
    outside: puts into fresh fakes what belongs to stored records of an earlier release, of which no run of ours knows.
    uninstall: deletes what the user made; the default deletes all subjects of the component's reconcilers and `objects`.
    aliases: a stable name for an object whose name is random, or None; used when fixed points are compared.
    ignore: kinds left out of the comparison of fixed points (what legitimately depends on chance or time).
    quiet_s: for how long nothing may be written at the end.
    within_s: simulated time in which the goal must be reached after the last fault.
    """

    name: str
    goal: Callable[[Stage], Awaitable[str | None]]
    objects: Sequence[Resource] = ()
    steps: Sequence[StageFunction] = ()
    world: StageFunction | None = None
    adapters: Callable[[Clock], Mapping[type, Any]] = _no_adapters
    leaks: Callable[[Stage], Sequence[str]] | None = None
    carry: Callable[[Mapping[type, Any], Mapping[type, Any]], None] | None = None
    outside: Callable[[Records, Mapping[type, Any]], None] | None = None
    uninstall: StageFunction | None = None
    aliases: Callable[[JSON], str | None] | None = None
    ignore: Sequence[type[Resource]] = ()
    kinds: Sequence[type[Resource]] = field(default=())
    """Further kinds to install and compare, beside those that the component declares."""
    quiet_s: float = 30.0
    within_s: float = 900.0
