"""A database that is damaged, or stands where nothing can be written: one line says so and what to do, and nothing is changed."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trimtab.store import ABSENT, Put, Store, StoreError

PAGE = 4096


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A store of some hundred objects, closed."""
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    for number in range(200):
        await store.write([Put(f"/core/configmaps/default/c{number}", b"x" * 500, ABSENT)])
    await store.close()
    return path


def _scribbled(raw: bytes, start: int, size: int) -> bytes:
    return raw[:start] + random.Random(1).randbytes(size) + raw[start + size :]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda raw: _scribbled(raw, 0, 64), "file is not a database"),
        (lambda raw: _scribbled(raw, 100, PAGE - 100), "database disk image is malformed"),
        (lambda raw: _scribbled(raw, 2 * PAGE, 10 * PAGE), "database disk image is malformed"),
        (lambda raw: raw[: 5 * PAGE], "database disk image is malformed"),
    ],
    ids=["head", "tables", "middle", "cut off"],
)
async def test_a_damaged_database_is_told_in_one_line_and_left_as_it_is(
    database: Path, damage: Callable[[bytes], bytes], text: str
) -> None:
    sound = database.read_bytes()
    damaged = damage(sound)
    database.write_bytes(damaged)

    with pytest.raises(StoreError) as refused:
        await Store.open(database)

    assert text in str(refused.value)
    assert str(refused.value).startswith(f"{database}: ")
    assert str(refused.value).endswith("`trimtab restore` brings a backup back, into another --data")
    assert "\n" not in str(refused.value)
    assert database.read_bytes() == damaged
    database.write_bytes(sound)
    again = await Store.open(database)  # the refusal has let go of it
    assert len(again) == 200
    await again.close()


@pytest.fixture
def own_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.engine
async def test_a_directory_that_cannot_be_written_is_told_in_one_line(own_disk: Path) -> None:
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(own_disk)], check=True)

    with pytest.raises(StoreError) as refused:
        await Store.open(own_disk / "store.sqlite")

    assert "Read-only file system: check the directory and its owner" in str(refused.value)
    assert os.listdir(own_disk) == []
