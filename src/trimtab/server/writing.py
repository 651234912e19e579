"""How an object is written: created, replaced, patched or applied, each of them through the same steps.

    body -> identity -> unknown fields -> defaults -> schema -> the kind's own rules -> admission -> managed fields -> store

Writes of one object happen one after the other (a lock a key), so that read, change and commit need no retries; the store
still judges the revision. A write that changes nothing keeps the version and costs no commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.api import JSON
from trimtab.server import errors, limit_range, pod_security, quotas
from trimtab.server.bodies import Options, check_depth, strict_error
from trimtab.server.clock import name_suffix, new_uid, timestamp
from trimtab.server.errors import Cause, StatusError
from trimtab.server.honest import warnings_of
from trimtab.server.kinds import Kind
from trimtab.server.locks import KeyLocks
from trimtab.server.metadata import GENERATED_PREFIX_MAX, carry_over, metadata_problems, status_metadata
from trimtab.server.objects import OBJECT_MAX_BYTES, encode
from trimtab.server.strategies import Surroundings, ephemeral, strategy_of
from trimtab.server.views import as_stored, viewed
from trimtab.store import ABSENT, Conflict, Put, Record, Store

if TYPE_CHECKING:
    from trimtab.server.registry import Registry
    from trimtab.server.structural import Schema

GENERATE_TRIES = 8
"""27^5 suffixes: a second clash in a row is already a sign of something else."""

Check = Callable[[JSON, JSON | None], list[str]]
Change = Callable[[JSON], JSON]
"""From a private copy of the live object to the new one; may raise `StatusError`."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write led to. A dry run's record has revision 0 (created) or the live one's."""

    record: Record
    created: bool = False
    gone: bool = False
    """The write removed the last finalizer of a deleted object."""


