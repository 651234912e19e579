"""VolumeAttachment -> leave to use an image on a node, and its end: by proof, never by time.

    created    image there, nobody else has leave  --> leave written down --> attached: true --> the node's agent mounts it
    deleted    leave taken back --> the kernel holds no lock on the image any more --> the attachment may go

Runs in the agent of the machine itself, for all its nodes. An agent that was cut off and comes back finds its leave taken back; one that
mounted before is found by the lock. A node that is silent and holds a volume that is wanted elsewhere is fenced (fencing.py).
"""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.api.storage import VolumeAttachment
from trimtab.api.volumes import PersistentVolume
from trimtab.components.volumes.images import Images
from trimtab.components.volumes.terms import HANDLE, READ_ONLY, exclusive, handle_of, is_our_attachment
from trimtab.runtime import Context, Desired, Requeue, Wait, reconciler

LOOK_S = 0.1
"""How often the lock is looked at, while a volume is being detached and only then."""
MISSING_S, MISSED_AFTER_S = 0.2, 10.0
"""How often an image is looked for that is being made; and how often once it should be there."""
SAY_AFTER_S = 5.0
"""A detach that takes longer says who still has the volume."""


def _error(which: str, message: str) -> JSON:
    return {"attached": which == "detachError", which: {"message": message}}


@reconciler(
    VolumeAttachment,
    reads=[PersistentVolume],
    effects=True,
    place="node",
    selects=is_our_attachment,
    workers=8,
)
async def grant(subject: VolumeAttachment, ctx: Context) -> Desired | Requeue | Wait:
    """Gives a node leave to use a volume, and takes it back."""
    images = ctx.adapter(Images)  # type: ignore[type-abstract]
    if not images.machine:
        return Wait(on=subject.ref, reason="the agent of the machine itself decides")
    if ctx.deleting:
        return await _take_back(subject, ctx, images)
    name = subject.spec.source.persistent_volume_name or ""
    volume = await ctx.get(PersistentVolume, name)
    if volume is None:
        return Desired(status=_error("attachError", f"there is no volume {name}"))
    others = await ctx.list(
        VolumeAttachment, where=lambda a: a.spec.source.persistent_volume_name == name and is_our_attachment(a)
    )
    handle, uid = handle_of(volume), subject.metadata.uid
    if not await images.exists(handle):
        missing = "there is no image of it (yet): see the events of the volume"
        made = subject.metadata.creation_timestamp
        young = made is not None and (ctx.now - made).total_seconds() < MISSED_AFTER_S
        return Requeue(MISSING_S if young else MISSED_AFTER_S, missing, status=_error("attachError", missing))
    known = {other.metadata.uid for other in others}
    refused = await images.grant(handle, subject.spec.node_name, uid, exclusive=exclusive(volume), known=known)
    if refused is not None:
        return Requeue(LOOK_S, refused, status=_error("attachError", refused))
    metadata = {HANDLE: handle, READ_ONLY: "false" if exclusive(volume) else "true"}
    return Desired(status={"attached": True, "attachmentMetadata": metadata})


async def _take_back(subject: VolumeAttachment, ctx: Context, images: Images) -> Desired | Requeue:
    handle = subject.status.attachment_metadata.get(HANDLE, "")
    name = subject.spec.source.persistent_volume_name or ""
    if not handle:
        volume = await ctx.get(PersistentVolume, name)
        handle = handle_of(volume) if volume is not None else ""
    if handle and await images.revoke(handle, subject.metadata.uid):
        asked = subject.metadata.deletion_timestamp
        late = asked is not None and (ctx.now - asked).total_seconds() > SAY_AFTER_S
        if not late:
            return Requeue(LOOK_S, "the kernel still holds its lock")
        holders = await images.holders(handle)
        message = f"{subject.spec.node_name} may still write to it: {holders or 'it is mounted there'}"
        return Requeue(LOOK_S, message, status=_error("detachError", message))
    node = subject.spec.node_name
    ctx.event("VolumeDetached", f"volume {name} is free: nothing on {node} can write to it")
    return Desired()
