"""The store's promises, one by one: revisions, preconditions, lists at a revision, reopening, locks, formats, full disks."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from trimtab.store import (
    ABSENT,
    Compacted,
    Conflict,
    DiskFull,
    Overloaded,
    Put,
    Store,
    StoreClosed,
    StoreError,
    StoreLocked,
    UnknownFormat,
    begin_anew,
)
from trimtab.store import store as store_module
from trimtab.store.sqlite_log import REVISIONS_AHEAD, Row, SqliteLog


@pytest.fixture(params=["file", "inline"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """The same promises hold with the writer's thread on disk and inline in memory."""
    if request.param == "file":
        opened = await Store.open(tmp_path / "store.sqlite")
    else:
        opened = await Store.open(None, inline=True)
    yield opened
    await opened.close()


async def test_revisions_count_up_without_gaps(store: Store) -> None:
    first = await store.write([Put("/a/1", b"x"), Put("/a/2", b"y")])
    second = await store.write([Put("/a/1", b"z")])

    assert [record.revision for record in first + second] == [1, 2, 3]
    assert store.revision == 3
    found = store.get("/a/1")
    assert found is not None
    assert (found.value, found.revision) == (b"z", 3)


@pytest.mark.parametrize(
    ("put", "text"),
    [
        (Put("/a/1", b"y", ABSENT), "/a/1: expected no object, but it is at revision 1: read it again and retry"),
        (Put("/a/1", b"y", 7), "/a/1: expected revision 7, but it is at revision 1: read it again and retry"),
        (Put("/a/2", b"y", 7), "/a/2: expected revision 7, but it does not exist: read it again and retry"),
        (Put("/a/2", None), "/a/2: expected an object, but it does not exist: read it again and retry"),
    ],
)
async def test_a_precondition_that_does_not_hold_is_refused_in_one_line(store: Store, put: Put, text: str) -> None:
    await store.write([Put("/a/1", b"x")])

    with pytest.raises(Conflict) as caught:
        await store.write([put])

    assert str(caught.value) == text
    assert store.revision == 1


async def test_a_write_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.write([Put("/a/1", b"x", ABSENT), Put("/a/2", None)])

    assert store.list("/a/") == []
    assert store.revision == 0


