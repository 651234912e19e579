"""Claims of a class of ours -> volumes; and the end of a volume whose claim is gone.

    claim --workloads says: waiting for block.trimtab.dev--> a PersistentVolume reserved for it --workloads binds--> Bound
    claim gone, reclaim policy Delete --> the volume is deleted, its data with it (data.py)

A volume belongs to no node, so it can be made before any pod has one; a class may wait for the first consumer all the same.
"""

from __future__ import annotations

from trimtab.api import JSON, ObjectMeta
from trimtab.api.cluster import StorageClass
from trimtab.api.core import ObjectReference
from trimtab.api.storage import VolumeSnapshot, VolumeSnapshotContent
from trimtab.api.volumes import CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec
from trimtab.components.volumes.origins import NotYet, Refused, origin
from trimtab.components.volumes.terms import (
    DRIVER,
    FILE_SYSTEMS,
    FS_TYPE,
    PROVISIONED_BY,
    SELECTED_NODE,
    WAIT_FOR_CONSUMER,
    asked_bytes,
    belongs_to,
    made_by_us,
    size_bytes,
    size_text,
    volume_name,
)
from trimtab.runtime import Context, Desired, Owned, reconciler


def refusal(claim: PersistentVolumeClaim, storage_class: StorageClass) -> str | None:
    """Why no volume can be made for the claim, or None."""
    spec = claim.spec
    if "ReadWriteMany" in spec.access_modes:
        return (
            "ReadWriteMany is not possible: a volume of this class is written on one node at a time; use ReadWriteOnce, or "
            "ReadOnlyMany for data that is only read"
        )
    if spec.volume_mode not in (None, "Filesystem"):
        return f"volumeMode {spec.volume_mode} is not possible for volumes of this class; use Filesystem"
    if spec.selector is not None:
        return "a claim with a selector is only ever bound to an existing volume; drop the selector to have one made"
    for name, value in sorted(storage_class.parameters.items()):
        if name != FS_TYPE:
            return f'storageclass "{storage_class.name}": parameters.{name} means nothing here; {FS_TYPE} does'
        if value not in FILE_SYSTEMS:
            return f'storageclass "{storage_class.name}": the file system {value} is not possible; use {" or ".join(FILE_SYSTEMS)}'
    return None


@reconciler(
    PersistentVolumeClaim,
    reads=[StorageClass, PersistentVolume, VolumeSnapshot, VolumeSnapshotContent],
    owns=[Owned(PersistentVolume, retain=True)],
)
async def provision(subject: PersistentVolumeClaim, ctx: Context) -> Desired:
    """Makes a volume for a claim of a class of ours."""
    name = subject.spec.storage_class_name
    storage_class = await ctx.get(StorageClass, name) if name else None
    if storage_class is None or storage_class.provisioner != DRIVER:
        return Desired()
    if subject.spec.volume_name:
        return Desired(status={})
    waits = storage_class.volume_binding_mode == WAIT_FOR_CONSUMER
    if waits and SELECTED_NODE not in subject.metadata.annotations:
        return Desired(status={})
    if await ctx.get(PersistentVolume, volume_name(subject)) is not None:
        return Desired(status={})
    if problem := refusal(subject, storage_class):
        return _cannot(ctx, problem)
    asked = asked_bytes(subject)
    try:
        attributes, least = await origin(subject, ctx)
    except NotYet as err:
        return Desired(status=_condition("WaitingForSource", str(err)))
    except Refused as err:
        return _cannot(ctx, str(err))
    if asked < least:
        return _cannot(
            ctx,
            f"the source has {size_text(least)}, so the claim must ask for as much: spec.resources.requests.storage",
        )
    ctx.event("ProvisioningSucceeded", f"Successfully provisioned volume {volume_name(subject)}")
    return Desired(objects=[make(subject, storage_class, attributes)], status={})


def _cannot(ctx: Context, problem: str) -> Desired:
    ctx.event("ProvisioningFailed", problem, warning=True)
    return Desired(status=_condition("ProvisioningFailed", problem))


def _condition(reason: str, message: str) -> JSON:
    return {"conditions": [{"type": "Provisioned", "status": "False", "reason": reason, "message": message}]}


def make(claim: PersistentVolumeClaim, storage_class: StorageClass, attributes: dict[str, str]) -> PersistentVolume:
    """The volume for a claim, reserved for it from the start."""
    assert claim.spec.resources is not None
    fs_type = storage_class.parameters.get(FS_TYPE, FILE_SYSTEMS[0])
    asked, size = asked_bytes(claim), size_bytes(asked_bytes(claim), fs_type)
    said = str(claim.spec.resources.requests.get("storage", "0")) if asked == size else size_text(size)
    name = volume_name(claim)
    return PersistentVolume(
        metadata=ObjectMeta(name=name, annotations={PROVISIONED_BY: DRIVER}),
        spec=PersistentVolumeSpec(
            capacity={"storage": said},
            access_modes=list(claim.spec.access_modes),
            persistent_volume_reclaim_policy=storage_class.reclaim_policy or "Delete",
            storage_class_name=storage_class.name,
            volume_mode="Filesystem",
            claim_ref=ObjectReference(
                api_version="v1",
                kind="PersistentVolumeClaim",
                namespace=claim.namespace or "",
                name=claim.name,
                uid=claim.metadata.uid,
            ),
            csi=CSIPersistentVolumeSource(
                driver=DRIVER,
                volume_handle=name,
                fs_type=fs_type,
                volume_attributes=attributes,
            ),
        ),
    )


@reconciler(PersistentVolume, reads=[PersistentVolumeClaim], selects=made_by_us)
async def reclaim(subject: PersistentVolume, ctx: Context) -> Desired:
    """Ends a volume whose claim is gone, where its policy says so."""
    ref = subject.spec.claim_ref
    if ref is None or not ref.uid or subject.spec.persistent_volume_reclaim_policy != "Delete":
        return Desired()
    claim = await ctx.get(PersistentVolumeClaim, ref.name, ref.namespace)
    if claim is not None and belongs_to(subject, claim):
        return Desired()
    ctx.event("VolumeReleased", f"claim {ref.namespace}/{ref.name} is gone, so the volume and its data go too")
    return Desired(delete_subject=True)
