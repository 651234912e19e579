"""Volumes: those that are on no node's disk, so that any node may have them, one at a time.

    claim ---provision.py---> PersistentVolume ---data.py (on the machine)---> an image file with a file system
    pods on nodes ---attach.py---> VolumeAttachment ---grants.py (on the machine)---> leave for one node, taken back by proof
    the node's agent ---staging.py---> loop device, mount

Read `images.py` first: the two barriers before a second writer. Binding claims and volumes is the business of `workloads`, as for every
class; the mounted directory is asked for by `node`, through its protocol `BlockVolumes`.
"""

from __future__ import annotations

from typing import Any

from trimtab.api.cluster import StorageClass
from trimtab.api.storage import VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent
from trimtab.components.volumes.attach import attach
from trimtab.components.volumes.block_class import keep_classes
from trimtab.components.volumes.data import data
from trimtab.components.volumes.grants import grant
from trimtab.components.volumes.images import ImageFiles, Images
from trimtab.components.volumes.provision import provision, reclaim
from trimtab.components.volumes.reasons import REASONS
from trimtab.components.volumes.resize import Growth, expand, grow
from trimtab.components.volumes.snapshots import snapshot, snapshot_data
from trimtab.components.volumes.staging import Staging
from trimtab.components.volumes.terms import DRIVER
from trimtab.runtime import Component, Owned, Service, Store
from trimtab.runtime.settings import Settings

__all__ = ["COMPONENT", "DRIVER", "Growth", "ImageFiles", "Images", "Staging", "adapters", "staging"]

COMPONENT = Component(
    name="volumes",
    summary="Keeps volumes that move between nodes: images, exclusive attachment by proof, growth, snapshots.",
    kinds=(VolumeSnapshotClass, VolumeSnapshot, VolumeSnapshotContent),
    reconcilers=(provision, reclaim, attach, expand, snapshot, grant, data, grow, snapshot_data),
    services=(
        Service(
            "block-class",
            keep_classes,
            reads=(StorageClass, VolumeSnapshotClass),
            owns=(Owned(StorageClass), Owned(VolumeSnapshotClass)),
        ),
    ),
    stores=(Store("volumes", "images of volumes and snapshots until their objects are deleted", owner="node"),),
    conditions=REASONS,
)


def adapters(settings: Settings) -> dict[type, Any]:
    """What this component's reconcilers in a node agent do to the world outside."""
    machine = settings.node_name not in settings.nodes
    mounted = staging(settings)
    return {
        Images: ImageFiles(settings.data_path("volumes"), settings.node_name, machine=machine),
        Growth: mounted,
        Staging: mounted,
    }


def staging(settings: Settings) -> Staging:
    """The mounted volumes of the node with these settings."""
    return Staging(settings.data_path("volumes"), settings.data_path("node", "attached"), settings.node_name)
