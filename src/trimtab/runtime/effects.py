"""Effects on the world outside, done exactly once: intent, then deed, then outcome, each recorded through the API.

The record is an `Effect` object beside the subject. It is created before the deed (phase Intended) and completed after it
(phase Done, with the outcome). Whoever finds an intent without an outcome was not there when it was done, or never heard
the answer, and asks the world (`find`) before doing it. A record keeps itself alive with a finalizer until the effect is
undone, so that deleting a whole namespace cannot make us forget what is out there.

At the subject's deletion the reconciler runs once more with `ctx.deleting`: each recorded effect returns its outcome and
leaves its `undo` here; the first unrecorded one ends the run, for nothing after it was ever done.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import field

from trimtab.api import JSON, Model, ObjectMeta, Ref, Resource, resource, to_wire
from trimtab.client.errors import AlreadyExists, Conflict, Invalid, NotFound
from trimtab.client.wire import encode
from trimtab.runtime.apply import is_gone
from trimtab.runtime.journal import Entry
from trimtab.runtime.ownership import OWNER_LABEL, RECONCILER_LABEL, SYSTEM_NAMESPACE, Identity

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

FINALIZER = "trimtab.dev/effect"
KEY_LENGTH_MAX = 500


class EffectSpec(Model):
    """Whose effect it is, and which."""

    reconciler: str
    """`component.reconciler` that did it."""
    key: str
    """The reconciler's name for it, unique within the subject."""
    subject: dict[str, str] = {}
    """apiVersion, kind, namespace, name and uid of the object it was done for."""


