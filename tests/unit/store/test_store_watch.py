"""Watches: each step once, in order, from any revision that is not compacted, however slow the reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from trimtab.store import Change, Compacted, Put, Store, StoreClosed
from trimtab.store import index as index_module
from trimtab.store import watch as watch_module
from trimtab.store.store import COMPACTION_STEP


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "store.sqlite")
    yield opened
    await opened.close()


def told(changes: list[Change]) -> list[tuple[str, bytes, bytes | None]]:
    return [(c.record.key, c.record.value, c.previous.value if c.previous else None) for c in changes]


async def test_a_watch_tells_what_it_missed_and_then_what_comes(store: Store) -> None:
    await store.write([Put("/k/a", b"1")])
    await store.write([Put("/other", b"1")])
    await store.write([Put("/k/a", b"2")])
    watch = store.watch("/k/", 1)

    assert told(watch.take()) == [("/k/a", b"2", b"1")]
    await store.write([Put("/k/a", None)])
    assert told(await watch.batch()) == [("/k/a", b"", b"2")]
    assert watch.take() == []


async def test_a_watch_that_waits_is_woken_by_the_commit(store: Store) -> None:
    watch = store.watch("/k/", 0)
    waiting = asyncio.ensure_future(watch.batch())
    await asyncio.sleep(0)
    assert not waiting.done()

    await store.write([Put("/k/a", b"1")])

    assert told(await waiting) == [("/k/a", b"1", None)]


async def test_waiting_ends_with_nothing_after_its_time(store: Store) -> None:
    watch = store.watch("/k/", 0)
    await store.write([Put("/other", b"1")])

    assert await watch.batch(timeout_s=0.01) == []
    assert watch.delivered == 1


async def test_history_beyond_memory_comes_from_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "RECENT_CHANGES_MAX", 3)
    for i in range(10):
        await store.write([Put("/k/a", b"%d" % i), Put("/other", b"x")])

    steps = told(store.watch("/k/", 2).take())

    assert steps == [("/k/a", b"%d" % i, b"%d" % (i - 1)) for i in range(1, 10)]


async def test_a_reopened_store_tells_its_history(store: Store, tmp_path: Path) -> None:
    for i in range(5):
        await store.write([Put("/k/a", b"%d" % i)])
    await store.write([Put("/k/a", None)])
    await store.close()

    again = await Store.open(tmp_path / "store.sqlite")

    assert told(again.watch("/k/", 3).take()) == [
        ("/k/a", b"3", b"2"),
        ("/k/a", b"4", b"3"),
        ("/k/a", b"", b"4"),
    ]
    await again.close()


@pytest.mark.parametrize(("limit", "most"), [("QUEUE_MAX", 4), ("QUEUE_MAX_BYTES", 6)])
async def test_a_slow_watch_reads_from_the_log_and_misses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(watch_module, limit, most)
    watch = store.watch("/k/", 0)
    for i in range(20):
        await store.write([Put("/k/a", b"%d" % i)])
        assert len(watch._queue) <= most

    assert [c.record.revision for c in watch.take()] == list(range(1, 21))
    await store.write([Put("/k/a", b"last")])
    assert [c.record.revision for c in watch.take()] == [21]


async def test_compacted_history_is_refused(store: Store) -> None:
    for i in range(10):
        await store.write([Put("/k/a", b"%d" % i)])
    await store.compact(5)

    with pytest.raises(Compacted) as caught:
        store.watch("/k/", 4)

    assert str(caught.value) == "revision 4 is compacted, history begins after 5: list again"
    assert len(store.watch("/k/", 5).take()) == 5
    with pytest.raises(Compacted):
        store.list("/k/", revision=4)


async def test_a_watch_that_slept_through_compaction_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "QUEUE_MAX", 2)
    watch = store.watch("/k/", 0)
    for i in range(10):
        await store.write([Put("/k/a", b"%d" % i)])
    await store.compact(5)

    with pytest.raises(Compacted):
        watch.take()


@pytest.mark.parametrize("inline", [False, True])
async def test_compaction_keeps_a_window_and_all_live_objects(tmp_path: Path, inline: bool) -> None:
    store = await Store.open(tmp_path / "windowed.sqlite", inline=inline, window=100)
    for i in range(50):
        await store.write([Put(f"/k/{i}", b"x")])
    for _ in range(2 * COMPACTION_STEP // 100):
        await asyncio.gather(*(store.write([Put("/busy", b"%d" % i)]) for i in range(100)))
    await store.write([Put("/k/0", None)])

    assert store.revision - store.compacted >= 100
    assert store.compacted > 0
    await store.close()
    again = await Store.open(tmp_path / "windowed.sqlite")
    assert len(again.list("/k/")) == 49
    assert len(again.history("/", again.compacted)) == again.revision - again.compacted
    await again.close()


async def test_closing_the_store_ends_its_watches(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "closing.sqlite")
    watch = store.watch("/k/", 0)
    waiting = asyncio.ensure_future(watch.batch())
    seen: list[Change] = []

    async def follow() -> None:
        async for change in store.watch("/k/", 0):
            seen.append(change)

    following = asyncio.ensure_future(follow())
    await store.write([Put("/k/a", b"1")])
    assert len(await waiting) == 1
    waiting = asyncio.ensure_future(watch.batch())
    await asyncio.sleep(0)

    await store.close()

    with pytest.raises(StoreClosed):
        await waiting
    await following
    assert len(seen) == 1
