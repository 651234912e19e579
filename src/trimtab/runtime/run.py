"""One run of one reconciler for one subject: the `Context` that the function is given.

Reads come from the informers' caches and are remembered as dependencies; everything else that is not the subject (time,
randomness, effects, events, adapters) comes from the process, which tests replace.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.api import JSON, Ref, Resource
from trimtab.runtime.component import FieldWrite
from trimtab.runtime.declared import Declared
from trimtab.runtime.dependencies import Dependencies, Indexed, Named, selected
from trimtab.runtime.effects import Effects
from trimtab.runtime.events import Said
from trimtab.runtime.ownership import OWNER_LABEL, Identity

if TYPE_CHECKING:
    from trimtab.client.cache import Index, Key
    from trimtab.runtime.process import Process

K = TypeVar("K", bound=Resource)
A = TypeVar("A")


class RunContext:
    """Implements `trimtab.runtime.context.Context`."""

    def __init__(
        self,
        process: Process,
        identity: Identity,
        declared: Declared,
        dependencies: Dependencies,
        subject: Resource,
        cause: Ref | str | None,
        said: Said,
        save: Callable[[Resource], Awaitable[Ref]],
        write: Callable[[Sequence[FieldWrite]], Awaitable[None]],
        discard: Callable[[Resource, Sequence[str]], Awaitable[None]],
        report: Callable[[JSON], Awaitable[None]],
        follow: Callable[[type[Resource]], bool],
    ) -> None:
        self.effects = Effects(process, identity, subject, cause) if declared.effects else None
        self._process = process
        self._identity = identity
        self._declared = declared
        self._dependencies = dependencies
        self._subject = subject
        self._key: Key = (subject.namespace or "", subject.name)
        self._cause = cause
        self._said = said
        self._save = save
        self._write = write
        self._discard = discard
        self._report = report
        self._follow = follow

    @property
    def now(self) -> datetime:
        return self._process.clock.now()

    @property
    def random(self) -> random.Random:
        return self._process.clock.random

    @property
    def deleting(self) -> bool:
        return self._subject.metadata.deletion_timestamp is not None

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(f"trimtab.{self._identity.label}")

    async def get(self, kind: type[K], name: str, namespace: str | None = None, *, given: bool = False) -> K | None:
        self._declared.check_read(kind)
        if namespace is None and kind.resource_type.namespaced:
            namespace = self._subject.namespace
        self._dependencies.add(self._key, Named(kind, (namespace or "", name), given))
        if self._declared.of_family(kind) and not self._follow(kind):
            return None
        return self._process.informer(kind).get(name, namespace)

    async def list(
        self,
        kind: type[K],
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        where: Callable[[K], bool] | None = None,
    ) -> Sequence[K]:
        self._declared.check_read(kind)
        selector = selected(kind, namespace, labels)
        self._dependencies.add(self._key, selector, where)
        if self._declared.of_family(kind) and not self._follow(kind):
            return []
        found: Sequence[K] = self._process.informer(kind).cache.select(selector.labels, namespace)
        return [obj for obj in found if where is None or where(obj)]

    async def by_index(self, kind: type[K], index: Index, value: str, namespace: str | None = None) -> Sequence[K]:
        self._declared.check_read(kind)
        namespace = namespace or self._subject.namespace or ""
        self._dependencies.add(self._key, Indexed(kind, namespace, index, value))
        if self._declared.of_family(kind) and not self._follow(kind):
            return []
        found: Sequence[K] = self._process.informer(kind).cache.by_index(index, value, namespace)
        return found

    async def knows(self, kind: type[Resource]) -> bool:
        self._declared.check_read(kind)
        return not self._declared.of_family(kind) or self._follow(kind)

    async def owned(self, kind: type[K]) -> Sequence[K]:
        self._declared.check_owned(kind)
        uid = self._subject.metadata.uid
        objects: Sequence[K] = self._process.informer(kind).cache.labelled(OWNER_LABEL, uid)
        return [obj for obj in objects if self._identity.owns(obj, uid)]

    async def effect(
        self,
        key: str,
        *,
        find: Callable[[], Awaitable[Any | None]],
        do: Callable[[], Awaitable[Any]],
        undo: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Any:
        self._declared.check_effects()
        assert self.effects is not None
        if self.deleting:
            return await self.effects.recall(key, find, undo)
        return await self.effects.perform(key, find, do)

    async def done(self) -> Mapping[str, Any]:
        self._declared.check_effects()
        assert self.effects is not None
        return self.effects.recorded()

    async def save(self, obj: Resource) -> None:
        await self._save(obj)

    async def write(self, write: FieldWrite) -> None:
        await self._write([write])

    async def discard(self, obj: Resource, finalizers: Sequence[str] = ()) -> None:
        self._declared.check_owned(type(obj))
        await self._discard(obj, finalizers)

    async def report(self, status: JSON) -> None:
        await self._report(status)

    async def undo(self, key: str, undo: Callable[[Any], Awaitable[None]]) -> None:
        self._declared.check_effects()
        assert self.effects is not None
        if not self.deleting:
            await self.effects.undo_one(key, undo)

    def event(
        self,
        reason: str,
        message: str,
        *,
        warning: bool = False,
        regarding: Ref | None = None,
        duration_ms: float | None = None,
    ) -> None:
        self._process.events.say(
            self._identity,
            self._subject,
            reason,
            message,
            warning=warning,
            regarding=regarding,
            duration_ms=duration_ms,
            cause=self._cause,
            said=self._said,
        )

    def adapter(self, protocol: type[A]) -> A:
        return self._process.adapter(protocol)
