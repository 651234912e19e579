"""One agent on a machine, however many engines it has: who listens on an abstract socket is the one.

The kernel gives the name free when its holder ends, however that is; who waits for it holds a connection, and sees it end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

NAME = "\0trimtab-profiling-agent"
AGAIN_S = 60.0
"""When the holder cannot be waited for."""


def take(name: str = NAME) -> socket.socket | None:
    """The lock, held until it is closed; None when somebody has it."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(name)
    except OSError:
        held.close()
        return None
    held.listen(16)
    return held


async def until_free(name: str = NAME) -> None:
    """Returns when who has the lock now has it no longer."""
    try:
        reader, writer = await asyncio.open_unix_connection(name)
    except ConnectionRefusedError:
        return
    except OSError:
        await asyncio.sleep(AGAIN_S)
        return
    try:
        with contextlib.suppress(ConnectionError):
            await reader.read()
    finally:
        writer.close()
