"""Which kinds are served right now: the built-in ones, and those of the CRDs in the store.

The CRDs are read from the store's own watch whenever somebody asks, so a kind is served from the moment that its CRD's
creation was acknowledged, and an idle server does nothing. Schemas are compiled when the first object of a kind comes by,
so thousands of CRDs cost nothing until used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trimtab.server.builtin_kinds import BUILTIN_KINDS
from trimtab.server.custom import kinds_of_crd, schema_of
from trimtab.server.kinds import Kind
from trimtab.store import Compacted, Store, StoreClosed

if TYPE_CHECKING:
    from trimtab.server.schemas import Schema

CRD_PREFIX = "/apiextensions.k8s.io/customresourcedefinitions/"


class Registry:
    """Look-up of served kinds. `generation` changes whenever the set of kinds may have."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watch = store.watch(CRD_PREFIX, store.revision)
        self._custom: dict[str, tuple[Kind, ...]] = {}
        self._schemas: dict[Kind, Schema] = {}
        self.generation = 0
        self._load()

    def _load(self) -> None:
        self._custom = {record.key: kinds_of_crd(record) for record in self._store.list(CRD_PREFIX)}
        self._rebuild()

    def _rebuild(self) -> None:
        kinds = [*BUILTIN_KINDS, *(kind for kinds in self._custom.values() for kind in kinds)]
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._by_group: dict[tuple[str, str], Kind] = {}
        self._by_collection: dict[str, Kind] = {}
        for kind in kinds:
            self._by_path.setdefault((kind.group, kind.version, kind.plural), kind)
            self._by_group.setdefault((kind.group, kind.kind), kind)
            self._by_collection.setdefault(kind.collection, kind)
        self._schemas = {}
        self.generation += 1

    def _refresh(self) -> None:
        try:
            changes = self._watch.take()
        except Compacted:
            self._watch.close()
            self._watch = self._store.watch(CRD_PREFIX, self._store.revision)
            self._load()
            return
        except StoreClosed:
            return
        for change in changes:
            if change.record.deleted:
                self._custom.pop(change.record.key, None)
            else:
                self._custom[change.record.key] = kinds_of_crd(change.record)
        if changes:
            self._rebuild()

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        self._refresh()
        return self._by_path.get((group, version, plural))

    def of_group(self, group: str, kind: str) -> Kind | None:
        """A kind in any of its versions; owner references outlive a version."""
        self._refresh()
        return self._by_group.get((group, kind))

    def of_key(self, key: str) -> Kind | None:
        """The kind whose objects live under such a key of the store."""
        _, group, plural, _ = key.split("/", 3)
        return self.of_collection(f"/{group}/{plural}/")

    def of_collection(self, collection: str) -> Kind | None:
        """The kind of a `Kind.collection`."""
        self._refresh()
        return self._by_collection.get(collection)

    def schema(self, kind: Kind) -> Schema:
        """The compiled schema of a kind."""
        found = self._schemas.get(kind)
        if found is None:
            if kind.crd:
                record = self._store.get(kind.crd)
                if record is None:
                    raise KeyError(kind.crd)
                found = schema_of(kind, record)
            else:
                found = _builtin_schema(kind)
            self._schemas[kind] = found
        return found

    def __iter__(self) -> Iterator[Kind]:
        self._refresh()
        return iter(list(self._by_path.values()))


def _builtin_schema(kind: Kind) -> Schema:
    from trimtab.server.schemas import builtin

    found = builtin(kind.api_version, kind.kind)
    if found is None:
        raise KeyError(f"{kind.api_version} {kind.kind}: Kubernetes publishes no schema of it")
    return found
