"""The names that the parts of this component, and manifests, agree on."""

from __future__ import annotations

from trimtab.api.quantity import whole
from trimtab.api.storage import VolumeAttachment
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim

DRIVER = "block.trimtab.dev"
"""The provisioner of StorageClasses, the driver of volumes and the attacher of attachments that are ours."""
CLASS = "block"
"""The StorageClass, and the VolumeSnapshotClass, that an engine begins with."""
FS_TYPE = "csi.storage.k8s.io/fstype"
"""The parameter of a StorageClass that names the file system."""
FILE_SYSTEMS = ("ext4", "xfs")
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
WAIT_FOR_CONSUMER = "WaitForFirstConsumer"
WANTED_SIZE = "block.trimtab.dev/wanted-size"
"""On a volume that is to grow: to how many bytes."""
ORIGIN_SNAPSHOT, ORIGIN_VOLUME = "fromSnapshot", "fromVolume"
"""Attributes of a volume that begins as a copy: the handle of what it is a copy of."""
HANDLE, READ_ONLY = "volumeHandle", "readOnly"
"""What an attachment tells the node: which image, and whether it is only to be read."""
SIZE_BYTES_MIN = {"ext4": 8 << 20, "xfs": 300 << 20}
"""The smallest volumes: what the file systems themselves need (mkfs.xfs refuses less)."""
_READ_ONLY = "ReadOnlyMany"


def is_ours(volume: PersistentVolume) -> bool:
    return volume.spec.csi is not None and volume.spec.csi.driver == DRIVER


def made_by_us(volume: PersistentVolume) -> bool:
    """Made for a claim, not by hand."""
    return is_ours(volume) and volume.metadata.annotations.get(PROVISIONED_BY) == DRIVER


def is_our_attachment(attachment: VolumeAttachment) -> bool:
    return attachment.spec.attacher == DRIVER


def handle_of(volume: PersistentVolume) -> str:
    assert volume.spec.csi is not None
    return volume.spec.csi.volume_handle


def exclusive(volume: PersistentVolume) -> bool:
    """Whether one node alone may have the volume: unless all that is allowed is to read it."""
    return set(volume.spec.access_modes) != {_READ_ONLY}


def asked_bytes(claim: PersistentVolumeClaim) -> int:
    resources = claim.spec.resources
    return whole(resources.requests.get("storage", 0)) if resources else 0


def capacity_bytes(volume: PersistentVolume) -> int:
    return whole(volume.spec.capacity.get("storage", 0))


def fs_type_of(volume: PersistentVolume) -> str:
    assert volume.spec.csi is not None
    return volume.spec.csi.fs_type or FILE_SYSTEMS[0]


def size_bytes(asked: int, fs_type: str = FILE_SYSTEMS[0]) -> int:
    """The size of the image for a claim: whole mebibytes, and enough for a file system."""
    return max(SIZE_BYTES_MIN[fs_type], -(-asked // (1 << 20)) << 20)


def size_text(size: int) -> str:
    """A quantity as people write it."""
    return f"{size >> 30}Gi" if size % (1 << 30) == 0 else f"{size >> 20}Mi"


def volume_name(claim: PersistentVolumeClaim) -> str:
    return f"pvc-{claim.metadata.uid}"


def belongs_to(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    ref = volume.spec.claim_ref
    return (
        ref is not None
        and (ref.namespace, ref.name) == (claim.namespace, claim.name)
        and ref.uid in ("", claim.metadata.uid)
    )
