"""The server's own controllers: what must be deleted because something else was, and what every namespace has.

One task follows all changes and keeps an index of dependants by owner uid; another works off the keys that need a look. A key
is looked at as it stands now, never as an event said it was, so a crash loses nothing: at the start every object that is
being deleted or has owners is looked at once.

* garbage: an object whose owners are all gone is deleted; `foregroundDeletion` and `orphan` are carried out;
* a namespace that is being deleted is emptied, then let go; so is a CRD, of its objects;
* every namespace gets the ServiceAccount `default` and the CA's certificate;
* events expire;
* a ResourceQuota's status says what is used;
* when a role, a ServiceAccount or a pod goes, open watches and streams are checked again (`sessions.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server.authorization import PREFIX
from trimtab.server.bodies import Options
from trimtab.server.builtin_kinds import REVIEWS
from trimtab.server.deleting import FOREGROUND, ORPHAN, DeleteOptions
from trimtab.server.errors import StatusError
from trimtab.server.kinds import Kind
from trimtab.server.namespace_conditions import deletion_conditions
from trimtab.server.objects import Meta, Owner, decode, meta_of
from trimtab.server.quotas import PREFIX as QUOTAS
from trimtab.server.quotas import status_of
from trimtab.server.strategies import CrdStrategy
from trimtab.store import Change, Compacted, DiskFull, Put, Record, StoreClosed, StoreError

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

log = logging.getLogger(__name__)

NAMESPACES = "/core/namespaces/"
EVENTS = "/core/events/"
SERVICE_ACCOUNTS = "/core/serviceaccounts/"
PODS = "/core/pods/"
CONFIGS = "/core/configmaps/"
CRDS = "/apiextensions.k8s.io/customresourcedefinitions/"
EVENT_LIFE_S = 3600
EXPIRY_BATCH = 500
RETRY_S = 1.0
ROOT_CA = "kube-root-ca.crt"
FURNITURE = (f"/{ROOT_CA}", "/default")
"""How the keys end of what each namespace has: the CA and the ServiceAccount."""
MANAGER = "trimtab-server"


class _Times(msgspec.Struct, rename="camel"):
    last_timestamp: str | None = None
    metadata: dict[str, object] = {}


class Housekeeping:
    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._dependants: dict[str, set[str]] = {}
        self._owners: dict[str, tuple[Owner, ...]] = {}
        self._queue: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._rationed: dict[str, set[str]] = {}
        """Namespace -> keys of its ResourceQuotas."""
        self._emptying: dict[str, str] = {}
        """What is being emptied: `/namespace/` or a CRD's collection -> the key of the namespace or CRD."""
        self._expiry: asyncio.TimerHandle | None = None

    def start(self) -> list[asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        return [
            loop.create_task(self._follow(), name="housekeeping-follow"),
            loop.create_task(self._work(), name="housekeeping-work"),
        ]

    # Following changes

    async def _follow(self) -> None:
        store = self._server.store
        while True:
            watch = store.watch("/", store.revision)
            self._dependants.clear()
            self._rationed.clear()
            self._owners.clear()
            for record in store.list("/"):
                self._saw(Change(record, None))
            try:
                while True:
                    for change in await watch.batch():
                        self._saw(change)
            except Compacted:
                watch.close()
            except StoreClosed:
                return

    def _saw(self, change: Change) -> None:
        record, previous = change
        key = record.key
        value = record.value
        tells = b'"ownerReferences"' in value or b'"deletionTimestamp"' in value  # few do; the others are not decoded
        meta = meta_of(record) if tells else None
        owners = tuple(meta.owner_references) if meta is not None else ()
        before = self._owners.get(key, ())
        if owners != before:
            self._reindex(key, before, owners)
        if previous is not None and record.deleted:
            gone = meta_of(previous)
            for dependant in sorted(self._dependants.get(gone.uid, ())):
                self._enqueue(dependant)
            for owner in before:  # a foreground deletion may have waited for this one
                self._enqueue_owner(key, owner)
            self._emptying = {scope: owner for scope, owner in self._emptying.items() if owner != key}
        elif owners != before:
            for owner in before:
                if owner not in owners:
                    self._enqueue_owner(key, owner)
        if key.startswith(PREFIX) or (record.deleted and key.startswith((SERVICE_ACCOUNTS, PODS))):
            self._server.sessions.look_again()
        if not record.deleted and (owners != before or (meta is not None and meta.deletion_timestamp)):
            self._enqueue(key)
        if previous is None and key.startswith(NAMESPACES):
            self._enqueue(key)
        if previous is not None and key.endswith(FURNITURE):
            _, group, collection, namespace, *_ = key.split("/")
            if (group, collection) in (("core", "configmaps"), ("core", "serviceaccounts")):
                self._enqueue(f"{NAMESPACES}{namespace}")
        if previous is not None and key.endswith(f"/{ROOT_CA}") and key.startswith(CONFIGS):
            self._enqueue(NAMESPACES + key.removeprefix(CONFIGS).partition("/")[0])
        if record.deleted and key.endswith("/default") and key.startswith(SERVICE_ACCOUNTS):
            self._enqueue(NAMESPACES + key.removeprefix(SERVICE_ACCOUNTS).partition("/")[0])
        if key.startswith(QUOTAS):
            self._quota_changed(key, gone=record.deleted)
        elif self._rationed and (parts := key.split("/", 4))[3] in self._rationed and len(parts) == 5:
            for quota in self._rationed[parts[3]]:
                self._enqueue(quota)
        for scope, emptied in self._emptying.items():
            if scope in key:
                self._enqueue(emptied)
        if key.startswith(EVENTS) and self._expiry is None and not record.deleted:
            self._expiry = asyncio.get_running_loop().call_later(EVENT_LIFE_S, self._enqueue, EVENTS)

    def _reindex(self, key: str, before: tuple[Owner, ...], owners: tuple[Owner, ...]) -> None:
        for owner in before:
            keys = self._dependants.get(owner.uid)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._dependants[owner.uid]
        for owner in owners:
            self._dependants.setdefault(owner.uid, set()).add(key)
        if owners:
            self._owners[key] = owners
        else:
            self._owners.pop(key, None)

    def _enqueue_owner(self, key: str, owner: Owner) -> None:
        found = self._owner_key(key, owner)
        if found is not None:
            self._enqueue(found[0])

    def _enqueue(self, key: str) -> None:
        self._queue[key] = None
        self._wake.set()

    # Working off what needs a look

    async def _work(self) -> None:
        while True:
            while self._queue:
                key = next(iter(self._queue))
                del self._queue[key]
                try:
                    await self._look_at(key)
                except (StatusError, StoreError) as err:
                    if not isinstance(err, StoreClosed):
                        if isinstance(err, DiskFull):
                            log.warning("housekeeping waits: %s", err)
                        asyncio.get_running_loop().call_later(RETRY_S, self._enqueue, key)
                except Exception:
                    log.exception("housekeeping of %s failed; it is tried again when the object changes", key)
            self._wake.clear()
            await self._wake.wait()

    async def _look_at(self, key: str) -> None:
        if key == EVENTS:
            await self._expire_events()
            return
        if key.startswith(QUOTAS):
            await self._count(key)
        record = self._server.store.get(key)
        kind = self._server.registry.of_key(key)
        if record is None or kind is None:
            return
        meta = meta_of(record)
        if key.startswith(NAMESPACES) and not meta.deletion_timestamp:
            await self._furnish(meta.name)
        if meta.owner_references and await self._judge_owners(kind, key, meta):
            return
        if not meta.deletion_timestamp:
            return
        if ORPHAN in meta.finalizers:
            await self._orphan(meta)
            await self._drop_finalizer(kind, meta, ORPHAN)
        elif FOREGROUND in meta.finalizers:
            if not await self._delete_dependants(meta):
                await self._drop_finalizer(kind, meta, FOREGROUND)
        if key.startswith(NAMESPACES):
            await self._empty_namespace(kind, key, meta)
        elif key.startswith(CRDS) and CrdStrategy.CLEANUP in meta.finalizers:
            await self._empty_crd(kind, key, meta)

    # Garbage

    def _owner_key(self, key: str, owner: Owner) -> tuple[str, Kind] | None:
        """Where an owner of the object at `key` lives; None when its kind is not served."""
        kind = self._server.registry.of_group(owner.api_version.rpartition("/")[0], owner.kind)
        if kind is None:
            return None
        parts = key.split("/")
        namespace = parts[3] if len(parts) == 5 else ""
        if kind.namespaced and not namespace:
            return None
        return kind.key(namespace, owner.name), kind

    async def _judge_owners(self, kind: Kind, key: str, meta: Meta) -> bool:
        """Deletes an object without any owner left, drops references to owners that are gone or wait in the foreground for it.
        True: it was deleted."""
        gone: set[str] = set()
        waiting: set[str] = set()
        for owner in meta.owner_references:
            found = self._owner_key(key, owner)
            if found is None:
                return False  # not known here: leave it to who knows
            record = self._server.store.get(found[0])
            owner_meta = meta_of(record) if record is not None else None
            if owner_meta is None or owner_meta.uid != owner.uid:
                gone.add(owner.uid)
            elif owner_meta.deletion_timestamp and FOREGROUND in owner_meta.finalizers:
                waiting.add(owner.uid)
        if len(gone) == len(meta.owner_references):
            if not meta.deletion_timestamp:
                await self._delete(kind, meta, "")
                return True
        elif len(gone | waiting) == len(meta.owner_references):
            if not meta.deletion_timestamp:
                await self._delete(kind, meta, "Foreground" if meta.uid in self._dependants else "")
        elif gone or waiting:
            await self._drop_references(kind, meta, gone | waiting)
        return False

    async def _delete_dependants(self, meta: Meta) -> bool:
        """Deletes what depends on a foreground-deleted object; True while something still blocks it."""
        blocked = False
        for key in sorted(self._dependants.get(meta.uid, ())):
            record, kind = self._server.store.get(key), self._server.registry.of_key(key)
            if record is None or kind is None:
                continue
            dependant = meta_of(record)
            blocked |= any(o.uid == meta.uid and o.block_owner_deletion for o in dependant.owner_references)
            if not dependant.deletion_timestamp:
                await self._judge_owners(kind, key, dependant)
        return blocked

    async def _orphan(self, meta: Meta) -> None:
        for key in sorted(self._dependants.get(meta.uid, ())):
            record, kind = self._server.store.get(key), self._server.registry.of_key(key)
            if record is not None and kind is not None:
                await self._drop_references(kind, meta_of(record), {meta.uid})

    async def _drop_references(self, kind: Kind, meta: Meta, uids: set[str]) -> None:
        def change(obj: JSON) -> JSON:
            kept = [o for o in obj["metadata"].get("ownerReferences") or () if o.get("uid") not in uids]
            obj["metadata"]["ownerReferences"] = kept
            return obj

        await self._update(kind, meta, change)

    async def _drop_finalizer(self, kind: Kind, meta: Meta, finalizer: str) -> None:
        def change(obj: JSON) -> JSON:
            obj["metadata"]["finalizers"] = [f for f in obj["metadata"].get("finalizers") or () if f != finalizer]
            return obj

        await self._update(kind, meta, change)

    async def _update(self, kind: Kind, meta: Meta, change: Callable[[JSON], JSON], subresource: str = "") -> None:
        try:
            await self._server.writer.update(
                kind,
                meta.namespace,
                meta.name,
                change,
                Options(MANAGER),
                subresource=subresource,
            )
        except StatusError as err:
            if err.code != 404:
                raise

    async def _delete(self, kind: Kind, meta: Meta, policy: str) -> None:
        try:
            options = DeleteOptions(policy=policy, uid=meta.uid)
            await self._server.deleter.delete(kind, meta.namespace, meta.name, options)
        except StatusError as err:
            if err.code not in (404, 409):
                raise

    # Emptying

    def _content(self, namespace: str) -> Iterator[tuple[Kind, Record]]:
        seen: set[str] = set()
        for kind in self._server.registry:
            if kind.namespaced and kind.kind not in REVIEWS and kind.collection not in seen:
                seen.add(kind.collection)
                for record in self._server.store.list(kind.prefix(namespace)):
                    yield kind, record

    async def _empty_namespace(self, kind: Kind, key: str, meta: Meta) -> None:
        scope = f"/{meta.name}/"
        self._emptying[scope] = key
        # Pods first: what they use (policies, secrets, volumes) stays until the last of them has stopped.
        for only_pods in (True, False):
            for content_kind, record in list(self._content(meta.name)):
                content = meta_of(record)
                if not content.deletion_timestamp and (content_kind.collection == PODS or not only_pods):
                    await self._delete(content_kind, content, "Background")
            if only_pods and self._server.store.list(f"{PODS}{meta.name}/", limit=1):
                break
        if next(self._content(meta.name), None) is not None:
            await self._tell_what_remains(kind, meta)
            return  # its last object's deletion brings us back
        if self._server.writer.creating_in(meta.name):
            asyncio.get_running_loop().call_later(RETRY_S, self._enqueue, key)
            return

        def change(obj: JSON) -> JSON:
            obj["spec"] = {**obj.get("spec", {}), "finalizers": []}
            return obj

        await self._update(kind, meta, change, "finalize")

    async def _tell_what_remains(self, kind: Kind, meta: Meta) -> None:
        left, finalizers = Counter[str](), Counter[str]()
        pods_only = bool(self._server.store.list(f"{PODS}{meta.name}/", limit=1))
        for content_kind, record in self._content(meta.name):
            if content_kind.collection == PODS or not pods_only:
                left[f"{content_kind.plural}.{content_kind.group}"] += 1
                finalizers.update(meta_of(record).finalizers)

        def change(obj: JSON) -> JSON:
            status = obj.get("status") or {}
            told = deletion_conditions(status.get("conditions") or (), left, finalizers, self._server.now())
            return obj | {"status": {**status, "conditions": told}}

        await self._update(kind, meta, change, "status")

    async def _empty_crd(self, kind: Kind, key: str, meta: Meta) -> None:
        plural, _, group = meta.name.partition(".")
        scope = f"/{group}/{plural}/"
        self._emptying[scope] = key
        content_kind = self._server.registry.of_collection(scope)
        if content_kind is not None:
            for record in self._server.store.list(scope):
                content = meta_of(record)
                if not content.deletion_timestamp:
                    await self._delete(content_kind, content, "Background")
        if self._server.store.list(scope, limit=1):
            return
        if self._server.writer.creating_in(scope):
            asyncio.get_running_loop().call_later(RETRY_S, self._enqueue, key)
            return
        await self._drop_finalizer(kind, meta, CrdStrategy.CLEANUP)

    # Quotas

    def _quota_changed(self, key: str, *, gone: bool) -> None:
        namespace = key.removeprefix(QUOTAS).partition("/")[0]
        known = self._rationed.setdefault(namespace, set())
        if gone:
            known.discard(key)
            if not known:
                del self._rationed[namespace]
        else:
            known.add(key)
            self._enqueue(key)

    async def _count(self, key: str) -> None:
        """Writes what a quota counts now into its status."""
        server = self._server
        record, kind = server.store.get(key), server.registry.of_key(key)
        if record is None or kind is None:
            return
        quota = decode(record)
        status = status_of(quota, server.counted(quota))
        if quota.get("status") == status:
            return
        meta = meta_of(record)

        def change(live: JSON) -> JSON:
            return live | {"status": status}

        await server.writer.update(kind, meta.namespace, meta.name, change, Options(MANAGER), subresource="status")

    # Furnishing

    async def _furnish(self, namespace: str) -> None:
        """Gives a namespace what each has."""
        await self._ensure("", "ServiceAccount", namespace, {"metadata": {"name": "default"}})
        ca_file = self._server.settings.ca_file
        if ca_file is not None:
            content = {"metadata": {"name": ROOT_CA}, "data": {"ca.crt": ca_file.read_text()}}
            await self._ensure("", "ConfigMap", namespace, content)

    def furnish_all(self) -> None:
        """Looks again at what each namespace has."""
        for record in self._server.store.list(NAMESPACES):
            self._enqueue(record.key)

    async def _ensure(self, group: str, kind_name: str, namespace: str, obj: JSON) -> None:
        kind = self._server.registry.of_group(group, kind_name)
        if kind is None:
            return
        name, data = obj["metadata"]["name"], obj.get("data")
        try:
            record = self._server.store.get(kind.key(namespace, name))
            if record is not None:
                if data is not None and decode(record).get("data") != data:
                    options = Options(MANAGER)
                    await self._server.writer.update(kind, namespace, name, lambda live: live | {"data": data}, options)
                return
            await self._server.writer.create(kind, namespace, obj, Options(MANAGER))
        except StatusError as err:
            if err.code not in (403, 404, 409):  # the namespace is going, or somebody was faster
                raise

    # Events

    async def _expire_events(self) -> None:
        store = self._server.store
        now = self._server.clock.now()
        oldest: datetime | None = None
        expired: list[Put] = []
        for record in store.list(EVENTS):
            last = _last_seen(record)
            if now - last >= timedelta(seconds=EVENT_LIFE_S):
                expired.append(Put(record.key, None, record.revision))
            elif oldest is None or last < oldest:
                oldest = last
        self._expiry = None
        for start in range(0, len(expired), EXPIRY_BATCH):
            await store.write(expired[start : start + EXPIRY_BATCH])
        if oldest is not None and self._expiry is None:
            wait_s = max(60.0, EVENT_LIFE_S - (now - oldest).total_seconds())
            self._expiry = asyncio.get_running_loop().call_later(wait_s, self._enqueue, EVENTS)


def _last_seen(record: Record) -> datetime:
    """When an event was last said."""
    times = msgspec.json.decode(record.value, type=_Times)
    text = times.last_timestamp or str(times.metadata.get("creationTimestamp") or "")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