@resource(
    "trimtab.dev/v1alpha1",
    "effects",
    status=False,
    columns=(
        ("Subject", "string", ".spec.subject.name"),
        ("Key", "string", ".spec.key"),
        ("Phase", "string", ".phase"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class Effect(Resource):
    """Something that a component did to the world outside the API, recorded so that it is done once and undone."""

    spec: EffectSpec = field(default_factory=lambda: EffectSpec("", ""))
    phase: Literal["Intended", "Done"] = "Intended"
    """Intended: about to be done, or done without the answer having been seen. Done: `outcome` is what it gave."""
    outcome: str = ""
    """JSON text of what the deed returned."""


class EffectsLeft(Exception):
    """A subject is being deleted, and effects are recorded that its reconciler no longer mentions."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(
            f"cannot finish deleting: done outside and not undone by the component: {', '.join(keys)}. Undo it by hand, then "
            "remove the finalizer of the Effect"
        )


class NotDone(BaseException):
    """Ends a deleting run at the first effect that was never done. Not an Exception, so that a reconciler's own
    `except Exception` does not swallow it."""


@dataclass(frozen=True)
class Undo:
    record: Effect
    function: Callable[[Any], Awaitable[None]] | None
    outcome: Any


def effect_name(identity: Identity, uid: str, key: str) -> str:
    digest = hashlib.blake2s(f"{identity.label}/{uid}/{key}".encode(), digest_size=10).hexdigest()
    return f"{identity.component}-{identity.reconciler}-{digest}"


class Effects:
    """The effects of one run for one subject."""

    def __init__(self, process: Process, identity: Identity, subject: Resource, cause: Ref | str | None) -> None:
        self._process = process
        self._identity = identity
        self._subject = subject
        self._cause = cause
        self._namespace = subject.namespace or SYSTEM_NAMESPACE
        self._informer = process.informer(Effect)
        self.undos: list[Undo] = []

    async def perform(
        self,
        key: str,
        find: Callable[[], Awaitable[Any | None]],
        do: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Returns the outcome, recorded; does the deed when it is not there yet."""
        record = self._recorded(key)
        mine = False
        if record is None:
            record, mine = await self._intend(key)
        if record.phase == "Done":
            return msgspec.json.decode(record.outcome)
        began = asyncio.get_running_loop().time()
        step = self._process.checkpoint
        await step(f"{key}: intended")
        outcome = None if mine else await find()
        found = outcome is not None
        if not found:
            await step(f"{key}: about to be done")
            outcome = await do()
            await step(f"{key}: done")
        outcome = msgspec.to_builtins(outcome, str_keys=True)
        await self._complete(record, outcome)
        await step(f"{key}: recorded")
        self._journal("effect", f"{key}: {'found done' if found else 'done'}", began)
        return outcome

    async def recall(
        self,
        key: str,
        find: Callable[[], Awaitable[Any | None]],
        undo: Callable[[Any], Awaitable[None]] | None,
    ) -> Any:
        """While deleting: the outcome of what was done, whose undoing is now due. Raises `NotDone` for what was not."""
        record = self._recorded(key)
        if record is None:
            name = effect_name(self._identity, self._subject.metadata.uid, key)
            record = await self._process.client.get(Effect, name, self._namespace)
        if record is None:
            raise NotDone(key)
        if record.phase == "Done":
            outcome = msgspec.json.decode(record.outcome)
        else:
            outcome = await find()
            if outcome is None:
                await self._forget(record)
                raise NotDone(key)
        self.undos.append(Undo(record, undo, outcome))
        return outcome

    async def undo_all(self) -> None:
        """Undoes what was recalled, last first, forgetting each record once its effect is undone.

        Raises:
            EffectsLeft: records remain that were not recalled.
        """
        while self.undos:
            undo = self.undos.pop()
            began = asyncio.get_running_loop().time()
            await self._process.checkpoint(f"{undo.record.spec.key}: about to be undone")
            if undo.function is not None:
                await undo.function(undo.outcome)
            await self._process.checkpoint(f"{undo.record.spec.key}: undone")
            await self._forget(undo.record)
            self._journal("undone", undo.record.spec.key, began)
        live = await self._process.client.list(
            Effect, self._namespace, labels=f"{OWNER_LABEL}={self._subject.metadata.uid}"
        )
        left = [e.spec.key for e in live.items if e.metadata.labels.get(RECONCILER_LABEL) == self._identity.label]
        if left:
            raise EffectsLeft(left)

    def recorded(self) -> dict[str, Any]:
        """Key and outcome of everything done for the subject, oldest first."""
        records = [
            record
            for record in self._informer.cache.labelled(OWNER_LABEL, self._subject.metadata.uid)
            if self._identity.made(record, self._subject.metadata.uid) and record.phase == "Done"
        ]
        records.sort(key=lambda record: (str(record.metadata.creation_timestamp), record.spec.key))
        return {record.spec.key: msgspec.json.decode(record.outcome) for record in records}

    async def undo_one(self, key: str, undo: Callable[[Any], Awaitable[None]]) -> None:
        """Undoes one recorded effect now; does nothing when there is no record of it."""
        record = self._recorded(key)
        if record is None:
            return
        began = asyncio.get_running_loop().time()
        if record.phase == "Done":
            await undo(msgspec.json.decode(record.outcome))
        await self._forget(record)
        self._journal("undone", key, began)

    # Records

    def _recorded(self, key: str) -> Effect | None:
        return self._informer.get(effect_name(self._identity, self._subject.metadata.uid, key), self._namespace)

    async def _intend(self, key: str) -> tuple[Effect, bool]:
        """The record of the intent, and whether it is ours from this very moment."""
        if not key or len(key) > KEY_LENGTH_MAX:
            raise ValueError(
                f"{self._identity.label}: an effect's key must have 1 to {KEY_LENGTH_MAX} characters: {key!r}"
            )
        uid = self._subject.metadata.uid
        ref = self._subject.ref
        record = Effect(
            metadata=ObjectMeta(
                name=effect_name(self._identity, uid, key),
                namespace=self._namespace,
                labels={OWNER_LABEL: uid, RECONCILER_LABEL: self._identity.label},
                finalizers=[FINALIZER],
            ),
            spec=EffectSpec(
                reconciler=self._identity.label,
                key=key,
                subject={
                    "apiVersion": ref.api_version,
                    "kind": ref.kind,
                    "namespace": ref.namespace or "",
                    "name": ref.name,
                    "uid": uid,
                },
            ),
        )
        wire = to_wire(record) | {"phase": "Intended"}
        kind = Effect.resource_type
        query = {"fieldManager": self._identity.health_manager}
        client = self._process.client
        try:
            answer = await client.wire.send("POST", kind.path(self._namespace), query, encode(wire))
        except AlreadyExists:
            live = await client.wire.send("GET", kind.path(self._namespace, record.name))
            return self._informer.wrote(live.body).obj, False
        return self._informer.wrote(answer.body, by=self._identity.health_manager).obj, True

    async def _complete(self, record: Effect, outcome: Any) -> None:
        await self._patch(record, {"phase": "Done", "outcome": msgspec.json.encode(outcome).decode()})

    async def _patch(self, record: Effect, patch: JSON) -> None:
        kind = Effect.resource_type
        answer = await self._process.client.wire.send(
            "PATCH",
            kind.path(self._namespace, record.name),
            {"fieldManager": self._identity.health_manager},
            encode({**patch, "metadata": {"uid": record.metadata.uid, **patch.get("metadata", {})}}),
            "application/merge-patch+json",
        )
        self._informer.wrote(answer.body, by=self._identity.health_manager)

    async def _forget(self, record: Effect) -> None:
        try:
            await self._patch(record, {"metadata": {"finalizers": None}})
            await self._process.client.delete(record)
        except (NotFound, Conflict, Invalid):
            # Forgotten already when an answer was lost. (Invalid: the patch names the uid, and another object has the name.)
            if not await is_gone(self._process.client, record):
                raise
        self._informer.deleted(record, by=self._identity.health_manager)

    def _journal(self, verb: str, message: str, began: float) -> None:
        process = self._process
        process.journal.append(
            Entry(
                at=process.clock.now(),
                component=self._identity.component,
                actor=self._identity.manager,
                verb=verb,
                object=self._subject.ref,
                cause=self._cause,
                message=message,
                duration_ms=round((asyncio.get_running_loop().time() - began) * 1000, 3),
                subject=self._subject.ref,
            )
        )
