"""VolumeSnapshot -> VolumeSnapshotContent -> a copy of the image; and what claims are made from (origins.py).

    VolumeSnapshot --snapshot--> VolumeSnapshotContent --copy, on the machine--> DATA/volumes/snapshots/NAME.img --> readyToUse

The copy shares blocks with the image where the file system of the machine can do that (reflink: xfs, btrfs). Else the data is copied, and
writes to the volume stand still meanwhile (FIFREEZE): that is never longer than `images.FREEZE_S_MAX`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import ObjectReference
from trimtab.api.storage import (
    VolumeSnapshot,
    VolumeSnapshotClass,
    VolumeSnapshotContent,
    VolumeSnapshotContentSource,
    VolumeSnapshotContentSpec,
)
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.volumes.images import ImageProblem, Images
from trimtab.components.volumes.terms import CLASS, DRIVER, handle_of, is_ours
from trimtab.runtime import Context, Desired, Requeue, Wait, reconciler

AGAIN_S = 5.0
_FOLDER = "snapshots"


def _failed(message: str) -> JSON:
    return {"readyToUse": False, "error": {"message": message}}


@reconciler(
    VolumeSnapshot,
    reads=[PersistentVolumeClaim, PersistentVolume, VolumeSnapshotClass],
    owns=[VolumeSnapshotContent],
)
async def snapshot(subject: VolumeSnapshot, ctx: Context) -> Desired:
    """Has the copy made that a user asks for, and says how it stands."""
    if existing := subject.spec.source.volume_snapshot_content_name:
        return Desired(status=await _standing(existing, ctx))
    name = f"snapcontent-{subject.metadata.uid}"
    if await ctx.get(VolumeSnapshotContent, name) is not None:
        content = next(iter(await ctx.owned(VolumeSnapshotContent)), None)
        return Desired(keep=[content.ref] if content else [], status=await _standing(name, ctx))
    class_name = subject.spec.volume_snapshot_class_name or CLASS
    found = await ctx.get(VolumeSnapshotClass, class_name)
    if found is None or found.driver != DRIVER:
        return _cannot(ctx, f'volumesnapshotclass "{class_name}" is not of driver {DRIVER}; use {CLASS}')
    wanted = subject.spec.source.persistent_volume_claim_name or ""
    claim = await ctx.get(PersistentVolumeClaim, wanted, subject.namespace)
    volume = await ctx.get(PersistentVolume, claim.spec.volume_name) if claim and claim.spec.volume_name else None
    if claim is None or volume is None:
        return _cannot(ctx, f'persistentvolumeclaim "{wanted}" is not there or has no volume yet')
    if not is_ours(volume):
        return _cannot(
            ctx, f'the volume of persistentvolumeclaim "{wanted}" is not of driver {DRIVER}: no copies of it'
        )
    content = VolumeSnapshotContent(
        metadata=ObjectMeta(name=name),
        spec=VolumeSnapshotContentSpec(
            deletion_policy=found.deletion_policy or "Delete",
            driver=DRIVER,
            source=VolumeSnapshotContentSource(volume_handle=handle_of(volume)),
            volume_snapshot_class_name=class_name,
            volume_snapshot_ref=ObjectReference(
                api_version="snapshot.storage.k8s.io/v1",
                kind="VolumeSnapshot",
                namespace=subject.namespace or "",
                name=subject.name,
                uid=subject.metadata.uid,
            ),
        ),
    )
    return Desired(objects=[content], status=await _standing(name, ctx))


def _cannot(ctx: Context, message: str) -> Desired:
    ctx.event("SnapshotFailed", message, warning=True)
    return Desired(status=_failed(message))


async def _standing(name: str, ctx: Context) -> JSON:
    content = await ctx.get(VolumeSnapshotContent, name)
    if content is None:
        return {"readyToUse": False}
    status = content.status
    out: JSON = {"boundVolumeSnapshotContentName": name, "readyToUse": bool(status.ready_to_use)}
    if status.error is not None and status.error.message:
        out["error"] = {"message": status.error.message}
    if status.restore_size is not None:
        out["restoreSize"] = str(status.restore_size)
    if status.creation_time is not None:
        at = datetime.fromtimestamp(status.creation_time // 10**9, UTC)
        out["creationTime"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return out


@reconciler(
    VolumeSnapshotContent,
    effects=True,
    place="node",
    selects=lambda content: content.spec.driver == DRIVER,
    name="snapshot-data",
)
async def snapshot_data(subject: VolumeSnapshotContent, ctx: Context) -> Desired | Requeue | Wait:
    """Copies an image, and removes the copy with its record (deletion policy Delete)."""
    images = ctx.adapter(Images)  # type: ignore[type-abstract]
    if not images.machine:
        return Wait(on=subject.ref, reason="the agent of the machine itself has the images")
    if (given := subject.spec.source.snapshot_handle) is not None:
        size = await images.size(given)
        return Desired(status=_failed(f"there is no image {given}") if size is None else _ready(given, size, None))
    handle, source = f"{_FOLDER}/{subject.name}", subject.spec.source.volume_handle or ""

    async def find() -> Any:
        size = await images.size(handle)
        return None if size is None else {"size": size, "at": int(ctx.now.timestamp()) * 10**9}

    async def do() -> Any:
        size = await images.copy(source, handle)
        return {"size": size, "at": int(ctx.now.timestamp()) * 10**9}

    async def undo(made: Any) -> None:
        if subject.spec.deletion_policy == "Delete":
            await images.remove(handle)

    try:
        made = await ctx.effect("copy", find=find, do=do, undo=undo)
    except ImageProblem as err:
        ctx.event("SnapshotFailed", str(err), warning=True)
        return Requeue(AGAIN_S, str(err), status=_failed(str(err)))
    return Desired(status=_ready(handle, made["size"], made["at"]))


def _ready(handle: str, size: int, at: int | None) -> JSON:
    status: JSON = {"snapshotHandle": handle, "restoreSize": size, "readyToUse": True}
    return status if at is None else {**status, "creationTime": at}