class Writer:
    """Carries out writes; shared by the handlers of requests and the server's own controllers."""

    def __init__(
        self, store: Store, registry: Registry, around: Surroundings, admission: Sequence[tuple[str, str, Check]]
    ) -> None:
        self._store = store
        self._registry = registry
        self._around = around
        self._checks: Mapping[tuple[str, str], list[Check]] = _by_kind(admission)
        self.locks = KeyLocks()
        self._creating: Counter[str] = Counter()

    # Creating

    async def create(
        self, kind: Kind, namespace: str, obj: JSON, options: Options, *, tracked: bool = False
    ) -> Written:
        """Creates an object. `tracked`: its managed fields are settled already (server-side apply).

        Raises:
            StatusError: 400, 403, 409 or 422 with the reason.
        """
        meta = self._identified(kind, namespace, "", obj)
        generated = not meta.get("name") and meta.get("generateName")
        if meta.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        for _ in range(GENERATE_TRIES):
            if generated:
                meta["name"] = meta["generateName"][:GENERATED_PREFIX_MAX] + name_suffix(self._around.clock)
            try:
                async with self._rationing(kind, namespace):
                    return await self._create(kind, namespace, obj, options, tracked)
            except StatusError as err:
                if not generated or err.reason != "AlreadyExists":
                    raise
        raise errors.already_exists(kind.plural, kind.group, meta["name"])

    async def _create(self, kind: Kind, namespace: str, obj: JSON, options: Options, tracked: bool) -> Written:
        clock = self._around.clock
        if kind.terminating:
            raise errors.method_not_allowed("create not allowed while custom resource definition is terminating")
        schema = self._registry.schema(kind)
        strategy = strategy_of(kind)
        name = obj["metadata"].get("name") or ""
        self._refuse_unknown(schema, obj, options)
        if not kind.crd:
            options.warnings += warnings_of(obj, None)
        if kind.status:
            obj.pop("status", None)
        now = timestamp(clock)
        meta = {k: v for k, v in obj["metadata"].items() if k not in _SERVER_FIELDS} | {
            "uid": new_uid(clock),
            "creationTimestamp": now,
        }
        if kind.generation:
            meta["generation"] = 1
        if kind.namespaced:
            meta["namespace"] = namespace
        obj["metadata"] = meta
        key = kind.key(namespace, name)
        try:
            self._complete(kind, schema, obj, None, options)
            if not tracked:
                from trimtab.server.apply import track_update

                track_update(None, obj, manager=options.manager, schema=schema, now=now)
            record = Record(key, self._encoded(kind, obj), 0)
            self._namespace_open(kind, namespace)
            if self._store.get(key) is not None:
                raise errors.already_exists(kind.plural, kind.group, name)
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
            strategy.settled(self._around, key)
        self._around.wrote(kind, "created", obj, manager=options.manager)
        return Written(record, created=True)

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
    ) -> Written:
        """Changes a live object. `change` is given a private copy as the kind's version shows it.

        subresource: "" changes all but status, "status" only status, "ephemeralcontainers" only those, "finalize" is free of
        the kind's own rules.
        tracked: `change` has settled the managed fields itself.

        Raises:
            StatusError: 404, 409, 422 with the reason, or what `change` raises.
        """
        key = kind.key(namespace, name)
        grows = not subresource and kind.kind in ("PersistentVolumeClaim", "Service")
        async with self._rationing(kind, namespace if grows else ""), self.locks(key):
            record = self._store.get(key)
            if record is None:
                raise errors.not_found(kind.plural, kind.group, name)
            old = viewed(kind, record)
            new = change(viewed(kind, record))
            self._identified(kind, namespace, name, new)
            _check_precondition(kind, name, new["metadata"], old["metadata"])
            return await self._update(kind, record, old, new, options, subresource, tracked)

    async def _update(
        self, kind: Kind, record: Record, old: JSON, new: JSON, options: Options, subresource: str, tracked: bool
    ) -> Written:
        schema = self._registry.schema(kind)
        strategy = strategy_of(kind)
        meta, old_meta = new["metadata"], old["metadata"]
        if subresource == "status":
            meta = new["metadata"] = status_metadata(kind, meta, old_meta, tracked=tracked)
            new = {**{k: v for k, v in old.items() if k != "status"}, "metadata": meta} | _only(new, "status")
            self._refuse_unknown(schema, new, options)
        else:
            if subresource == ephemeral.SUBRESOURCE:
                new = ephemeral.with_ephemeral(old, new)
                meta = new["metadata"]
            self._refuse_unknown(schema, new, options)
            if kind.status and not subresource:
                new = {k: v for k, v in new.items() if k != "status"} | _only(old, "status")
            carry_over(meta, old_meta)
        meta["resourceVersion"] = old_meta["resourceVersion"]
        if subresource in ("", ephemeral.SUBRESOURCE) and not kind.crd:
            options.warnings += warnings_of(new, old)
        try:
            if subresource in ("status", "finalize"):
                schema.default(new)
                self._raise_problems(kind, new, self._schema_problems(kind, schema, new))
                self._raise_problems(kind, new, metadata_problems(kind, meta))
                self._refuse_new_finalizers(kind, meta, old_meta)
            else:
                self._refuse_new_finalizers(kind, meta, old_meta)
                self._complete(kind, schema, new, old, options, subresource)
            if kind.generation and subresource != "status" and _desired(new, kind) != _desired(old, kind):
                meta["generation"] = old_meta.get("generation", 0) + 1
            if not tracked:
                from trimtab.server.apply import track_update

                track_update(
                    old,
                    new,
                    manager=options.manager,
                    schema=schema,
                    now=timestamp(self._around.clock),
                    subresource=subresource,
                )
            if new == old or (tracked and _untimed(new) == _untimed(old)):
                return Written(record)
            ends = deletable(new)
            value = self._encoded(kind, new)
            if options.dry_run:
                return Written(Record(record.key, value, record.revision), gone=ends)
            try:
                put = Put(record.key, None if ends else value, record.revision)
                [written] = await self._store.write([put])
            except Conflict:
                raise errors.conflict(kind.plural, kind.group, meta["name"], errors.MODIFIED) from None
        finally:
            strategy.settled(self._around, record.key)
        self._around.wrote(
            kind, "deleted" if ends else "changed", new, old, manager=options.manager, subresource=subresource
        )
        return Written(Record(record.key, value, written.revision), gone=True) if ends else Written(written)

    # Steps

    def _identified(self, kind: Kind, namespace: str, name: str, obj: JSON) -> JSON:
        """The metadata of a body that names the right kind, namespace and name. Raises `StatusError` 400."""
        check_depth(obj)
        api_version, kind_name = obj.get("apiVersion"), obj.get("kind")
        if api_version is None and kind_name is None:
            obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
        elif api_version != kind.api_version:
            raise errors.bad_request(
                f"the API version in the data ({api_version}) does not match the expected API version ({kind.api_version})"
            )
        elif kind_name != kind.kind:
            raise errors.bad_request(
                f"the kind in the data ({kind_name}) does not match the expected kind ({kind.kind})"
            )
        meta = obj.get("metadata")
        if meta is None:
            meta = obj["metadata"] = {}
        if not isinstance(meta, dict):
            raise errors.bad_request(f"metadata: expected an object, got {msgspec.json.encode(meta).decode()[:40]}")
        for field in ("name", "namespace", "generateName", "resourceVersion", "uid"):
            if not isinstance(meta.get(field, ""), (str, type(None))):
                raise errors.bad_request(f"metadata.{field}: must be a string")
        if kind.namespaced:
            if meta.get("namespace") and meta["namespace"] != namespace:
                raise errors.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            meta["namespace"] = namespace
        else:
            meta.pop("namespace", None)
        if name:
            if meta.get("name") and meta["name"] != name:
                raise errors.bad_request(
                    f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
                )
            meta["name"] = name
        return meta

    def _refuse_unknown(self, schema: Schema, obj: JSON, options: Options) -> None:
        dropped = schema.prune(obj)
        if not dropped or options.validation == "Ignore":
            return
        problems = [f'unknown field "{path}"' for path in dropped]
        if options.validation == "Strict":
            raise strict_error(problems)
        options.warnings += problems

    def _complete(
        self, kind: Kind, schema: Schema, new: JSON, old: JSON | None, options: Options, subresource: str = ""
    ) -> None:
        """Defaults, validates, applies the kind's own rules, asks admission. Raises `StatusError`."""
        strategy = strategy_of(kind)
        schema.default(new)
        found = self._schema_problems(kind, schema, new)
        if not found:
            self._give_defaults(kind, new, old)
            found = strategy.prepare(self._around, kind, new, old)
        if not found:
            found = metadata_problems(kind, new["metadata"])
            if old is None or not new["metadata"].get("deletionTimestamp"):
                if old is not None and subresource:
                    found += strategy.part_problems(self._around, kind, subresource, new, old)
                else:
                    found += strategy.problems(self._around, kind, new, old)
        self._raise_problems(kind, new, found)
        strategy.complete(self._around, kind, new, old)
        if old is None or (not new["metadata"].get("deletionTimestamp") and new != old):
            self._admit(kind, new, old, options)
            if not kind.crd and not kind.group.endswith(".k8s.io"):
                self._keep_pods_secure(kind, new, old, options)
            if kind.namespaced and not subresource:
                self._keep_in_bounds(kind, new, old)
        if kind.warning:
            options.warnings.append(kind.warning)

    def _schema_problems(self, kind: Kind, schema: Schema, obj: JSON) -> list[Cause]:
        found = schema.validate(obj)
        if found and not kind.crd and found[0].reason == "FieldValueTypeInvalid":
            raise errors.bad_request(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {found[0]}'
            )
        return [Cause(error.path, error.message, error.reason) for error in found]

    def _raise_problems(self, kind: Kind, obj: JSON, found: Sequence[Cause]) -> None:
        if found:
            meta = obj["metadata"]
            raise errors.invalid(kind.kind, kind.group, meta.get("name") or meta.get("generateName") or "", found)

    def _refuse_new_finalizers(self, kind: Kind, meta: JSON, old_meta: JSON) -> None:
        if not old_meta.get("deletionTimestamp"):
            return
        added = sorted(set(meta.get("finalizers") or ()) - set(old_meta.get("finalizers") or ()))
        if added:
            text = (
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
                + "[]string{"
                + ", ".join(f'"{name}"' for name in added)
                + "}"
            )
            self._raise_problems(kind, {"metadata": meta}, [Cause("metadata.finalizers", text, "FieldValueForbidden")])

    def _rationing(self, kind: Kind, namespace: str) -> AbstractAsyncContextManager[None]:
        """Held from the look at a namespace's quotas until the write, so that two cannot slip through together."""
        if not kind.namespaced or not namespace or not self._around.quotas(namespace):
            return nullcontext()
        return self.locks(f"{quotas.PREFIX}{namespace}")

    def _give_defaults(self, kind: Kind, new: JSON, old: JSON | None) -> None:
        """What a namespace's LimitRanges give a new pod, and what a LimitRange implies of itself."""
        if kind.group or kind.crd:
            return
        if kind.kind == "LimitRange":
            limit_range.complete(new)
        elif kind.kind == "Pod" and old is None and isinstance(new.get("spec"), dict):
            limit_range.give_defaults(new, self._around.limit_ranges(new["metadata"].get("namespace") or ""))

    def _keep_in_bounds(self, kind: Kind, new: JSON, old: JSON | None) -> None:
        """Asks LimitRanges and ResourceQuotas. Raises `StatusError`."""
        name, namespace = new["metadata"].get("name") or "", new["metadata"].get("namespace") or ""
        if not kind.group and kind.kind == "LimitRange":
            self._raise_problems(kind, new, [Cause(path, text) for path, text in limit_range.problems(new)])
        if not kind.group and kind.kind in ("Pod", "PersistentVolumeClaim") and old is None:
            told = limit_range.refusals(kind.kind, new, self._around.limit_ranges(namespace))
            if told:
                raise errors.forbidden(
                    kind.plural, kind.group, name, told[0] if len(told) == 1 else f"[{', '.join(told)}]"
                )
        grows = old is None or kind.kind in ("PersistentVolumeClaim", "Service")
        found = self._around.quotas(namespace) if grows else []
        if text := quotas.refusal(found, kind, new, old, self._around.counted):
            raise errors.forbidden(kind.plural, kind.group, name, text)

    def _keep_pods_secure(self, kind: Kind, new: JSON, old: JSON | None, options: Options) -> None:
        """Asks Pod Security about pods, what would make pods, and namespaces. Raises `StatusError`."""
        if kind.kind == "Namespace":
            found = [
                Cause(path, text) for path, text in pod_security.label_problems(new["metadata"].get("labels") or {})
            ]
            self._raise_problems(kind, new, found)
            options.warnings += pod_security.stricter_warnings(self._around, new, old)
            return
        pod = pod_security.pod_in(kind, new)
        if pod is None or (old is not None and pod.get("spec") == (pod_security.pod_in(kind, old) or {}).get("spec")):
            return
        meta = new["metadata"]
        refusal, warning = pod_security.verdict(
            self._around.namespace_labels(meta.get("namespace") or ""), pod, is_pod=kind.kind == "Pod"
        )
        if refusal:
            raise errors.forbidden(kind.plural, kind.group, meta.get("name") or "", refusal)
        if warning:
            options.warnings.append(warning)

    def _admit(self, kind: Kind, new: JSON, old: JSON | None, options: Options) -> None:
        version = kind.api_version
        if not kind.crd and kind.stored_api_version != version:
            version, new, old = kind.stored_api_version, as_stored(kind, new), as_stored(kind, old) if old else None
        for check in self._checks.get((version, kind.kind), ()):
            try:
                options.warnings += check(new, old)
            except Exception as err:
                field, message = getattr(err, "field", None), getattr(err, "message", None)
                if field is None or message is None:
                    raise
                self._raise_problems(kind, new, [Cause(field, message)])

    def _encoded(self, kind: Kind, obj: JSON) -> bytes:
        value = encode(as_stored(kind, obj))
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


