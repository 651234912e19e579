"""Images that a test's Kubernetes needs before anybody ships: the pause container, which no registry of the world outside brings."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from trimtab.content import ContentStore, RegistryClient, pause_image


async def push_pause(directory: str, registry: str) -> None:
    store = ContentStore(Path(directory))
    await asyncio.to_thread(pause_image, store)
    digest = store.resolve("trimtab.local/pause:1")
    assert digest is not None
    async with RegistryClient(store) as client:
        await client.push(digest, f"{registry}/pause:1")


if __name__ == "__main__":
    asyncio.run(push_pause(sys.argv[1], sys.argv[2]))
