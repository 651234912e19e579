"""Names are kept while they can be had: of the files that stacks go through, what symbolizing needs is taken out of each, once, as the file
may be gone when somebody asks: with its container, by an upgrade, or because it was built to be tried. Those of containers come first.
In a sandbox of its own, so that no unwind table waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from pathlib import Path

from trimtab.components.profiling.symbols.keep import Keeper
from trimtab.components.profiling.symbols.sandbox import Sandbox

QUEUE_MAX = 512
"""Of files that are held open for it. Names of others are read from their path, if they are still there when somebody asks."""

log = logging.getLogger(__name__)


def is_here(fd: int, path: str) -> bool:
    """Whether the file is at that path for everybody of this machine; those of containers are not, and go with them."""
    try:
        found, own = os.stat(path), os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


class Keeping:
    """Files that wait for it, one after the other."""

    def __init__(self, root: Path, sandbox: Sandbox) -> None:
        self._keeper = Keeper(root, sandbox=sandbox)
        self._queue: deque[tuple[int, str, str]] = deque()
        self._later: deque[tuple[int, str, str]] = deque()
        self._wake = asyncio.Event()
        self._may = True

    def add(self, fd: int, build_id: str, path: str) -> None:
        """Of a file that may go. The descriptor stays the caller's."""
        if len(self._queue) + len(self._later) < QUEUE_MAX:
            (self._later if is_here(fd, path) else self._queue).append((os.dup(fd), build_id, path))
            self._wake.set()

    def may_parse(self, may: bool) -> None:
        """False: files wait from now on; True: they no longer do."""
        self._may = may
        self._wake.set()

    async def work(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while (waiting := self._queue or self._later) and self._may:
                    fd, build_id, path = waiting.popleft()
                    try:
                        await asyncio.to_thread(self._keeper.keep, fd, build_id, path)
                    except (ValueError, OSError) as err:
                        log.debug("%s: its names are not kept: %s", path, err)
                    finally:
                        os.close(fd)
        finally:
            for waiting in (self._queue, self._later):
                while waiting:
                    os.close(waiting.popleft()[0])

    def close(self) -> None:
        self._keeper.close()
