"""A step that is not broken off in its middle: whoever is told to end while it runs waits a while for it.

A provider that is making something answers what it made, and that answer has to be written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

GRACE_S = 8.0
"""The engine gives its controllers ten seconds to end."""


async def to_its_end(step: Coroutine[Any, Any, T], grace_s: float = GRACE_S) -> T:
    """What the step returns or raises. Cancelled, it waits so long for the step, and is cancelled then."""
    task = asyncio.get_running_loop().create_task(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=grace_s)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # who asked is gone: nobody else hears of it
        raise
