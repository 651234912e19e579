"""The service that keeps a reconciler running for every enabled kind, joined and parted while the process runs.

    Provider.spec.kinds --what changed--> process.join, process.part

A kind that is not enabled costs no watch and no memory; enabling one leaves the others at their work.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trimtab.components.infrastructure.kinds import Provider, managed_kind

Key = tuple[str, str]
"""Provider and resource."""


async def kinds(process: Any) -> None:
    """Until cancelled."""
    changed = asyncio.Event()
    informer = process.informer(Provider)
    end = informer.subscribe(lambda _: changed.set())
    joined: dict[Key, Any] = {}
    try:
        await informer.wait_synced()
        changed.set()
        while True:
            await changed.wait()
            changed.clear()
            wanted = {(p.name, name) for p in informer.list() for name in p.spec.kinds}
            for key in sorted(joined.keys() - wanted):
                await process.part(joined.pop(key))
            for key in sorted(wanted - joined.keys()):
                joined[key] = _join(process, *key)
    finally:
        end()
        while joined:
            await process.part(joined.popitem()[1])


def _join(process: Any, provider: str, name: str) -> Any:
    from trimtab.components.infrastructure.reconcile import managed

    return process.join("infrastructure", managed(managed_kind(provider, name), name))
