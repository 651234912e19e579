"""`v1` PersistentVolumeClaim and PersistentVolume: what is asked for, and what is there. How volumes move stands in `storage.py`."""

from __future__ import annotations

from typing import Any

from msgspec import field

from trimtab.api.core import HostPathVolume, ObjectReference, ResourceRequirements
from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Condition, Model, Resource, resource

DIED_WITH = "trimtab.dev/died-with"
"""On a volume whose data was on the disk of a node that was destroyed: the node's name."""


class TypedReference(Model):
    """What a claim's volume is to begin with: a VolumeSnapshot, or another claim of its namespace."""

    kind: str
    name: str
    api_group: str | None = None
    namespace: str | None = None


class PersistentVolumeClaimSpec(Model):
    access_modes: list[str] = []
    resources: ResourceRequirements | None = None
    storage_class_name: str | None = None
    volume_name: str | None = None
    volume_mode: str | None = None
    selector: LabelSelector | None = None
    data_source: TypedReference | None = None
    data_source_ref: TypedReference | None = None


class PersistentVolumeClaimStatus(Model):
    phase: str = ""
    access_modes: list[str] = []
    capacity: dict[str, str] = {}
    conditions: list[Condition] = []


@resource("v1", "persistentvolumeclaims", short_names=("pvc",))
class PersistentVolumeClaim(Resource):
    spec: PersistentVolumeClaimSpec = field(default_factory=PersistentVolumeClaimSpec)
    status: PersistentVolumeClaimStatus = field(default_factory=PersistentVolumeClaimStatus)


class LocalVolumeSource(Model):
    path: str


class CSIPersistentVolumeSource(Model):
    driver: str
    volume_handle: str
    fs_type: str | None = None
    read_only: bool | None = None
    volume_attributes: dict[str, str] = {}


class PersistentVolumeSpec(Model):
    capacity: dict[str, str] = {}
    access_modes: list[str] = []
    persistent_volume_reclaim_policy: str | None = None
    storage_class_name: str | None = None
    volume_mode: str | None = None
    claim_ref: ObjectReference | None = None
    local: LocalVolumeSource | None = None
    host_path: HostPathVolume | None = None
    csi: CSIPersistentVolumeSource | None = None
    node_affinity: dict[str, Any] = {}


class PersistentVolumeStatus(Model):
    phase: str = ""
    message: str = ""
    reason: str = ""


@resource("v1", "persistentvolumes", namespaced=False, short_names=("pv",))
class PersistentVolume(Resource):
    spec: PersistentVolumeSpec = field(default_factory=PersistentVolumeSpec)
    status: PersistentVolumeStatus = field(default_factory=PersistentVolumeStatus)
