"""The revision log on SQLite: write, read at a revision, watch from a revision, compact, back up, migrate.

Read `records.py` (the values), `store.py` (how a write becomes a revision), `sqlite_log.py` (what is on disk), `index.py`
(what is in memory), `watch.py`.
"""

from trimtab.store.records import (
    ABSENT,
    Change,
    Compacted,
    Conflict,
    DiskFull,
    Overloaded,
    Put,
    Record,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreLocked,
    UnknownFormat,
)
from trimtab.store.sqlite_log import FORMAT, begin_anew, copy_log, outdate
from trimtab.store.store import Store
from trimtab.store.watch import Watch

__all__ = [
    "ABSENT",
    "FORMAT",
    "Change",
    "Compacted",
    "Conflict",
    "DiskFull",
    "Overloaded",
    "Put",
    "Record",
    "Store",
    "StoreClosed",
    "StoreDamaged",
    "StoreError",
    "StoreLocked",
    "UnknownFormat",
    "Watch",
    "begin_anew",
    "copy_log",
    "outdate",
]
