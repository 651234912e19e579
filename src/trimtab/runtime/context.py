"""What a reconciler is given besides its subject: declared reads, effects, events, time, randomness, adapters.

All that is not a pure function of the subject comes through here, so that simulated time can replace it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from trimtab.api import JSON, Ref, Resource

if TYPE_CHECKING:
    from trimtab.client.cache import Index
    from trimtab.runtime.component import FieldWrite

K = TypeVar("K", bound=Resource)
A = TypeVar("A")


class Context(Protocol):
    """One run of one reconciler for one subject. Everything read through it becomes a dependency: when it changes, the
    subject is reconciled again."""

    @property
    def now(self) -> datetime:
        """The time, in UTC with microseconds; simulated in tests. Never call `datetime.now` in a reconciler."""

    @property
    def random(self) -> random.Random:
        """Seeded randomness (name suffixes, jitter)."""

    @property
    def deleting(self) -> bool:
        """True when the subject has a deletion timestamp; effects called now are undone instead of done."""

    @property
    def log(self) -> logging.Logger: ...

    async def get(self, kind: type[K], name: str, namespace: str | None = None, *, given: bool = False) -> K | None:
        """One object from the cache, or None; of a namespaced kind, in the subject's namespace unless another is named.

        given: a change of what is given in it (its generation) brings the subject back, one of its status alone does not.
        What is returned is shared: never change it. Raises `Undeclared` for a kind that is not declared."""

    async def list(
        self,
        kind: type[K],
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        where: Callable[[K], bool] | None = None,
    ) -> Sequence[K]:
        """Objects from the cache, by namespace and name, whose labels match; of all namespaces unless one is named.

        What is returned is shared: never change it. Raises `Undeclared` for a kind that is not declared."""

    async def by_index(self, kind: type[K], index: Index, value: str, namespace: str | None = None) -> Sequence[K]:
        """Objects from the cache that an index has under a value, by name; in the subject's namespace unless another is named. A change of
        others does not bring the subject back, and none of them is looked at, however many there are.

        What is returned is shared: never change it. Raises `Undeclared` for a kind that is not declared."""

    async def knows(self, kind: type[Resource]) -> bool:
        """Whether what is read of a kind of the reconciler's family is all there is: it has joined the process. Of declared kinds it is."""

    async def owned(self, kind: type[K]) -> Sequence[K]:
        """The objects of `kind` that this reconciler owns for this subject (deleting ones included), by name."""

    async def effect(
        self,
        key: str,
        *,
        find: Callable[[], Awaitable[Any | None]],
        do: Callable[[], Awaitable[Any]],
        undo: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Any:
        """Does something to the world outside exactly once for this subject and key; returns its recorded outcome.

        The intent is recorded, then `do` is called, then the JSON outcome is recorded. After a crash in between, `find`
        looks whether it happened (None: no) before `do` is tried again. When the subject is deleted, `undo` is called
        with the outcome, last effect first; it must be idempotent.
        """

    async def done(self) -> Mapping[str, Any]:
        """The effects recorded as done for this subject: key to outcome, oldest first."""

    async def save(self, obj: Resource) -> None:
        """Applies an owned object at once, before the run goes on: what must be remembered before the next step is taken. Also return it
        in `Desired.objects` or `keep`, or it is swept. Raises as writing it at the end of the run would."""

    async def write(self, write: FieldWrite) -> None:
        """Writes declared fields of another's object at once, before the run goes on. Raises as writing them at the end of the run would."""

    async def discard(self, obj: Resource, finalizers: Sequence[str] = ()) -> None:
        """Deletes an owned object at once, with these finalizers taken off it; for what was saved, and outlives its subject (`retain`), in
        the `undo` of an effect. Does nothing when it is gone."""

    async def report(self, status: JSON) -> None:
        """Makes `status` the reconciler's part of the subject's status at once, before a step that takes long. That of the run's end takes
        its place. Raises as writing it at the end would."""

    async def undo(self, key: str, undo: Callable[[Any], Awaitable[None]]) -> None:
        """Undoes a recorded effect that is no longer wanted while the subject lives on (a name that changed). Does
        nothing when there is no record of it."""

    def event(
        self,
        reason: str,
        message: str,
        *,
        warning: bool = False,
        regarding: Ref | None = None,
        duration_ms: float | None = None,
    ) -> None:
        """Says something on the timeline and as a Kubernetes Event about the subject (or `regarding`)."""

    def adapter(self, protocol: type[A]) -> A:
        """The adapter to the world outside that was bound for `protocol` when the process was put together."""


class Undeclared(RuntimeError):
    """A reconciler read or wrote a kind or field that it did not declare."""