def _by_kind(admission: Sequence[tuple[str, str, Check]]) -> dict[tuple[str, str], list[Check]]:
    checks: dict[tuple[str, str], list[Check]] = {}
    for api_version, kind, check in admission:
        checks.setdefault((api_version, kind), []).append(check)
    return checks


def _only(obj: JSON, key: str) -> JSON:
    return {key: obj[key]} if key in obj else {}


def _desired(obj: JSON, kind: Kind) -> JSON:
    """What `metadata.generation` counts changes of. Of a Deployment also its annotations, which its ReplicaSets inherit."""
    skipped = ("apiVersion", "kind", "metadata", "status") if kind.status else ("apiVersion", "kind", "metadata")
    desired = {key: value for key, value in obj.items() if key not in skipped}
    if (kind.group, kind.kind) == ("apps", "Deployment"):
        desired["annotations"] = obj["metadata"].get("annotations")
    return desired


def deletable(obj: JSON) -> bool:
    """Whether a deleted object has nothing left to wait for."""
    meta = obj["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return False
    return not (obj["kind"] == "Namespace" and obj["apiVersion"] == "v1" and (obj.get("spec") or {}).get("finalizers"))


def _check_precondition(kind: Kind, name: str, meta: JSON, old_meta: JSON) -> None:
    asked: Any = meta.get("uid")
    if asked and asked != old_meta.get("uid"):
        why = f"Precondition failed: UID in precondition: {asked}, UID in object meta: {old_meta.get('uid')}"
        raise errors.conflict(kind.plural, kind.group, name, why)
    version = meta.get("resourceVersion")
    if version and version != old_meta["resourceVersion"]:
        raise errors.conflict(kind.plural, kind.group, name, errors.MODIFIED)


def _untimed(obj: JSON) -> JSON:
    """The object without the times of its managed fields. An apply that replaces an atomic list by what defaulting then
    completes to the list that stood there has changed nothing but such a time."""
    meta = obj["metadata"]
    managed = [{k: v for k, v in entry.items() if k != "time"} for entry in meta.get("managedFields") or ()]
    return {**obj, "metadata": {**meta, "managedFields": managed}}
