"""The StorageClass and the VolumeSnapshotClass `block`, which an engine begins with. Removed ones come back; changed ones stay."""

from __future__ import annotations

import asyncio
from typing import Any

from trimtab.api import ObjectMeta, Resource
from trimtab.api.cluster import StorageClass
from trimtab.api.storage import VolumeSnapshotClass
from trimtab.components.volumes.terms import CLASS, DRIVER, FS_TYPE
from trimtab.runtime.process import Process

MANAGER = "trimtab-volumes-block-class"

OBJECTS: tuple[Resource, ...] = (
    StorageClass(
        metadata=ObjectMeta(name=CLASS),
        provisioner=DRIVER,
        parameters={FS_TYPE: "ext4"},
        reclaim_policy="Delete",
        volume_binding_mode="Immediate",
        allow_volume_expansion=True,
    ),
    VolumeSnapshotClass(metadata=ObjectMeta(name=CLASS), driver=DRIVER, deletion_policy="Delete"),
)


async def keep_classes(process: Process) -> None:
    """Creates the classes, and again whenever one is gone."""
    changed = asyncio.Event()

    def notice(change: Any) -> None:
        changed.set()

    informers = [process.informer(type(obj)) for obj in OBJECTS]
    ends = [informer.subscribe(notice) for informer in informers]
    try:
        for informer in informers:
            await informer.wait_synced()
        while True:
            changed.clear()
            for obj, informer in zip(OBJECTS, informers, strict=True):
                if informer.get(obj.name, None) is None:
                    await process.client.apply(obj, manager=MANAGER)
            await changed.wait()
    finally:
        for end in ends:
            end()
