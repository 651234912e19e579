"""The content store under bad luck: killed at any step, no room on the disk. What is there is whole, and the next try works."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_samples import sample_image
from trimtab.content import BuiltImage, ContentStore, DiskFull, ImageSpec, build, oci, parse_digest

SPEC = ImageSpec(name="s", files={"/app": "."}, user="app", workdir="/app")
STEPS_MAX = 400
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.chmod", "os.utime", "os.mkdir")
"""Python's audit events around each change that a build makes to the disk."""


def make(store: ContentStore, project: Path) -> BuiltImage:
    return asyncio.run(build(SPEC, store, context=project))


def killed_at(step: int, directory: Path, project: Path) -> bool:
    """Builds in a child that dies at its n-th file operation; False if it came to the end before."""
    child = os.fork()
    if child == 0:
        seen = 0

        def die(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in FILE_EVENTS and str(directory) in repr(arguments):
                seen += 1
                if seen == step:
                    os._exit(9)

        sys.addaudithook(die)
        try:
            make(ContentStore(directory), project)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


def check_whole(store: ContentStore) -> None:
    """Every blob is what its name says, every tag leads to a whole image or record."""
    for digest in store.blobs():
        store.verify(digest)
    for digest in store.tags("cache/").values():
        assert store.has(digest)
    for digest in store.tags().values():
        oci.closure(store, digest)


def test_killed_at_every_file_operation_a_build_leaves_only_whole_things(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text("print(1)\n")
    expected = make(ContentStore(tmp_path / "reference"), project).digest

    steps = 0
    for step in range(1, STEPS_MAX):
        directory = tmp_path / f"content-{step}"
        if not killed_at(step, directory, project):
            break
        steps = step
        store = ContentStore(directory)
        check_whole(store)
        assert make(store, project).digest == expected
        check_whole(store)
        swept = store.gc(grace_s=-1)
        assert swept is not None
        assert list((directory / "ingest").iterdir()) == []
        check_whole(store)
        assert store.resolve("trimtab.local/s:latest") == expected
    assert 20 < steps < STEPS_MAX - 1


def test_killed_again_and_again_in_one_store_a_build_still_ends(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "a").write_text("1")
    directory = tmp_path / "content"
    attempts = 0
    while killed_at(7, directory, project):
        attempts += 1
        check_whole(ContentStore(directory))
        assert attempts < STEPS_MAX, "each attempt must get further than the one before"
        if attempts > 30:
            break
    assert make(ContentStore(directory), project).digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.engine
def test_a_full_disk_is_said_so_and_nothing_is_half_written(small_disk: Path, tmp_path: Path) -> None:
    store = ContentStore(small_disk / "content")
    before = sample_image(store, "trimtab.local/before:latest")
    with pytest.raises(DiskFull) as full:
        store.put(os.urandom(400_000))
    assert str(full.value) == (
        f"no space left in {small_disk / 'content'} for a new blob; free some, or remove old images"
    )
    project = tmp_path / "project"
    project.mkdir()
    (project / "large").write_bytes(os.urandom(400_000))
    with pytest.raises(DiskFull):
        make(store, project)
    assert store.resolve("trimtab.local/s:latest") is None
    oci.closure(store, before)
    check_whole(store)
    assert list((small_disk / "content" / "ingest").iterdir()) == []
    (project / "large").write_bytes(b"small")
    assert make(store, project).digest == store.resolve("trimtab.local/s:latest")


@pytest.mark.engine
def test_a_disk_without_room_for_a_single_file_is_said_so(small_disk: Path) -> None:
    store = ContentStore(small_disk / "content")
    digest = store.put(b"kept")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    for write in (lambda: store.put(b"new"), lambda: store.tag("a:1", digest)):
        with pytest.raises(DiskFull, match=r"no space left in .*; free some, or remove old images"):
            write()
    assert store.read(parse_digest(digest)) == b"kept"
    filler.unlink()
    store.tag("a:1", digest)
    assert store.resolve("a:1") == digest
