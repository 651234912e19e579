"""The directories of local volumes, on the node: made for a volume, removed with it, unless its data is to be retained.

Runs in the node agent, since the directories belong to root and their owners. The finalizer that it puts on a volume keeps
the record of the data as long as there is data.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Protocol

from trimtab.api.volumes import DIED_WITH, PersistentVolume, PersistentVolumeClaim
from trimtab.components.workloads import binding
from trimtab.components.workloads.volumes import RECLAIM_DELETE, holds
from trimtab.runtime import Context, Desired, Wait, reconciler

DIRECTORY_MODE = 0o777
"""Any user in a pod may write, as in an emptyDir; the directory above is closed to all but root."""


class VolumeDirectories(Protocol):
    """The directories in which this node keeps the data of local volumes."""

    @property
    def node(self) -> str:
        """The name of this node."""

    async def exists(self, path: str) -> bool: ...

    async def make(self, path: str) -> None:
        """Makes the directory. Idempotent."""

    async def remove(self, path: str) -> None:
        """Removes the directory and all data in it. Idempotent."""


class LocalDirectories:
    """`VolumeDirectories` below one root, and nowhere else."""

    def __init__(self, root: Path, node: str) -> None:
        self._root = root
        self._node = node

    @property
    def node(self) -> str:
        return self._node

    def _inside(self, path: str) -> Path:
        directory = Path(path)
        if directory.parent != self._root or directory.name in ("", ".."):
            raise ValueError(f"{path} is not a volume of this node: its volumes lie directly in {self._root}")
        return directory

    async def exists(self, path: str) -> bool:
        return await asyncio.to_thread(self._inside(path).is_dir)

    async def make(self, path: str) -> None:
        directory = self._inside(path)
        await asyncio.to_thread(self._make, directory)

    def _make(self, directory: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        directory.mkdir(exist_ok=True)
        directory.chmod(DIRECTORY_MODE)

    async def remove(self, path: str) -> None:
        directory = self._inside(path)
        if await asyncio.to_thread(directory.is_dir):
            # First out of sight in one step: what is half removed is never taken for a volume.
            doomed = directory.with_name(f".{directory.name}.removed")
            await asyncio.to_thread(directory.rename, doomed)
            await asyncio.to_thread(shutil.rmtree, doomed)


def made_here(volume: PersistentVolume) -> bool:
    """Volumes that were made for a claim by `volumes.py`."""
    return volume.metadata.annotations.get(binding.PROVISIONED_BY) == binding.PROVISIONER


@reconciler(
    PersistentVolume,
    reads=[PersistentVolumeClaim],
    effects=True,
    place="node",
    selects=made_here,
    name="local-data",
)
async def local_data(subject: PersistentVolume, ctx: Context) -> Desired | Wait:
    """Makes a local volume's directory, and removes it when the volume is deleted (reclaim policy Delete)."""
    directories = ctx.adapter(VolumeDirectories)  # type: ignore[type-abstract]
    assert subject.spec.local is not None
    died = DIED_WITH in subject.metadata.annotations
    if not died and binding.node_of(subject) != directories.node:
        # The finalizer is that of the agent which has the data.
        return Wait(on=subject.ref, reason="its data is on another node")
    path = subject.spec.local.path
    ref = subject.spec.claim_ref
    if ctx.deleting and ref is not None:
        user = await ctx.get(PersistentVolumeClaim, ref.name, ref.namespace)
        if user is not None and holds(subject, user):
            return Wait(on=user.ref, reason="a claim uses the data")

    async def find() -> str | None:
        return path if await directories.exists(path) else None

    async def do() -> str:
        await directories.make(path)
        return path

    async def undo(made: str) -> None:
        if subject.spec.persistent_volume_reclaim_policy == RECLAIM_DELETE and not died:
            await directories.remove(made)

    if died and not ctx.deleting:
        return Desired()
    await ctx.effect("directory", find=find, do=do, undo=undo)
    return Desired()
