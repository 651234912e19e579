"""Many objects that refer to one, as the controllers have them in memory, and what it costs them to find who refers to what while all are
deleted: the informers' caches, what each run read, and the runs' own context; without an API server and without a cloud."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from trimtab.api import ObjectMeta, Resource
from trimtab.client import Client, Informer
from trimtab.client.cache import Change, Entry, Key
from trimtab.components.infrastructure.kinds import (
    Managed,
    ManagedSpec,
    Provider,
    ProviderSpec,
    Reference,
    Source,
    managed_kind,
)
from trimtab.components.infrastructure.loop.users import credentials
from trimtab.runtime.context import Context
from trimtab.runtime.declared import Declared
from trimtab.runtime.dependencies import Dependencies
from trimtab.runtime.run import RunContext

NAMESPACE = "default"
Find = Callable[[Context, Managed], Awaitable[list[Managed]]]


class References:
    """One network, and servers that refer to it."""

    def __init__(self, servers: int) -> None:
        self.network, self.server = managed_kind("cloud", "cloud_network"), managed_kind("cloud", "cloud_server")
        self.declared = Declared("infrastructure", credentials)
        self.dependencies = Dependencies()
        self.informers: dict[type[Resource], Informer[Any]] = {}
        self.version = 0
        for kind in (Provider, self.network, self.server):
            self.informers[kind] = Informer(cast(Client, None), kind)
        self.see(
            Provider(metadata=ObjectMeta(name="cloud"), spec=ProviderSpec("?", kinds=["cloud_network", "cloud_server"]))
        )
        self.see(self.network(metadata=ObjectMeta(name="main", namespace=NAMESPACE)))
        source = Source(kind="Network", name="main", field="id")
        spec = ManagedSpec(references=[Reference("network", source)])
        for i in range(servers):
            self.see(self.server(metadata=ObjectMeta(name=f"web-{i}", namespace=NAMESPACE), spec=spec))

    @property
    def servers(self) -> list[Managed]:
        return list(self.informers[self.server].list(NAMESPACE))

    def see(self, obj: Resource) -> list[Key]:
        """Takes a new version of an object as the watch brings it; returns whom that brings back."""
        self.version += 1
        obj.metadata.uid = obj.metadata.name
        obj.metadata.resource_version = str(self.version)
        return self._told(self.informers[type(obj)].cache.seen(Entry(obj, ())))

    def gone(self, obj: Resource) -> list[Key]:
        return self._told(self.informers[type(obj)].cache.removed(obj))

    def _told(self, change: Change[Any] | None) -> list[Key]:
        return self.dependencies.touched(change) if change is not None else []

    async def run(self, subject: Managed, find: Find) -> list[Managed]:
        """One run that looks who refers to its subject."""
        key = (subject.namespace or "", subject.name)
        nothing: Any = None
        process: Any = SimpleNamespace(informer=self.informers.__getitem__)
        identity: Any = SimpleNamespace(label="", owns=None)
        ctx = RunContext(
            process, identity, self.declared, self.dependencies, subject, None, nothing, nothing, nothing, nothing, nothing,
            lambda kind: True,
        )  # fmt: skip
        self.dependencies.begin(key)
        try:
            return await find(ctx, subject)
        finally:
            self.dependencies.end(key, complete=True)

    async def delete_all(self, find: Find) -> int:
        """Every server looks who refers to it, says in its status that it is being deleted, and goes; returns how many were brought back
        by another's."""
        brought = 0
        for one in self.servers:
            assert await self.run(one, find) == []
            brought += len(
                self.see(self.server(metadata=ObjectMeta(name=one.name, namespace=NAMESPACE), spec=one.spec))
            )
        for one in self.servers:
            brought += len(self.gone(one))
            self.dependencies.forget((NAMESPACE, one.name))
        return brought
