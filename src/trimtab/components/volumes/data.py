"""The data of a volume, on the machine: an image made for it, removed with it unless it is to be retained.

Runs in the agent of the machine itself. Its finalizer keeps the record of the data as long as there is data.
"""

from __future__ import annotations

from trimtab.api.storage import VolumeAttachment
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.volumes.images import ImageProblem, Images
from trimtab.components.volumes.terms import (
    ORIGIN_SNAPSHOT,
    ORIGIN_VOLUME,
    belongs_to,
    capacity_bytes,
    fs_type_of,
    handle_of,
    is_ours,
    made_by_us,
)
from trimtab.runtime import Context, Desired, Requeue, Wait, reconciler

AGAIN_S = 10.0
"""When an image that could not be made is tried again: room may have been made."""


def origin_of(volume: PersistentVolume) -> str | None:
    """The handle of the image that a volume begins as a copy of."""
    assert volume.spec.csi is not None
    attributes = volume.spec.csi.volume_attributes
    if snapshot := attributes.get(ORIGIN_SNAPSHOT):
        return snapshot
    return attributes.get(ORIGIN_VOLUME)


@reconciler(
    PersistentVolume,
    reads=[PersistentVolumeClaim, VolumeAttachment],
    effects=True,
    place="node",
    selects=is_ours,
)
async def data(subject: PersistentVolume, ctx: Context) -> Desired | Requeue | Wait:
    """Makes a volume's image, and removes it when the volume is deleted (reclaim policy Delete)."""
    images = ctx.adapter(Images)  # type: ignore[type-abstract]
    if not images.machine:
        return Wait(on=subject.ref, reason="the agent of the machine itself has the images")
    handle = handle_of(subject)
    if ctx.deleting:
        ref = subject.spec.claim_ref
        claim = await ctx.get(PersistentVolumeClaim, ref.name, ref.namespace) if ref is not None else None
        if claim is not None and belongs_to(subject, claim):
            return Wait(on=claim.ref, reason="a claim uses the data")
        name = subject.name
        left = await ctx.list(VolumeAttachment, where=lambda a: a.spec.source.persistent_volume_name == name)
        if left:
            return Wait(on=left[0].ref, reason=f"it is attached to {left[0].spec.node_name}")

    async def find() -> str | None:
        return handle if await images.exists(handle) else None

    async def do() -> str:
        await images.make(handle, capacity_bytes(subject), fs_type_of(subject), origin_of(subject))
        return handle

    async def undo(made: str) -> None:
        if subject.spec.persistent_volume_reclaim_policy == "Delete":
            await images.remove(made)

    if not made_by_us(subject):
        if not ctx.deleting and await find() is None:
            message = f"there is no image {handle} on this machine"
            ctx.event("VolumeMissing", message, warning=True)
            return Requeue(AGAIN_S, message)
        return Desired()
    try:
        await ctx.effect("image", find=find, do=do, undo=undo)
    except ImageProblem as err:
        ctx.event("ProvisioningFailed", str(err), warning=True)
        return Requeue(AGAIN_S, str(err), status={"reason": "ProvisioningFailed", "message": str(err)})
    return Desired(status={})
