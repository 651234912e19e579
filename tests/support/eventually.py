"""Waiting in a test's own event loop for what somebody else brings about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE_S = 60.0


async def eventually(holds: Callable[[], Any], what: str, state: Callable[[], Awaitable[str]]) -> Any:
    """Waits until `holds`, which may be a coroutine function, gives something true, and returns it; else fails with `what` and the state."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"waited {PATIENCE_S:.0f} s: {what}; {await state()}")
        await asyncio.sleep(0.05)
