"""How an object is written: created, replaced, patched or applied, each of them through the same steps.

    body -> identity -> unknown fields -> defaults -> managed fields -> what the cluster fills in -> (webhooks that change)
         -> the kind's own rules -> admission -> (webhooks that judge) -> quotas -> store

Writes of one object happen one after the other (a lock a key), so that read, change and commit need no retries; the store
still judges the revision. Where webhooks are asked, no lock is held meanwhile: an object that has changed since is read again,
and they are asked again. A write that changes nothing keeps the version and costs no commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server import custom_rules, errors, quotas
from trimtab.server.admitting import Check, OwnAdmission
from trimtab.server.bodies import Options
from trimtab.server.clock import name_suffix, new_uid, timestamp
from trimtab.server.errors import Cause, StatusError
from trimtab.server.honest import warnings_of
from trimtab.server.hooks import Asked, Hooks, notes_of
from trimtab.server.kinds import Kind
from trimtab.server.locks import KeyLocks
from trimtab.server.metadata import GENERATED_PREFIX_MAX, carry_over, metadata_problems, status_metadata
from trimtab.server.objects import OBJECT_MAX_BYTES, copied, encode
from trimtab.server.preconditions import check_precondition, check_uid, check_versioned, refuse_new_finalizers
from trimtab.server.received import identified, received, refuse_unknown, schema_problems
from trimtab.server.strategies import Surroundings, ephemeral, resizing, rules_of, strategy_of
from trimtab.server.strategies.certificates import GROUP as CERTIFICATES
from trimtab.server.strategies.certificates import with_part
from trimtab.server.views import as_stored, viewed
from trimtab.store import ABSENT, Conflict, Put, Record, Store

if TYPE_CHECKING:
    from trimtab.server.registry import Registry
    from trimtab.server.structural import FieldError, Schema

GENERATE_TRIES = 8
"""27^5 suffixes: a second clash in a row is already a sign of something else."""

CHANGED_TRIES = 8
"""How often webhooks are asked about a change of an object that others change meanwhile."""

Change = Callable[[JSON], JSON]
"""From a private copy of the live object to the new one; may raise `StatusError`."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write led to. A dry run's record has revision 0 (created) or the live one's."""

    record: Record
    created: bool = False
    gone: bool = False
    """The write removed the last finalizer of a deleted object."""


class _Moved(Exception):
    """The object was changed by somebody else while webhooks were asked."""


