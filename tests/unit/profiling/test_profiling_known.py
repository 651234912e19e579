"""Files that are known again: by stamp, by content, after a restart, and what is left of a damaged file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from trimtab.components.profiling.agent import known
from trimtab.components.profiling.agent.known import Known

FACTS = {"identity": "abc-1", "build_id": "abc", "segments": [[0, 0, 4096, True]], "go": False, "size": 10}


def found(place: Known, path: Path) -> known.Entry | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return place.find(fd)
    finally:
        os.close(fd)


def keep(place: Known, path: Path, facts: dict[str, object] = FACTS, *, key: bytes = b"k") -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        place.keep(fd, key, str(path), facts)
    finally:
        os.close(fd)


def test_a_file_is_known_again_after_a_restart(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"code" * 1000)
    keep(Known(tmp_path / "known"), program)
    place = Known(tmp_path / "known")
    entry = found(place, program)
    assert entry is not None
    assert (entry.facts, entry.path, entry.key) == (FACTS, str(program), b"k")
    assert [one.path for one in place.newest()] == [str(program)]


def test_a_file_that_was_changed_is_another(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"code" * 1000)
    place = Known(tmp_path / "known")
    keep(place, program)
    program.write_bytes(b"edoc" * 1000)
    assert found(place, program) is None


def test_a_copy_is_known_by_its_content_and_has_no_key(tmp_path: Path) -> None:
    program, copy, large = tmp_path / "program", tmp_path / "copy", tmp_path / "large"
    program.write_bytes(b"code" * 1000)
    shutil.copyfile(program, copy)
    place = Known(tmp_path / "known")
    keep(place, program)
    if (entry := found(place, copy)) is None:
        pytest.skip("this file system does not say what is in memory (RWF_NOWAIT)")
    assert (entry.facts, entry.key) == (FACTS, b"")

    for path in (large, tmp_path / "large-copy"):
        path.write_bytes(bytes(known.DIGEST_BYTES_MAX + 1))
    keep(place, large)
    assert found(place, large) is not None
    assert found(place, tmp_path / "large-copy") is None


def test_what_was_used_last_is_the_newest_of_the_next_start(tmp_path: Path) -> None:
    programs = [tmp_path / name for name in "abc"]
    first = Known(tmp_path / "known")
    for program in programs:
        program.write_text(program.name)
        keep(first, program)
    found(Known(tmp_path / "known"), programs[0])
    assert [Path(one.path).name for one in Known(tmp_path / "known").newest()] == ["a", "c", "b"]


def test_what_is_before_damage_is_kept(tmp_path: Path) -> None:
    place = Known(tmp_path / "known")
    programs = [tmp_path / name for name in "ab"]
    for program in programs:
        program.write_text(program.name)
        keep(place, program)
    whole = (tmp_path / "known").read_bytes()
    (tmp_path / "known").write_bytes(whole[:-7])
    again = Known(tmp_path / "known")
    assert found(again, programs[0]) is not None
    assert [Path(one.path).name for one in Known(tmp_path / "known").newest()] == [
        Path(one.path).name for one in again.newest()
    ]
    (tmp_path / "known").write_bytes(b"\xff" * 100)
    assert list(Known(tmp_path / "known").newest()) == []


def test_the_file_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "ENTRIES_MAX", 8)
    place = Known(tmp_path / "known")
    for number in range(100):
        program = tmp_path / f"program-{number}"
        program.write_text(f"content {number}")
        keep(place, program)
    assert (tmp_path / "known").stat().st_size < 40 * 300
    assert found(place, program) is not None
    assert found(place, tmp_path / "program-0") is None


def test_facts_of_another_version_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text("code")
    keep(Known(tmp_path / "known"), program)
    monkeypatch.setattr(known, "VERSION", known.VERSION + 1)
    assert found(Known(tmp_path / "known"), program) is None
