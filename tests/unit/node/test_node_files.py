"""Volumes of ConfigMaps and Secrets on disk, logs, and what a client reads of them."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.api.core import ConfigMap, HostPathVolume
from trimtab.api.projection import KeyToPath
from trimtab.components.node import logs
from trimtab.components.node.environment import ConfigProblem
from trimtab.components.node.logs import LogOptions, read, tail_offset
from trimtab.components.node.projected import configured_files
from trimtab.components.node.projection import ProjectedFile, project
from trimtab.components.node.volumes import HostVolume, host_path, sub_path


def tree(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not str(path.relative_to(directory)).startswith("..")
    }


def files(**contents: str) -> dict[str, ProjectedFile]:
    return {name.replace("__", "/"): ProjectedFile(text.encode(), 0o640) for name, text in contents.items()}


def test_a_projection_changes_as_a_whole(tmp_path: Path) -> None:
    volume = tmp_path / "v"
    assert project(volume, files(a="1", sub__b="2"))
    assert (volume / "a").read_text() == "1"
    assert (volume / "sub" / "b").read_text() == "2"
    assert (volume / "a").stat().st_mode & 0o777 == 0o640
    before = os.readlink(volume / "..data")
    assert not project(volume, files(a="1", sub__b="2")), "nothing changed"
    assert project(volume, files(a="3"))
    assert (volume / "a").read_text() == "3"
    assert not (volume / "sub").exists()
    assert not (volume / before).exists(), "the old content is removed"


def test_an_open_directory_never_shows_half_of_a_change(tmp_path: Path) -> None:
    volume = tmp_path / "v"
    project(volume, files(a="1", b="1"))
    data = os.open(volume / "..data", os.O_RDONLY | os.O_DIRECTORY)
    project(volume, files(a="2", b="2"))
    now = os.open(volume / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        seen = {Path(f"/proc/self/fd/{now}", name).read_text() for name in ("a", "b")}
        assert seen == {"2"}
    finally:
        os.close(data)
        os.close(now)


def test_projected_files_of_a_config_map() -> None:
    source = ConfigMap(data={"a": "1", "b": "2"}, binary_data={"c": "AAE="})
    source.metadata.name, source.metadata.namespace = "conf", "shop"
    assert configured_files(source, [], 0o600, optional=False)["c"] == ProjectedFile(b"\x00\x01", 0o600)
    [only] = configured_files(source, [KeyToPath(key="a", path="x/y", mode=0o400)], None, optional=False).items()
    assert only == ("x/y", ProjectedFile(b"1", 0o400))
    with pytest.raises(ConfigProblem, match="ConfigMap shop/conf has no key z"):
        configured_files(source, [KeyToPath(key="z", path="z")], None, optional=False)
    with pytest.raises(ConfigProblem, match=r"the path '\.\./x' of the key a must stay within the volume"):
        configured_files(source, [KeyToPath(key="a", path="../x")], None, optional=False)


def test_a_sub_path_does_not_lead_out(tmp_path: Path) -> None:
    volume = HostVolume(tmp_path / "v")
    volume.path.mkdir()
    (volume.path / "out").symlink_to("/etc")
    assert sub_path(volume, "a/b") == volume.path / "a" / "b"
    for bad in ("../x", "/etc", "a/../../x"):
        with pytest.raises(ConfigProblem, match="must stay within the volume"):
            sub_path(volume, bad)
    with pytest.raises(ConfigProblem, match="is a link that leads out of the volume"):
        sub_path(volume, "out/passwd")


def test_host_paths_are_what_they_say(tmp_path: Path) -> None:
    assert host_path(HostPathVolume(path=str(tmp_path / "new"), type="DirectoryOrCreate")).is_dir()
    assert host_path(HostPathVolume(path=str(tmp_path / "f"), type="FileOrCreate")).is_file()
    with pytest.raises(ConfigProblem, match="on this node is not a file, as the hostPath's type File says"):
        host_path(HostPathVolume(path=str(tmp_path), type="File"))
    with pytest.raises(ConfigProblem, match=r"must be absolute and without \.\."):
        host_path(HostPathVolume(path="relative"))


# Logs


def line(number: int, text: str, tag: str = "F") -> str:
    return f"2026-01-01T00:00:{number:02d}.123456789Z stdout {tag} {text}\n"


async def text_of(path: Path, options: LogOptions) -> str:
    over = asyncio.Event()
    over.set()
    return b"".join([piece async for piece in read(path, options, over)]).decode()


async def test_options_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("".join(line(i, f"line {i}") for i in range(5)) + line(6, "be", "P") + line(7, "gin"))
    assert await text_of(path, LogOptions()) == "line 0\nline 1\nline 2\nline 3\nline 4\nbegin\n"
    assert await text_of(path, LogOptions(tail=2)) == "line 4\nbegin\n"
    assert await text_of(path, LogOptions(tail=0)) == ""
    assert await text_of(path, LogOptions(limit_bytes=8)) == "line 0\nl"
    since = datetime(2026, 1, 1, 0, 0, 4, tzinfo=UTC)
    assert await text_of(path, LogOptions(since=since)) == "line 4\nbegin\n"
    assert (await text_of(path, LogOptions(tail=1, timestamps=True))) == "2026-01-01T00:00:06.123456789Z begin\n"


async def test_following_sees_rotation_and_the_end(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(line(0, "a"))
    over = asyncio.Event()
    following = read(path, LogOptions(follow=True), over)
    assert await asyncio.wait_for(anext(following), 60) == b"a\n"
    with path.open("a") as file:
        file.write(line(1, "b"))
    assert await asyncio.wait_for(anext(following), 60) == b"b\n"
    logs.rotate(path)
    path.write_text(line(2, "c"))
    assert await asyncio.wait_for(anext(following), 60) == b"c\n"
    over.set()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(following), 60)
    assert await text_of(path, LogOptions(tail=2)) == "b\nc\n", "the piece before is read, too"


async def test_older_pieces_are_read_in_order_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    for number in range(5):
        path.write_text(line(number, f"line {number}"))
        logs.rotate(path, older_max=3)

    assert [piece.name for piece in logs.pieces(path)] == ["0.log.1", "0.log.2", "0.log.3"]
    path.write_text(line(5, "line 5"))
    assert await text_of(path, LogOptions()) == "line 2\nline 3\nline 4\nline 5\n"
    assert await text_of(path, LogOptions(tail=3)) == "line 3\nline 4\nline 5\n"


def test_what_a_flood_brought_is_cut_to_its_last_whole_lines(tmp_path: Path) -> None:
    piece = tmp_path / "0.log.1"
    piece.write_text("".join(line(0, f"line {number}") for number in range(1000)))
    one = len(line(0, "line 999"))

    logs.cut(piece, 10 * one - 1)

    kept = piece.read_text().splitlines(keepends=True)
    assert kept == [line(0, f"line {number}") for number in range(991, 1000)]
    logs.cut(piece, 10 * one)
    assert len(piece.read_text().splitlines()) == 9


@given(
    lines=st.lists(
        st.tuples(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=30), st.booleans())
    ),
    wanted=st.integers(0, 12),
    block=st.integers(1, 200),
)
def test_the_tail_is_what_reading_it_all_would_give(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, bool]], wanted: int, block: int
) -> None:
    path = tmp_path_factory.mktemp("tail") / "0.log"
    path.write_text("".join(line(0, text, "F" if whole else "P") for text, whole in lines))
    before = logs.BLOCK_BYTES
    logs.BLOCK_BYTES = block
    try:
        offset, found = tail_offset(path, wanted)
    finally:
        logs.BLOCK_BYTES = before
    ends = [i for i, (_, whole) in enumerate(lines) if whole]
    keep = ends[len(ends) - wanted - 1] + 1 if len(ends) > wanted else 0
    assert path.read_bytes()[offset:].decode() == "".join(line(0, t, "F" if w else "P") for t, w in lines[keep:])
    assert found == min(wanted, len(ends))
