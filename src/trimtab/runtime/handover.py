"""Objects that change hands as they are: adopted, set free, or let go of by one finalizer.

Each is a merge patch that names the uid and the version that was looked at, so that it never falls on an object that has
changed since: whoever comes too late gets a conflict and looks again. Before something is adopted the API itself, not our
cache, is asked whether the subject still lives: one that is being deleted with `--cascade=orphan` must not take back what
was just set free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.api import JSON, Ref, Resource, kind_of
from trimtab.client.cache import Entry
from trimtab.client.errors import Conflict, NotFound
from trimtab.client.wire import PATCH_CONTENT_TYPES
from trimtab.runtime.apply import Applier, Run
from trimtab.runtime.component import Adopt, Desired
from trimtab.runtime.context import Undeclared
from trimtab.runtime.declared import Declared
from trimtab.runtime.ownership import OWNER_LABEL, RECONCILER_LABEL, Identity, reference_to

if TYPE_CHECKING:
    from trimtab.runtime.process import Process


class Handover:
    """The part of one reconciler's outcomes that changes whose an object is."""

    def __init__(self, process: Process, identity: Identity, declared: Declared, applier: Applier) -> None:
        self._process = process
        self._identity = identity
        self._declared = declared
        self._applier = applier

    async def carry_out(self, run: Run, outcome: Desired) -> None:
        """Adopts, releases and lifts, in this order.

        Raises:
            Conflict: an object, or the subject, is no longer what was decided on.
            Undeclared: a kind is not in `owns`.
        """
        if outcome.adopt:
            await self._still_lives(run)
        for each in outcome.adopt:
            await self._adopt(run, each)
        for ref in outcome.release:
            await self._release(run, ref)
        for lift in outcome.lift:
            await self._lift(run, lift.ref, lift.finalizer)

    async def discard(self, run: Run, obj: Resource, finalizers: Sequence[str]) -> None:
        """Takes finalizers off an owned object and deletes it. What another made under this name is left alone."""
        _, live = self._live(obj.ref)
        if live is None or live.obj.metadata.labels.get(RECONCILER_LABEL) != self._identity.label:
            return
        for finalizer in finalizers:
            await self._lift(run, obj.ref, finalizer)
        _, live = self._live(obj.ref)
        if live is not None and self._identity.made(live.obj, run.subject.metadata.uid):
            await self._applier.delete(run, live.obj)

    async def _still_lives(self, run: Run) -> None:
        subject = run.subject
        live = await self._process.client.get(type(subject), subject.name, subject.namespace)
        if live is None or live.metadata.uid != subject.metadata.uid or live.metadata.deletion_timestamp is not None:
            raise Conflict(409, "Conflict", f"{subject.ref} is gone or going, so it adopts nothing")

    async def _adopt(self, run: Run, each: Adopt) -> None:
        kind, live = self._live(each.ref)
        if live is None:
            raise Conflict(409, "Conflict", f"{each.ref} is gone, so it cannot be adopted")
        meta = live.obj.metadata
        fields: JSON = {}
        if not self._identity.owns(live.obj, run.subject.metadata.uid):
            references = [msgspec.to_builtins(r, str_keys=True) for r in meta.owner_references]
            fields["labels"] = {OWNER_LABEL: run.subject.metadata.uid, RECONCILER_LABEL: self._identity.label}
            fields["ownerReferences"] = [*references, reference_to(run.subject)]
        missing = [name for name in each.finalizers if name not in meta.finalizers]
        if missing:
            fields["finalizers"] = [*meta.finalizers, *missing]
        if fields:
            await self._patch(run, kind, live, fields, "adopted")

    async def _release(self, run: Run, ref: Ref) -> None:
        kind, live = self._live(ref)
        if live is None or not self._identity.made(live.obj, run.subject.metadata.uid):
            return
        kept = [r for r in live.obj.metadata.owner_references if r.uid != run.subject.metadata.uid]
        fields: JSON = {
            "labels": {OWNER_LABEL: None, RECONCILER_LABEL: None},
            "ownerReferences": [msgspec.to_builtins(r, str_keys=True) for r in kept],
        }
        await self._patch(run, kind, live, fields, "released")

    async def _lift(self, run: Run, ref: Ref, finalizer: str) -> None:
        kind, live = self._live(ref)
        if live is None or finalizer not in live.obj.metadata.finalizers:
            return
        kept = [name for name in live.obj.metadata.finalizers if name != finalizer]
        await self._patch(run, kind, live, {"finalizers": kept}, "changed")

    def _live(self, ref: Ref) -> tuple[type[Resource], Entry[Any] | None]:
        kind = kind_of(ref.api_version, ref.kind)
        if kind is None:
            raise Undeclared(f"{self._declared.who} hands over {ref}, a kind that nobody knows")
        if kind is not self._declared.subject:
            self._declared.check_owned(kind)
        return kind, self._process.informer(kind).cache.entries.get((ref.namespace or "", ref.name))

    async def _patch(self, run: Run, kind: type[Resource], live: Entry[Any], fields: JSON, verb: str) -> None:
        began = asyncio.get_running_loop().time()
        ref, manager = live.obj.ref, self._identity.fields_manager
        informer = self._process.informer(kind)
        body = {"metadata": {"uid": live.uid, "resourceVersion": live.version, **fields}}
        path = kind.resource_type.path(ref.namespace, ref.name)
        async with informer.writing((ref.namespace or "", ref.name), manager) as sent:
            try:
                answer = await self._process.client.wire.send(
                    "PATCH", path, {"fieldManager": manager}, msgspec.json.encode(body), PATCH_CONTENT_TYPES["merge"]
                )
            except NotFound:
                return  # gone meanwhile; the watch will tell
            informer.wrote(answer.body, manager, sent)
        run.breaker.count(ref, ("metadata",), repeated=False, now_s=began)
        self._applier.record(run, verb, ref, ", ".join(f"metadata.{name}" for name in fields), began)
