"""A volume on a node: from the leave to use it to a mounted directory, and back.

    lock the image -> read the leave -> loop device -> mount below DATA/node/attached -> containers mount that directory

In the order that images.py relies on. After the mount nothing of it is open here: the kernel alone keeps device and lock, until the
last mount is gone, the copies in containers' namespaces included.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from trimtab.components.volumes import filesystems, loop
from trimtab.components.volumes.filesystems import StagingProblem, run
from trimtab.components.volumes.images import image_path, read_leave
from trimtab.components.volumes.terms import DRIVER

MODE = 0o777
"""Any user in a pod may write, as in every other volume of the engine."""


class Staging:
    """The mounted volumes of one node. `images`: the directory of the machine's images; `mounts`: this node's own."""

    def __init__(self, images: Path, mounts: Path, node: str) -> None:
        self._images = images
        self._mounts = mounts
        self._node = node
        self._guard = asyncio.Lock()

    driver = DRIVER

    @property
    def node(self) -> str:
        return self._node

    def path(self, handle: str) -> Path:
        return self._mounts / handle

    async def stage(self, handle: str, attachment: str, *, read_only: bool) -> Path:
        """Mounts a volume for which this node has leave by the attachment with that uid. Idempotent.

        Raises:
            StagingProblem: it has no leave, somebody else holds the image, or it cannot be mounted.
        """
        async with self._guard:
            return await asyncio.to_thread(self._stage, handle, attachment, read_only)

    def _stage(self, handle: str, attachment: str, read_only: bool) -> Path:
        target, image = self.path(handle), image_path(self._images, handle)
        if device_at(target) is not None:
            return target
        self._prepare()
        try:
            file = loop.locked(image, shared=read_only)
        except loop.Busy:
            raise StagingProblem("its image is still in use elsewhere") from None
        except OSError as err:
            raise StagingProblem(f"its image cannot be opened: {err.strerror}") from None
        try:
            leave = read_leave(image).get(attachment)
            if leave is None or leave["revoked"] or leave["node"] != self._node:
                raise StagingProblem(f"{self._node} has no leave to use it (any more)")
            self._mount(handle, target, image, file, read_only)
        except OSError as err:
            raise StagingProblem(f"no loop device for it: {err.strerror}") from None
        finally:
            os.close(file)
        return target

    def _mount(self, handle: str, target: Path, image: Path, file: int, read_only: bool) -> None:
        fs_type = filesystems.type_of(image)
        if fs_type is None:
            raise StagingProblem("its image holds no file system that is known here: ext4 or xfs")
        if not read_only:
            filesystems.grow_offline(image, fs_type)
        device, path = loop.attach(file, handle, read_only=read_only)
        try:
            target.mkdir(exist_ok=True)
            run("mount", "-t", fs_type, "-o", filesystems.options(fs_type, read_only=read_only), path, str(target))
        finally:
            os.close(device)
        if not read_only:
            _begin(target)
            if fs_type == "xfs":
                filesystems.grow_online(path, target, fs_type)

    def _prepare(self) -> None:
        """The directory of mounts hands its changes on to copies in other mount namespaces: a volume that is unmounted here
        must not live on in a process that was started meanwhile."""
        self._mounts.mkdir(parents=True, exist_ok=True, mode=0o711)
        if device_at(self._mounts) is None:
            run("mount", "--bind", str(self._mounts), str(self._mounts))
            run("mount", "--make-private", str(self._mounts))
            run("mount", "--make-shared", str(self._mounts))

    def staged_at(self, handle: str) -> Path | None:
        """Where the volume is mounted, if it is."""
        target = self.path(handle)
        return target if device_at(target) is not None else None

    async def unstage(self, handle: str) -> None:
        """Unmounts a volume. Idempotent. Containers that still have it keep it, lock included, until they end.

        Raises:
            StagingProblem: somebody on the node works in it.
        """
        async with self._guard:
            await asyncio.to_thread(self._unstage, self.path(handle))

    def _unstage(self, target: Path) -> None:
        if device_at(target) is not None:
            run("umount", str(target))
        if target.is_dir():
            target.rmdir()  # with that the kernel detaches the copies in other mount namespaces, too, even private ones

    def staged(self) -> list[str]:
        """The handles of the volumes that are mounted on this node."""
        if not self._mounts.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._mounts) if device_at(Path(entry.path)) is not None)

    async def grow(self, handle: str, size_bytes: int) -> str | None:
        """Grows a mounted volume, its file system while in use; "" when it cannot while in use (ext4 without CAP_SYS_RESOURCE:
        it grows at the next mount), None when it is not mounted here, else the file system's name.

        Raises:
            StagingProblem: the file system does not grow.
        """
        async with self._guard:
            return await asyncio.to_thread(self._enlarge, handle, size_bytes)

    def _enlarge(self, handle: str, size_bytes: int) -> str | None:
        target = self.path(handle)
        device = device_at(target)
        if device is None:
            return None
        image = image_path(self._images, handle)
        room = os.statvfs(self._images)
        if size_bytes > room.f_blocks * room.f_frsize:
            raise StagingProblem(f"{size_bytes >> 20} MiB are more than the disk has that holds volumes")
        if image.stat().st_size < size_bytes:
            try:
                os.truncate(image, size_bytes)
            except OSError as err:
                raise StagingProblem(f"its image cannot grow: {err.strerror}") from None
        fs_type = filesystems.type_of(image)
        if fs_type is None:
            return ""
        if not filesystems.grows_in_use(fs_type):
            return fs_type if filesystems.fits(image, size_bytes) else ""
        loop.refresh_size(device)
        filesystems.grow_online(device, target, fs_type)
        return fs_type


def device_at(point: Path) -> str | None:
    """What is mounted at exactly that point of this mount namespace: its source."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[4].encode().decode("unicode_escape") == str(point):
            found = right.split()[1]
    return found


def _begin(target: Path) -> None:
    """A fresh file system becomes an empty directory that any user may write to, as a new local volume is."""
    if [entry.name for entry in os.scandir(target)] == ["lost+found"]:
        (target / "lost+found").rmdir()  # fsck makes it again when it needs it
        target.chmod(MODE)
