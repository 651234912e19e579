"""How an object goes away: at once when nothing has to happen before, else marked and finished by whoever has to act.

What may have to happen: finalizers; dependants (the garbage collector's finalizers `foregroundDeletion` and `orphan`, from
the propagation policy); a pod's containers, which the node agent stops within the grace period before it deletes the pod with
a grace period of 0; a namespace's content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.bodies import Options, decode_object, dry_run, timeout_of
from trimtab.server.clock import Clock
from trimtab.server.errors import Cause
from trimtab.server.hooks import Asked, Hooks, notes_of
from trimtab.server.http import Request
from trimtab.server.kinds import Kind
from trimtab.server.objects import encode
from trimtab.server.strategies import Surroundings
from trimtab.server.views import as_stored, viewed
from trimtab.server.writing import CHANGED_TRIES, Writer, Written, deletable
from trimtab.store import Conflict, Put, Record, Store

if TYPE_CHECKING:
    from trimtab.server.registry import Registry

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
POLICIES = ("Orphan", "Background", "Foreground")
DEFAULT_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a deletion asks for. `grace_s` None: the object's own."""

    grace_s: int | None = None
    policy: str = ""
    usual_policy: str = ""
    """The kind's own, which finalizers of the object go before."""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
    timeout_s: float | None = None
    """How long the client lets the whole request take."""
    warnings: list[str] = field(default_factory=list)
    """What webhooks want to have said to whoever deletes."""

    def wire(self) -> JSON:
        """As webhooks are told of them."""
        conditions = {"uid": self.uid, "resourceVersion": self.resource_version}
        found: JSON = {
            "gracePeriodSeconds": self.grace_s,
            "preconditions": {key: value for key, value in conditions.items() if value} or None,
            "propagationPolicy": self.policy or None,
            "dryRun": ["All"] if self.dry_run else None,
        }
        return {key: value for key, value in found.items() if value is not None}


async def delete_options(request: Request) -> DeleteOptions:
    """From the body and the query, which wins. Raises `StatusError` 400."""
    raw = await request.body()
    body: JSON = decode_object(raw, request.content_type, Options()) if raw.strip() else {}
    conditions = body.get("preconditions") or {}
    if not isinstance(conditions, dict):
        raise errors.bad_request("preconditions: Invalid value: must be an object")
    for part in ("uid", "resourceVersion"):
        if not isinstance(conditions.get(part) or "", str):
            raise errors.bad_request(f"preconditions.{part}: Invalid value: must be text")
    dry = body.get("dryRun") or []
    if not isinstance(dry, list) or not all(isinstance(value, str) for value in dry):
        raise errors.bad_request("dryRun: Invalid value: must be a list of texts")
    grace = request.integer("gracePeriodSeconds")
    grace = body.get("gracePeriodSeconds") if grace is None else grace
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise errors.bad_request(f"gracePeriodSeconds: Invalid value: {grace}: must be an integer")
    if grace is not None and grace < 0:
        grace = 1
    policy = request.query.get("propagationPolicy") or body.get("propagationPolicy") or ""
    orphans = request.flag("orphanDependents") if "orphanDependents" in request.query else body.get("orphanDependents")
    problems = []
    if policy and orphans is not None:
        text = f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be both set'
        problems.append(Cause("propagationPolicy", text))
    if policy and policy not in POLICIES:
        text = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
        problems.append(Cause("propagationPolicy", text, "FieldValueNotSupported"))
    if problems:
        raise errors.invalid("DeleteOptions", "meta.k8s.io", "", problems)
    if not policy and orphans is not None:
        policy = "Orphan" if orphans else "Background"
    return DeleteOptions(
        grace,
        policy,
        uid=conditions.get("uid") or "",
        resource_version=conditions.get("resourceVersion") or "",
        dry_run=dry_run(request.values("dryRun") or dry, "DeleteOptions"),
        timeout_s=timeout_of(request),
    )


PODS_STAY = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set "
    "propagationPolicy=Orphan to suppress this warning"
)


def by_kind(kind: Kind, options: DeleteOptions) -> DeleteOptions:
    """The options with what the kind has by default: a Job that is deleted without a word of its pods leaves them, with a
    warning (k8s.io/kubernetes pkg/registry/batch/job)."""
    if options.policy or (kind.group, kind.kind) != ("batch", "Job"):
        return options
    options.warnings.append(PODS_STAY)
    return replace(options, usual_policy="Orphan")