async def test_of_many_writers_of_one_revision_one_wins(store: Store) -> None:
    [record] = await store.write([Put("/a/1", b"0")])

    outcomes = await asyncio.gather(
        *(store.write([Put("/a/1", b"%d" % i, record.revision)]) for i in range(20)), return_exceptions=True
    )

    assert sum(isinstance(outcome, list) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19


async def test_keys_come_in_order_and_in_pieces(store: Store) -> None:
    for name in ("c", "a", "b", "d"):
        await store.write([Put(f"/k/{name}", b"x")])
    await store.write([Put("/other/x", b"x")])

    assert [r.key for r in store.list("/k/")] == ["/k/a", "/k/b", "/k/c", "/k/d"]
    assert [r.key for r in store.list("/k/", start="/k/b", limit=2)] == ["/k/b", "/k/c"]


async def test_a_list_shows_the_past_as_it_was(store: Store) -> None:
    await store.write([Put("/k/a", b"1"), Put("/k/b", b"1")])
    moment = store.revision
    await store.write([Put("/k/a", b"2")])
    await store.write([Put("/k/b", None)])
    await store.write([Put("/k/c", b"1")])

    assert [(r.key, r.value) for r in store.list("/k/", revision=moment)] == [("/k/a", b"1"), ("/k/b", b"1")]
    assert [(r.key, r.value) for r in store.list("/k/")] == [("/k/a", b"2"), ("/k/c", b"1")]


async def test_nothing_is_lost_by_closing_and_opening(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await store.write([Put("/k/a", b"1"), Put("/k/b", b"1")])
    await store.write([Put("/k/a", None)])
    await store.close()

    again = await Store.open(path)

    assert [(r.key, r.value, r.revision) for r in again.list("/")] == [("/k/b", b"1", 2)]
    assert again.revision == 3
    [record] = await again.write([Put("/k/a", b"new", ABSENT)])
    assert record.revision == 4
    await again.close()


async def test_a_revision_is_never_given_twice_even_when_its_row_was_compacted(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await store.write([Put("/k/a", b"1")])
    await store.write([Put("/k/a", None)])
    await store.compact(store.revision)
    await store.close()

    again = await Store.open(path)

    assert again.revision == 2
    [record] = await again.write([Put("/k/a", b"1")])
    assert record.revision == 3
    await again.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite")
    await store.close()

    with pytest.raises(StoreClosed):
        await store.write([Put("/a", b"x")])


async def test_a_cancelled_writer_does_not_disturb_the_others(store: Store) -> None:
    task = asyncio.ensure_future(store.write([Put("/a/1", b"x")]))
    await asyncio.sleep(0)
    task.cancel()
    await store.write([Put("/a/2", b"x")])

    assert store.get("/a/2") is not None


# Opening


async def test_a_second_engine_on_the_same_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    script = (
        "import asyncio, pathlib, sys\n"
        "from trimtab.store import Store, StoreLocked\n"
        "try:\n    asyncio.run(Store.open(pathlib.Path(sys.argv[1])))\n"
        "except StoreLocked as err:\n    print(err)\n"
    )

    other = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60
    )

    assert other.stdout == (
        f"{path}: in use by process {os.getpid()}: one engine per data directory; stop it, or name another\n"
    )
    await store.close()
    await (await Store.open(path)).close()


async def test_the_same_process_cannot_open_it_twice_either(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite")
    with pytest.raises(StoreLocked):
        await Store.open(tmp_path / "store.sqlite")
    await store.close()


async def test_newer_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await (await Store.open(path)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(UnknownFormat) as caught:
        await Store.open(path)

    assert str(caught.value) == (
        f"{path}: written by a newer Trimtab (format 99, this one knows 1): run that version, or bring an older backup back with `trimtab restore`"
    )


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"not a database at all" * 100)

    with pytest.raises(UnknownFormat) as caught:
        await Store.open(path)

    assert (
        str(caught.value)
        == f"{path}: file is not a database: `trimtab restore` brings a backup back, into another --data"
    )


async def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE notes (text TEXT)")
    db.close()

    with pytest.raises(UnknownFormat, match="this SQLite file is not a Trimtab store"):
        await Store.open(path)


async def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "store.sqlite"

    with pytest.raises(StoreError) as caught:
        await Store.open(path)

    assert str(caught.value) == (
        f"{path}: cannot be opened: No such file or directory: check the directory and its owner"
    )


# A full disk


async def test_a_full_disk_refuses_writes_while_reads_go_on(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await store.write([Put("/k/a", b"kept")])
    await _limit_pages(store, 12)

    with pytest.raises(DiskFull) as caught:
        await _write_until_refused(store)

    assert str(caught.value) == f"{path}: the disk is full, the write was refused: free some space and retry"
    kept, revision = store.list("/k/"), store.revision
    assert kept[0].value == b"kept"

    await _limit_pages(store, 1_000_000)
    [record] = await store.write([Put("/k/after", b"x")])
    assert record.revision == revision + 1
    await store.close()

    again = await Store.open(path)
    assert [r for r in again.list("/k/") if r.key != "/k/after"] == [r for r in kept if r.key != "/k/after"]
    await again.close()


async def _write_until_refused(store: Store) -> None:
    for i in range(100):
        await store.write([Put(f"/k/big{i}", b"x" * 10_000)])


async def _limit_pages(store: Store, pages: int) -> None:
    """Makes SQLite report a full disk beyond so many pages."""
    await store._idle.wait()
    store._log._db.execute(f"PRAGMA max_page_count = {pages}")


async def test_any_other_failed_commit_ends_the_process(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sqlite3, sys\n"
        "from trimtab.store import Put, Store\n"
        "async def main():\n"
        "    store = await Store.open(pathlib.Path(sys.argv[1]))\n"
        "    await store.write([Put('/a', b'x')])\n"
        "    store._log._db.execute('DROP TABLE revision')\n"
        "    await store.write([Put('/b', b'x')])\n"
        "    print('acknowledged')\n"
        "asyncio.run(main())\n"
    )

    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, str(tmp_path / "store.sqlite")],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 74
    assert ended.stdout == ""
    assert ended.stderr.startswith(
        "store: a commit failed, the process ends so that nothing unwritten is acknowledged:"
    )


async def test_a_backup_is_a_store(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite")
    for i in range(50):
        await store.write([Put(f"/k/{i:02}", b"x" * 100)])

    writes = asyncio.gather(*(store.write([Put(f"/later/{i}", b"x")]) for i in range(50)))
    await store.backup(tmp_path / "backup.sqlite")
    await writes

    copy = await Store.open(tmp_path / "backup.sqlite")
    assert len(copy.list("/k/")) == 50
    assert copy.revision >= 50
    await copy.close()
    await store.close()
    assert not (tmp_path / "backup.sqlite.partial").exists()


async def test_only_its_owner_can_read_the_store(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite")
    await store.write([Put("/a", b"secret")])
    await store.backup(tmp_path / "backup.sqlite")

    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}

    assert len(modes) == 5
    assert set(modes.values()) == {"0o600"}
    await store.close()


async def test_too_many_waiting_writes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PENDING_MAX", 3)
    store = await Store.open(tmp_path / "store.sqlite")

    outcomes = await asyncio.gather(*(store.write([Put(f"/a/{i}", b"x")]) for i in range(5)), return_exceptions=True)

    assert [str(outcome) for outcome in outcomes if isinstance(outcome, Overloaded)] == [
        "3 writes already wait for the disk: retry later"
    ] * 2
    assert len(store.list("/a/")) == 3
    await store.close()


async def test_a_store_that_begins_anew_keeps_what_lives_and_forgets_how_it_came(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    for value in (b"1", b"2"):
        await store.write([Put("/a", value)])
    await store.write([Put("/b", b"old")])
    await store.write([Put("/gone", b"x")])
    await store.write([Put("/gone", None)])
    last = store.revision
    await store.close()

    begin_anew(path, lambda key, value: b"new" if key == "/b" else None)

    store = await Store.open(path)
    assert [(record.key, record.value) for record in store.list("")] == [("/a", b"2"), ("/b", b"new")]
    assert store.revision == store.compacted == last + REVISIONS_AHEAD
    with pytest.raises(Compacted):
        store.watch("", last)
    (written,) = await store.write([Put("/a", b"3")])
    assert written.revision == last + REVISIONS_AHEAD + 1
    await store.close()


@pytest.mark.parametrize("full", [False, True])
async def test_a_conflict_is_not_told_before_the_write_that_it_lost_to_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    opened = await Store.open(tmp_path / "store.sqlite")
    append, began, disk = SqliteLog.append, threading.Event(), threading.Event()

    def slowly(self: SqliteLog, rows: Sequence[Row]) -> None:
        began.set()
        disk.wait(60)
        if full:
            raise DiskFull("the disk is full")
        append(self, rows)

    monkeypatch.setattr(SqliteLog, "append", slowly)
    first, second = (asyncio.ensure_future(opened.write([Put("/a", value, ABSENT)])) for value in (b"1", b"2"))
    await asyncio.to_thread(began.wait, 60)

    assert not second.done()
    assert opened.get("/a") is None
    disk.set()
    told = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(told[1], DiskFull if full else Conflict)
    assert (opened.get("/a") is None) is full
    await opened.close()
