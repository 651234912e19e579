"""The revision log on disk: one SQLite file in WAL mode, appended to by one thread.

A row is a revision: `id` is the revision, `value` is null for a deletion, `previous` is the row it replaced (0: none). So a
step can be told in full from two primary-key look-ups, and compaction needs no other index: within a range of revisions,
every `previous` and every deletion is superseded. The idea of row id = revision is kine's (k3s); a single writer in the same
process spares its polling and gap filling.

Everything here blocks and raises `sqlite3.Error`; `Store` decides which thread it runs on and what an error means.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab.store.records import Change, Compacted, DiskFull, Record, StoreError, StoreLocked, UnknownFormat

APPLICATION_ID = 0x74726D74  # "trmt": `file` and a curious reader can tell what this database is
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE revision (id INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, previous INTEGER NOT NULL);
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('compacted', 0);
    """,
)
"""Scripts that lead from format n to n + 1. Never edited once released; each runs in one transaction."""

FORMAT = len(MIGRATIONS)
"""What this program writes. A store of a later one is refused."""

PAGE_CACHE_KIB = 512
"""Rows are written once and read at boot: a larger page cache would only hold memory."""

REVISIONS_AHEAD = 1_000_000_000
"""How far a restored store's revisions jump: further than any engine can have come since the backup."""

Row = tuple[int, str, bytes | None, int]


class SqliteLog:
    """One open log. `append`, `compact` are called by one thread at a time; `changes` by another."""

    def __init__(self, path: Path | None) -> None:
        """Opens or creates the log; None keeps it in memory.

        Raises:
            StoreLocked: another process has it open.
            UnknownFormat: it is newer than this program, or not a store.
            DiskFull: there is no room to open it.
        """
        self.path = path
        self._lock: int | None = None
        self._reader: sqlite3.Connection | None = None
        try:
            if path is not None:
                self._lock = _lock(path)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # Secrets are in there
            self._db = _connect(path)
            try:
                _migrate(self._db, path)
                if path is not None:
                    _sync_directory(path.parent)
            except BaseException:
                self._db.close()
                raise
        except OSError as err:
            self._release()
            raise StoreError(f"{path}: cannot be opened: {err.strerror}: check the directory and its owner") from None
        except sqlite3.DatabaseError as err:
            self._release()
            if err.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFull(f"{path}: the disk is full: free some space and start again") from None
            raise UnknownFormat(f"{path}: {err}: `trimtab restore` brings a backup back, into another --data") from None
        except UnknownFormat:
            self._release()
            raise

    def compacted(self) -> int:
        return int(self._db.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()[0])

    def last(self) -> int:
        """The last revision ever written."""
        (last,) = self._db.execute("SELECT max(id) FROM revision").fetchone()
        return max(int(last or 0), self.compacted())

    def size_bytes(self) -> int:
        """Of the database and what is written ahead of it."""
        if self.path is None:
            return 0
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def records(self) -> Iterator[Record]:
        """Every row that is left, in the order of revisions."""
        for revision, key, value in self._db.execute("SELECT id, key, value FROM revision ORDER BY id"):
            yield Record(key, value or b"", revision)

    def append(self, rows: Sequence[Row]) -> None:
        """Writes rows in one transaction, on disk when it returns.

        Raises:
            DiskFull: nothing was kept.
            sqlite3.Error: it is unknown what was kept.
        """
        with self._transaction() as db:
            db.executemany("INSERT INTO revision VALUES (?, ?, ?, ?)", rows)

    def compact(self, upto: int) -> None:
        """Forgets what was superseded at or before `upto`, in one transaction. Raises as `append`."""
        span = (self.compacted(), upto)
        with self._transaction() as db:
            db.execute(
                "DELETE FROM revision WHERE id IN "
                "(SELECT previous FROM revision WHERE id > ? AND id <= ? AND previous > 0)",
                span,
            )
            db.execute("DELETE FROM revision WHERE id > ? AND id <= ? AND value IS NULL", span)
            db.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'compacted'", (upto,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            if db.in_transaction:
                db.execute("ROLLBACK")
            where = self.path or "memory"
            raise DiskFull(f"{where}: the disk is full, the write was refused: free some space and retry") from None

    def changes(self, prefix: str, after: int, upto: int) -> list[Change]:
        """The steps in (after, upto] of keys with a prefix, oldest first; a snapshot, whatever the writer does.

        Raises:
            Compacted: some of them are gone.
        """
        db = self._db if self.path is None else self._reading()
        db.execute("BEGIN")
        try:
            (compacted,) = db.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()
            if after < compacted:
                raise Compacted(after, compacted)
            rows = db.execute(
                "SELECT r.id, r.key, r.value, r.previous, p.value FROM revision r "
                "LEFT JOIN revision p ON p.id = r.previous "
                "WHERE r.id > ? AND r.id <= ? AND substr(r.key, 1, ?) = ? ORDER BY r.id",
                (after, upto, len(prefix), prefix),
            )
            return [
                Change(Record(key, value or b"", revision), Record(key, old, previous) if old else None)
                for revision, key, value, previous, old in rows
            ]
        finally:
            db.execute("COMMIT")

    def backup(self, target: Path) -> None:
        """Writes a consistent copy to `target` while writes go on; it appears whole or not at all."""
        if self.path is not None:
            copy_log(self.path, target)
            return
        _copy(self._db, target)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._db.close()
        self._release()

    def _reading(self) -> sqlite3.Connection:
        if self._reader is None:
            self._reader = _connect(self.path)
        return self._reader

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def copy_log(source: Path, target: Path) -> None:
    """Writes a consistent copy of the SQLite file `source` to `target` (whole or not at all), whoever writes to it meanwhile."""
    db = _connect(source)
    try:
        _copy(db, target)
    finally:
        db.close()