class Deleter:
    """Carries out deletions; shared by the handlers of requests and the server's own controllers."""

    def __init__(
        self, store: Store, registry: Registry, writer: Writer, clock: Clock, around: Surroundings, hooks: Hooks
    ) -> None:
        self._hooks = hooks
        self._store = store
        self._around = around
        self._registry = registry
        self._writer = writer
        self._clock = clock

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        options: DeleteOptions,
        *,
        unless: Callable[[JSON], None] | None = None,
        unasked: bool = False,
        named: bool = True,
    ) -> Written:
        """Deletes an object or marks it deleted; `gone` says which.

        unless: looks at the live object last, under its lock, and raises to keep it.
        unasked: webhooks have been asked already, about the request that this deletion is a part of.
        named: the request names this object; else it is one of a collection.

        Raises:
            StatusError: 404, or 409 when a precondition does not hold.
        """
        key = kind.key(namespace, name)
        asked = None
        if not unasked:
            said = Options(dry_run=options.dry_run, asked=options.wire(), timeout_s=options.timeout_s)
            asked = self._hooks.asked(kind, "DELETE", said, name=name if named else "", namespace=namespace)
        for _ in range(CHANGED_TRIES):
            judged = None
            if asked is not None and (judged := self._store.get(key)) is not None:
                obj = viewed(kind, judged)
                _check_preconditions(kind, name, obj["metadata"], options)
                await asked.change(None, obj)
                await asked.judge(None, obj)
                options.warnings.extend(asked.warnings)
            async with self._writer.locks(key):
                record = self._store.get(key)
                if record is None:
                    raise errors.not_found(kind.plural, kind.group, name)
                if asked is not None and record != judged:
                    continue  # it was changed while webhooks looked at it: they see it again
                return await self._delete(kind, record, options, unless, asked)
        raise errors.conflict(kind.plural, kind.group, name, errors.MODIFIED)

    async def _delete(
        self,
        kind: Kind,
        record: Record,
        options: DeleteOptions,
        unless: Callable[[JSON], None] | None,
        asked: Asked | None,
    ) -> Written:
        """Under the object's lock."""
        obj = viewed(kind, record)
        _check_preconditions(kind, obj["metadata"]["name"], obj["metadata"], options)
        if unless is not None:
            unless(obj)
        marked = viewed(kind, record)
        self._mark(kind, marked, options)
        if deletable(marked):
            written = await self._write(kind, record, None, options)
            if not options.dry_run:
                self._around.wrote(kind, "deleted", obj, annotations=notes_of(asked))
            return written
        if marked == obj:
            return Written(record)
        written = await self._write(kind, record, encode(as_stored(kind, marked)), options)
        if not options.dry_run and "deletionTimestamp" not in obj["metadata"]:
            self._around.wrote(kind, "deleting", obj, annotations=notes_of(asked))
        return written

    async def _write(self, kind: Kind, record: Record, value: bytes | None, options: DeleteOptions) -> Written:
        if options.dry_run:
            return Written(record if value is None else Record(record.key, value, record.revision), gone=value is None)
        try:
            [written] = await self._store.write([Put(record.key, value, record.revision)])
        except Conflict:
            raise errors.conflict(kind.plural, kind.group, record.key.rpartition("/")[2], errors.MODIFIED) from None
        return (
            Written(Record(record.key, record.value, written.revision), gone=True)
            if value is None
            else Written(written)
        )

    def _mark(self, kind: Kind, obj: JSON, options: DeleteOptions) -> None:
        """Makes the object say that it is being deleted and what has to happen first, in place."""
        meta = obj["metadata"]
        finalizers = _finalizers(meta.get("finalizers") or [], options)
        if finalizers:
            meta["finalizers"] = finalizers
        else:
            meta.pop("finalizers", None)
        grace = self._grace(kind, obj, options.grace_s)
        before = meta.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in meta and (before is None or grace >= before):
            return
        if "deletionTimestamp" not in meta and (kind.generation or meta.get("generation")):
            meta["generation"] = meta.get("generation", 0) + 1
        moment = self._clock.now() + timedelta(seconds=grace)
        meta["deletionTimestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        meta["deletionGracePeriodSeconds"] = grace
        if kind.kind == "Namespace" and not kind.group:
            obj.setdefault("status", {})["phase"] = "Terminating"

    def _grace(self, kind: Kind, obj: JSON, asked: int | None) -> int:
        """Seconds that an object's deletion waits for its containers: only a pod on a node has any."""
        if kind.kind != "Pod" or kind.group:
            return 0
        spec = obj["spec"]
        ended = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if not spec.get("nodeName") or ended:
            return 0
        if asked is not None:
            return asked
        own = spec.get("terminationGracePeriodSeconds")
        return max(1, own if own is not None else DEFAULT_GRACE_S)


def _finalizers(present: list[str], options: DeleteOptions) -> list[str]:
    """The finalizers with those of the garbage collector as the policy has them; no policy keeps what is there."""
    policy = options.policy
    if not policy and not {FOREGROUND, ORPHAN} & set(present):
        policy = options.usual_policy
    if not policy:
        return present
    kept = [name for name in present if name not in (FOREGROUND, ORPHAN)]
    return kept + {"Foreground": [FOREGROUND], "Orphan": [ORPHAN], "Background": []}[policy]


def _check_preconditions(kind: Kind, name: str, meta: JSON, options: DeleteOptions) -> None:
    why: str | None = None
    if options.uid and options.uid != meta.get("uid"):
        why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {meta.get('uid')}"
    elif options.resource_version and options.resource_version != meta["resourceVersion"]:
        why = (
            f"Precondition failed: ResourceVersion in precondition: {options.resource_version}, "
            f"ResourceVersion in object meta: {meta['resourceVersion']}"
        )
    if why is not None:
        raise errors.conflict(kind.plural, kind.group, name, why)


def deleted_status(kind: Kind, written: Written) -> JSON:
    """The answer to a deletion after which nothing is left."""
    obj = viewed(kind, written.record)
    details: JSON = {"name": obj["metadata"]["name"], "kind": kind.plural, "uid": obj["metadata"].get("uid", "")}
    if kind.group:
        details["group"] = kind.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
