"""The cache: results of steps that succeeded, by content key, with all that each key was made of.

    find(keys)     results under definition keys or content keys
    put(...)       remembers a success; only success is remembered
    nearest(...)   the record of the same step that differs least: what `why` compares with
    bury(...)      takes a result out and leaves a tombstone that says why

Records and tombstones are rows of the index, outputs are trees of blobs. Several processes use both at once: blobs come before
the row that names them, and a row goes before its blobs do. What cannot be read is a miss, and says so.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.index import CacheError, Index
from trimtab.ci.runs.ports import Result

USED_AGAIN_S = 3600.0
"""A use is noted once an hour: a run in which nothing has changed writes nothing."""
NEAREST_OF = 50
"""How many of a step's records are compared."""
AT_ONCE = 400


@dataclass(frozen=True)
class Hit:
    """A result that was found. key: its content key; step: which step made it, of which project, when."""

    key: str
    result: Result
    project: str
    step: str
    made: float


@dataclass(frozen=True)
class Record:
    """What a result was made of; also what is left of one that is gone: `gone` says why, "" for one that is here."""

    key: str
    project: str
    step: str
    components: Mapping[str, str]
    at: float
    gone: str = ""


class Cache(Protocol):
    """Where results are found and kept. Keys are hex digits."""

    def find(self, keys: Sequence[str]) -> dict[str, Hit]:
        """The results that there are, by the keys that were asked for."""

    def put(self, record: Record, result: Result, def_key: str, size_bytes: int) -> None:
        """Remembers a success. Raises `CacheError`."""


class LocalCache:
    """The cache in a directory of this machine."""

    def __init__(self, index: Index, blobs: Blobs, now: Callable[[], float] = time.time) -> None:
        self.index = index
        self.blobs = blobs
        self.now = now

    def find(self, keys: Sequence[str]) -> dict[str, Hit]:
        """The results that there are. One whose outputs are gone is none, and leaves a tombstone."""
        found: dict[str, Hit] = {}
        used = []
        for row in self._rows(keys):
            asked, key, project, step, made, used_at, text = row
            try:
                result = Result(**json.loads(text))
                for name, tree in result.outputs.items():
                    if not self.blobs.has(tree):
                        raise Lost(tree, f"missing, it is the output {name}")
            except Lost as lost:
                self.bury(key, f"lost: {lost}")
                continue
            except (ValueError, TypeError):
                self.bury(key, "lost: its record is damaged")
                continue
            found[asked] = Hit(key, result, project, step, made)
            if self.now() - used_at > USED_AGAIN_S:
                used.append(key)
        if used:
            self._try(*(("update results set used = ?, uses = uses + 1 where key = ?", (self.now(), k)) for k in used))
        return found

    def _rows(self, keys: Sequence[str]) -> list[Any]:
        columns = "r.key, r.project, r.step, r.made, r.used, r.result"
        rows: list[Any] = []
        try:
            for at in range(0, len(keys), AT_ONCE):
                some = keys[at : at + AT_ONCE]
                marks = ",".join("?" * len(some))
                rows += self.index.rows(
                    f"select r.key, {columns} from results r where r.key in ({marks}) union all"
                    f" select a.def_key, {columns} from aliases a join results r on r.key = a.key where a.def_key in ({marks})",
                    (*some, *some),
                )
        except sqlite3.DatabaseError:
            return []
        return rows

    def put(self, record: Record, result: Result, def_key: str, size_bytes: int) -> None:
        """Remembers a success under both keys, in place of what was there. Raises `CacheError`."""
        now = self.now()
        text = json.dumps(
            {
                "outputs": dict(result.outputs),
                "log": result.log,
                "seconds": result.seconds,
                "cpu_s": result.cpu_s,
                "rss_bytes": result.rss_bytes,
                "tests": result.tests,
            }
        )
        row = (record.key, record.project, record.step, json.dumps(dict(record.components)), text)
        numbers = (result.seconds, size_bytes, now, now)
        statements: list[tuple[str, Sequence[Any]]] = [
            ("insert or replace into results values (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)", (*row, *numbers)),
            ("delete from tombstones where key = ?", (record.key,)),
        ]
        if def_key != record.key:
            statements.append(("insert or replace into aliases values (?, ?)", (def_key, record.key)))
        try:
            self.index.write(*statements)
        except sqlite3.DatabaseError as err:
            raise CacheError(f"cannot write {self.index.path}: {err}; free some room on its disk") from None

    def alias(self, def_keys: Mapping[str, str]) -> None:
        """Lets results be found under these definition keys as well, given with the content keys."""
        if def_keys:
            self._try(*(("insert or replace into aliases values (?, ?)", pair) for pair in def_keys.items()))

    def bury(self, key: str, reason: str) -> None:
        """Takes a result out; a tombstone remains."""
        self._try(
            (
                "insert or replace into tombstones select key, project, step, components, ?, ? from results where key = ?",
                (self.now(), reason, key),
            ),
            ("delete from aliases where key = ?", (key,)),
            ("delete from results where key = ?", (key,)),
        )

    def record(self, key: str) -> Record | None:
        """What is known of a content key, also when its result is gone."""
        for one in self._known("key = ?", (key,)):
            return one
        return None

    def nearest(self, step: str, projects: Sequence[str], components: Mapping[str, str]) -> Record | None:
        """The record of a project's step, present or gone, that differs in the fewest components; the newest of those. projects: the
        names that the project goes by."""
        candidates = self._known(f"step = ? and project in ({','.join('?' * len(projects))})", (step, *projects))
        return min(candidates, key=lambda one: (_differing(one.components, components), -one.at), default=None)

    def _known(self, where: str, arguments: Sequence[str]) -> list[Record]:
        try:
            rows = self.index.rows(
                f"select * from (select key, project, step, components, made, '' from results where {where}"
                f" order by made desc limit {NEAREST_OF}) union all"
                f" select * from (select key, project, step, components, at, reason from tombstones where {where}"
                f" order by at desc limit {NEAREST_OF})",
                (*arguments, *arguments),
            )
        except sqlite3.DatabaseError:
            return []
        return [Record(key, project, step, json.loads(text), at, gone) for key, project, step, text, at, gone in rows]

    def _try(self, *statements: tuple[str, Sequence[Any]]) -> None:
        """Notes what is good to have but nothing depends on: a full or damaged disk does not end a run here."""
        try:
            self.index.write(*statements)
        except sqlite3.DatabaseError:
            return


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    return sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())
