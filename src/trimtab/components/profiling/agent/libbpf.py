"""The parts of libbpf that the agent needs, by ctypes: load an object, its maps as memory, batches of a map, a ring of events, a program on
perf events.

    with Object(path) as program: program.map("rows").memory(); program.attach("on_cpu", fd); program.map("stacks_a").take()
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import mmap
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

BATCH_ENTRIES = 256
"""Entries of a hash map taken in one call: 400 KB of stacks."""

_TRACE_RAW_TP = 23
"""BPF_TRACE_RAW_TP of linux/bpf.h."""

_PRINTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _BatchOptions(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("elem_flags", ctypes.c_uint64), ("flags", ctypes.c_uint64))


class BpfError(OSError):
    """The kernel or libbpf refuses; one line of what and why."""


@cache
def _library() -> Any:
    name = "libbpf.so.1"
    try:
        library = ctypes.CDLL(name, use_errno=True)
    except OSError as err:
        raise BpfError(errno.ENOENT, f"{name} is not there: apt-get install libbpf1 ({err})") from err
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for function, result, arguments in (
        ("libbpf_set_print", pointer, [_PRINTER]),
        ("bpf_object__open_file", pointer, [text, pointer]),
        ("bpf_object__load", number, [pointer]),
        ("bpf_object__close", None, [pointer]),
        ("bpf_object__find_map_by_name", pointer, [pointer, text]),
        ("bpf_object__find_program_by_name", pointer, [pointer, text]),
        ("bpf_map__set_max_entries", number, [pointer, ctypes.c_uint32]),
        ("bpf_map__max_entries", ctypes.c_uint32, [pointer]),
        ("bpf_map__key_size", ctypes.c_uint32, [pointer]),
        ("bpf_map__value_size", ctypes.c_uint32, [pointer]),
        ("bpf_map__fd", number, [pointer]),
        ("bpf_map_lookup_elem", number, [number, pointer, pointer]),
        ("bpf_map_update_elem", number, [number, pointer, pointer, ctypes.c_uint64]),
        ("bpf_map_delete_elem", number, [number, pointer]),
        ("bpf_map_lookup_and_delete_batch", number, [number, pointer, pointer, pointer, pointer, pointer, pointer]),
        ("bpf_program__attach_perf_event", pointer, [pointer, number]),
        ("bpf_program__attach", pointer, [pointer]),
        ("bpf_program__set_autoload", number, [pointer, ctypes.c_bool]),
        ("bpf_link__destroy", number, [pointer]),
        ("ring_buffer__new", pointer, [number, _SAMPLE, pointer, pointer]),
        ("ring_buffer__epoll_fd", number, [pointer]),
        ("ring_buffer__consume", number, [pointer]),
        ("ring_buffer__free", None, [pointer]),
        ("libbpf_num_possible_cpus", number, []),
        ("libbpf_find_vmlinux_btf_id", number, [text, number]),
    ):
        entry = getattr(library, function)
        entry.restype, entry.argtypes = result, arguments
    return library


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    return int(_library().libbpf_num_possible_cpus())


def has_tracepoint(name: str) -> bool:
    """Whether the running kernel has a tracepoint that a program can be attached to. Raises `BpfError`: no libbpf."""
    return int(_library().libbpf_find_vmlinux_btf_id(name.encode(), _TRACE_RAW_TP)) > 0


class Map:
    """A map of a loaded object."""

    def __init__(self, handle: int, name: str) -> None:
        library = _library()
        self.name = name
        self.fd = int(library.bpf_map__fd(handle))
        self.entries = int(library.bpf_map__max_entries(handle))
        self.key_bytes = int(library.bpf_map__key_size(handle))
        self.value_bytes = int(library.bpf_map__value_size(handle))

    def memory(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array map (BPF_F_MMAPABLE) as an array that is the kernel's own memory: what is written holds at once."""
        step = -(-self.value_bytes // 8) * 8
        if step != dtype.itemsize:
            raise ValueError(f"map {self.name}: values of {step} bytes, not the {dtype.itemsize} of {dtype}")
        size = -(-self.entries * step // mmap.PAGESIZE) * mmap.PAGESIZE
        return np.frombuffer(mmap.mmap(self.fd, size), dtype=dtype, count=self.entries)

    def update(self, key: bytes, value: bytes) -> None:
        """Raises `BpfError`: the map is full."""
        if _library().bpf_map_update_elem(self.fd, key, value, 0):
            code = ctypes.get_errno()
            raise BpfError(code, f"map {self.name}: {os.strerror(code)} (room for {self.entries})")

    def delete(self, key: bytes) -> None:
        """No error when it is not there."""
        _library().bpf_map_delete_elem(self.fd, key)

    def get(self, key: bytes, values: int = 1) -> bytes | None:
        """The value of a key; of a per-CPU map `values` of them, each filled up to 8 bytes."""
        buffer = ctypes.create_string_buffer(-(-self.value_bytes // 8) * 8 * values)
        return None if _library().bpf_map_lookup_elem(self.fd, key, buffer) else buffer.raw

    def take(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """All values of a hash map, which is empty afterwards. Nobody may write to it meanwhile."""
        library, parts = _library(), []
        options = _BatchOptions(ctypes.sizeof(_BatchOptions), 0, 0)
        place = ctypes.create_string_buffer(max(8, self.key_bytes))
        keys = ctypes.create_string_buffer(self.key_bytes * BATCH_ENTRIES)
        began, room = False, BATCH_ENTRIES
        while True:
            values = np.empty(room, dtype)
            if room > BATCH_ENTRIES:
                keys = ctypes.create_string_buffer(self.key_bytes * room)
            count = ctypes.c_uint32(room)
            failed = library.bpf_map_lookup_and_delete_batch(
                self.fd,
                place if began else None,
                place,
                keys,
                values.ctypes.data,
                ctypes.byref(count),
                ctypes.byref(options),
            )
            code = ctypes.get_errno() if failed else 0
            if code == errno.ENOSPC:  # more in one bucket than there was room for
                room *= 2
                continue
            if code not in (0, errno.ENOENT):
                raise BpfError(code, f"map {self.name}: cannot be read: {os.strerror(code)}")
            if count.value:
                parts.append(values[: count.value])
            if code == errno.ENOENT:
                return np.concatenate(parts) if parts else np.empty(0, dtype)
            began = True


class Object:
    """A compiled program and its maps, loaded into the kernel; all of it is gone with `close` or with the process."""

    def __init__(self, path: Path, sizes: dict[str, int] | None = None, without: Sequence[str] = ()) -> None:
        """`sizes`: entries of maps that are not to have the size that is compiled in. `without`: programs that are not loaded. Raises
        `BpfError`."""
        library = _library()
        self._said: list[str] = []
        self._printer = _PRINTER(lambda level, form, arguments: 0)
        library.libbpf_set_print(self._printer)
        self._links: list[int] = []
        self._maps: dict[str, Map] = {}
        self._object = library.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            code = ctypes.get_errno()
            raise BpfError(code, f"{path}: {os.strerror(code)}: compile it with `make setup`")
        try:
            for name, entries in (sizes or {}).items():
                if library.bpf_map__set_max_entries(self._find(name), entries):
                    raise BpfError(errno.EINVAL, f"{path}: map {name} cannot have {entries} entries")
            for name in without:
                library.bpf_program__set_autoload(self._program(name), False)
            if library.bpf_object__load(self._object):
                code = ctypes.get_errno()
                raise BpfError(code, f"{path.name}: the kernel refuses it: {os.strerror(code)}")
        except BaseException:
            self.close()
            raise

    def _find(self, name: str) -> int:
        found = _library().bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise BpfError(errno.ENOENT, f"no map {name} in the program: it is of another version, compile it again")
        return int(found)

    def map(self, name: str) -> Map:
        if name not in self._maps:
            self._maps[name] = Map(self._find(name), name)
        return self._maps[name]

    def memory_bytes(self) -> int:
        """What the maps that were asked for take in the kernel."""
        total = 0
        for entry in self._maps.values():
            with open(f"/proc/self/fdinfo/{entry.fd}") as info:
                total += next((int(line.split()[1]) for line in info if line.startswith("memlock:")), 0)
        return total

    def _program(self, name: str) -> int:
        found = _library().bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            raise BpfError(errno.ENOENT, f"no program {name}: it is of another version, compile it again")
        return int(found)

    def attach_tracepoint(self, program: str) -> None:
        """Runs a program at the tracepoint that it is made for, until `detach`."""
        link = _library().bpf_program__attach(self._program(program))
        if not link:
            code = ctypes.get_errno()
            raise BpfError(code, f"{program}: cannot be attached to its tracepoint: {os.strerror(code)}")
        self._links.append(link)

    def attach(self, program: str, perf_fd: int) -> None:
        """Runs a program at each overflow of a perf event, until `detach`, which closes the event, too."""
        library = _library()
        link = library.bpf_program__attach_perf_event(self._program(program), perf_fd)
        if not link:
            code = ctypes.get_errno()
            os.close(perf_fd)
            raise BpfError(code, f"{program}: cannot be attached to a perf event: {os.strerror(code)}")
        self._links.append(link)

    def detach(self) -> None:
        while self._links:
            _library().bpf_link__destroy(self._links.pop())

    def close(self) -> None:
        self.detach()
        if self._object:
            _library().bpf_object__close(self._object)
        self._object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Ring:
    """A map of type RINGBUF: `fd` is readable when there is something, `consume` hands it over."""

    def __init__(self, ring: Map, handle: Callable[[bytes], None]) -> None:
        def sample(context: int, data: int, size: int) -> int:
            handle(ctypes.string_at(data, size))
            return 0

        self._sample = _SAMPLE(sample)
        self._ring = _library().ring_buffer__new(ring.fd, self._sample, None, None)
        if not self._ring:
            code = ctypes.get_errno()
            raise BpfError(code, f"map {ring.name}: cannot be read: {os.strerror(code)}")
        self.fd = int(_library().ring_buffer__epoll_fd(self._ring))

    def consume(self) -> None:
        _library().ring_buffer__consume(self._ring)

    def close(self) -> None:
        if self._ring:
            _library().ring_buffer__free(self._ring)
        self._ring = None
