"""The store: writes go in as `Put`s, become rows of one log, and come out as reads from memory and as watches.

One batch is on its way to disk at any time. Writes that arrive meanwhile wait together; when the batch is committed it is
published (index, then watches, then the writers' own answers), and what waits becomes the next batch: group commit. So
preconditions are always judged against committed state, revisions are handed out in commit order without gaps, and nobody
ever sees what is not on disk.

A failed commit is one of two things. The disk is full: the batch is refused, nothing else changes, reads go on. Anything
else: it is unknown what is on disk (after a failed fsync the kernel may have dropped the pages, see "fsyncgate"), so the
process ends at once and the next start reads the truth from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from trimtab.store.index import Index
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
)
from trimtab.store.sqlite_log import Row, SqliteLog
from trimtab.store.watch import Watch

WINDOW = 10_000
"""Revisions that stay watchable; a client that was away longer lists again."""
COMPACTION_STEP = 1_000
"""Revisions compacted in one transaction, between two batches: a few milliseconds that a writer may have to wait."""
BATCH_MAX = 512
"""Writes of one transaction."""
PENDING_MAX = 20_000
"""Writes that may wait for the disk before further ones are refused."""

Records = list[Record]
Changes = list[Change]
Accepted = list[tuple[Records, asyncio.Future[Records]]]
Refused = list[tuple[Conflict, asyncio.Future[Records]]]
Rows = list[Row]
Job = tuple[Callable[[], object], Callable[[BaseException | None], None]]


class Store:
    """See the module. All methods are called on the event loop that opened it."""

    def __init__(self, log: SqliteLog, *, inline: bool, window: int, on_fatal: Callable[[BaseException], None]) -> None:
        self._log = log
        self._inline = inline
        self._window = window
        self._on_fatal = on_fatal
        self._index = Index()
        self._watches: dict[str, dict[Watch, None]] = {}
        self._pending: list[tuple[Sequence[Put], asyncio.Future[Records]]] = []
        self._batch_on_its_way = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        try:
            self.revision = log.last()
            self.compacted = log.compacted()
            self._index.load(log.records(), self.revision)
        except sqlite3.DatabaseError as err:
            log.close()
            raise StoreDamaged(
                f"{log.path}: the database is damaged ({err}): `trimtab restore` brings a backup back, into another --data"
            ) from None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        if not inline:
            self._loop = asyncio.get_running_loop()
            self._writer = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
            self._writer.start()

    @classmethod
    async def open(
        cls,
        path: Path | None,
        *,
        inline: bool = False,
        window: int = WINDOW,
        on_fatal: Callable[[BaseException], None] | None = None,
    ) -> Store:
        """Opens or creates the store; None keeps it in memory.

        inline: no thread; a write is committed before `write` first yields (simulated time).
        on_fatal: what to do when a commit failed for another reason than a full disk; ends the process by default.

        Raises:
            StoreLocked, UnknownFormat, DiskFull: with one line that says what to do.
        """
        return cls(SqliteLog(path), inline=inline, window=window, on_fatal=on_fatal or _end_process)

    # Reading

    def get(self, key: str) -> Record | None:
        """The live record of a key."""
        return self._index.get(key)

    def list(self, prefix: str, *, start: str = "", limit: int | None = None, revision: int | None = None) -> Records:
        """The live records with a prefix in key order, from `start` on; as they were at `revision` when one is given.

        Raises:
            Compacted: that revision is gone.
        """
        if revision is None or revision >= self.revision:
            return self._index.list(prefix, start, limit)
        state = {record.key: record for record in self._index.list(prefix, "", None)}
        for change in reversed(self.history(prefix, revision)):
            if change.previous is not None:
                state[change.record.key] = change.previous
            else:
                state.pop(change.record.key, None)
        return [state[key] for key in sorted(state) if key >= start][:limit]

    def count(self, prefix: str, *, start: str = "") -> int:
        """How many live records have a prefix, from `start` on."""
        return self._index.count(prefix, start)

    @property
    def closed(self) -> bool:
        return self._closed

    def __len__(self) -> int:
        return len(self._index)

    def size_bytes(self) -> int:
        """Of the files on disk; 0 in memory."""
        return self._log.size_bytes()

    def history(self, prefix: str, after: int) -> Changes:
        """The committed steps after a revision, oldest first. Raises `Compacted` when some are gone."""
        if after < self.compacted:
            raise Compacted(after, self.compacted)
        if after >= self._index.recent_after:
            return self._index.recent(prefix, after)
        return self._log.changes(prefix, after, self.revision)

    def watch(self, prefix: str, after: int) -> Watch:
        """The steps of keys with a prefix after a revision, each exactly once and in order.

        Raises:
            Compacted: some of them are gone: list again.
        """
        if self._closed:
            raise StoreClosed("the store is closed")
        if after < self.compacted:
            raise Compacted(after, self.compacted)
        watch = Watch(self, prefix, after, self._forget_watch)
        self._watches.setdefault(prefix, {})[watch] = None
        return watch

    def _forget_watch(self, watch: Watch) -> None:
        watches = self._watches[watch.prefix]
        watches.pop(watch, None)
        if not watches:
            del self._watches[watch.prefix]

    # Writing

    async def write(self, puts: Sequence[Put]) -> Records:
        """Commits all of `puts` or none; returns their records once they are on disk and published.

        Raises:
            Conflict: an expectation did not hold.
            DiskFull, Overloaded: refused, nothing was kept.
            StoreClosed: the store was closed.
        """
        if self._closed:
            raise StoreClosed("the store is closed")
        if self._inline:
            rows, records = self._rows_of(puts, {}, self.revision)
            self._log.append(rows)
            self._publish(records)
            if due := self._compaction_due():
                self._log.compact(due)
                self.compacted = due
            return records
        if len(self._pending) >= PENDING_MAX:
            raise Overloaded(f"{len(self._pending)} writes already wait for the disk: retry later")
        future: asyncio.Future[Records] = self._loop.create_future()
        self._pending.append((puts, future))
        if not self._batch_on_its_way:
            self._batch_on_its_way = True
            self._idle.clear()
            self._loop.call_soon(self._next_batch)
        return await future

    def _rows_of(self, puts: Sequence[Put], staged: dict[str, int], last: int) -> tuple[Rows, Records]:
        """Turns one write into rows after revision `last`, given what the batch has staged so far (key -> revision).

        Raises:
            Conflict: an expectation does not hold; `staged` is unchanged then.
        """
        rows: Rows = []
        records: Records = []
        own: dict[str, int] = {}
        for put in puts:
            found = own.get(put.key, staged.get(put.key, -1))
            if found < 0:
                found = self._index.revision_of(put.key)
            wanted = found if put.expect is None else 0 if put.expect is ABSENT else put.expect
            if wanted != found or (put.value is None and not found):
                raise Conflict(put, found)
            last += 1
            rows.append((last, put.key, put.value, found))
            records.append(Record(put.key, put.value or b"", last))
            own[put.key] = last if put.value is not None else 0
        staged.update(own)
        return rows, records

    def _next_batch(self) -> None:
        """Sends the next batch to the writer, or a step of compaction when one is due, or rests."""
        accepted: Accepted = []
        rows: Rows = []
        staged: dict[str, int] = {}
        refused: Refused = []
        batch, self._pending = self._pending[:BATCH_MAX], self._pending[BATCH_MAX:]
        for puts, future in batch:
            if future.done():  # its caller was cancelled before anything was decided
                continue
            try:
                new_rows, records = self._rows_of(puts, staged, self.revision + len(rows))
            except Conflict as err:
                if rows:  # it may have lost to a write of this batch, of which nobody may know before it is on disk
                    refused.append((err, future))
                else:
                    future.set_exception(err)
                continue
            rows += new_rows
            accepted.append((records, future))
        if rows:
            self._jobs.put((lambda: self._log.append(rows), lambda err: self._batch_done(accepted, refused, err)))
        elif self._pending:
            self._loop.call_soon(self._next_batch)
        else:
            self._batch_on_its_way = False
            self._idle.set()

    def _batch_done(self, accepted: Accepted, refused: Refused, err: BaseException | None) -> None:
        for records, future in accepted:
            if err is None:
                self._publish(records)
            if future.done():
                continue
            if err is None:
                future.set_result(records)
            else:
                future.set_exception(err)
        for conflict, future in refused:
            if not future.done():
                future.set_exception(err or conflict)
        upto = self._compaction_due()
        if upto and not self._closed:
            self._jobs.put((lambda: self._log.compact(upto), self._compaction_done))
        else:
            self._next_batch()

    def _publish(self, records: Sequence[Record]) -> None:
        changes = [self._index.apply(record) for record in records]
        self.revision = records[-1].revision if records else self.revision
        for prefix, watches in self._watches.items():
            for change in changes:
                if change.record.key.startswith(prefix):
                    for watch in watches:
                        watch.publish(change)

    # Compaction, backup, end

    def _compaction_due(self) -> int:
        """The revision to compact to after a batch; 0 when it is not worth a transaction yet."""
        if self.revision - self.compacted < self._window + COMPACTION_STEP:
            return 0
        return min(self.revision - self._window, self.compacted + 2 * COMPACTION_STEP)

    def _compaction_done(self, err: BaseException | None) -> None:
        if err is None:
            self.compacted = self._log.compacted()
        self._next_batch()

    async def compact(self, upto: int) -> None:
        """Forgets all history at or before a revision; live records stay. Raises `DiskFull`."""
        upto = min(upto, self.revision)
        if self._inline:
            self._log.compact(upto)
            self.compacted = self._log.compacted()
            return
        while self._batch_on_its_way:
            await self._idle.wait()
        self._batch_on_its_way = True
        self._idle.clear()
        done: asyncio.Future[None] = self._loop.create_future()

        def finished(err: BaseException | None) -> None:
            self._compaction_done(err)
            if err is not None and not done.done():
                done.set_exception(err)
            elif not done.done():
                done.set_result(None)

        self._jobs.put((lambda: self._log.compact(upto), finished))
        await done

    async def backup(self, target: Path) -> None:
        """Writes a consistent copy of the store to `target` (whole or not at all) while reads and writes go on."""
        if self._inline:
            self._log.backup(target)
        else:
            await asyncio.to_thread(self._log.backup, target)

    async def close(self) -> None:
        """Waits for the writes on their way, ends all watches, closes the file."""
        if self._closed:
            return
        self._closed = True
        await self._idle.wait()
        for watch in [watch for watches in self._watches.values() for watch in watches]:
            watch.close()
        if self._writer is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._writer.join)
        self._log.close()

    # The writer's thread

    def _write_forever(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            error: BaseException | None = None
            try:
                work()
            except DiskFull as err:
                error = err
            except BaseException as err:
                self._on_fatal(err)
                return
            with contextlib.suppress(RuntimeError):  # the loop was closed under a store that was not
                self._loop.call_soon_threadsafe(done, error)


def _end_process(err: BaseException) -> NoReturn:
    kind = f" ({err.sqlite_errorname})" if isinstance(err, sqlite3.Error) and hasattr(err, "sqlite_errorname") else ""
    print(
        f"store: a commit failed, the process ends so that nothing unwritten is acknowledged: {err}{kind}",
        file=sys.stderr,
    )
    sys.stderr.flush()
    os._exit(74)  # EX_IOERR
