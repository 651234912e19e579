"""The journal: who did what, when, because of what, and how long it took.

Every process of an engine appends to one SQLite file in WAL mode; nothing is ever changed, only the oldest is dropped by the
journal's own retention. An append goes to a buffer that is written a moment later, off the event loop, so that a
reconciler never waits for it; the journal is a record for people, and losing its last 50 ms in a power cut is accepted where
losing a write to the API would not be. Reading (`journal_read.py`) opens the file on its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from trimtab.api import JSON, Ref

FLUSH_AFTER_S = 0.05
BUFFER_MAX = 10_000
"""Entries waiting to be written; beyond that (the disk is full) the oldest are dropped and counted."""
BUSY_TIMEOUT_S = 5.0
KEEP_DAYS = 30
KEEP_ENTRIES = 200_000
"""About 60 MB."""
MESSAGE_LENGTH_MAX = 4000

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,              -- microseconds since 1970, UTC
    component TEXT NOT NULL,
    actor TEXT NOT NULL,
    verb TEXT NOT NULL,
    object TEXT,                      -- apiVersion|kind|namespace|name
    cause TEXT,                       -- the same, or prose when cause_is_ref = 0
    cause_is_ref INTEGER NOT NULL DEFAULT 0,
    subject TEXT,
    message TEXT NOT NULL DEFAULT '',
    duration_ms REAL,
    data TEXT
);
CREATE INDEX IF NOT EXISTS entries_object ON entries(object, id);
CREATE INDEX IF NOT EXISTS entries_at ON entries(at);
"""
FORMAT = 1

COLUMNS = "id, at, component, actor, verb, object, cause, cause_is_ref, subject, message, duration_ms, data"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    component: the component (or `engine`, `api`) that says so. actor: who did it: a field manager, a user, a service.
    verb: created, changed, deleted, status, effect, undone, said, failed, ... object: to what. cause: what set it off: an
    object, or prose. subject: the object on whose behalf. data: of `said` and `warned` the reason, of `status` whether the object
    turned `ready`. id is given by the journal.
    """

    at: datetime
    component: str
    actor: str
    verb: str
    object: Ref | None = None
    cause: Ref | str | None = None
    message: str = ""
    duration_ms: float | None = None
    data: JSON | None = None
    subject: Ref | None = None
    id: int = 0


class Journal:
    """The writing end. `path` None keeps it in memory (tests, simulated time) and writes at once."""

    def __init__(self, path: Path | None, *, keep_days: int = KEEP_DAYS, keep_entries: int = KEEP_ENTRIES) -> None:
        self.path = path
        self.dropped = 0
        self._keep = timedelta(days=keep_days)
        self._keep_entries = keep_entries
        self._buffer: list[Entry] = []
        self._lock = threading.Lock()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Future[None] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            path or ":memory:", timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        if path is not None:
            _give_to_owner_of_folder(path)
        self._prepare()

    def _prepare(self) -> None:
        if self.path is not None:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise ValueError(
                f"{self.path}: the journal was written by a newer Trimtab (format {found}, this one knows {FORMAT}); "
                "upgrade Trimtab, or move the file away to start a new journal"
            )
        self._db.executescript(SCHEMA)
        self._db.execute(f"PRAGMA user_version={FORMAT}")

    @property
    def database(self) -> sqlite3.Connection:
        """The connection, for readers in this process (of an in-memory journal)."""
        return self._db

    def append(self, *entries: Entry) -> None:
        """Takes entries in; they reach the file within `FLUSH_AFTER_S`. Never raises, never waits."""
        self._buffer.extend(entries)
        if len(self._buffer) > BUFFER_MAX:
            self.dropped += len(self._buffer) - BUFFER_MAX
            del self._buffer[:-BUFFER_MAX]
        if self.path is None:
            self.flush()
        elif self._flush_timer is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._flush_timer = loop.call_later(FLUSH_AFTER_S, self._start_flush)

    def _start_flush(self) -> None:
        self._flush_timer = None
        if self._flushing is not None and not self._flushing.done():
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self._start_flush)
            return
        self._flushing = asyncio.get_running_loop().run_in_executor(None, self.flush)

    def flush(self) -> None:
        """Writes what waits. What cannot be written is logged and dropped, for the journal never holds up the work that it records; on a
        full disk it waits, up to `BUFFER_MAX`, for the next entries: what happened then is asked for afterwards."""
        with self._lock:
            batch, self._buffer = self._buffer, []
            if not batch:
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    f"INSERT INTO entries ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", map(to_row, batch)
                )
                self._db.execute("COMMIT")
            except sqlite3.Error as err:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if err.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    self._buffer[:0] = batch
                    return
                self.dropped += len(batch)
                log.warning("journal %s: %d entries were not written: %s", self.path, len(batch), err)

    def prune(self, now: datetime) -> int:
        """Drops what is older than the retention, or beyond its count; returns how many entries went."""
        with self._lock:
            oldest = to_micros(now - self._keep)
            newest = self._db.execute("SELECT max(id) FROM entries").fetchone()[0] or 0
            cursor = self._db.execute(
                "DELETE FROM entries WHERE at < ? OR id <= ?", (oldest, newest - self._keep_entries)
            )
            return cursor.rowcount

    def close(self) -> None:
        """Writes what waits and closes the file."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self.flush()
        with self._lock:
            self._db.close()


def _give_to_owner_of_folder(path: Path) -> None:
    """Root (the node agent) may be the first to append; the file must still belong to the engine's user. SQLite itself
    gives its -wal and -shm to the owner of the file."""
    folder = path.parent.stat()
    if os.geteuid() == 0 and path.stat().st_uid != folder.st_uid:
        os.chown(path, folder.st_uid, folder.st_gid)


def to_micros(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def from_micros(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)


def ref_text(ref: Ref) -> str:
    """The form in which references are stored and indexed."""
    return f"{ref.api_version}|{ref.kind}|{ref.namespace or ''}|{ref.name}"


def ref_of(text: str) -> Ref:
    api_version, kind, namespace, name = text.split("|", 3)
    return Ref(api_version, kind, namespace or None, name)


def to_row(entry: Entry) -> tuple[object, ...]:
    cause = entry.cause
    return (
        entry.id or None,
        to_micros(entry.at),
        entry.component,
        entry.actor,
        entry.verb,
        ref_text(entry.object) if entry.object else None,
        ref_text(cause) if isinstance(cause, Ref) else cause,
        int(isinstance(cause, Ref)),
        ref_text(entry.subject) if entry.subject else None,
        entry.message[:MESSAGE_LENGTH_MAX],
        entry.duration_ms,
        msgspec.json.encode(entry.data).decode() if entry.data is not None else None,
    )


def from_row(row: Sequence[object]) -> Entry:
    id, at, component, actor, verb, object, cause, cause_is_ref, subject, message, duration_ms, data = row
    return Entry(
        id=int(str(id)),
        at=from_micros(int(str(at))),
        component=str(component),
        actor=str(actor),
        verb=str(verb),
        object=ref_of(str(object)) if object else None,
        cause=ref_of(str(cause)) if cause_is_ref else (str(cause) if cause is not None else None),
        subject=ref_of(str(subject)) if subject else None,
        message=str(message),
        duration_ms=float(str(duration_ms)) if duration_ms is not None else None,
        data=msgspec.json.decode(str(data)) if data else None,
    )


def renumbered(entries: Iterable[Entry]) -> list[Entry]:
    """The same entries without ids, to append them to another journal (restore from a backup)."""
    return [replace(entry, id=0) for entry in entries]
