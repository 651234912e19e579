"""What each subject's last run read, so that a change of it brings the subject back.

A read is remembered the moment it is made, so that a change right after it is not missed. When a run ends well, what the
run before had read and this one did not is forgotten; after a failed run both are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.api import Resource
from trimtab.client.cache import Change, Index, Key

Kind = type[Resource]


@dataclass(frozen=True, slots=True)
class Named:
    """One object by name, whether or not it exists. given: only what is given in it, and not what is said of it in its status."""

    kind: Kind
    key: Key
    given: bool = False


@dataclass(frozen=True, slots=True)
class Selected:
    """The objects of a kind (in a namespace) with these labels. `where` narrows further; it is not compared."""

    kind: Kind
    namespace: str | None
    labels: tuple[tuple[str, str], ...]

    def matches(self, obj: Resource) -> bool:
        labels = obj.metadata.labels
        return all(labels.get(name) == value for name, value in self.labels)


@dataclass(frozen=True, slots=True)
class Indexed:
    """The objects of a kind and a namespace that an index has under a value."""

    kind: Kind
    namespace: str
    index: Index
    value: str


Dependency = Named | Selected | Indexed


def selected(kind: Kind, namespace: str | None, labels: Mapping[str, str] | None) -> Selected:
    return Selected(kind, namespace, tuple(sorted((labels or {}).items())))


class Dependencies:
    """Of one reconciler: which subjects (by key) read what."""

    def __init__(self) -> None:
        self._named: dict[Named, dict[Key, None]] = {}
        self._selected: dict[
            tuple[Kind, str | None], dict[Selected, dict[Key, list[Callable[[Any], bool] | None]]]
        ] = {}
        self._indexed: dict[tuple[Kind, str], dict[Index, dict[str, dict[Key, None]]]] = {}
        self._of: dict[Key, dict[Dependency, None]] = {}
        self._fresh: dict[Key, dict[Dependency, None]] = {}

    def begin(self, subject: Key) -> None:
        self._fresh[subject] = {}

    def add(self, subject: Key, dependency: Dependency, where: Callable[[Any], bool] | None = None) -> None:
        fresh = self._fresh.setdefault(subject, {})
        again = dependency in fresh
        fresh[dependency] = None
        self._of.setdefault(subject, {})[dependency] = None
        if isinstance(dependency, Named):
            self._named.setdefault(dependency, {})[subject] = None
            return
        if isinstance(dependency, Indexed):
            indexes = self._indexed.setdefault((dependency.kind, dependency.namespace), {})
            indexes.setdefault(dependency.index, {}).setdefault(dependency.value, {})[subject] = None
            return
        by_selector = self._selected.setdefault((dependency.kind, dependency.namespace), {})
        filters = by_selector.setdefault(dependency, {})
        # Two lists with the same labels and different filters both count.
        filters[subject] = [*filters[subject], where] if again and subject in filters else [where]

    def end(self, subject: Key, *, complete: bool) -> None:
        """The run of `subject` is over; `complete` when it read all that it wanted to."""
        fresh = self._fresh.pop(subject, {})
        if complete:
            for dependency in [d for d in self._of.get(subject, {}) if d not in fresh]:
                self._drop(subject, dependency)

    def forget(self, subject: Key) -> None:
        self._fresh.pop(subject, None)
        for dependency in list(self._of.get(subject, {})):
            self._drop(subject, dependency)
        self._of.pop(subject, None)

    def touched(self, change: Change[Any]) -> list[Key]:
        """The subjects that read what changed."""
        found: dict[Key, None] = dict(self._named.get(Named(change.kind, change.key), {}))
        if _given_anew(change):
            found |= self._named.get(Named(change.kind, change.key, given=True), {})
        for index, readers in self._indexed.get((change.kind, change.key[0]), {}).items():
            for obj in (change.old, change.new):
                for value in index.values(obj) if obj is not None else ():
                    found |= readers.get(value, {})
        namespaces: tuple[str | None, ...] = (None, change.key[0]) if change.key[0] else (None,)
        for namespace in namespaces:
            for selector, subjects in self._selected.get((change.kind, namespace), {}).items():
                sides = [obj for obj in (change.old, change.new) if obj is not None and selector.matches(obj)]
                if not sides:
                    continue
                for subject, filters in subjects.items():
                    if any(_passes(where, obj) for where in filters for obj in sides):
                        found[subject] = None
        return list(found)

    def _drop(self, subject: Key, dependency: Dependency) -> None:
        self._of.get(subject, {}).pop(dependency, None)
        if isinstance(dependency, Named):
            readers = self._named.get(dependency, {})
            readers.pop(subject, None)
            if not readers:
                self._named.pop(dependency, None)
            return
        if isinstance(dependency, Indexed):
            self._drop_indexed(subject, dependency)
            return
        where = (dependency.kind, dependency.namespace)
        by_selector = self._selected.get(where, {})
        subjects = by_selector.get(dependency, {})
        subjects.pop(subject, None)
        if not subjects:
            by_selector.pop(dependency, None)
        if not by_selector:
            self._selected.pop(where, None)

    def _drop_indexed(self, subject: Key, dependency: Indexed) -> None:
        where = (dependency.kind, dependency.namespace)
        indexes = self._indexed.get(where, {})
        values = indexes.get(dependency.index, {})
        subjects = values.get(dependency.value, {})
        subjects.pop(subject, None)
        if not subjects:
            values.pop(dependency.value, None)
        if not values:
            indexes.pop(dependency.index, None)
        if not indexes:
            self._indexed.pop(where, None)


def _given_anew(change: Change[Any]) -> bool:
    """Whether more than the status of an object changed."""
    if change.old is None or change.new is None:
        return True
    old, new = change.old.metadata, change.new.metadata
    return (old.uid, old.generation, old.deletion_timestamp) != (new.uid, new.generation, new.deletion_timestamp)


def _passes(where: Callable[[Any], bool] | None, obj: Resource) -> bool:
    """A filter that fails on an object it did not expect is taken as passed: one run too many does no harm."""
    if where is None:
        return True
    try:
        return bool(where(obj))
    except Exception:
        return True
