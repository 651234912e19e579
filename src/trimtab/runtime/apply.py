"""From what a reconciler returned to the API: apply what differs, leave alone what stands, delete what is no longer wanted.

Every write is server-side apply under one of the reconciler's own field managers. What was applied is remembered as a hash
of the intent and the manager's mark on the live object; as long as both stand, nothing is sent. Answers go straight
into the informer's cache, so the next run sees them; each write that changed something becomes a journal entry with its
cause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.api import JSON, Ref, Resource
from trimtab.client.cache import Entry as CacheEntry
from trimtab.client.cache import Key
from trimtab.client.client import Client
from trimtab.client.errors import Conflict, NotFound
from trimtab.client.wire import encode
from trimtab.runtime.component import FieldWrite
from trimtab.runtime.conditions import readiness_turned, with_times
from trimtab.runtime.context import Undeclared
from trimtab.runtime.convergence import Breaker, changed_paths
from trimtab.runtime.declared import Declared
from trimtab.runtime.journal import Entry
from trimtab.runtime.ownership import OWNER_LABEL, Identity, ObjectHeld, holder_of, owned_body

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

Slot = tuple[type[Resource], Key, str]
"""What a memo is about: an object, and which manager's half of it ("", "status", "fields", "fields/status", ...)."""


@dataclass(frozen=True, slots=True)
class Memo:
    """What was last applied: the intent's bytes by hash, and what the API then said that we manage."""

    digest: int
    uid: str
    mark: tuple[str, int] | None


@dataclass(slots=True)
class Run:
    """What one run writes on whose behalf, and because of what. `memos` and `breaker` outlive the run."""

    subject: Resource
    cause: Ref | str | None
    memos: dict[Slot, Memo]
    breaker: Breaker
    deleting: list[Ref] = field(default_factory=list)
    """Objects that are wanted but whose namesake is still being deleted."""


