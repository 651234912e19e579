"""A claim that asks for more than its volume has -> a larger image, a larger file system, and then the new capacity.

    claim asks for more --expand--> the volume is to grow (annotation), condition FileSystemResizePending on the claim
    volume to grow, mounted on this node --grow--> image, device, file system --> capacity of the volume, and so of the claim

The capacity says what the file system has: it changes last. A volume that is attached nowhere grows when a pod uses it next.
"""

from __future__ import annotations

from typing import Protocol

from trimtab.api import JSON
from trimtab.api.cluster import StorageClass
from trimtab.api.storage import VolumeAttachment, attachment_name
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.volumes.filesystems import StagingProblem
from trimtab.components.volumes.terms import (
    DRIVER,
    WANTED_SIZE,
    asked_bytes,
    belongs_to,
    capacity_bytes,
    fs_type_of,
    handle_of,
    is_ours,
    size_bytes,
    size_text,
)
from trimtab.runtime import Context, Desired, FieldWrite, Requeue, Writes, reconciler

PENDING = "FileSystemResizePending"
NOT_MOUNTED_YET_S = 1.0
AGAIN_S = 10.0


class Growth(Protocol):
    """The mounted volumes of this node, as far as they grow."""

    @property
    def node(self) -> str: ...

    async def grow(self, handle: str, size_bytes: int) -> str | None:
        """Grows a mounted volume; "" when its file system can do that only before the next mount, None when it is not
        mounted here, else the file system's name.

        Raises:
            StagingProblem: it does not grow; the text says why.
        """


def wants_to_grow(volume: PersistentVolume) -> bool:
    return is_ours(volume) and int(volume.metadata.annotations.get(WANTED_SIZE, 0)) > capacity_bytes(volume)


def _condition(kind: str, reason: str, message: str) -> JSON:
    return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]}


@reconciler(
    PersistentVolumeClaim,
    reads=[PersistentVolume, StorageClass],
    writes=[Writes(PersistentVolume, (f"metadata.annotations[{WANTED_SIZE}]",))],
    selects=lambda claim: bool(claim.spec.volume_name),
)
async def expand(subject: PersistentVolumeClaim, ctx: Context) -> Desired:
    """Has the volume of a claim grow that asks for more."""
    volume = await ctx.get(PersistentVolume, subject.spec.volume_name or "")
    if volume is None or not is_ours(volume) or not belongs_to(volume, subject):
        return Desired()
    wanted = size_bytes(asked_bytes(subject), fs_type_of(volume))
    if wanted <= capacity_bytes(volume):
        return Desired(status={})
    name = subject.spec.storage_class_name
    storage_class = await ctx.get(StorageClass, name) if name else None
    if storage_class is None or not storage_class.allow_volume_expansion:
        message = f'storageclass "{name}" does not allow it (allowVolumeExpansion); the volume keeps its size'
        ctx.event("VolumeResizeFailed", message, warning=True)
        return Desired(status=_condition("ControllerResizeError", "ExpansionNotAllowed", message))
    message = (
        f"the volume grows to {size_text(wanted)}: while it is used if its file system can (xfs; ext4 where root has "
        "CAP_SYS_RESOURCE), else when a pod uses it next"
    )
    return Desired(
        writes=[FieldWrite(volume.ref, {"metadata": {"annotations": {WANTED_SIZE: str(wanted)}}})],
        status=_condition(PENDING, PENDING, message),
    )


@reconciler(
    PersistentVolume,
    reads=[VolumeAttachment],
    writes=[Writes(PersistentVolume, ("spec.capacity",))],
    place="node",
    selects=wants_to_grow,
)
async def grow(subject: PersistentVolume, ctx: Context) -> Desired | Requeue:
    """Grows a volume that is mounted on this node."""
    mounted = ctx.adapter(Growth)  # type: ignore[type-abstract]
    attachment = await ctx.get(VolumeAttachment, attachment_name(subject.name, DRIVER, mounted.node))
    if attachment is None or not attachment.status.attached or attachment.metadata.deletion_timestamp is not None:
        return Desired()
    wanted = int(subject.metadata.annotations[WANTED_SIZE])
    try:
        done = await mounted.grow(handle_of(subject), wanted)
    except StagingProblem as err:
        ctx.event("VolumeResizeFailed", str(err), warning=True)
        return Requeue(AGAIN_S, str(err))
    if done is None:
        return Requeue(NOT_MOUNTED_YET_S, "it is not mounted yet")
    if not done:
        ctx.event(PENDING, "its file system cannot grow while it is used on this machine: restart the pod that uses it")
        return Desired()
    ctx.event("FileSystemResizeSuccessful", f"the file system has {size_text(wanted)}")
    return Desired(writes=[FieldWrite(subject.ref, {"spec": {"capacity": {"storage": size_text(wanted)}}})])
