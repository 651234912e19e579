"""A VFS for SQLite that records what is written and synced, in order: the store's own SQLite, seen from below.

The shim wraps the default VFS of the very library that Python's `sqlite3` uses: it forwards everything, and notes each write,
truncation and sync of a file, and each deletion. From the notes, the state of the files after a power loss at any moment can be
made again: what was synced is there, of what was not synced any part may be.

Layout of the C structs: https://www.sqlite.org/c3ref/vfs.html and https://www.sqlite.org/c3ref/io_methods.html
"""

from __future__ import annotations

import _sqlite3
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, cast, pointer
from dataclasses import dataclass
from typing import Any

Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
Sync = CFUNCTYPE(c_int, c_void_p, c_int)
Close = CFUNCTYPE(c_int, c_void_p)
Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
"""The name stays a pointer: SQLite keeps it until the file is closed, and makes the name of the `-shm` file from it."""
Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)


class IoMethods(Structure):
    """`sqlite3_io_methods` of version 3; what is not wrapped stays an opaque pointer."""

    _fields_ = [
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        *[(f"more{i}", c_void_p) for i in range(13)],
    ]


class File(Structure):
    _fields_ = [("methods", POINTER(IoMethods))]


class Vfs(Structure):
    """`sqlite3_vfs` of version 3."""

    _fields_ = [
        ("version", c_int),
        ("file_size", c_int),
        ("path_max", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        *[(f"more{i}", c_void_p) for i in range(14)],
    ]


@dataclass(frozen=True, slots=True)
class Step:
    """kind: `write` (offset, data), `truncate` (offset is the new size), `sync`, `delete`, or `ack` (offset is the
    revision that the store has just acknowledged)."""

    kind: str
    file: str
    offset: int = 0
    data: bytes = b""


def _library() -> ctypes.CDLL:
    """The SQLite that Python's `sqlite3` module is linked with: looked up through the module itself."""
    return ctypes.CDLL(_sqlite3.__file__)


class RecordingVfs:
    """Registered as the default VFS while `recording` runs."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._sqlite = _library()
        self._sqlite.sqlite3_vfs_find.restype = POINTER(Vfs)
        self._sqlite.sqlite3_vfs_find.argtypes = [c_char_p]
        self._sqlite.sqlite3_vfs_register.argtypes = [POINTER(Vfs), c_int]
        self._sqlite.sqlite3_vfs_unregister.argtypes = [POINTER(Vfs)]
        self._base = self._sqlite.sqlite3_vfs_find(None)
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []
        self._wrapped: dict[int, IoMethods] = {}
        self._vfs = Vfs.from_buffer_copy(self._base.contents)
        self._vfs.name = b"recording"
        self._vfs.next = None
        base_open = Open(self._base.contents.open)
        base_delete = Delete(self._base.contents.delete)

        def open_(vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
            code = int(base_open(vfs, name, file, flags, out))
            if code == 0 and name is not None:
                self._names[file] = ctypes.string_at(name).decode()
                opened = cast(file, POINTER(File)).contents
                opened.methods = pointer(self._wrap(opened.methods))
            return code

        def delete(vfs: int, name: bytes, sync_directory: int) -> int:
            code = int(base_delete(vfs, name, sync_directory))
            if code == 0:
                self.steps.append(Step("delete", name.decode()))
            return code

        self._vfs.open = self._keep(Open(open_))
        self._vfs.delete = self._keep(Delete(delete))

    def _keep(self, function: Any) -> int | None:
        self._kept.append(function)
        return cast(function, c_void_p).value

    def _wrap(self, methods: Any) -> IoMethods:
        """The methods with write, truncate, sync and close noted; one copy for each original."""
        address = cast(methods, c_void_p).value
        assert address is not None
        if address in self._wrapped:
            return self._wrapped[address]
        original = methods.contents
        copy = IoMethods.from_buffer_copy(original)
        base_write, base_truncate = Write(original.write), Truncate(original.truncate)
        base_sync, base_close = Sync(original.sync), Close(original.close)

        def write(file: int, data: int, size: int, offset: int) -> int:
            code = int(base_write(file, data, size, offset))
            if code == 0:
                self.steps.append(Step("write", self._names[file], offset, ctypes.string_at(data, size)))
            return code

        def truncate(file: int, size: int) -> int:
            code = int(base_truncate(file, size))
            if code == 0:
                self.steps.append(Step("truncate", self._names[file], size))
            return code

        def sync(file: int, flags: int) -> int:
            code = int(base_sync(file, flags))
            if code == 0:
                self.steps.append(Step("sync", self._names[file]))
            return code

        def close(file: int) -> int:
            self._names.pop(file, None)
            return int(base_close(file))

        copy.write, copy.truncate = self._keep(Write(write)), self._keep(Truncate(truncate))
        copy.sync, copy.close = self._keep(Sync(sync)), self._keep(Close(close))
        self._wrapped[address] = copy
        return copy

    def register(self) -> None:
        assert self._sqlite.sqlite3_vfs_register(byref(self._vfs), 1) == 0

    def unregister(self) -> None:
        self._sqlite.sqlite3_vfs_register(self._base, 1)
        self._sqlite.sqlite3_vfs_unregister(byref(self._vfs))


@contextmanager
def recording() -> Iterator[RecordingVfs]:
    """Everything that SQLite opens meanwhile is recorded; all of it must be closed before the end."""
    vfs = RecordingVfs()
    vfs.register()
    try:
        yield vfs
    finally:
        vfs.unregister()
