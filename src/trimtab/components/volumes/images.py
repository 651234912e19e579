"""The image files of movable volumes, outside of every node's disk, and who has leave to use each.

    DATA/volumes/HANDLE.img       a file system in a sparse file; its size is the volume's
    DATA/volumes/HANDLE.leave     {attachment's uid: {node, exclusive, revoked}}: written by the machine's agent alone
    DATA/volumes/snapshots/       copies

Two barriers stand before a second writer, and each would do. The *leave* is durable and is taken back before anything else. The *lock*
is the kernel's: a loop device holds it as long as it can write (loop.py). A node takes the lock first and reads the leave then; the
machine takes back the leave first and looks at the lock then. So whoever comes second, notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from trimtab.components.volumes import freezing, loop

HANDLE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,200}[a-z0-9])?")
COPY_BYTES = 8 << 20
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
"""How an image becomes a file system."""
PACKAGES = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs"}


class ImageProblem(RuntimeError):
    """An image cannot be made, copied or removed (now); the text says why."""


class Images(Protocol):
    """The images of this engine, as the agent of a node sees them."""

    @property
    def machine(self) -> bool:
        """Whether this agent is the machine's own, which makes images and gives leave."""

    @property
    def node(self) -> str:
        """The name of this node."""

    async def exists(self, handle: str) -> bool: ...

    async def make(self, handle: str, size_bytes: int, fs_type: str, origin: str | None = None) -> None:
        """Makes an image of that size, empty or as a copy of the snapshot or volume `origin`. Idempotent.

        Raises:
            ImageProblem: there is no room, or the origin is in use.
        """

    async def size(self, handle: str) -> int | None:
        """Bytes of an image; None where there is none."""

    async def copy(self, source: str, target: str) -> int:
        """Copies an image as it is at one moment, mounted or not; returns its size. Idempotent.

        Raises:
            ImageProblem: it could not be copied (now).
        """

    async def remove(self, handle: str) -> None:
        """Removes an image and its data. Idempotent.

        Raises:
            ImageProblem: something still holds it.
        """

    async def grant(
        self, handle: str, node: str, attachment: str, *, exclusive: bool, known: Collection[str]
    ) -> str | None:
        """Gives a node leave; None, or why not. known: the uids of attachments that exist; leave of others is taken back."""

    async def revoke(self, handle: str, attachment: str) -> bool:
        """Takes back the leave; True as long as somebody may still write because of it."""

    async def holders(self, handle: str) -> str:
        """Who has the image in use, for people."""