def _copy(db: sqlite3.Connection, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        db.execute("VACUUM INTO ?", (str(partial),))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.chmod(0o600)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    _sync_directory(target.parent)


def outdate(db: sqlite3.Connection) -> None:
    """Compacts all history and moves the next revision far ahead, within a transaction of the caller: whatever revisions clients
    remember, they are told to list again."""
    db.execute(
        "UPDATE meta SET value = max(value, (SELECT coalesce(max(id), 0) FROM revision)) + ? WHERE name = 'compacted'",
        (REVISIONS_AHEAD,),
    )
    db.execute("DELETE FROM revision WHERE id NOT IN (SELECT max(id) FROM revision GROUP BY key) OR value IS NULL")


def begin_anew(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Makes a store that was restored from a backup ready to be served where clients may remember revisions that came after
    it: all that they remember is compacted, so that they list again.

    The next revision is REVISIONS_AHEAD later, as etcd's restore does it (`--bump-revision --mark-compacted`). `change` is
    given each live record and returns a new value for it, or None. Nobody else may have the store open.
    """
    log = SqliteLog(path)
    try:
        live = {record.key: record for record in log.records()}
        with log._transaction() as db:
            for record in live.values():
                if record.value and (value := change(record.key, record.value)) is not None:
                    db.execute("UPDATE revision SET value = ? WHERE id = ?", (value, record.revision))
            outdate(db)
    finally:
        log.close()


def _connect(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, cached_statements=32)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
        db.execute("PRAGMA busy_timeout = 10000")
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path | None) -> None:
    (format_number,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise UnknownFormat(f"{path}: this SQLite file is not a Trimtab store: name another data directory")
    if format_number > len(MIGRATIONS):
        raise UnknownFormat(
            f"{path}: written by a newer Trimtab (format {format_number}, this one knows {len(MIGRATIONS)}): "
            "run that version, or bring an older backup back with `trimtab restore`"
        )
    for number, script in enumerate(MIGRATIONS[format_number:], format_number + 1):
        db.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )


def _lock(path: Path) -> int:
    """Takes the lock file beside the store; the kernel drops it when the process ends, however it ends."""
    lock = path.with_name(path.name + ".lock")
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 32, 0).decode(errors="replace").strip()
        os.close(file)
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise StoreLocked(f"{path}: in use by {who}: one engine per data directory; stop it, or name another") from None
    with suppress(OSError):  # a full disk must not keep the engine from starting
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
