"""What an informer knows of one kind: the objects as last seen or last written by ourselves, whichever is newer.

Two streams meet here. The list and watch bring versions in the server's order; the answers to our own writes bring versions
ahead of it. Resource versions are opaque, so "ahead" is not computed but remembered: after a write answered with version X,
the key is *pending* on X, and what the watch brings for it is older until X itself comes. So no reader in this process ever
sees an object older than its own last write (read-your-writes). Pending entries end with the awaited version, with the
object's deletion, or with a list that was asked for after the write.

Beside each object its *marks* are kept: who manages which fields, by hash. They tell who made a change, and whether what we
applied is still as we applied it, without keeping `managedFields` in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from trimtab.api import Resource

K = TypeVar("K", bound=Resource)
V = TypeVar("V")

Key = tuple[str, str]
"""(namespace or "", name)."""

SEEN_MAX = 2048
"""Versions remembered as already brought by the watch; more than can be between a write's commit and its answer."""


INDEXES_MAX = 32
"""Labels by which one kind is indexed; by further ones it is searched."""


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """By what else objects are looked up. values: under which an object is found, within its namespace; cheap, and of the object alone."""

    values: Callable[[Any], Iterable[str]]


class Mark(NamedTuple):
    """One entry of `managedFields`; `fields` is a hash of what it manages, comparable within this process only."""

    manager: str
    operation: str
    subresource: str
    time: str
    fields: int


Marks = tuple[Mark, ...]


class _Managed(msgspec.Struct, rename={"fields_v1": "fieldsV1"}):
    manager: str = ""
    operation: str = ""
    subresource: str = ""
    time: str = ""
    fields_v1: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _ManagedMeta(msgspec.Struct, rename="camel"):
    managed_fields: list[_Managed] = []


class _ManagedObject(msgspec.Struct):
    metadata: _ManagedMeta


_marks_decoder = msgspec.json.Decoder(_ManagedObject)


def read_marks(body: bytes) -> Marks:
    """The marks of an object's bytes."""
    managed = _marks_decoder.decode(body).metadata.managed_fields
    # Few names, in every object there is: one text of each is enough.
    return tuple(
        Mark(intern(m.manager), intern(m.operation), intern(m.subresource), m.time, hash(bytes(m.fields_v1)))
        for m in managed
    )


@dataclass(frozen=True, slots=True)
class Entry(Generic[K]):
    obj: K
    marks: Marks

    @property
    def version(self) -> str:
        return self.obj.metadata.resource_version

    @property
    def uid(self) -> str:
        return self.obj.metadata.uid

    def mark(self, manager: str, subresource: str = "") -> tuple[str, int] | None:
        """What `manager` holds by apply: unchanged as long as nobody wrote one of its fields."""
        for mark in self.marks:
            if mark.manager == manager and mark.operation == "Apply" and mark.subresource == subresource:
                return mark.operation, mark.fields
        return None


@dataclass(frozen=True, slots=True)
class Change(Generic[K]):
    """An object came (`old` None), changed, or went (`new` None).

    by: the field manager that made it, "" when that cannot be told (deletions, and writes of managed fields alone).
    own: it is a write of this process, seen through its answer.
    """

    kind: type[K]
    key: Key
    old: K | None
    new: K | None
    by: str = ""
    subresource: str = ""
    own: bool = False

    @property
    def latest(self) -> K:
        obj = self.new if self.new is not None else self.old
        assert obj is not None
        return obj


@dataclass(slots=True)
class _Pending:
    """Our own write that the watch has not brought yet. version None: we deleted it."""

    version: str | None
    uid: str
    sequence: int


