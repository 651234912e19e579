"""The StorageClass `local`: what a claim gets that names no other class.

Reconcilers read from its parameters where on the node volumes lie, so that none of them has to know this engine's paths.
"""

from __future__ import annotations

import asyncio

from trimtab.api import ObjectMeta
from trimtab.api.cluster import StorageClass
from trimtab.client.cache import Change
from trimtab.components.workloads import binding
from trimtab.runtime.process import Process

NAME = "local"
MANAGER = "trimtab-workloads-local-class"


def local_class(path: str, default: bool) -> StorageClass:
    """The class of volumes in the directory `path` of a node."""
    return StorageClass(
        metadata=ObjectMeta(name=NAME, annotations={binding.DEFAULT_CLASS: "true" if default else "false"}),
        provisioner=binding.PROVISIONER,
        parameters={binding.PATH_PARAMETER: path},
        reclaim_policy="Delete",
        volume_binding_mode=binding.WAIT_FOR_CONSUMER,
        allow_volume_expansion=True,
    )


async def keep_local_class(process: Process) -> None:
    """Creates the class, and again whenever it is gone. It is the default one unless another is."""
    path = str(process.settings.data_path("node", "volumes"))
    classes = process.informer(StorageClass)
    changed = asyncio.Event()

    def notice(change: Change[StorageClass]) -> None:
        changed.set()

    unsubscribe = classes.subscribe(notice)
    try:
        await classes.wait_synced()
        while True:
            changed.clear()
            present = {c.name: c for c in classes.list()}
            found = present.get(NAME)
            if found is None or found.parameters.get(binding.PATH_PARAMETER) != path:
                others = [c for c in present.values() if c.name != NAME]
                taken = any(c.metadata.annotations.get(binding.DEFAULT_CLASS) == "true" for c in others)
                await process.client.apply(local_class(path, default=not taken), manager=MANAGER)
            await changed.wait()
    finally:
        unsubscribe()
