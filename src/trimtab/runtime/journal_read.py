"""Reading the journal: the timeline, following it, and why an object is as it is.

`why` walks causes backwards. Each entry names what set it off (an object, or prose) and on whose behalf it was done; the
newest earlier entry about that object is its reason, and so on, until somebody outside (a user, a push, a crash) is reached.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from trimtab.api import Ref
from trimtab.runtime.journal import COLUMNS, Entry, from_row, ref_of, ref_text, to_micros

FOLLOW_EVERY_S = 0.5
"""Looking whether another process appended: one pragma, no query."""
DEPTH_MAX = 12
ROOTS = 5
BATCH = 1000

NO_CHANGE = ("said", "warned", "failed", "entered")
"""Verbs that tell something about an object without changing it; they are no reason for anything."""


@dataclass(frozen=True)
class Why:
    """An entry, and the entries that are its reasons."""

    entry: Entry
    reasons: tuple[Why, ...] = field(default=())


class JournalReader:
    """The reading end; opens the file read-only. Close it when done."""

    def __init__(self, source: Path | sqlite3.Connection) -> None:
        """`source`: the file, or the connection of an in-memory journal.

        Raises:
            FileNotFoundError: there is no journal (the engine has never run).
            PermissionError: it cannot be read by this user.
        """
        self._owned = isinstance(source, Path)
        if isinstance(source, Path):
            if not source.exists():
                raise FileNotFoundError(f"{source}: no journal; has this engine ever been started?")
            try:
                self._db = sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=5.0, check_same_thread=False)
                self._db.execute("SELECT 1 FROM entries LIMIT 1")
            except sqlite3.OperationalError as err:
                raise PermissionError(
                    f"{source}: cannot be read ({err}); try as root or as the engine's user"
                ) from None
        else:
            self._db = source

    def close(self) -> None:
        if self._owned:
            self._db.close()

    # The timeline

    def timeline(
        self,
        *,
        since: datetime | None = None,
        limit: int = 200,
        after: int = 0,
        object: Ref | None = None,
        component: str = "",
    ) -> list[Entry]:
        """The newest `limit` entries, oldest first.

        since: not older. after: with greater ids only. object: about it, because of it, or on its behalf. component: said
        by it.
        """
        where, values = ["id > ?"], [str(after)]
        if since is not None:
            where.append("at >= ?")
            values.append(str(to_micros(since)))
        if object is not None:
            where.append("(object = ? OR cause = ? OR subject = ?)")
            values += [ref_text(object)] * 3
        if component:
            where.append("component = ?")
            values.append(component)
        return _in_time(self._query(f"WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT {limit:d}", values))

    def named(self, name: str) -> list[Ref]:
        """Every object of that name that something happened to, of whatever kind and namespace; the newest first."""
        rows = self._db.execute(
            "SELECT object FROM entries WHERE substr(object, -length(?1)) = ?1 GROUP BY object ORDER BY max(id) DESC",
            (f"|{name}",),
        )
        return [ref_of(text) for (text,) in rows]

    async def wait_newer(self, last: int, *, every_s: float = FOLLOW_EVERY_S) -> list[Entry]:
        """Entries after the one with id `last`, as soon as there are any."""
        version = None
        while True:
            now = self._db.execute("PRAGMA data_version").fetchone()[0]
            if now != version:
                version = now
                fresh = self._query(f"WHERE id > ? ORDER BY id LIMIT {BATCH:d}", [str(last)])
                if fresh:
                    return _in_time(fresh)
            await asyncio.sleep(every_s)

    async def follow(self, after: int, *, every_s: float = FOLLOW_EVERY_S) -> AsyncIterator[Entry]:
        """Every entry after the one with id `after`, for ever."""
        while True:
            fresh = await self.wait_newer(after, every_s=every_s)
            after = max(entry.id for entry in fresh)
            for entry in fresh:
                yield entry

    # Why

    def why(self, ref: Ref, *, limit: int = ROOTS, depth: int = DEPTH_MAX) -> list[Why]:
        """The last `limit` changes of an object, newest first, each with its reasons."""
        newest = self._changes_of(ref, None, limit)
        return [self._explain(entry, depth, {entry.id}) for entry in newest]

    def _explain(self, entry: Entry, depth: int, seen: set[int]) -> Why:
        if depth == 0:
            return Why(entry)
        reasons: list[Why] = []
        for ref in _reasons_of(entry):
            for earlier in self._changes_of(ref, entry, 1):
                if earlier.id not in seen:
                    seen.add(earlier.id)
                    reasons.append(self._explain(earlier, depth - 1, seen))
        return Why(entry, tuple(reasons))

    def _changes_of(self, ref: Ref, before: Entry | None, limit: int) -> list[Entry]:
        marks = ",".join("?" * len(NO_CHANGE))
        where = f"WHERE object = ? AND verb NOT IN ({marks})"
        values = [ref_text(ref), *NO_CHANGE]
        if before is not None:
            where += " AND (at, id) < (?, ?)"
            values += [str(to_micros(before.at)), str(before.id)]
            if before.object == ref:
                # Its own earlier change by the same hand is no reason; somebody else's is.
                where += " AND actor != ?"
                values.append(before.actor)
        return self._query(f"{where} ORDER BY at DESC, id DESC LIMIT {limit:d}", values)

    def _query(self, tail: str, values: Iterable[str]) -> list[Entry]:
        return [from_row(row) for row in self._db.execute(f"SELECT {COLUMNS} FROM entries {tail}", tuple(values))]


def _in_time(entries: Iterable[Entry]) -> list[Entry]:
    """Entries as they happened: several processes write into the journal, each a moment later."""
    return sorted(entries, key=lambda entry: (entry.at, entry.id))


def _reasons_of(entry: Entry) -> list[Ref]:
    """The objects to which an entry's reasons happened: what set it off, then on whose behalf it was done."""
    found: dict[Ref, None] = {}
    if isinstance(entry.cause, Ref):
        found[entry.cause] = None
    if entry.subject is not None:
        found[entry.subject] = None
    return list(found)