class Writer:
    """Carries out writes; shared by the handlers of requests and the server's own controllers."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        around: Surroundings,
        admission: Sequence[tuple[str, str, Check]],
        hooks: Hooks,
    ) -> None:
        self._store = store
        self._registry = registry
        self._around = around
        self._admission = OwnAdmission(around, admission)
        self._hooks = hooks
        self.locks = KeyLocks()
        self._creating: Counter[str] = Counter()

    # Creating

    async def create(
        self, kind: Kind, namespace: str, obj: JSON, options: Options, *, tracked: bool = False, name: str = ""
    ) -> Written:
        """Creates an object. `tracked`: its managed fields are settled already (server-side apply). `name`: it is the one that
        the URL names, and what the body says of its version does not count.

        Raises:
            StatusError: 400, 403, 409 or 422 with the reason.
        """
        meta = identified(kind, namespace, name, obj)
        versioned = _counts(meta.get("resourceVersion")) and not (tracked or name or options.dry_run)
        if kind.terminating:
            raise errors.method_not_allowed("create not allowed while custom resource definition is terminating")
        schema = self._registry.schema(kind)
        strategy = strategy_of(kind)
        refuse_unknown(schema, obj, options)
        if not kind.crd:
            options.warnings += warnings_of(obj, None)
        if kind.status:
            obj.pop("status", None)
        meta = obj["metadata"] = _by_the_client(kind, obj["metadata"])
        if kind.namespaced:
            meta["namespace"] = namespace
        self._namespace_open(kind, namespace)
        found = received(kind, schema, obj)
        if not tracked:
            from trimtab.server.apply import track_update

            now = timestamp(self._around.clock)
            track_update(None, obj, manager=options.manager, schema=schema, now=now)
        if not found:
            strategy.admit(self._around, kind, obj, None)
        asked = self._hooks.asked(kind, "CREATE", options, name=meta.get("name") or "", namespace=namespace)
        if asked is not None:
            obj = await self._changed_by_webhooks(asked, kind, schema, obj, None)
            if obj["metadata"].get("namespace", "") != (namespace if kind.namespaced else ""):
                raise errors.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            found = received(kind, schema, obj)
        meta = obj["metadata"]
        if meta.get("name") or not meta.get("generateName"):
            return await self._create(kind, schema, namespace, obj, options, asked, found, versioned)
        for _ in range(GENERATE_TRIES):
            named = copied(obj)
            name = meta["generateName"][:GENERATED_PREFIX_MAX] + name_suffix(self._around.clock)
            named["metadata"] = {"name": name, **named["metadata"]}
            try:
                return await self._create(kind, schema, namespace, named, options, asked, found, versioned)
            except StatusError as err:
                if err.reason != "AlreadyExists" or isinstance(err, errors.Denied):
                    raise
        raise errors.already_exists(kind.plural, kind.group, name)

    async def _create(
        self,
        kind: Kind,
        schema: Schema,
        namespace: str,
        obj: JSON,
        options: Options,
        asked: Asked | None,
        found: Sequence[Cause],
        versioned: bool,
    ) -> Written:
        """`found`: what its schema says against it. `versioned`: the body named a version, which is refused once all else is
        right, as the real server does."""
        clock = self._around.clock
        name = obj["metadata"].get("name") or ""
        meta = obj["metadata"] = _by_the_client(kind, obj["metadata"]) | {
            "uid": new_uid(clock),
            "creationTimestamp": timestamp(clock),
        }
        if kind.generation:
            meta["generation"] = 1
        key = kind.key(namespace, name)
        try:
            schema.default(obj)  # what admission has added
            if kind.crd:
                found = await custom_rules.problems(schema, obj, None, options)
            self._complete(kind, obj, None, options, found)
            schema.complete(obj, stored=True)
            if asked is not None:
                await asked.judge(obj)
                options.warnings += asked.warnings
            record = Record(key, self._encoded(kind, obj), 0)
            async with self._rationing(kind, namespace):
                self._admission.ration(kind, obj, None)
                self._namespace_open(kind, namespace)
                if self._store.get(key) is not None:
                    raise errors.already_exists(kind.plural, kind.group, name)
                if versioned:
                    raise errors.bad_request("resourceVersion should not be set on objects to be created")
                if options.dry_run:
                    return Written(record, created=True)
                self._creating.update((namespace, kind.collection))
                try:
                    [record] = await self._store.write([Put(key, record.value, ABSENT)])
                except Conflict:
                    raise errors.already_exists(kind.plural, kind.group, name) from None
                finally:
                    self._creating.subtract((namespace, kind.collection))
        finally:
            strategy_of(kind).settled(self._around, key)
        self._around.wrote(kind, "created", obj, manager=options.manager, annotations=notes_of(asked))
        return Written(record, created=True)

    def check_body(self, kind: Kind, namespace: str, name: str, obj: JSON, options: Options) -> None:
        """What is wrong with a body before anybody looks for the object that it replaces. Raises `StatusError`."""
        identified(kind, namespace, name, obj)
        schema = self._registry.schema(kind)
        refuse_unknown(schema, obj, options)
        if not kind.crd:
            schema.default(obj)
            schema_problems(kind, schema, obj)

    def creating_in(self, scope: str) -> bool:
        """Whether objects are on their way into a namespace or a collection: it may not be called empty yet."""
        return self._creating[scope] > 0

    def _namespace_open(self, kind: Kind, namespace: str) -> None:
        if not kind.namespaced:
            return
        record = self._store.get(f"/core/namespaces/{namespace}")
        if record is None:
            raise errors.not_found("namespaces", "", namespace)
        if b'"deletionTimestamp"' in record.value:
            err = errors.forbidden(
                kind.plural,
                kind.group,
                "",
                f"unable to create new content in namespace {namespace} because it is being terminated",
            )
            err.details = (err.details or {}) | {
                "causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]
            }
            raise err

    # Changing

    async def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Change,
        options: Options,
        *,
        subresource: str = "",
        tracked: bool = False,
        unasked: bool = False,
    ) -> Written:
        """Changes a live object. `change` is given a private copy as the kind's version shows it.

        subresource: "" changes all but status, "status" only status, "ephemeralcontainers" only those, "resize" only what
            containers ask for, "finalize" is free of the kind's own rules.
        tracked: `change` has settled the managed fields itself.
        unasked: webhooks have been asked already, about the request that this write is a part of.

        Raises:
            StatusError: 404, 409, 422 with the reason, or what `change` raises.
        """
        asked = None
        if not unasked:
            asked = self._hooks.asked(kind, "UPDATE", options, name=name, namespace=namespace, subresource=subresource)
        if asked is None:
            async with self._held(kind, namespace, name, subresource):
                return await self._update(kind, namespace, name, change, options, subresource, tracked, None)
        for _ in range(CHANGED_TRIES):
            try:
                return await self._update(kind, namespace, name, change, options, subresource, tracked, asked)
            except _Moved:
                continue
        raise errors.conflict(kind.plural, kind.group, name, errors.MODIFIED)

    @asynccontextmanager
    async def _held(self, kind: Kind, namespace: str, name: str, subresource: str) -> AsyncIterator[None]:
        """The object belongs to one writer, and so does the namespace's quota where the write may count."""
        grows = subresource == resizing.SUBRESOURCE or (
            not subresource and kind.kind in ("PersistentVolumeClaim", "Service")
        )
        async with self._rationing(kind, namespace if grows else ""), self.locks(kind.key(namespace, name)):
            yield

    async def _update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Change,
        options: Options,
        subresource: str,
        tracked: bool,
        asked: Asked | None,
    ) -> Written:
        """One attempt, under the object's lock or, where webhooks are `asked`, without. Raises `_Moved`."""
        record = self._store.get(kind.key(namespace, name))
        if record is None:
            raise errors.not_found(kind.plural, kind.group, name)
        schema = self._registry.schema(kind)
        old = viewed(kind, record)
        schema.default(old)  # an older release has written it, which knew fewer defaults
        schema.complete(old, stored=True)
        new = change(viewed(kind, record))
        if asked is not None:
            new = copied(new)  # `change` may be asked again
        identified(kind, namespace, name, new)
        if not options.patch:
            check_uid(kind, name, new["metadata"].get("uid"), old["metadata"], options)
        check_versioned(kind, new)
        sent = {key: new["metadata"].get(key) for key in ("uid", "resourceVersion")}
        new = self._part(kind, schema, old, new, options, subresource, tracked)
        meta, old_meta = new["metadata"], old["metadata"]
        try:
            found = received(kind, schema, new)
            check_precondition(kind, name, sent, old["metadata"], options)
            if not tracked:
                self._track(old, new, schema, options, subresource)
            if asked is not None:
                new = await self._changed_by_webhooks(asked, kind, schema, new, old)
                meta = new["metadata"]
                carry_over(meta, old_meta)
                meta["resourceVersion"] = old_meta["resourceVersion"]
                found = received(kind, schema, new)
            if kind.crd:
                found = await custom_rules.problems(schema, new, old, options)
            if subresource in ("status", "finalize") and kind.group != CERTIFICATES:
                errors.raise_problems(
                    kind.kind,
                    kind.group,
                    new,
                    found or metadata_problems(kind, meta) + strategy_of(kind).status_problems(kind, new),
                )
                refuse_new_finalizers(kind, meta, old_meta)
            else:
                refuse_new_finalizers(kind, meta, old_meta)
                if not found:
                    strategy_of(kind).admit(self._around, kind, new, old)
                self._complete(kind, new, old, options, found, subresource)
            schema.complete(new, stored=True)
            if kind.generation and subresource != "status" and _desired(new, kind) != _desired(old, kind):
                meta["generation"] = old_meta.get("generation", 0) + 1
            if asked is not None:
                await asked.judge(new, old)
                options.warnings += asked.warnings
            if new == old or (tracked and _untimed(new) == _untimed(old)):
                return Written(record)
            ends = deletable(new)
            value = self._encoded(kind, new)
            async with self._held(kind, namespace, name, subresource) if asked is not None else nullcontext():
                if asked is not None and self._store.get(record.key) != record:
                    raise _Moved
                if subresource in ("", resizing.SUBRESOURCE) and not new["metadata"].get("deletionTimestamp"):
                    self._admission.ration(kind, new, old, subresource)
                if options.dry_run:
                    return Written(Record(record.key, value, record.revision), gone=ends)
                try:
                    put = Put(record.key, None if ends else value, record.revision)
                    [written] = await self._store.write([put])
                except Conflict:
                    raise errors.conflict(kind.plural, kind.group, meta["name"], errors.MODIFIED) from None
        finally:
            strategy_of(kind).settled(self._around, record.key)
        verb = "deleted" if ends else "changed"
        notes = notes_of(asked)
        self._around.wrote(kind, verb, new, old, manager=options.manager, subresource=subresource, annotations=notes)
        return Written(Record(record.key, value, written.revision), gone=True) if ends else Written(written)

    def _part(
        self, kind: Kind, schema: Schema, old: JSON, new: JSON, options: Options, subresource: str, tracked: bool
    ) -> JSON:
        """What a write through a subresource, or past them, may change of an object; the rest is as it was."""
        meta, old_meta = new["metadata"], old["metadata"]
        if kind.group == CERTIFICATES and subresource:
            new = with_part(old, new, subresource, timestamp(self._around.clock))
            refuse_unknown(schema, new, options)
            carry_over(meta, old_meta)
        elif subresource == "status":
            meta = new["metadata"] = status_metadata(kind, meta, old_meta, tracked=tracked)
            new = {**{k: v for k, v in old.items() if k != "status"}, "metadata": meta} | _only(new, "status")
            if kind.kind == "Pod" and not kind.group and "qosClass" in (old.get("status") or {}):
                new["status"] = {"qosClass": old["status"]["qosClass"]} | (new.get("status") or {})
            refuse_unknown(schema, new, options)
        else:
            if subresource == ephemeral.SUBRESOURCE:
                new = ephemeral.with_ephemeral(old, new)
                meta = new["metadata"]
            elif subresource == resizing.SUBRESOURCE:
                new = resizing.with_resized(old, new)
                meta = new["metadata"]
            refuse_unknown(schema, new, options)
            if kind.status and not subresource:
                new = {k: v for k, v in new.items() if k != "status"} | _only(old, "status")
            carry_over(meta, old_meta)
        meta["resourceVersion"] = old_meta["resourceVersion"]
        if subresource in ("", ephemeral.SUBRESOURCE) and not kind.crd:
            options.warnings += warnings_of(new, old)
        return new

    def _track(self, old: JSON, new: JSON, schema: Schema, options: Options, subresource: str) -> None:
        from trimtab.server.apply import track_update

        now = timestamp(self._around.clock)
        track_update(old, new, manager=options.manager, schema=schema, now=now, subresource=subresource)

    # Steps

    async def _changed_by_webhooks(self, asked: Asked, kind: Kind, schema: Schema, new: JSON, old: JSON | None) -> JSON:
        """The object as webhooks want it. Raises `StatusError`."""

        def complete(obj: JSON) -> None:
            wrong: list[FieldError] = []
            obj.setdefault("metadata", {})
            schema.prune(obj, wrong)
            if not wrong:
                schema.default(obj)
                wrong += [error for error in schema.validate(obj) if error.reason == "FieldValueTypeInvalid"]
            if wrong and not kind.crd:
                raise errors.internal(f"{kind.kind} in version {kind.version!r}: {wrong[0]}")

        def admit(obj: JSON) -> None:
            if not schema.validate(obj):
                strategy_of(kind).admit(self._around, kind, obj, old)

        managed = new["metadata"].get("managedFields")
        changed = await asked.change(new, old, complete, admit)
        if managed and not _is_managed(changed["metadata"].get("managedFields")):
            changed["metadata"]["managedFields"] = managed
        if schema.builtin:
            schema.prune(changed)  # nulls that stand for what nobody set
        return changed

    def _complete(
        self, kind: Kind, new: JSON, old: JSON | None, options: Options, found: Sequence[Cause], subresource: str = ""
    ) -> None:
        """Applies the kind's own rules where its schema `found` nothing, asks the server's own admission. Raises `StatusError`."""
        strategy = strategy_of(kind)
        if not found:
            found = strategy.prepare(self._around, kind, new, old)
        if not found:
            found = metadata_problems(kind, new["metadata"])
            if old is None or not new["metadata"].get("deletionTimestamp"):
                if old is not None and subresource:
                    found += strategy.part_problems(self._around, kind, subresource, new, old)
                else:
                    found += strategy.problems(self._around, kind, new, old)
                    found += rules_of(kind, new)
        errors.raise_problems(kind.kind, kind.group, new, found)
        strategy.complete(self._around, kind, new, old)
        if old is None or (not new["metadata"].get("deletionTimestamp") and new != old):
            self._admission.judge(kind, new, old, options, subresource)
        if kind.warning:
            options.warnings.append(kind.warning)

    def _rationing(self, kind: Kind, namespace: str) -> AbstractAsyncContextManager[None]:
        """Held from the look at a namespace's quotas until the write, so that two cannot slip through together."""
        if not kind.namespaced or not namespace or not self._around.quotas(namespace):
            return nullcontext()
        return self.locks(f"{quotas.PREFIX}{namespace}")

    def _encoded(self, kind: Kind, obj: JSON) -> bytes:
        stored = as_stored(kind, obj)
        if kind.crd and kind.version != kind.stored_version:
            own = self._registry.find(kind.group, kind.stored_version, kind.plural)
            if own is not None:
                self._registry.schema(own).prune(stored)  # what the stored version does not know is not kept
        value = encode(stored)
        if len(value) > OBJECT_MAX_BYTES:
            raise errors.too_large(OBJECT_MAX_BYTES)
        return value


