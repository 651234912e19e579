"""An event when the machine has taken up so much more memory: cgroup version 1's thresholds, armed anew at each look.

    arm(margin) -> the kernel is told: usage of now + margin -> usage passes it -> `noticed`

The usage of the root group counts file pages, too, so it may ring early; then somebody looks in vain, once. Version 2 has no such
thresholds; there, pressure stall information (`psi.py`) does the same. See the kernel's cgroup-v1/memory.rst, section 9.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

STEP_BYTES = 32 << 20
"""An alarm that would ring so little earlier or later is left as it is."""


class MemoryAlarm:
    """Calls `noticed` when the margin that was last armed is used up."""

    def __init__(self, noticed: Callable[[], None], root: Path) -> None:
        """root: the memory hierarchy's root group."""
        self._noticed = noticed
        self._root = root
        self._event = -1
        self._threshold = 0

    def arm(self, margin_bytes: int) -> bool:
        """Rings when so many bytes more are used than now; False where that cannot be (version 2, no right)."""
        try:
            threshold = int((self._root / "memory.usage_in_bytes").read_text()) + max(0, margin_bytes)
            if self._event >= 0 and abs(threshold - self._threshold) < STEP_BYTES:
                return True
            self.close()
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            usage = os.open(self._root / "memory.usage_in_bytes", os.O_RDONLY | os.O_CLOEXEC)
            try:
                (self._root / "cgroup.event_control").write_text(f"{self._event} {usage} {threshold}")
            finally:
                os.close(usage)
        except (OSError, ValueError):
            self.close()
            return False
        self._threshold = threshold
        asyncio.get_running_loop().add_reader(self._event, self._ring)
        return True

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self.close()  # it would ring again at each crossing; whoever looks arms it anew
        self._noticed()

    def close(self) -> None:
        if self._event >= 0:
            asyncio.get_running_loop().remove_reader(self._event)
            os.close(self._event)
            self._event = -1
