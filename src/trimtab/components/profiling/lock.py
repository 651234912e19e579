"""What there is once on a machine, however many engines it has: the agent, and what recordings keep.

The agent is the one who listens on an abstract socket. The kernel gives the name free when its holder ends, however that is; who waits
for it holds a connection, and sees it end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
import socket
from pathlib import Path
from typing import IO

NAME = "\0trimtab-profiling-agent"
RECORDED = Path("/var/cache/trimtab/profile")
"""Where `trimtab profile record` keeps tables and names of programs, by build id: they take seconds to make, which the next recording
need not wait for. It is of the machine, and of no engine; it goes with the last one."""
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


def take_recorded(directory: Path) -> IO[str] | None:
    """The turn to use what recordings keep, held until it is closed; None when somebody has it. Makes the directory. Raises `OSError`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    turn = (directory / "lock").open("w")
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        turn.close()
        return None
    return turn


def forget_recorded(directory: Path) -> bool:
    """Removes what recordings keep, unless there is none or one is under way. Whether it did."""
    if not directory.is_dir() or (turn := take_recorded(directory)) is None:
        return False
    with turn:
        shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is there, too
        directory.parent.rmdir()
    return True


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
