"""What lives now, in memory: every live record by key, the keys in order, and the latest steps.

Reads never touch the disk: a get is one dictionary access, a list is a slice of the ordered keys. Old steps fall out of
memory long before they are compacted on disk; `SqliteLog.changes` has them still.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

from trimtab.store.records import Change, Record

RECENT_CHANGES_MAX = 2_048
"""Steps kept in memory. Enough for clients that reconnect at once; who comes later is served from disk."""
RECENT_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of values that those steps may hold, so that large objects do not add up."""

Records = list[Record]
Changes = list[Change]

END = "\U0010ffff"


class Index:
    """The live records and the recent steps."""

    def __init__(self) -> None:
        self._live: dict[str, Record] = {}
        self._keys: list[str] = []
        self._recent: deque[Change] = deque()
        self._recent_bytes = 0
        self.recent_after = 0
        """Every step after this revision is in memory."""

    def load(self, records: Iterable[Record], revision: int) -> None:
        """Replays records in the order of their revisions; `revision` is the last one ever written."""
        live = self._live
        for record in records:
            if record.value:
                live[record.key] = record
            else:
                live.pop(record.key, None)
        self._keys = sorted(live)
        self.recent_after = revision

    def get(self, key: str) -> Record | None:
        return self._live.get(key)

    def revision_of(self, key: str) -> int:
        """The revision of a live key; 0 when it does not exist."""
        record = self._live.get(key)
        return record.revision if record is not None else 0

    def list(self, prefix: str, start: str, limit: int | None) -> Records:
        """Live records whose key begins with `prefix` and is not before `start`, in key order."""
        keys = self._keys
        low = bisect_left(keys, max(prefix, start))
        high = bisect_left(keys, prefix + END, low)
        if limit is not None:
            high = min(high, low + limit)
        live = self._live
        return [live[key] for key in keys[low:high]]

    def count(self, prefix: str, start: str) -> int:
        """How many records `list` would give without a limit."""
        low = bisect_left(self._keys, max(prefix, start))
        return bisect_left(self._keys, prefix + END, low) - low

    def __len__(self) -> int:
        return len(self._keys)

    def apply(self, record: Record) -> Change:
        """Takes one committed record in and returns the step."""
        key = record.key
        previous = self._live.get(key)
        if record.value:
            self._live[key] = record
            if previous is None:
                insort(self._keys, key)
        elif previous is not None:
            del self._live[key]
            del self._keys[bisect_left(self._keys, key)]
        change = Change(record, previous)
        self._recent.append(change)
        self._recent_bytes += len(record.value)
        while len(self._recent) > RECENT_CHANGES_MAX or self._recent_bytes > RECENT_BYTES_MAX:
            dropped = self._recent.popleft().record
            self._recent_bytes -= len(dropped.value)
            self.recent_after = dropped.revision
        return change

    def recent(self, prefix: str, after: int) -> Changes:
        """The steps after a revision that is not before `recent_after`, oldest first."""
        found = []
        for change in reversed(self._recent):
            if change.record.revision <= after:
                break
            if change.record.key.startswith(prefix):
                found.append(change)
        found.reverse()
        return found