class Applier:
    """The writing half of one reconciler."""

    def __init__(self, process: Process, identity: Identity, declared: Declared) -> None:
        self._process = process
        self._identity = identity
        self._declared = declared

    # Owned objects

    async def apply(self, run: Run, obj: Resource) -> Ref:
        """Makes an owned object so; returns its reference.

        Raises:
            ObjectHeld: somebody else has an object of that name.
            Undeclared: the kind is not in `owns`.
        """
        kind = type(obj)
        retained = self._declared.check_owned(kind).retain
        obj = self._placed(obj, run.subject)
        informer = self._process.informer(kind)
        key: Key = (obj.namespace or "", obj.name)
        live = informer.cache.entries.get(key)
        uid = run.subject.metadata.uid
        if live is not None:
            if holder := holder_of(live.obj, self._identity, uid, retained=retained):
                raise ObjectHeld(obj.ref, holder)
            if live.obj.metadata.deletion_timestamp is not None:
                run.deleting.append(obj.ref)
                return obj.ref
        elif kind.watched:
            await self._free(run, obj)
        body = owned_body(obj, run.subject, self._identity, retained=retained)
        slot: Slot = (kind, key, "")
        await self._send(run, slot, obj.ref, body, self._identity.manager, live, force=live is not None)
        return obj.ref

    async def _free(self, run: Run, obj: Resource) -> None:
        """Asks whether an object that our part of the kind does not have is somebody else's. Raises `ObjectHeld`."""
        live = await self._process.client.get(type(obj), obj.name, obj.namespace)
        if live is not None and (holder := holder_of(live, self._identity, run.subject.metadata.uid, retained=False)):
            raise ObjectHeld(obj.ref, holder)

    def _placed(self, obj: Resource, subject: Resource) -> Resource:
        if not obj.name:
            raise ValueError(
                f"{self._declared.who} returned a {type(obj).__name__} without a name; derive one from the subject's"
            )
        if type(obj).resource_type.namespaced and not obj.namespace:
            if not subject.namespace:
                raise ValueError(
                    f"{self._declared.who} returned {obj.ref} without a namespace, and its subject has none"
                )
            meta = msgspec.structs.replace(obj.metadata, namespace=subject.namespace)
            obj = msgspec.structs.replace(obj, metadata=meta)
        return obj

    async def sweep(self, run: Run, wanted: Iterable[Ref]) -> list[Resource]:
        """Deletes what the subject owns (of kinds that are not retained) and is not wanted; returns what of it still
        exists."""
        keep = set(wanted)
        remaining: list[Resource] = []
        for obj in self.owned_by(run.subject.metadata.uid):
            if obj.ref in keep:
                continue
            if obj.metadata.deletion_timestamp is None and await self.delete(run, obj):
                continue
            remaining.append(obj)
        return remaining

    def owned_by(self, uid: str) -> list[Resource]:
        """What this reconciler made for the subject with `uid`, of all kinds that are not retained."""
        found: list[Resource] = []
        for kind, owned in self._declared.owned.items():
            if not owned.retain:
                objects = self._process.informer(kind).cache.labelled(OWNER_LABEL, uid)
                found += [obj for obj in objects if self._identity.owns(obj, uid)]
        return found

    async def delete(self, run: Run, obj: Resource) -> bool:
        """Deletes exactly `obj` (its uid); returns whether it is gone already."""
        began = asyncio.get_running_loop().time()
        kind = type(obj)
        informer = self._process.informer(kind)
        options: JSON = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": obj.metadata.uid},
            "propagationPolicy": "Background",
        }
        if obj.metadata.deletion_timestamp is not None:
            # Whoever deletes what is on its way out already has finished with it (a node agent with a pod).
            options["gracePeriodSeconds"] = 0
        path = kind.resource_type.path(obj.namespace, obj.name)
        informer.cache.leaving[obj.metadata.uid] = manager = self._identity.manager
        async with informer.writing((obj.namespace or "", obj.name), manager) as sent:
            try:
                answer = await self._process.client.wire.send("DELETE", path, {}, encode(options))
            except (NotFound, Conflict):
                if not await is_gone(self._process.client, obj):
                    informer.cache.leaving.pop(obj.metadata.uid, None)
                    raise
                informer.deleted(obj, by=manager)
                return True
            gone = not _still_exists(answer.body)
            if gone:
                informer.deleted(obj, by=manager)
            else:
                informer.wrote(answer.body, manager, sent)
        run.breaker.count(obj.ref, (), repeated=False, now_s=began)
        self.record(run, "deleted", obj.ref, "", began)
        return gone

    # The subject's status, and fields of others

    async def apply_status(self, run: Run, status: JSON) -> None:
        """Makes `status` the reconciler's part of the subject's status."""
        kind = type(run.subject)
        if not kind.resource_type.status:
            raise Undeclared(f"{self._declared.who} returned a status, but {kind.__name__} has none")
        self._note_reasons(status)
        await self.apply_status_as(run, status, self._identity.manager, "status")

    def _note_reasons(self, status: JSON) -> None:
        reasons = self._process.reasons.setdefault(self._identity.component, set())
        for condition in status.get("conditions") or ():
            reason = condition.get("reason") if isinstance(condition, dict) else condition.reason
            if reason:
                reasons.add(reason)

    async def apply_status_as(self, run: Run, status: JSON, manager: str, slot_name: str) -> None:
        subject = run.subject
        kind = type(subject)
        key: Key = (subject.namespace or "", subject.name)
        live = self._process.informer(kind).cache.entries.get(key)
        if live is None or live.uid != subject.metadata.uid:
            return
        said = _without_null(kind, with_times(status, live.obj, self._process.clock.now()))
        body = _partial(subject.ref, live.uid, {"status": said})
        await self._send(run, (kind, key, slot_name), subject.ref, body, manager, live, subresource="status")

    async def write_fields(self, run: Run, writes: Iterable[FieldWrite]) -> None:
        """Writes declared fields of others' objects; writes to the same half of one object go together.

        Raises:
            Undeclared: a field is not in `writes`.
            NotFound: a target does not exist (as far as we have seen).
        """
        merged: dict[tuple[Ref, str], tuple[type[Resource], JSON, list[str]]] = {}
        for write in writes:
            kind = self._declared.check_write(write)
            _, fields, notes = merged.setdefault((write.target, write.subresource), (kind, {}, []))
            _merge(fields, msgspec.to_builtins(write.fields, str_keys=True))
            notes += [write.note] if write.note else []
            if write.subresource == "status":
                self._note_reasons(write.fields.get("status", {}))
        for (target, subresource), (kind, fields, notes) in merged.items():
            key: Key = (target.namespace or "", target.name)
            live = self._process.informer(kind).cache.entries.get(key)
            if live is None:
                raise NotFound(404, "NotFound", f"{target} does not exist, so its fields cannot be written")
            if isinstance(fields.get("status"), dict):
                fields["status"] = _without_null(
                    kind, with_times(fields["status"], live.obj, self._process.clock.now())
                )
            body = _partial(target, live.uid, fields)
            slot: Slot = (kind, key, f"fields/{subresource}")
            manager = self._identity.fields_manager
            await self._send(run, slot, target, body, manager, live, subresource=subresource, note="; ".join(notes))

    async def apply_metadata(self, run: Run, metadata: JSON, slot_name: str) -> None:
        """Makes `metadata` (finalizers) the runtime's own part of the subject's metadata."""
        subject = run.subject
        kind = type(subject)
        key: Key = (subject.namespace or "", subject.name)
        live = self._process.informer(kind).cache.entries.get(key)
        body = _partial(subject.ref, subject.metadata.uid, {"metadata": metadata})
        manager = self._identity.health_manager
        await self._send(run, (kind, key, slot_name), subject.ref, body, manager, live)

    # Sending

    async def _send(
        self,
        run: Run,
        slot: Slot,
        ref: Ref,
        body: bytes,
        manager: str,
        live: CacheEntry[Any] | None,
        *,
        subresource: str = "",
        force: bool = True,
        note: str = "",
    ) -> None:
        kind = slot[0]
        digest = hash(body)
        memo = run.memos.get(slot)
        repeated = memo is not None and memo.digest == digest
        if (
            repeated
            and memo is not None
            and live is not None
            and memo.uid == live.uid
            and live.mark(manager, subresource) == memo.mark
        ):
            return
        # Until there is an answer, what stands there is unknown: a write whose answer is lost may have replaced what the memo
        # is about, and its mark tells fields, not their values.
        run.memos.pop(slot, None)
        began = asyncio.get_running_loop().time()
        wire = self._process.client.wire
        informer = self._process.informer(kind)
        async with informer.writing(slot[1], manager) as sent:
            try:
                answer = await wire.apply_bytes(
                    kind.resource_type,
                    ref.name,
                    ref.namespace,
                    body,
                    manager=manager,
                    force=force,
                    subresource=subresource or None,
                )
            except Conflict:
                if force or not await self._mine_after_all(run, kind, ref):
                    raise
                answer = await wire.apply_bytes(
                    kind.resource_type, ref.name, ref.namespace, body, manager=manager, force=True
                )
            new = informer.wrote(answer, manager, sent)
        run.memos[slot] = Memo(digest, new.uid, new.mark(manager, subresource))
        if live is not None and live.version == new.version:
            return
        paths = changed_paths(live.obj, new.obj) if live is not None else ()
        run.breaker.count(ref, paths, repeated=repeated and live is not None, now_s=began)
        verb = "created" if live is None else "status" if subresource == "status" else "changed"
        turned = readiness_turned(live.obj, new.obj) if verb == "status" and live is not None else None
        self.record(run, verb, ref, ", ".join([*paths, note] if note else paths), began, data=turned)

    async def _mine_after_all(self, run: Run, kind: type[Resource], ref: Ref) -> bool:
        """Our cache knew of no such object and somebody holds its fields. Ours (a lost answer)? Else raises."""
        live = await self._process.client.get(kind, ref.name, ref.namespace)
        if live is None:
            return False
        retained = self._declared.check_owned(kind).retain
        if holder := holder_of(live, self._identity, run.subject.metadata.uid, retained=retained):
            raise ObjectHeld(ref, holder)
        return True

    def record(self, run: Run, verb: str, ref: Ref, message: str, began: float, *, data: JSON | None = None) -> None:
        """A journal entry of what was done to `ref` on behalf of the run's subject, since loop time `began`."""
        process = self._process
        process.journal.append(
            Entry(
                at=process.clock.now(),
                component=self._identity.component,
                actor=self._identity.manager,
                verb=verb,
                object=ref,
                cause=run.cause,
                message=message,
                duration_ms=round((asyncio.get_running_loop().time() - began) * 1000, 3),
                data=data,
                subject=run.subject.ref,
            )
        )


