"""Which kinds are served right now: the built-in ones, and those of the CRDs in the store.

The CRDs are read from the store's own watch whenever somebody asks, so a kind is served from the moment that its CRD's
creation was acknowledged, and an idle server does nothing. Schemas are compiled when the first object of a kind comes by,
so thousands of CRDs cost nothing until used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server.builtin_kinds import BUILTIN_KINDS
from trimtab.server.custom import kinds_of_crd, schema_of
from trimtab.server.kinds import Kind
from trimtab.store import Compacted, Store, StoreClosed

if TYPE_CHECKING:
    from trimtab.server.schemas import Schema

CRD_PREFIX = "/apiextensions.k8s.io/customresourcedefinitions/"


COMPILED_MAX = 256
"""Schemas of custom kinds that are kept compiled; those not used for the longest make room."""


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
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._by_group: dict[tuple[str, str], Kind] = {}
        self._by_collection: dict[str, Kind] = {}
        self._custom = {}
        self._schemas = {}
        self._add(BUILTIN_KINDS)
        for record in self._store.list(CRD_PREFIX):
            self._replace(record.key, kinds_of_crd(record, self._complete))
        self.generation += 1

    def _add(self, kinds: Iterable[Kind]) -> None:
        for kind in kinds:
            self._by_path.setdefault((kind.group, kind.version, kind.plural), kind)
            self._by_group.setdefault((kind.group, kind.kind), kind)
            self._by_collection.setdefault(kind.collection, kind)

    def _replace(self, key: str, kinds: tuple[Kind, ...]) -> None:
        """Puts the kinds of one CRD in the place of those that it had; the others', and their schemas, stay."""
        for old in self._custom.pop(key, ()):
            self._schemas.pop(old, None)
            if self._by_path.get((old.group, old.version, old.plural)) is old:
                del self._by_path[old.group, old.version, old.plural]
            if self._by_group.get((old.group, old.kind)) is old:
                del self._by_group[old.group, old.kind]
            if self._by_collection.get(old.collection) is old:
                del self._by_collection[old.collection]
        if kinds:
            self._custom[key] = kinds
            self._add(kinds)

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
            gone = change.record.deleted
            self._replace(change.record.key, () if gone else kinds_of_crd(change.record, self._complete))
        if changes:
            self.generation += 1

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
        found = self._schemas.pop(kind, None)
        if found is None:
            if kind.crd:
                record = self._store.get(kind.crd)
                if record is None:
                    raise KeyError(kind.crd)
                found = schema_of(kind, record)
            else:
                return _builtin_schema(kind)
        self._schemas[kind] = found
        if len(self._schemas) > COMPILED_MAX:
            del self._schemas[next(iter(self._schemas))]
        return found

    def _complete(self, kind: Kind, obj: JSON) -> None:
        now = self.find(kind.group, kind.version, kind.plural)
        if now is not None and now.crd:  # the definition may have gone, or changed, since the request came
            self.schema(now).default(obj)

    def __iter__(self) -> Iterator[Kind]:
        self._refresh()
        return iter(list(self._by_path.values()))


def _builtin_schema(kind: Kind) -> Schema:
    from trimtab.server.schemas import builtin

    found = builtin(kind.api_version, kind.kind)
    if found is None:
        raise KeyError(f"{kind.api_version} {kind.kind}: Kubernetes publishes no schema of it")
    return found
