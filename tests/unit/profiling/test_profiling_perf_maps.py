"""Perf maps: files that running programs write, and that others might make to deceive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.components.profiling.agent import perf_maps
from trimtab.components.profiling.agent.perf_maps import PerfMaps, named
from trimtab.components.profiling.batch import Frame

PID = os.getpid()


@pytest.fixture
def own() -> Iterator[Path]:
    """Where this process' map would be."""
    path = Path(f"/tmp/perf-{PID}.map")
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("JS:*heavy /srv/app.js:1:15", Frame("jit", "heavy", file="/srv/app.js", line=1)),
        ("JS:~ file:///srv/main.mjs:7:3", Frame("jit", "(anonymous)", file="/srv/main.mjs", line=7)),
        ("JS:^processTicksAndRejections node:internal/process/task_queues:72:35", None),
        ("py::Shop.buy:/srv/shop.py", Frame("python", "Shop.buy", file="/srv/shop.py")),
        ("$lists:foldl/3", Frame("jit", "$lists:foldl/3")),
        ("Builtin:ArrayPush", Frame("jit", "Builtin:ArrayPush")),
    ],
)
def test_names_of_runtimes(text: str, frame: Frame | None) -> None:
    internal = Frame("jit", "processTicksAndRejections", file="node:internal/process/task_queues", line=72)
    assert named(text) == (frame or internal)


def test_an_address_has_the_name_that_was_written_last(own: Path) -> None:
    maps = PerfMaps()
    own.write_text("1000 10 first\n0x2000 20 second function\nno line of a map\n3000 zz broken\n")
    assert maps.name(PID, 1, 0x1000) == Frame("jit", "first")
    assert maps.name(PID, 1, 0x201F) == Frame("jit", "second function")
    assert maps.name(PID, 1, 0x1010) is None
    assert maps.name(PID, 1, 0xFFF) is None
    with own.open("a") as file:
        file.write("1000 8 moved\n4000 10 half")
    assert maps.name(PID, 1, 0x1000) == Frame("jit", "first"), "read once a round"
    maps.begin()
    assert maps.name(PID, 1, 0x1000) == Frame("jit", "moved")
    assert maps.name(PID, 1, 0x4000) is None, "a line that is still being written"
    with own.open("a") as file:
        file.write(" a name\n")
    maps.begin()
    assert maps.name(PID, 1, 0x4000) == Frame("jit", "half a name")


def test_of_a_process_that_ended_the_names_that_were_read_remain(own: Path) -> None:
    maps = PerfMaps()
    own.write_text("1000 10 first\n")
    assert maps.name(PID, 1, 0x1000)
    own.unlink()
    maps.begin()
    assert maps.name(PID, 1, 0x1000) == Frame("jit", "first")
    assert maps.name(PID, 2, 0x1000) is None, "another run has no map"


def test_a_map_that_is_no_plain_file_is_not_read(own: Path) -> None:
    os.mkfifo(own)
    assert PerfMaps().name(PID, 1, 0x1000) is None
    own.unlink()
    own.symlink_to("/proc/self/maps")
    assert PerfMaps().name(PID, 1, 0x1000) is None


def test_a_huge_map_is_read_in_parts(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_maps, "READ_BYTES_MAX", 64)
    maps = PerfMaps()
    own.write_text("".join(f"{0x1000 + 16 * index:x} 10 f{index}\n" for index in range(10)))
    assert maps.name(PID, 1, 0x1090) is None
    for _ in range(4):
        maps.begin()
        maps.name(PID, 1, 0x1090)
    assert maps.name(PID, 1, 0x1090) == Frame("jit", "f9")