_SERVER_FIELDS = frozenset(
    {
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "selfLink",
    }
)


def _by_the_client(kind: Kind, meta: JSON) -> JSON:
    """The metadata of a new object without what the server says. Where it counts no generations, a client's number stays."""
    kept = () if kind.generation else ("generation",)
    return {key: value for key, value in meta.items() if key not in _SERVER_FIELDS or key in kept}


def _counts(version: str | None) -> bool:
    """Whether a body names a version at all: what is no number is none, as storage reads it."""
    return bool(version) and str(version).isascii() and str(version).isdigit() and int(str(version)) > 0


def _is_managed(entries: object) -> bool:
    """Whether webhooks have left managed fields that can be read."""
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _only(obj: JSON, key: str) -> JSON:
    return {key: obj[key]} if key in obj else {}


def _desired(obj: JSON, kind: Kind) -> JSON:
    """What `metadata.generation` counts changes of. Of a Deployment also its annotations, which its ReplicaSets inherit."""
    skipped = ("apiVersion", "kind", "metadata", "status") if kind.status else ("apiVersion", "kind", "metadata")
    desired = {key: value for key, value in obj.items() if key not in skipped}
    if (kind.group, kind.kind) == ("apps", "Deployment"):
        desired["annotations"] = obj["metadata"].get("annotations")
    if (kind.group, kind.kind) == ("", "Pod"):  # being given a node is no change of what is wanted
        desired["spec"] = {key: value for key, value in desired.get("spec", {}).items() if key != "nodeName"}
    return desired


def deletable(obj: JSON) -> bool:
    """Whether a deleted object has nothing left to wait for."""
    meta = obj["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return False
    return not (obj["kind"] == "Namespace" and obj["apiVersion"] == "v1" and (obj.get("spec") or {}).get("finalizers"))


def _untimed(obj: JSON) -> JSON:
    """The object without the times of its managed fields. An apply that replaces an atomic list by what defaulting then
    completes to the list that stood there has changed nothing but such a time."""
    meta = obj["metadata"]
    managed = [{k: v for k, v in entry.items() if k != "time"} for entry in meta.get("managedFields") or ()]
    return {**obj, "metadata": {**meta, "managedFields": managed}}
