"""The kernel's own word that memory is short (pressure stall information): an event, without anybody polling.

A trigger is written to /proc/pressure/memory; the file then reports POLLPRI whenever programs stood still for so long within the
window. See the kernel's Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

MEMORY = Path("/proc/pressure/memory")
TRIGGER = b"some 100000 2000000\0"
"""A tenth of a second within two; without CAP_SYS_RESOURCE the kernel takes windows of whole two seconds only."""


class Stalls:
    """Calls `noticed` when programs wait for memory, while open."""

    def __init__(self, noticed: Callable[[], None], path: Path = MEMORY) -> None:
        self._noticed = noticed
        self._path = path
        self._file = -1
        self._poll: select.epoll | None = None

    def open(self) -> bool:
        """Begins; False where the kernel offers nothing of the kind."""
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._file, TRIGGER)
            self._poll = select.epoll()
            self._poll.register(self._file, select.EPOLLPRI)
        except OSError:
            self.close()
            return False
        asyncio.get_running_loop().add_reader(self._poll.fileno(), self._ready)
        return True

    def _ready(self) -> None:
        assert self._poll is not None
        if self._poll.poll(0):
            self._noticed()

    def close(self) -> None:
        if self._poll is not None:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