class Cache(Generic[K]):
    """The objects of one kind, with an index by namespace and by the value of each of `index_labels`, and by every `Index` that was asked.

    otherwise: what stands for an indexed label that an object lacks."""

    def __init__(
        self, kind: type[K], index_labels: Sequence[str] = (), otherwise: Callable[[K, str], str] | None = None
    ) -> None:
        self.kind = kind
        self._otherwise = otherwise
        self.entries: dict[Key, Entry[K]] = {}
        self.writes = 0
        """Counts our own writes; `replace` takes the count at the time its list was asked for."""
        self.lists = 0
        """Counts the lists taken over. An answer to a request that was sent before the latest may be older than it."""
        self.leaving: dict[str, str] = {}
        """uid -> manager of the objects that we asked to delete, since nothing on a deleted object says who did it."""
        self.writing: dict[Key, str] = {}
        """key -> manager of our writes that are under way; the watch may bring one before its answer does."""
        self._by_namespace: dict[str, dict[Key, None]] = {}
        self._by_label: dict[str, dict[str, dict[Key, None]]] = {label: {} for label in index_labels}
        self._by_index: dict[Index, dict[tuple[str, str], dict[Key, None]]] = {}
        """Index -> (namespace, value) -> keys."""
        self._sorted: dict[str | None, list[K]] = {}
        self._pending: dict[Key, _Pending] = {}
        self._seen: OrderedDict[tuple[Key, str], None] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        """uids whose deletion the watch has brought: a write that removes the last finalizer is answered with an object
        that is no more, and the answer may come after the deletion."""

    # Reading

    def get(self, name: str, namespace: str | None = None) -> K | None:
        entry = self.entries.get((namespace or "", name))
        return entry.obj if entry is not None else None

    def list(self, namespace: str | None = None) -> Sequence[K]:
        """All objects, or those of one namespace, by namespace and name. Do not change the list."""
        ordered = self._sorted.get(namespace)
        if ordered is None:
            keys: Iterable[Key] = self.entries if namespace is None else self._by_namespace.get(namespace, {})
            ordered = self._sorted[namespace] = [self.entries[key].obj for key in sorted(keys)]
        return ordered

    def labelled(self, label: str, value: str) -> Sequence[K]:
        """The objects whose indexed `label` has `value`, or for which something else stands for it, by namespace and name."""
        return [self.entries[key].obj for key in sorted(self._by_label[label].get(value, ()))]

    def select(self, labels: Sequence[tuple[str, str]], namespace: str | None = None) -> Sequence[K]:
        """The objects that have all of these labels, of one namespace or of all, by namespace and name. Do not change the list.

        The first label asked for is indexed from then on, since whoever asks asks at every change."""
        if not labels:
            return self.list(namespace)
        label, value = labels[0]
        if label not in self._by_label and len(self._by_label) < INDEXES_MAX:
            index = self._by_label[label] = {}
            for key, entry in self.entries.items():
                if found := self._value(entry.obj, label):
                    index.setdefault(found, {})[key] = None
        if not value or label not in self._by_label:
            return [obj for obj in self.list(namespace) if _has(obj, labels)]
        keys = [key for key in self._by_label[label].get(value, ()) if namespace is None or key[0] == namespace]
        chosen = [self.entries[key].obj for key in sorted(keys)]
        return chosen if len(labels) == 1 else [obj for obj in chosen if _has(obj, labels)]

    def by_index(self, index: Index, value: str, namespace: str | None = None) -> Sequence[K]:
        """The objects of a namespace that an index has under a value, by name. It is kept from the first question on."""
        if index not in self._by_index:
            found = self._by_index[index] = {}
            for key, entry in self.entries.items():
                _enter(found, index, key, entry.obj)
        keys = self._by_index[index].get((namespace or "", value), ())
        return [self.entries[key].obj for key in sorted(keys)]

    def label_values(self, label: str) -> Sequence[str]:
        return list(self._by_label[label])

    @property
    def pending(self) -> int:
        return len(self._pending)

    # What the server tells

    def seen(self, entry: Entry[K]) -> Change[K] | None:
        """The watch brought a version of an object that exists."""
        key = _key(entry.obj)
        self._remember(key, entry.version)
        pending = self._pending.get(key)
        if pending is not None:
            if pending.version == entry.version:
                del self._pending[key]
                return None
            if pending.version is not None or pending.uid == entry.uid:
                return None
            del self._pending[key]
        old = self.entries.get(key)
        if old is not None and old.version == entry.version:
            return None
        return self._put(key, entry)

    def removed(self, obj: K) -> Change[K] | None:
        """The watch brought a deletion."""
        key = _key(obj)
        if obj.metadata.uid:
            self._gone[obj.metadata.uid] = None
            if len(self._gone) > SEEN_MAX:
                self._gone.popitem(last=False)
        pending = self._pending.get(key)
        if pending is not None:
            if pending.uid != obj.metadata.uid:
                return None
            del self._pending[key]
        old = self.entries.get(key)
        if old is None or (old.uid != obj.metadata.uid and obj.metadata.uid):
            return None
        return self._drop(key, self.leaving.get(old.uid, ""))

    def leave_out(self, key: Key) -> Change[K] | None:
        """An object that is there no longer has the shape of its kind (or was deleted in that state)."""
        self._pending.pop(key, None)
        return self._drop(key) if key in self.entries else None

    def replace(self, entries: Sequence[Entry[K]], asked_at: int) -> Sequence[Change[K]] | None:
        """A whole list. None: we wrote since it was asked for, so it may be older than that write; list again."""
        if any(p.sequence > asked_at for p in self._pending.values()):
            return None
        self.lists += 1
        self._pending.clear()
        self._seen.clear()
        listed = {_key(entry.obj): entry for entry in entries}
        changes = [self._drop(key) for key in [key for key in self.entries if key not in listed]]
        for key, entry in listed.items():
            self._remember(key, entry.version)
            old = self.entries.get(key)
            if old is not None and old.uid != entry.uid:
                changes.append(self._drop(key))
            elif old is not None and old.version == entry.version:
                continue
            changes.append(self._put(key, entry))
        return changes

    # What we did ourselves

    def wrote(self, entry: Entry[K], by: str = "") -> Change[K] | None:
        """The answer to our own write (as manager `by`), which is newer than what the watch brought so far unless it brought it."""
        key = _key(entry.obj)
        old = self.entries.get(key)
        if (old is not None and old.version == entry.version) or (key, entry.version) in self._seen:
            return None
        if entry.uid in self._gone:
            return None
        self.writes += 1
        self._pending[key] = _Pending(entry.version, entry.uid, self.writes)
        return self._put(key, entry, by, own=True)

    def deleted(self, obj: K, by: str = "") -> Change[K] | None:
        """Our own deletion (as manager `by`) took effect at once."""
        key = _key(obj)
        old = self.entries.get(key)
        if old is None or old.uid != obj.metadata.uid:
            return None
        self.writes += 1
        self._pending[key] = _Pending(None, old.uid, self.writes)
        return self._drop(key, by, own=True)

    # Inside

    def _remember(self, key: Key, version: str) -> None:
        self._seen[key, version] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    def _put(self, key: Key, entry: Entry[K], by: str = "", own: bool = False) -> Change[K]:
        old = self.entries.get(key)
        if old is not None:
            self._unindex(key, old.obj)
        self.entries[key] = entry
        self._by_namespace.setdefault(key[0], {})[key] = None
        for label, index in self._by_label.items():
            if value := self._value(entry.obj, label):
                index.setdefault(value, {})[key] = None
        for other, places in self._by_index.items():
            _enter(places, other, key, entry.obj)
        self._sorted.clear()
        writer, subresource = writer_of(old, entry, self.writing.get(key, ""))
        return Change(self.kind, key, old.obj if old is not None else None, entry.obj, by or writer, subresource, own)

    def _drop(self, key: Key, by: str = "", own: bool = False) -> Change[K]:
        old = self.entries.pop(key)
        self.leaving.pop(old.uid, None)
        self._unindex(key, old.obj)
        self._sorted.clear()
        return Change(self.kind, key, old.obj, None, by, own=own)

    def _value(self, obj: K, label: str) -> str:
        return obj.metadata.labels.get(label) or (self._otherwise(obj, label) if self._otherwise else "")

    def _unindex(self, key: Key, obj: K) -> None:
        _discard(self._by_namespace, key[0], key)
        for label, index in self._by_label.items():
            if value := self._value(obj, label):
                _discard(index, value, key)
        for other, places in self._by_index.items():
            for one in other.values(obj):
                _discard(places, (key[0], one), key)


