"""A watch: the steps of all keys with a prefix, after a revision, each exactly once, in order, as they are committed.

A new watch first reads what it missed (from memory, else from disk), then what the writer publishes. A watch whose reader is
slow keeps no unbounded queue: beyond a limit it forgets its queue and reads from the log again, where it may find that
history was compacted away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from trimtab.store.records import Change, StoreClosed

if TYPE_CHECKING:
    from trimtab.store.store import Store

QUEUE_MAX = 4_096
"""Published steps that one slow watch may hold on to before it falls back to the log."""

QUEUE_MAX_BYTES = 16 * 1024 * 1024
"""Of their values: a few large objects that change again and again are as much as many small ones."""


class Watch:
    """Iterate it with `async for`, or read by batches. `delivered`: nothing at or before this revision will come again."""

    def __init__(self, store: Store, prefix: str, after: int, forget: Callable[[Watch], None]) -> None:
        self.prefix = prefix
        self.delivered = after
        self._store = store
        self._queue: deque[Change] = deque()
        self._queued_bytes = 0
        self._behind = after < store.revision
        self._waiter: asyncio.Future[None] | None = None
        self._forget = forget
        self._closed = False

    def publish(self, change: Change) -> None:
        """Called by the store, in order of revisions, for keys with the prefix."""
        if not self._behind:
            self._queue.append(change)
            self._queued_bytes += len(change.record.value)
            if len(self._queue) > QUEUE_MAX or self._queued_bytes > QUEUE_MAX_BYTES:
                self._queue.clear()
                self._queued_bytes = 0
                self._behind = True
        self._wake()

    def take(self) -> list[Change]:
        """All steps that are there now, without waiting.

        Raises:
            Compacted: this watch fell behind and its history is gone.
            StoreClosed: nothing will come any more.
        """
        if self._closed:
            raise StoreClosed("the watch is closed")
        if self._behind:
            upto = self._store.revision
            changes = self._store.history(self.prefix, self.delivered)
            self._behind = False
            self.delivered = upto
            return changes
        changes = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self.delivered = self._store.revision
        return changes

    async def batch(self, timeout_s: float | None = None) -> list[Change]:
        """Waits for at least one step and returns all that are there; nothing when `timeout_s` passed before one came.
        Raises as `take`."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while not (changes := self.take()):
            if deadline is not None and loop.time() >= deadline:
                break
            self._waiter = loop.create_future()
            alarm = loop.call_at(deadline, self._wake) if deadline is not None else None
            try:
                await self._waiter
            finally:
                self._waiter = None
                if alarm is not None:
                    alarm.cancel()
        return changes

    async def __aiter__(self) -> AsyncIterator[Change]:
        while True:
            try:
                changes = await self.batch()
            except StoreClosed:
                return
            for change in changes:
                yield change

    def close(self) -> None:
        """Ends the watch; a pending `batch` raises `StoreClosed`."""
        if not self._closed:
            self._closed = True
            self._queue.clear()
            self._forget(self)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