class ImageFiles:
    """`Images` in a directory."""

    def __init__(self, root: Path, node: str, *, machine: bool) -> None:
        self._root = root
        self._node = node
        self._machine = machine
        self._guard = threading.Lock()

    @property
    def machine(self) -> bool:
        return self._machine

    @property
    def node(self) -> str:
        return self._node

    def path(self, handle: str) -> Path:
        """Where the image of a volume is.

        Raises:
            ImageProblem: the handle is no plain name.
        """
        return image_path(self._root, handle)

    async def exists(self, handle: str) -> bool:
        return await asyncio.to_thread(self.path(handle).exists)

    # Data

    async def make(self, handle: str, size_bytes: int, fs_type: str, origin: str | None = None) -> None:
        await asyncio.to_thread(
            self._make, self.path(handle), size_bytes, fs_type, self.path(origin) if origin else None
        )

    def _make(self, path: Path, size_bytes: int, fs_type: str, origin: Path | None) -> None:
        if path.exists():
            return
        self._root.mkdir(mode=0o700, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        room = os.statvfs(self._root)
        if size_bytes > room.f_blocks * room.f_frsize:
            raise ImageProblem(
                f"a volume of {size_bytes >> 20} MiB does not fit: the disk that holds volumes has {room.f_blocks * room.f_frsize >> 20} MiB in all"
            )
        new = path.with_suffix(".new")
        try:
            if origin is None:
                with open(new, "wb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.truncate(size_bytes)
                _run(*MAKE[fs_type], str(new))
            else:
                copy_still(origin, new)
                os.truncate(new, max(size_bytes, new.stat().st_size))
            _settle(new)
            new.rename(path)
            _settle(path.parent)
        except OSError as err:
            new.unlink(missing_ok=True)
            raise ImageProblem(f"its image could not be written: {err.strerror}") from None
        except ImageProblem:
            new.unlink(missing_ok=True)
            raise

    async def size(self, handle: str) -> int | None:
        path = self.path(handle)
        return path.stat().st_size if path.exists() else None

    async def copy(self, source: str, target: str) -> int:
        await asyncio.to_thread(self._make, self.path(target), 0, "", self.path(source))
        return self.path(target).stat().st_size

    async def remove(self, handle: str) -> None:
        await asyncio.to_thread(self._remove, self.path(handle))

    def _remove(self, path: Path) -> None:
        with self._guard, contextlib.suppress(FileNotFoundError):
            try:
                # The lock is held until the name is gone, so that nobody mounts what is being removed.
                handle = loop.locked(path)
            except loop.Busy:
                who = ", ".join(loop.holders(path)) or "somebody"
                raise ImageProblem(f"its data cannot be removed: {who} still has it mounted") from None
            try:
                path.unlink()
            finally:
                os.close(handle)
        path.with_suffix(".leave").unlink(missing_ok=True)

    # Leave

    async def grant(
        self, handle: str, node: str, attachment: str, *, exclusive: bool, known: Collection[str]
    ) -> str | None:
        return await asyncio.to_thread(self._grant, self.path(handle), node, attachment, exclusive, known)

    def _grant(self, path: Path, node: str, attachment: str, exclusive: bool, known: Collection[str]) -> str | None:
        with self._guard:
            leave = read_leave(path)
            mine = leave.get(attachment)
            if mine is not None:
                return "it is being detached" if mine["revoked"] else None
            for uid in [uid for uid in leave if uid not in known]:
                # Its attachment was removed behind our back, or belongs to a state that a restored backup knows nothing of.
                if not leave[uid]["revoked"]:
                    leave[uid]["revoked"] = True
                    write_leave(path, leave)
                if not (leave[uid]["exclusive"] and loop.is_locked(path)):
                    del leave[uid]
            for other in leave.values():
                if exclusive or other["exclusive"]:
                    return f"it is attached to {other['node']}"
            if loop.is_locked(path) if exclusive else _is_written(path):
                return f"something on this machine has it in use: {', '.join(loop.holders(path)) or 'unknown'}"
            write_leave(path, {**leave, attachment: {"node": node, "exclusive": exclusive, "revoked": False}})
        return None

    async def revoke(self, handle: str, attachment: str) -> bool:
        return await asyncio.to_thread(self._revoke, self.path(handle), attachment)

    def _revoke(self, path: Path, attachment: str) -> bool:
        with self._guard:
            leave = read_leave(path)
            mine = leave.get(attachment)
            if mine is None:
                return False
            if not mine["revoked"]:
                mine["revoked"] = True
                write_leave(path, leave)
            if mine["exclusive"] and loop.is_locked(path):
                return True
            del leave[attachment]
            write_leave(path, leave)
        return False

    async def holders(self, handle: str) -> str:
        return ", ".join(await asyncio.to_thread(loop.holders, self.path(handle)))


def image_path(root: Path, handle: str) -> Path:
    """Where the image with that handle is: directly in `root`, or in its directory `snapshots`.

    Raises:
        ImageProblem: the handle is no plain name.
    """
    folder, _, name = handle.rpartition("/")
    if folder not in ("", "snapshots") or not HANDLE.fullmatch(name):
        raise ImageProblem(
            f"the volume handle {handle!r} is not the name of an image: lower case letters, digits, - and ."
        )
    return root / folder / f"{name}.img"


def _is_written(path: Path) -> bool:
    """Whether somebody holds the exclusive lock."""
    try:
        os.close(loop.locked(path, shared=True))
    except loop.Busy:
        return True
    return False


def read_leave(path: Path) -> dict[str, Any]:
    """Who may use the image at `path`."""
    try:
        found: dict[str, Any] = json.loads(path.with_suffix(".leave").read_text())
        return found
    except FileNotFoundError:
        return {}


def write_leave(path: Path, leave: dict[str, Any]) -> None:
    """Durably: the old or the new, never a torn one."""
    target = path.with_suffix(".leave")
    new = target.with_suffix(".leave.new")
    with open(new, "w", encoding="ascii") as file:
        json.dump(leave, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(target)
    _settle(target.parent)


def copy_still(source: Path, target: Path) -> None:
    """Copies an image as it is at one moment: under its lock when nobody writes to it, else while its file system is frozen.

    Raises:
        ImageProblem: it is being mounted or unmounted just now, or copying takes too long.
    """
    if not source.exists():
        raise ImageProblem(f"there is no image {source.name}")
    try:
        handle = loop.locked(source, shared=True)
    except loop.Busy:
        handle = -1
    if handle >= 0:
        try:
            copy_image(source, target)
        finally:
            os.close(handle)
        return
    if (mounted := freezing.mounted_at(source)) is None:
        raise ImageProblem("it is being mounted or unmounted just now")
    try:
        with freezing.frozen(mounted):
            copy_image(source, target)
    except freezing.TooLong as err:
        raise ImageProblem(f"its data took too long to copy, since {err} and this file system has no reflink") from None


def copy_image(source: Path, target: Path) -> None:
    """Copies an image: shared blocks where the file system can (reflink), else its data without the holes."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with open(source, "rb") as old, open(target, "wb") as new:
        os.fchmod(new.fileno(), 0o600)
        import fcntl

        try:
            fcntl.ioctl(new.fileno(), 0x40049409, old.fileno())  # FICLONE
            return
        except OSError as err:
            if err.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
                raise
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                begin = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as err:
                if err.errno == errno.ENXIO:
                    return
                raise
            at = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
            offset = begin
            while offset < at:
                offset += os.copy_file_range(
                    old.fileno(), new.fileno(), min(COPY_BYTES, at - offset), offset_src=offset, offset_dst=offset
                )


def _settle(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _run(program: str, *arguments: str) -> None:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise ImageProblem(f"{program} is not installed: apt-get install {PACKAGES.get(program, program)}")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageProblem(f"{program}: {(done.stderr.strip().splitlines() or ['exit status'])[-1]}")