def _enter(places: dict[tuple[str, str], dict[Key, None]], index: Index, key: Key, obj: Any) -> None:
    for value in index.values(obj):
        places.setdefault((key[0], value), {})[key] = None


def _has(obj: Resource, labels: Sequence[tuple[str, str]]) -> bool:
    found = obj.metadata.labels
    return all(found.get(label) == value for label, value in labels)


def _discard(index: dict[V, dict[Key, None]], value: V, key: Key) -> None:
    keys = index.get(value)
    if keys is not None:
        keys.pop(key, None)
        if not keys:
            del index[value]


def _key(obj: Resource) -> Key:
    return obj.metadata.namespace or "", obj.metadata.name


def writer_of(old: Entry[Any] | None, new: Entry[Any], writing: str = "") -> tuple[str, str]:
    """Who made the change between two versions, and through which subresource; ("", "") when nothing tells.

    The newest of the marks that changed; or, where none did (the same fields written again within the marks' one second),
    who of us is writing it just now (`writing`), or the newest of all. That an object is being deleted leaves no mark.
    """
    before = set(old.marks) if old is not None else set()
    fresh = [mark for mark in new.marks if mark not in before]
    if not fresh:
        if old is not None and old.obj.metadata.deletion_timestamp != new.obj.metadata.deletion_timestamp:
            return "", ""
        if writing:
            return writing, ""
        fresh = list(new.marks)
    if not fresh:
        return "", ""
    newest = max(fresh, key=lambda mark: (mark.time, mark.subresource == ""))
    return newest.manager, newest.subresource
