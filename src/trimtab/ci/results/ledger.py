"""What every test did in every run: how long it takes, whether it flakes, and the rows of the heat map.

A flake is exact here: the same content, another outcome; within a run (a failed test passed when tried again) or between runs whose
step had the same content key. How often a test flakes is estimated from these alone (Beta posterior with Jeffreys' prior), so a
test that fails because somebody broke it is never called flaky.

The ledger is not a cache: it cannot be made again, and has a file of its own.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.ci.cache.opening import alone
from trimtab.ci.results.junit import TestResult
from trimtab.ci.results.split import loads, middle

BUSY_S = 60.0
VERSION = 2
RUNS_KEPT = 500
TIMES = 5
"""How many of a test's last times count."""
IMBALANCE_MAX = 1.2
"""The busiest shard over the mean, above which tests are split anew. A new split is a new key for every shard."""
FIRST_IMBALANCE_MAX = 1.05
"""The same for a split that was made by names alone, before anything was measured."""
GAIN_MIN_S = 1.0
"""What a new split has to save at least."""
FLAKE_RATE_MIN = 0.02
"""A test is flaky when its rate of flaking is above this with 95 % probability."""
CONFIDENCE = 0.95

_SCHEMA = """
create table if not exists runs (run text primary key, project text not null, at real not null) without rowid;
create index if not exists runs_by_project on runs (project, at);
create table if not exists outcomes (
    project text, step text, test text, run text, shard text, content text not null, outcome text not null, seconds real not null,
    flaked integer not null, message text not null, digest text not null,
    primary key (project, step, test, run, shard)) without rowid;
create index if not exists outcomes_by_run on outcomes (run);
create table if not exists splits (
    project text, step text, count integer, seconds text not null, primary key (project, step, count)) without rowid;
create table if not exists sources (
    project text, step text, test text, source text not null, primary key (project, step, test)) without rowid;
"""


class LedgerError(Exception):
    """The ledger cannot be used. One line: what, where, the fix."""


@dataclass(frozen=True)
class Flake:
    """A test that has failed and passed on the same content. rate: how often it flakes, with the bounds of 90 % probability."""

    step: str
    test: str
    runs: int
    flaked: int
    rate: tuple[float, float]
    last_run: str
    message: str

    @property
    def flaky(self) -> bool:
        """Whether it is one beyond doubt, and may be quarantined."""
        return self.rate[0] > FLAKE_RATE_MIN


@dataclass(frozen=True)
class Heat:
    """Tests by runs. rows: (step, test); runs: the oldest first; cells: by row and column a letter, "" where it did not run.

    p passed, f failed, s skipped, k flaked. said: by row and column the first line of what a failure said. at: by run, seconds since 1970.
    """

    runs: Sequence[str]
    rows: Sequence[tuple[str, str]]
    cells: Sequence[Sequence[str]]
    said: Mapping[tuple[int, int], str]
    at: Sequence[float]


