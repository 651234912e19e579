"""The API server with a fault of the kind that its tests must find; `BROKEN` in the environment names it.

early: writes are acknowledged before they are on disk, and some never get there.
lossy: a watch misses some events.
stale: some reads answer what was there before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import api_process
from trimtab.store.index import Index
from trimtab.store.records import Change, Record
from trimtab.store.sqlite_log import SqliteLog
from trimtab.store.watch import Watch

EVERY = 20


def _early() -> None:
    append = SqliteLog.append
    kept: list[Any] = []

    def later(self: SqliteLog, rows: Sequence[Any]) -> None:
        kept.extend(rows)
        if len(kept) > EVERY:
            append(self, kept)
            kept.clear()

    SqliteLog.append = later  # type: ignore[method-assign]


def _lossy() -> None:
    publish = Watch.publish

    def some(self: Watch, change: Change) -> None:
        if change.record.revision % EVERY:
            publish(self, change)

    Watch.publish = some  # type: ignore[method-assign]


def _stale() -> None:
    get = Index.get
    before: dict[str, Record] = {}
    apply = Index.apply

    def applied(self: Index, record: Record) -> Change:
        change = apply(self, record)
        if change.previous is not None:
            before[record.key] = change.previous
        return change

    def sometimes(self: Index, key: str) -> Record | None:
        found = get(self, key)
        return before.get(key, found) if found is not None and found.revision % 3 == 0 else found

    Index.apply = applied  # type: ignore[method-assign]
    Index.get = sometimes  # type: ignore[method-assign]


if __name__ == "__main__":
    {"early": _early, "lossy": _lossy, "stale": _stale}[os.environ["BROKEN"]]()
    api_process.main()
