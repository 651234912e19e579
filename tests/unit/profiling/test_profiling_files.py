"""The files that stacks go through, with maps that are memory: what is loaded, shared, and makes room."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.components.profiling.agent import files, layout, packing, tables
from trimtab.components.profiling.agent.files import Files
from trimtab.components.profiling.agent.python import Interpreters

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="not root: the files of mappings cannot be opened")

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
LIBC, LIBM = LIBRARIES / "libc.so.6", LIBRARIES / "libm.so.6"
DEADLINE_S = 60.0


class Kept:
    """A map that nobody else reads."""

    def __init__(self, size: int) -> None:
        self.size, self.values, self.changed = size, dict[bytes, bytes](), asyncio.Event()

    def memory(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.zeros(self.size, dtype)

    def update(self, key: bytes, value: bytes) -> None:
        self.values[key] = value
        self.changed.set()

    def delete(self, key: bytes) -> None:
        self.values.pop(key, None)


class Maps:
    tables = True

    def __init__(self, rows: int) -> None:
        self.files, self._sizes = Kept(1), {"rows": rows, "rules": 1 << 14}

    def map(self, name: str) -> Kept:
        return self.files if name == "files" else Kept(self._sizes[name])


async def run(function: str, *arguments: Any, fds: Any = ()) -> Any:
    """As the sandbox, without one."""
    known: dict[str, Callable[..., Any]] = {
        "agent.tables:identity": tables.identity,
        "agent.tables:build": tables.build,
    }
    return known[function](*arguments, fds=fds)


@contextlib.asynccontextmanager
async def known_files(maps: Maps, root: Path, parse: files.Run = run) -> AsyncIterator[Files]:
    found = Files(maps, root, parse, parse, Interpreters(Kept(1)), lambda fd, build_id, path: None)
    working = asyncio.create_task(found.work())
    try:
        yield found
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        found.close()


@contextlib.contextmanager
def sampled_in(path: Path, number: int) -> Iterator[NDArray[Any]]:
    """What the program tells of a sample of this process in a file."""
    with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ):
        lines = Path("/proc/self/maps").read_text().splitlines()
        place = next(
            line.split()[0] for line in lines if line.endswith(str(path.resolve())) and " r--p 00000000 " in line
        )
        status = os.fstat(opened.fileno())
        event = np.zeros((), layout.FILE_EVENT)
        event["tgid"], event["id"] = os.getpid(), number
        event["start"], event["end"] = (int(part, 16) for part in place.split("-"))
        event["key"]["inode"], event["key"]["changed_ns"] = status.st_ino, status.st_mtime_ns
        yield event


async def ask(found: Files, maps: Maps, path: Path, number: int) -> NDArray[Any]:
    """What the program knows of a file after it has told of it."""
    with sampled_in(path, number) as event:
        found.wanted(event)
        key = event["key"].tobytes()
    async with asyncio.timeout(DEADLINE_S):
        while key not in maps.files.values:
            maps.files.changed.clear()
            await maps.files.changed.wait()
    return np.frombuffer(maps.files.values[key], layout.FILE_VALUE)[0]


def words_of(path: Path) -> int:
    with open(path, "rb") as opened:
        table = tables.read(tables.build([opened.fileno()]))
    return len(packing.pack(np.frombuffer(table.offsets, "<u4"), np.zeros(table.rows, np.uint32), 1)[0])


async def test_files_of_one_content_share_their_rows_and_the_second_agent_has_them_from_disk(tmp_path: Path) -> None:
    copy = Path(shutil.copy(LIBM, tmp_path / "copy.so"))
    cache = tmp_path / "unwind"
    maps = Maps(1 << 19)
    async with known_files(maps, cache) as found:
        first, second = await ask(found, maps, LIBM, 1), await ask(found, maps, copy, 2)
        assert found.counts["built"] == 1
        module = found.module(2)
    again = Maps(1 << 19)
    async with known_files(again, cache) as found:
        await ask(found, again, LIBM, 1)
        assert (found.counts["built"], found.counts["from_disk"]) == (0, 1)

    assert first["flags"] == layout.FILE_SETTLED | layout.FILE_TABLE
    assert (first["first"], first["count"]) == (second["first"], second["count"])
    assert (int(first["id"]), int(second["id"])) == (1, 2)
    assert module is not None
    assert len(module.build_id) == 40


async def unable(function: str, *arguments: Any, fds: Any = ()) -> Any:
    """A sandbox that nobody may ask."""
    raise ValueError(f"{function} was called")


async def test_what_is_known_is_in_the_kernel_before_the_first_sample_and_again_without_being_parsed(
    tmp_path: Path,
) -> None:
    maps, again = Maps(1 << 19), Maps(1 << 19)
    async with known_files(maps, tmp_path) as found:
        value = await ask(found, maps, LIBM, 7)
        key = next(iter(maps.files.values))
    async with known_files(again, tmp_path, unable) as found:
        assert found.preload() == 1
        first = np.frombuffer(again.files.values[key], layout.FILE_VALUE)[0]
        assert (found.module(1) is not None, found.rows_used) == (True, words_of(LIBM))
        found.evict_half()
        assert key not in again.files.values
        second = await ask(found, again, LIBM, 2)
        assert (found.counts["built"], found.counts["refused"], found.counts["known"]) == (0, 0, 1)
    assert [(int(one["id"]), int(one["count"])) for one in (value, first, second)] == [
        (7, value["count"]),
        (1, value["count"]),
        (2, value["count"]),
    ]


async def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "IN_USE_S", -1.0)
    maps = Maps(words_of(LIBC) // 2 + 1024)
    async with known_files(maps, tmp_path) as found:
        await ask(found, maps, LIBM, 1)
        before = set(maps.files.values)
        value = await ask(found, maps, LIBC, 2)

        assert found.counts["evicted"] == 1
        assert found.rows_used == words_of(LIBC)
    assert value["flags"] & layout.FILE_TABLE
    assert not before & set(maps.files.values), "the program still looks for rows that are gone"


async def test_what_is_in_use_stays_and_the_other_is_followed_by_frame_pointers(tmp_path: Path) -> None:
    maps = Maps(words_of(LIBC) // 2 + 1024)
    async with known_files(maps, tmp_path) as found:
        await ask(found, maps, LIBC, 1)
        value = await ask(found, maps, LIBM, 2)

        assert (found.counts["no_room"], found.counts["evicted"]) == (1, 0)
    assert value["flags"] == layout.FILE_SETTLED


async def test_what_is_no_program_is_not_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "noise.so").write_bytes(b"\x7f" + b"noise" * 2000)
    maps = Maps(1 << 19)
    async with known_files(maps, tmp_path / "unwind") as found:
        value = await ask(found, maps, tmp_path / "noise.so", 7)

        assert found.counts["refused"] == 1
    assert value["flags"] == layout.FILE_SETTLED | layout.FILE_FRAME_POINTERS


async def test_a_process_that_has_ended_is_counted(tmp_path: Path) -> None:
    maps = Maps(1 << 19)
    event = np.zeros((), layout.FILE_EVENT)
    event["tgid"], event["start"], event["end"] = 1 << 22, 0x1000, 0x2000
    async with known_files(maps, tmp_path) as found:
        found.wanted(event)

        assert found.counts["gone"] == 1
        assert not maps.files.values