class Ledger:
    """One file of a machine's state, for all projects. Several processes and threads at once."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "ledger.sqlite")
        self._lock = threading.RLock()
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as err:
            raise LedgerError(f"cannot use {self.path}: {err}") from None
        try:
            with alone(self.path):
                self._prepare()
        except (OSError, sqlite3.Error) as err:
            self._db.close()
            raise LedgerError(f"{self.path}: {err}; move it away to begin a new one") from None

    def _prepare(self) -> None:
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version > VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}, this program's is {VERSION}")
        if version < VERSION:
            self._db.execute("pragma journal_mode=wal")
            self._db.executescript(f"begin immediate; {_SCHEMA} pragma user_version={VERSION}; commit;")
        self._db.execute("pragma synchronous=normal")

    def close(self) -> None:
        with self._lock, alone(self.path):
            self._db.close()

    def record(
        self,
        project: str,
        step: str,
        run: str,
        content: str,
        results: Collection[TestResult],
        *,
        shard: str = "",
        at: float | None = None,
    ) -> None:
        """What the tests of one execution did. step: its name, of all shards; content: the key of what it ran on."""
        rows = [
            (
                project,
                step,
                one.id,
                run,
                shard,
                content,
                one.outcome,
                one.seconds,
                one.unsteady,
                one.message,
                one.digest,
            )
            for one in results
        ]
        passed = [(project, step, one.id, one.source) for one in results if one.source and one.outcome == "passed"]
        with self._lock:
            self._db.execute("begin immediate")
            try:
                now = time.time() if at is None else at
                self._db.execute("insert or ignore into runs values (?, ?, ?)", (run, project, now))
                self._db.executemany(f"insert or replace into outcomes values ({', '.join('?' * 11)})", rows)
                self._db.executemany("insert or replace into sources values (?, ?, ?, ?)", passed)
                self._forget(project)
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _forget(self, project: str) -> None:
        old = self._db.execute(
            "select run from runs where project = ? order by at desc, run desc limit -1 offset ?", (project, RUNS_KEPT)
        ).fetchall()
        self._db.executemany("delete from outcomes where run = ?", old)
        self._db.executemany("delete from runs where run = ?", old)

    def _rows(self, statement: str, arguments: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._db.execute(statement, arguments).fetchall()

    def sources(self, project: str, step: str) -> dict[str, str]:
        """By test the digest of the function that has passed last."""
        found = self._rows(
            "select test, source from sources where project = ? and step = ? order by test", (project, step)
        )
        return dict(found)

    # Time

    def seconds(self, project: str, step: str) -> dict[str, float]:
        """By test what it takes: the middle one of its last times."""
        times: dict[str, list[float]] = {}
        for test, took in self._rows(
            "select test, seconds from outcomes join runs using (run) where outcomes.project = ? and step = ?"
            " and outcome in ('passed', 'failed') order by at desc",
            (project, step),
        ):
            seen = times.setdefault(test, [])
            if len(seen) < TIMES:
                seen.append(took)
        return {test: round(middle(seen), 3) for test, seen in sorted(times.items())}

    def split(self, project: str, step: str, count: int) -> dict[str, float]:
        """The times by which a step's tests are split now. They stay until the shards have become uneven."""
        found = self._rows(
            "select seconds from splits where project = ? and step = ? and count = ?", (project, step, count)
        )
        return dict(json.loads(found[0][0])) if found else {}

    def settle(self, project: str, step: str, count: int) -> float:
        """After a run: the busiest shard over the mean by what tests take now; above `IMBALANCE_MAX` the next run splits anew. A split by
        names alone gives way sooner, at `FIRST_IMBALANCE_MAX`."""
        now = self.seconds(project, step)
        if not now or count < 2:
            return 1.0
        planned = self.split(project, step, count)
        busy = loads(list(now), planned, now, count)
        mean = sum(busy) / count
        uneven = max(busy) / mean if mean else 1.0
        if uneven > (IMBALANCE_MAX if planned else FIRST_IMBALANCE_MAX) and max(busy) - mean > GAIN_MIN_S:
            with self._lock:
                self._db.execute(
                    "insert or replace into splits values (?, ?, ?, ?)", (project, step, count, json.dumps(now))
                )
        return uneven

    # Flakes

    def flakes(self, project: str, step: str | None = None) -> list[Flake]:
        """Every test that has flaked, the worst first."""
        chosen = "" if step is None else " and step = ?"
        rows = self._rows(
            "select step, test, content, outcome, flaked, message, run from outcomes join runs using (run)"
            f" where outcomes.project = ?{chosen} and outcome != 'skipped' order by at",
            (project,) if step is None else (project, step),
        )
        seen: dict[tuple[str, str], list[tuple[str, str, int, str, str]]] = {}
        for name, test, *rest in rows:
            seen.setdefault((name, test), []).append(tuple(rest))
        found = [one for key, history in seen.items() if (one := _flake(*key, history)) is not None]
        return sorted(found, key=lambda one: (-one.rate[0], -one.flaked, one.step, one.test))

    # Heat

    def heat(self, project: str, runs: int = 200, tests: int = 500) -> Heat:
        """The last runs by tests: what failed or flaked lately first."""
        found = self._rows("select run, at from runs where project = ? order by at desc limit ?", (project, runs))
        columns = [run for run, _ in reversed(found)]
        place = {run: i for i, run in enumerate(columns)}
        rows: dict[tuple[str, str], list[str]] = {}
        said: dict[tuple[str, str], dict[int, str]] = {}
        for step, test, run, outcome, flaked, message in self._rows(
            "select step, test, run, outcome, flaked, message from outcomes where project = ?", (project,)
        ):
            if run in place:
                cells = rows.setdefault((step, test), [""] * len(columns))
                cells[place[run]] = "k" if flaked and outcome == "passed" else {"error": "f"}.get(outcome, outcome[0])
                if message and cells[place[run]] in ("f", "k"):
                    said.setdefault((step, test), {})[place[run]] = message.split("\n")[0]
        order = sorted(rows, key=lambda key: (-_trouble(rows[key]), key))[:tests]
        words = {(i, column): text for i, key in enumerate(order) for column, text in said.get(key, {}).items()}
        return Heat(columns, order, [rows[key] for key in order], words, [at for _, at in reversed(found)])


def _trouble(cells: Sequence[str]) -> float:
    """Failures and flakes, the late ones more."""
    return sum((cell in ("f", "k")) * 0.95 ** (len(cells) - i) for i, cell in enumerate(cells))


def _flake(step: str, test: str, history: Sequence[tuple[str, str, int, str, str]]) -> Flake | None:
    by_content: dict[str, set[str]] = {}
    for content, outcome, flaked, *_ in history:
        by_content.setdefault(content, set()).update({"passed", "failed"} if flaked else {outcome})
    both = {content for content, outcomes in by_content.items() if "passed" in outcomes and outcomes - {"passed"}}
    trouble = [one for one in history if one[0] in both and (one[2] or one[1] != "passed")]
    if not trouble:
        return None
    rate = bounds(len(trouble), len(history), CONFIDENCE)
    return Flake(step, test, len(history), len(trouble), rate, trouble[-1][4], trouble[-1][3].split("\n")[0])


def bounds(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """Between which rates the true one is: each bound holds with `confidence`. Beta(hits + 1/2, misses + 1/2), Jeffreys' prior."""
    a, b = hits + 0.5, trials - hits + 0.5
    return _quantile(a, b, 1 - confidence), _quantile(a, b, confidence)


def _quantile(a: float, b: float, p: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta(a, b, middle) < p else (low, middle)
    return (low + high) / 2


def _beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (Abramowitz and Stegun 26.5.8, Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for i in range(400):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + term * d) or tiny)
        c = (1 + term / c) or tiny
        value *= c * d
        if abs(1 - c * d) < 1e-12:
            break
    return front * (value - 1)
