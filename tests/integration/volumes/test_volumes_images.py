"""Images, loop devices and mounts of this machine's kernel: the lock lasts as long as somebody can write."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine_under_test import wait_for
from trimtab.components.volumes import ImageFiles, Staging, filesystems, loop
from trimtab.components.volumes.images import ImageProblem
from trimtab.components.volumes.staging import StagingProblem, device_at

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "volumes"
    for name in ("a", "b"):
        mounts = tmp_path / name
        for entry in sorted(mounts.glob("*")) if mounts.exists() else ():
            if device_at(entry):
                unmount(entry)
        if device_at(mounts):
            unmount(mounts)
    assert str(tmp_path) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout


def unmount(path: Path) -> None:
    """What held it may be on its way out still."""
    wait_for(
        lambda: subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode == 0,
        60,
        f"{path} unmounted",
    )


@pytest.fixture
def images(root: Path) -> ImageFiles:
    return ImageFiles(root, "a", machine=True)


def node(root: Path, name: str) -> Staging:
    return Staging(root, root.parent / name, name)


async def attached(
    images: ImageFiles, root: Path, name: str = "a", uid: str = "u1", size: int = 32 * MIB, fs_type: str = "ext4"
) -> Path:
    await images.make("v", size, fs_type)
    assert await images.grant("v", name, uid, exclusive=True, known={uid}) is None
    return await node(root, name).stage("v", uid, read_only=False)


async def test_a_volume_is_a_directory_of_the_size_that_was_asked_for(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root)

    assert (os.listdir(path), path.stat().st_mode & 0o777) == ([], 0o777)
    room = os.statvfs(path)
    assert 20 * MIB < room.f_blocks * room.f_frsize <= 32 * MIB
    with pytest.raises(OSError, match="No space left"):
        (path / "large").write_bytes(bytes(40 * MIB))


async def test_a_mounted_volume_is_held_until_its_last_mount_is_gone(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root)
    elsewhere = start("unshare", "-m", "--propagation", "private", "sh", "-c", f"exec sleep 60 > {path}/open")
    try:
        await until(lambda: Path(f"/proc/{elsewhere.pid}/comm").read_text() == "sleep\n")
        await node(root, "a").unstage("v")

        assert await images.revoke("v", "u1"), "a process elsewhere has a file open and could still write"
    finally:
        elsewhere.kill()
        elsewhere.wait()
    await until(lambda: not loop.is_locked(images.path("v")))
    assert not await images.revoke("v", "u1")


async def test_copies_of_the_mount_that_nobody_uses_do_not_keep_it(images: ImageFiles, root: Path) -> None:
    await attached(images, root)
    elsewhere = start("unshare", "-m", "--propagation", "private", "sleep", "60")
    try:
        await until(lambda: Path(f"/proc/{elsewhere.pid}/comm").read_text() == "sleep\n")
        assert f"sleep ({elsewhere.pid})" in await images.holders("v")

        await node(root, "a").unstage("v")

        assert not await images.revoke("v", "u1")
    finally:
        elsewhere.kill()
        elsewhere.wait()


async def test_another_node_cannot_mount_what_is_mounted_or_was_taken_back(images: ImageFiles, root: Path) -> None:
    await attached(images, root)
    other = node(root, "b")

    with pytest.raises(StagingProblem, match="its image is still in use elsewhere"):
        await other.stage("v", "u1", read_only=False)
    await node(root, "a").unstage("v")
    with pytest.raises(StagingProblem, match=r"b has no leave to use it \(any more\)"):
        await other.stage("v", "u1", read_only=False)
    assert not await images.revoke("v", "u1")
    with pytest.raises(StagingProblem, match=r"a has no leave to use it \(any more\)"):
        await node(root, "a").stage("v", "u1", read_only=False)


async def test_data_moves_with_the_volume(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root)
    (path / "note").write_text("kept")
    await node(root, "a").unstage("v")
    assert not await images.revoke("v", "u1")

    moved = await attached(images, root, "b", "u2")

    assert (moved / "note").read_text() == "kept"


async def test_what_is_only_read_is_on_both_nodes_and_cannot_be_written(images: ImageFiles, root: Path) -> None:
    await images.make("v", 16 * MIB, "ext4")
    paths = []
    for name in ("a", "b"):
        assert await images.grant("v", name, f"u-{name}", exclusive=False, known={"u-a", "u-b"}) is None
        paths.append(await node(root, name).stage("v", f"u-{name}", read_only=True))

    for path in paths:
        with pytest.raises(OSError, match="Read-only file system"):
            (path / "note").write_text("x")
    assert loop.is_locked(images.path("v"))


async def test_an_agent_that_dies_before_the_mount_leaves_nothing(images: ImageFiles, root: Path) -> None:
    await images.make("v", 16 * MIB, "ext4")
    file = loop.locked(images.path("v"))
    device, path = loop.attach(file, "v", read_only=False)
    os.close(file)
    assert (loop.devices_of(images.path("v")), loop.is_locked(images.path("v"))) == ([path], True)

    os.close(device)  # as the kernel does for a process that ends

    await until(lambda: not loop.is_locked(images.path("v")))
    assert loop.devices_of(images.path("v")) == []


@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs xfsprogs")
async def test_xfs_grows_while_it_is_used(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root, size=300 * MIB, fs_type="xfs")

    with (path / "open").open("w") as file:
        assert await node(root, "a").grow("v", 400 * MIB) == "xfs"
        file.write("still writable")

    room = os.statvfs(path)
    assert room.f_blocks * room.f_frsize > 320 * MIB


async def test_ext4_grows_in_use_or_at_the_next_mount(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root)
    (path / "note").write_text("kept")

    grown = await node(root, "a").grow("v", 64 * MIB)
    if not filesystems.grows_in_use("ext4"):
        assert grown == ""
        await node(root, "a").unstage("v")
        path = await node(root, "a").stage("v", "u1", read_only=False)

    assert (path / "note").read_text() == "kept"
    assert filesystems.size_bytes(images.path("v")) == 64 * MIB
    room = os.statvfs(path)
    assert room.f_blocks * room.f_frsize > 45 * MIB


async def test_what_is_mounted_is_not_removed(images: ImageFiles, root: Path) -> None:
    await attached(images, root)

    with pytest.raises(ImageProblem, match=r"its data cannot be removed: .* still has it mounted"):
        await images.remove("v")
    await node(root, "a").unstage("v")
    await images.remove("v")

    assert os.listdir(root) == []


async def test_a_volume_larger_than_the_disk_is_refused(images: ImageFiles) -> None:
    with pytest.raises(ImageProblem, match=r"does not fit: the disk that holds volumes has .* MiB in all"):
        await images.make("v", 1 << 50, "ext4")


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the kernel sends no word of it
            await asyncio.sleep(0.01)


async def test_a_copy_of_a_mounted_volume_is_whole_and_of_one_moment(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root)
    (path / "note").write_text("then")

    assert await images.copy("v", "snapshots/s") == 32 * MIB
    (path / "note").write_text("later")
    await images.make("w", 48 * MIB, "ext4", "snapshots/s")
    assert await images.grant("w", "b", "u2", exclusive=True, known={"u2"}) is None
    restored = await node(root, "b").stage("w", "u2", read_only=False)

    assert ((restored / "note").read_text(), (path / "note").read_text()) == ("then", "later")
    room = os.statvfs(restored)
    assert room.f_blocks * room.f_frsize > 35 * MIB, "the file system fills its larger volume"


async def test_a_volume_that_nobody_has_mounted_is_copied_too(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root)
    (path / "note").write_text("kept")
    await node(root, "a").unstage("v")

    await images.copy("v", "snapshots/s")

    assert await images.size("snapshots/s") == 32 * MIB
    with pytest.raises(ImageProblem, match=r"there is no image nothing.img"):
        await images.copy("nothing", "snapshots/t")


async def test_whoever_freezes_and_dies_thaws(images: ImageFiles, root: Path) -> None:
    path = await attached(images, root)
    script = (
        "import sys; from trimtab.components.volumes import freezing\n"
        f"with freezing.frozen({str(path)!r}):\n  print('frozen', flush=True); sys.stdin.read()"
    )
    freezer = start_piped(sys.executable, "-c", script)
    assert freezer.stdout is not None
    assert freezer.stdin is not None
    assert freezer.stdout.readline() == "frozen\n"
    writer = start("sh", "-c", f"echo x > {path}/note")
    assert not ended_within(writer, 0.2), "writes stand still"

    freezer.kill()
    freezer.wait()
    freezer.stdout.close()
    freezer.stdin.close()

    assert ended_within(writer, 10)


def start_piped(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended_within(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        return process.wait(timeout_s) == 0
    except subprocess.TimeoutExpired:
        return False
