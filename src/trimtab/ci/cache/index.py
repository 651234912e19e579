"""Where the state of `trimtab ci` lies, and its index: one SQLite file in WAL mode that several processes use at once.

Everything in it can be made again. So a file that is no database, or one of another version, is put aside and a new one
begun, which costs one run of every step and is said (`Index.notice`), and never ends a run.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.ci.cache.opening import alone

VERSION = 1
BUSY_S = 60.0

_SCHEMA = """
create table if not exists stat (root text, dir text, entries blob, primary key (root, dir)) without rowid;
create table if not exists results (
    key text primary key, project text not null, step text not null, components text not null, result text not null,
    seconds real not null, bytes integer not null, made real not null, used real not null, uses integer not null);
create index if not exists results_by_step on results (step, made);
create table if not exists aliases (def_key text primary key, key text not null) without rowid;
create index if not exists aliases_by_key on aliases (key);
create table if not exists tombstones (
    key text primary key, project text not null, step text not null, components text not null, at real not null,
    reason text not null) without rowid;
create index if not exists tombstones_by_step on tombstones (step, at);
create table if not exists volumes (
    name text primary key, tree text not null, made real not null, used real not null, bytes integer not null) without rowid;
"""


class CacheError(Exception):
    """The cache's directory cannot be used. One line: what, where, the fix."""


def state_directory(environ: Mapping[str, str] = os.environ) -> str:
    """`$TRIMTAB_CI_DIR`, else `trimtab/ci` below the user's cache directory; of a pull request a place of its own below that.

    What a pull request has made is never found by a run of anything else, on a machine that serves both neither.
    """
    if said := environ.get("TRIMTAB_CI_DIR"):
        found = os.path.abspath(said)
    else:
        base = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        found = os.path.join(base, "trimtab", "ci")
    pull = pull_request(environ)
    return os.path.join(found, "pr", pull) if pull else found


def pull_request(environ: Mapping[str, str] = os.environ) -> str:
    """The number of the pull request that is run: of `$TRIMTAB_CI_SCOPE`, or of GitHub's ref."""
    for name, form in (("GITHUB_REF", r"refs/pull/(\d+)/\w+"), ("TRIMTAB_CI_SCOPE", r"pr/(\d+)")):
        if found := re.fullmatch(form, environ.get(name, "")):
            return found[1]
    return ""


class Index:
    """The database. For all threads of the process; a statement at a time."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "index.sqlite")
        self.notice = ""
        self._lock = threading.RLock()
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            with alone(self.path):
                try:
                    self._connection = self._open()
                except sqlite3.DatabaseError as err:
                    if isinstance(err, sqlite3.OperationalError) and re.search("unable to open|locked", str(err)):
                        raise
                    self._put_aside(str(err))
                    self._connection = self._open()
        except (OSError, sqlite3.Error) as err:
            raise CacheError(
                f"cannot use {directory}: {err}; make it writable, or name another by TRIMTAB_CI_DIR"
            ) from None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            version = connection.execute("pragma user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"it is of version {version}, this engine's is {VERSION}")
            if version == 0:
                connection.execute("pragma journal_mode=wal")
                connection.executescript(f"begin immediate; {_SCHEMA} pragma user_version={VERSION}; commit;")
            connection.execute("pragma synchronous=normal")
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self, why: str) -> None:
        for end in ("-wal", "-shm"):
            if os.path.exists(self.path + end):
                os.unlink(self.path + end)
        os.replace(self.path, f"{self.path}.aside-{time.time_ns()}")
        self.notice = f"the cache's index is begun anew ({why}): every step runs once"

    def rows(self, statement: str, arguments: Sequence[Any] = ()) -> list[Any]:
        """What a query gives."""
        with self._lock:
            return self._connection.execute(statement, arguments).fetchall()

    def write(self, *statements: tuple[str, Sequence[Any]]) -> int:
        """Several statements, all or none of them. Gives how many rows the last one changed."""
        with self._lock:
            self._connection.execute("begin immediate")
            try:
                changed = 0
                for statement, arguments in statements:
                    changed = self._connection.execute(statement, arguments).rowcount
            except BaseException:
                self._connection.execute("rollback")
                raise
            self._connection.execute("commit")
            return changed

    def write_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for many rows, in one transaction."""
        with self._lock:
            self._connection.execute("begin immediate")
            try:
                self._connection.executemany(statement, rows)
            except BaseException:
                self._connection.execute("rollback")
                raise
            self._connection.execute("commit")

    def close(self) -> None:
        with self._lock:
            self._connection.close()
