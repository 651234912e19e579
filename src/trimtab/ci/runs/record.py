"""What is kept of a run: an immutable record of all that was decided and done, and a history that finds it.

    Record -> canonical JSON, gzip -> a blob, by its digest          what happened
    History (history.sqlite): runs -> that digest; steps -> seconds  where it is, and how long steps take

A record says of each step the key with all its components, whether it was hit or missed and why, times, exit, what it used, its
log and outputs by digest; so `why`, `log`, `shell` and the report need nothing else. gzip, because the standard library has it:
a run in which nothing has changed loads nothing more.
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trimtab.ci.cache.opening import alone
from trimtab.ci.runs.ports import EngineFault

JSON = dict[str, Any]

VERSION = 1
LAST = "last"
BUSY_S = 60.0
_GZIP_LEVEL = 4
_SCHEMA = """
create table if not exists runs (
    id text primary key, project text not null, pipeline text not null, started real not null, seconds real not null,
    state text not null, steps integer not null, hits integer not null, ran integer not null, saved real not null,
    said text not null, record text not null) without rowid;
create index if not exists runs_by_project on runs (project, started);
create table if not exists durations (
    project text, step text, name text, seconds real, at real, primary key (project, step)) without rowid;
"""


class Store(Protocol):
    """Where records lie: blobs by digest."""

    def put(self, data: bytes) -> str: ...

    def read(self, digest: str) -> bytes: ...


def packed(record: JSON) -> bytes:
    """A record as the bytes of its blob; equal records are equal bytes."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return gzip.compress(text, _GZIP_LEVEL, mtime=0)


def unpacked(data: bytes) -> JSON:
    """The record of a blob."""
    found: JSON = json.loads(gzip.decompress(data))
    return found


@dataclass(frozen=True)
class Past:
    """A run as the history lists it. state: succeeded, failed, cancelled or fault; said: one line, of what went wrong."""

    id: str
    project: str
    pipeline: str
    started: float
    seconds: float
    state: str
    steps: int
    hits: int
    ran: int
    saved: float
    said: str
    record: str


class History:
    """The runs of this machine's user. state: the directory of `trimtab ci`. For one thread."""

    def __init__(self, state: Path | str) -> None:
        self.path = os.path.join(state, "history.sqlite")
        try:
            os.makedirs(state, mode=0o700, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            with alone(self.path):
                if self._connection.execute("pragma user_version").fetchone()[0] != VERSION:
                    self._connection.execute("pragma journal_mode=wal")
                    self._connection.executescript(f"begin immediate; {_SCHEMA} pragma user_version={VERSION}; commit;")
                self._connection.execute("pragma synchronous=normal")
        except (OSError, sqlite3.Error) as err:
            raise EngineFault(
                f"cannot use {self.path}: {err}; make it writable (or move it away: durations and history begin anew)"
            ) from None

    def add(self, record: JSON, digest: str) -> None:
        """Remembers a run, and how long those of its steps took that ran and succeeded. Raises `EngineFault`."""
        steps = record["steps"]
        states = [step["state"] for step in steps.values()]
        ran = [(id, one) for id, one in steps.items() if one["state"] == "succeeded"]
        now = time.time()
        row = (
            record["id"],
            record["project"],
            record["pipeline"],
            record["started"],
            record["seconds"],
            record["state"],
            len(states),
            states.count("hit"),
            states.count("succeeded") + states.count("failed"),
            record["savedSeconds"],
            record["said"],
            digest,
        )
        try:
            self._connection.execute("begin immediate")
            self._connection.execute(f"insert into runs values ({','.join('?' * len(row))})", row)
            self._connection.executemany(
                "insert or replace into durations values (?,?,?,?,?)",
                [(record["project"], id, one["name"], one["seconds"], now) for id, one in ran],
            )
            self._connection.execute("commit")
        except sqlite3.Error as err:
            raise EngineFault(f"cannot write to {self.path}: {err}; free some space") from None

    def runs(self, project: str, count: int) -> list[Past]:
        """The latest runs of a project, the last one first."""
        rows = self._connection.execute(
            "select * from runs where project=? order by started desc, id desc limit ?", (project, count)
        )
        return [Past(*row) for row in rows]

    def find(self, project: str, name: str) -> Past | None:
        """A run by its id, the beginning of its id, or `last`."""
        if name == LAST:
            return next(iter(self.runs(project, 1)), None)
        rows = self._connection.execute(
            "select * from runs where id >= ? and id < ? order by started desc limit 2", (name, name + "\U0010ffff")
        ).fetchall()
        return Past(*rows[0]) if len(rows) == 1 else None

    def seconds(self, project: str, steps: Mapping[str, str]) -> dict[str, float]:
        """How long steps are thought to take: as last time; one never run as others of its function, else as the median step.

        steps: by id the name of its function.
        """
        rows = self._connection.execute("select step, name, seconds from durations where project=?", (project,))
        known: dict[str, float] = {}
        named: dict[str, list[float]] = {}
        for step, name, seconds in rows:
            known[step] = seconds
            named.setdefault(name, []).append(seconds)
        usual = _median(known.values()) if known else 1.0
        return {
            id: known[id] if id in known else _median(named[name]) if name in named else usual
            for id, name in steps.items()
        }

    def close(self) -> None:
        """Ends what is open."""
        self._connection.close()


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


# What is around a run


def commit_of(project: Path) -> str:
    """The commit that is checked out, read as git writes it; empty where there is none."""
    for directory in (project, *project.parents):
        git = directory / ".git"
        try:
            if git.is_file():  # of a worktree
                git = directory / git.read_text().removeprefix("gitdir:").strip()
            head = (git / "HEAD").read_text().strip()
        except OSError:
            continue
        return head if not head.startswith("ref: ") else _ref(git, head.removeprefix("ref: "))
    return ""


def _ref(git: Path, name: str) -> str:
    places = [git]
    with suppress(OSError):  # of a worktree
        places.append(git / (git / "commondir").read_text().strip())
    for place in places:
        with suppress(OSError):
            return (place / name).read_text().strip()
        try:
            lines = (place / "packed-refs").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            commit, _, ref = line.partition(" ")
            if ref == name:
                return commit
    return ""


def new_id(now: Callable[[], float] = time.time) -> str:
    """The id of a run: sorts by time, and differs for two of one second."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now()))}-{os.urandom(2).hex()}"
