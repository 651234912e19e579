"""Volumes that move: `storage.k8s.io/v1` VolumeAttachment, and `snapshot.storage.k8s.io/v1`.

A VolumeAttachment is the wish that a volume be usable on a node; `status.attached` says that it is, and its existence that it may still
be. The snapshot kinds are those of kubernetes-csi/external-snapshotter, which every backup tool knows.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from msgspec import field

from trimtab.api.core import ObjectReference
from trimtab.api.resource import Model, Resource, resource


class VolumeAttachmentSource(Model):
    persistent_volume_name: str | None = None


class VolumeAttachmentSpec(Model):
    attacher: str = ""
    node_name: str = ""
    source: VolumeAttachmentSource = field(default_factory=VolumeAttachmentSource)


class VolumeError(Model):
    message: str = ""
    time: datetime | None = None


class VolumeAttachmentStatus(Model, omit_defaults=False):
    attached: bool = False
    attachment_metadata: dict[str, str] = {}
    attach_error: VolumeError | None = None
    detach_error: VolumeError | None = None


def attachment_name(volume: str, attacher: str, node: str) -> str:
    """The name of the attachment of a volume to a node, as Kubernetes' attach/detach controller makes it."""
    return "csi-" + hashlib.sha256(f"{volume}{attacher}{node}".encode()).hexdigest()


@resource("storage.k8s.io/v1", "volumeattachments", namespaced=False)
class VolumeAttachment(Resource):
    spec: VolumeAttachmentSpec = field(default_factory=VolumeAttachmentSpec)
    status: VolumeAttachmentStatus = field(default_factory=VolumeAttachmentStatus)


# Snapshots


@resource(
    "snapshot.storage.k8s.io/v1",
    "volumesnapshotclasses",
    namespaced=False,
    short_names=("vsclass", "vsclasses"),
    status=False,
    columns=(
        ("Driver", "string", ".driver"),
        ("DeletionPolicy", "string", ".deletionPolicy"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class VolumeSnapshotClass(Resource):
    """How snapshots are made and what becomes of them when they are deleted."""

    driver: str = ""
    """The storage driver that takes the snapshots."""
    deletion_policy: str = ""
    """Delete: a snapshot's data goes with it. Retain: it stays."""
    parameters: dict[str, str] = {}


class VolumeSnapshotSource(Model):
    persistent_volume_claim_name: str | None = None
    """The claim whose volume is to be copied."""
    volume_snapshot_content_name: str | None = None
    """A snapshot that exists already."""


class VolumeSnapshotSpec(Model):
    source: VolumeSnapshotSource = field(default_factory=VolumeSnapshotSource)
    volume_snapshot_class_name: str | None = None


class VolumeSnapshotError(Model):
    message: str | None = None
    time: datetime | None = None


class VolumeSnapshotStatus(Model):
    bound_volume_snapshot_content_name: str | None = None
    creation_time: datetime | None = None
    ready_to_use: bool | None = None
    restore_size: str | None = None
    error: VolumeSnapshotError | None = None


@resource(
    "snapshot.storage.k8s.io/v1",
    "volumesnapshots",
    short_names=("vs",),
    columns=(
        ("ReadyToUse", "boolean", ".status.readyToUse"),
        ("SourcePVC", "string", ".spec.source.persistentVolumeClaimName"),
        ("SourceSnapshotContent", "string", ".spec.source.volumeSnapshotContentName"),
        ("RestoreSize", "string", ".status.restoreSize"),
        ("SnapshotClass", "string", ".spec.volumeSnapshotClassName"),
        ("SnapshotContent", "string", ".status.boundVolumeSnapshotContentName"),
        ("CreationTime", "date", ".status.creationTime"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class VolumeSnapshot(Resource):
    """A user's wish for a copy of a volume as it is now."""

    spec: VolumeSnapshotSpec = field(default_factory=VolumeSnapshotSpec)
    status: VolumeSnapshotStatus = field(default_factory=VolumeSnapshotStatus)


class VolumeSnapshotContentSource(Model):
    volume_handle: str | None = None
    snapshot_handle: str | None = None


class VolumeSnapshotContentSpec(Model):
    deletion_policy: str = ""
    driver: str = ""
    source: VolumeSnapshotContentSource = field(default_factory=VolumeSnapshotContentSource)
    volume_snapshot_class_name: str | None = None
    volume_snapshot_ref: ObjectReference = field(default_factory=ObjectReference)


class VolumeSnapshotContentStatus(Model):
    snapshot_handle: str | None = None
    creation_time: int | None = None
    """Nanoseconds since 1970."""
    restore_size: int | None = None
    """Bytes."""
    ready_to_use: bool | None = None
    error: VolumeSnapshotError | None = None


@resource(
    "snapshot.storage.k8s.io/v1",
    "volumesnapshotcontents",
    namespaced=False,
    short_names=("vsc", "vscs"),
    columns=(
        ("ReadyToUse", "boolean", ".status.readyToUse"),
        ("RestoreSize", "integer", ".status.restoreSize"),
        ("DeletionPolicy", "string", ".spec.deletionPolicy"),
        ("Driver", "string", ".spec.driver"),
        ("VolumeSnapshotClass", "string", ".spec.volumeSnapshotClassName"),
        ("VolumeSnapshot", "string", ".spec.volumeSnapshotRef.name"),
        ("VolumeSnapshotNamespace", "string", ".spec.volumeSnapshotRef.namespace"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class VolumeSnapshotContent(Resource):
    """The copy itself: what a VolumeSnapshot is bound to, as a claim is to its volume."""

    spec: VolumeSnapshotContentSpec = field(default_factory=VolumeSnapshotContentSpec)
    status: VolumeSnapshotContentStatus = field(default_factory=VolumeSnapshotContentStatus)
