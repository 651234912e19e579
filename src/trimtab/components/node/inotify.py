"""Waiting for a directory to change without asking again and again: inotify through libc."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import os
from pathlib import Path
from types import TracebackType

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE_SELF = 0x2, 0x80, 0x100, 0x400
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
EVENTS_BYTES = 65536

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """`changed` is set whenever something in the directory was written, made or moved in. Use in `with`."""

    def __init__(self, directory: Path) -> None:
        self.changed = asyncio.Event()
        self._directory = directory
        self._handle = -1

    def __enter__(self) -> DirectoryWatch:
        self._handle = _libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1 failed; raise fs.inotify.max_user_instances")
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF
        if _libc.inotify_add_watch(self._handle, os.fsencode(self._directory), mask) < 0:
            error = ctypes.get_errno()
            os.close(self._handle)
            raise OSError(error, os.strerror(error), str(self._directory))
        asyncio.get_running_loop().add_reader(self._handle, self._read)
        return self

    def _read(self) -> None:
        try:
            os.read(self._handle, EVENTS_BYTES)
        except BlockingIOError:
            return
        self.changed.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
