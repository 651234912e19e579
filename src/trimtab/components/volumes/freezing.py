"""A file system that stands still for as long as its image is copied: FIFREEZE on whatever has it mounted, wherever that is.

Whoever froze it may die before it thaws it. So a second process holds the file system open, too, and the other end of a pipe: it thaws when
the pipe ends, or when the time is over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from trimtab.components.volumes import loop

FREEZE_S_MAX = 20.0
"""Longer than this nobody's writes stand still: the copy fails instead."""
FREEZE, THAW = 0xC0045877, 0xC0045878
_GUARD = """
import fcntl, select, sys
sys.stdout.write("r"); sys.stdout.flush()
select.select([0], [], [], float(sys.argv[1]))
try:
    fcntl.ioctl(int(sys.argv[2]), 0xC0045878, 0)
except OSError:
    pass
"""


class TooLong(RuntimeError):
    """The block took longer than writes may stand still: what was copied is worth nothing."""


def mounted_at(image: Path) -> str | None:
    """A path by which this process reaches the mounted file system of an image, in whichever namespace it is."""
    devices = {os.stat(device).st_rdev for device in loop.devices_of(image)}
    numbers = {f"{os.major(device)}:{os.minor(device)}" for device in devices}
    for pid in ("self", *(entry for entry in os.listdir("/proc") if numbers and entry.isdigit())):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                words = line.split()
                path = f"/proc/{pid}/root{words[4].encode().decode('unicode_escape')}"
                if words[2] in numbers and words[3] == "/" and os.stat(path).st_dev in devices:
                    return path
    return None


@contextlib.contextmanager
def frozen(path: str) -> Iterator[None]:
    """Within the block nothing writes to the file system, and all that was written is in its image.

    Raises:
        TooLong: the block took too long.
        OSError: it cannot be frozen.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    guard = None
    try:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(FREEZE_S_MAX), str(handle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[handle],
            start_new_session=True,
        )
        assert guard.stdout is not None
        guard.stdout.read(1)
        fcntl.ioctl(handle, FREEZE, 0)
        try:
            yield
        finally:
            try:
                fcntl.ioctl(handle, THAW, 0)
            except OSError:
                raise TooLong(f"writes may stand still for {FREEZE_S_MAX:.0f} s at most") from None
    finally:
        os.close(handle)
        if guard is not None:
            assert guard.stdin is not None
            assert guard.stdout is not None
            guard.stdin.close()
            guard.wait()
            guard.stdout.close()