async def is_gone(client: Client, obj: Resource) -> bool:
    """Asks the API whether this very object (its uid) still exists. A refusal alone does not tell: it may have been of a
    passing kind."""
    live = await client.get(type(obj), obj.name, obj.namespace)
    return live is None or live.metadata.uid != obj.metadata.uid


def _without_null(kind: type[Resource], status: JSON) -> JSON:
    """A map that is applied empty by who had something in it becomes null in Kubernetes, which the schema of a custom kind then refuses; so
    of these an empty one is not said, and goes. In built-in kinds null is nothing, and an empty map can mean something."""
    return status if kind.resource_type.builtin else {name: value for name, value in status.items() if value != {}}


def _partial(ref: Ref, uid: str, fields: Mapping[str, Any]) -> bytes:
    """A partial object for apply. The uid makes it fail where the object is gone, instead of creating a torso."""
    meta: JSON = {"name": ref.name, "uid": uid, **fields.get("metadata", {})}
    if ref.namespace:
        meta["namespace"] = ref.namespace
    return encode({**fields, "apiVersion": ref.api_version, "kind": ref.kind, "metadata": meta})


def _merge(into: JSON, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        present = into.get(name)
        if isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value)
        elif isinstance(present, list) and isinstance(value, list):
            into[name] = present + [entry for entry in value if entry not in present]
        else:
            into[name] = value


class _DeletedMeta(msgspec.Struct, rename="camel"):
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: list[str] = []


class _Deleted(msgspec.Struct):
    kind: str = ""
    metadata: _DeletedMeta | None = None


_deleted_decoder = msgspec.json.Decoder(_Deleted)


def _still_exists(answer: bytes) -> bool:
    """What a DELETE answered: a Status or the last state when the object is gone, else the object on its way out."""
    said = _deleted_decoder.decode(answer)
    meta = said.metadata
    if said.kind == "Status" or meta is None or meta.deletion_timestamp is None:
        return False
    return bool(meta.finalizers) or bool(meta.deletion_grace_period_seconds)
