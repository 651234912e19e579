"""What a new volume begins with: nothing, a snapshot, or a copy of another claim's volume."""

from __future__ import annotations

from trimtab.api.storage import VolumeSnapshot, VolumeSnapshotContent
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.volumes.terms import (
    DRIVER,
    ORIGIN_SNAPSHOT,
    ORIGIN_VOLUME,
    capacity_bytes,
    handle_of,
    is_ours,
)
from trimtab.runtime import Context

SNAPSHOT_GROUP = "snapshot.storage.k8s.io"


class NotYet(Exception):
    """The source is not ready; the text says what is awaited."""


class Refused(Exception):
    """There will be no volume from this source; the text says why."""


async def origin(claim: PersistentVolumeClaim, ctx: Context) -> tuple[dict[str, str], int]:
    """The attributes of the new volume that name its source, and how many bytes it must have at least.

    Raises:
        NotYet, Refused
    """
    source = claim.spec.data_source_ref or claim.spec.data_source
    if source is None:
        return {}, 0
    if source.namespace not in (None, "", claim.namespace):
        raise Refused("dataSourceRef.namespace: a source in another namespace is not possible")
    group = source.api_group or ""
    if (group, source.kind) == (SNAPSHOT_GROUP, "VolumeSnapshot"):
        return await _snapshot(claim, source.name, ctx)
    if (group, source.kind) == ("", "PersistentVolumeClaim"):
        return await _claim(claim, source.name, ctx)
    raise Refused(f"dataSource {source.kind} is not possible; use a VolumeSnapshot or a PersistentVolumeClaim")


async def _snapshot(claim: PersistentVolumeClaim, name: str, ctx: Context) -> tuple[dict[str, str], int]:
    snapshot = await ctx.get(VolumeSnapshot, name, claim.namespace)
    if snapshot is None or not snapshot.status.ready_to_use:
        raise NotYet(f"waiting for volumesnapshot {name} to be ready")
    content = await ctx.get(VolumeSnapshotContent, snapshot.status.bound_volume_snapshot_content_name or "")
    if content is None or not content.status.snapshot_handle:
        raise NotYet(f"waiting for the content of volumesnapshot {name}")
    if content.spec.driver != DRIVER:
        raise Refused(f"volumesnapshot {name} is of driver {content.spec.driver}, which this class cannot read")
    return {ORIGIN_SNAPSHOT: content.status.snapshot_handle}, content.status.restore_size or 0


async def _claim(claim: PersistentVolumeClaim, name: str, ctx: Context) -> tuple[dict[str, str], int]:
    other = await ctx.get(PersistentVolumeClaim, name, claim.namespace)
    volume = await ctx.get(PersistentVolume, other.spec.volume_name) if other and other.spec.volume_name else None
    if other is None or volume is None or other.status.phase != "Bound":
        raise NotYet(f"waiting for persistentvolumeclaim {name} to be bound")
    if not is_ours(volume):
        raise Refused(f"persistentvolumeclaim {name} is not of a class of {DRIVER}, so it cannot be copied")
    return {ORIGIN_VOLUME: handle_of(volume)}, capacity_bytes(volume)
