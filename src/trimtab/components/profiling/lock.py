"""What there is once on a machine, however many engines it has: the agent, and what recordings keep.

The agent is the one who holds the lock of a file that root alone can open: an abstract name anybody could take who shares the network
namespace, as a provider does that is shut in. The kernel gives a lock free when its holder ends, however that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

AGENT = Path("/run/trimtab-profiling-agent.lock")
"""Beside the run directories of engines: it is the machine's, as the agent is."""
RECORDED = Path("/var/cache/trimtab/profile")
"""Where `trimtab profile record` keeps tables and names of programs, by build id: they take seconds to make, which the next recording
need not wait for. It is of the machine, and of no engine; it goes with the last one."""
AGAIN_S = 1.0
"""So often who waits tries whether the lock is free."""


def take(path: Path | None = None) -> IO[bytes] | None:
    """The lock of the agent, held until it is closed; None when somebody has it. path: of its file. Raises `OSError`."""
    path = path or AGENT
    while True:
        held = os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "rb")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(held.fileno()), path.stat()):
                return held
        except BlockingIOError:
            held.close()
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            held.close()
            raise
        held.close()  # the file was removed meanwhile: what the next one takes is another


def forget(path: Path | None = None) -> None:
    """Removes the file of the agent's lock, unless somebody has it."""
    path = path or AGENT
    if path.exists() and (held := take(path)) is not None:
        with held:
            path.unlink(missing_ok=True)


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


async def until_free(path: Path | None = None) -> None:
    """Returns when nobody has the agent's lock. Raises `OSError`."""
    while (held := take(path)) is None:  # noqa: ASYNC110 (no event tells of a lock)
        await asyncio.sleep(AGAIN_S)
    held.close()
