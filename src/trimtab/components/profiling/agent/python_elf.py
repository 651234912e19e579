"""What an ELF file that holds CPython says of its interpreter: where its state is, how its structures are laid out, which code evaluates.

    libpython3.12.so or python3.11 --descriptor, in the sandbox--> interpreter() --plain values--> python.py --> the BPF walker's maps

Hostile bytes: this runs in the sandbox, reads only what it needs, and every number is checked against the file's size.
From 3.13 on, the file carries the offsets itself (`_Py_DebugOffsets`, Include/internal/pycore_debug_offsets.h); those of 3.11 and 3.12 are
the `offsetof` of their headers (Include/internal/pycore_runtime.h, pycore_interp.h, pycore_frame.h, Include/cpython/code.h, pystate.h).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from trimtab.components.profiling.agent import split, tables

SECTION_BYTES_MAX = 64 << 20
SECTIONS_MAX = 4096
OFFSET_MAX = 1 << 20
"""Larger than any structure that is followed: a layout that says more is damaged."""

SUPPORTED = ((3, 11), (3, 14))


class Layout(Struct, frozen=True, kw_only=True):
    """Offsets in bytes. Absent: -1."""

    interpreters: int
    """Of `_PyRuntimeState`: the first interpreter."""
    interpreter_next: int
    threads: int
    """Of `PyInterpreterState`: the first thread's state."""
    thread_next: int
    native_thread_id: int
    frame: int
    """Of `PyThreadState`: the current frame; before 3.13 the `_PyCFrame` which has it at `cframe_frame`."""
    cframe_frame: int = -1
    previous: int
    executable: int
    instruction: int
    owner: int
    owner_c: int
    """From this owner on, a frame is the border to the C code that called the interpreter, and no function of Python."""
    is_entry: int = -1
    """3.11: set in the frame that C code called."""
    filename: int
    qualified_name: int
    line_table: int
    first_line: int
    code: int
    ascii: int
    """Where the characters of a str begin: of ASCII, and of others."""
    unicode: int


_3_11 = Layout(
    interpreters=40,
    interpreter_next=0,
    threads=16,
    thread_next=8,
    native_thread_id=160,
    frame=56,
    cframe_frame=8,
    previous=48,
    executable=32,
    instruction=56,
    owner=69,
    owner_c=255,
    is_entry=68,
    filename=112,
    qualified_name=128,
    line_table=136,
    first_line=72,
    code=184,
    ascii=48,
    unicode=72,
)
_3_12 = Layout(
    interpreters=40,
    interpreter_next=0,
    threads=72,
    thread_next=8,
    native_thread_id=144,
    frame=56,
    cframe_frame=0,
    previous=8,
    executable=0,
    instruction=56,
    owner=70,
    owner_c=3,
    filename=112,
    qualified_name=128,
    line_table=136,
    first_line=68,
    code=192,
    ascii=40,
    unicode=56,
)

_INTERPRETER = (
    "size id next threads_head gc imports_modules sysdict builtins ceval_gil gil gil_enabled gil_locked gil_holder"
)
_FRAME = "size previous executable instr_ptr localsplus owner"
_GROUPS_3_13 = {
    "runtime": "size finalizing interpreters_head",
    "interpreter": _INTERPRETER,
    "thread": "size prev next interp current_frame thread_id native_thread_id datastack_chunk status",
    "frame": _FRAME,
    "code": "size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds co_code_adaptive",
}
_GROUPS_3_14 = {
    **_GROUPS_3_13,
    "interpreter": _INTERPRETER.replace("threads_head", "threads_head threads_main")
    + " code_object_generation tlbc_generation",
    "frame": f"{_FRAME} stackpointer tlbc_index",
}
_COOKIE = b"xdebugpy"


class Interpreter(Struct, frozen=True, kw_only=True):
    """CPython as an ELF file has it. Addresses are virtual addresses in the file."""

    version: tuple[int, int]
    runtime: int
    evaluates: list[tuple[int, int]]
    """Ranges of the code that runs Python functions: `_PyEval_EvalFrameDefault`, and the parts that a compiler split off (`split.py`)."""
    layout: Layout
    shift: int
    """Offset in the file less virtual address, of the code: what is mapped is known by its place in the file."""


def published(data: bytes) -> Layout:
    """The layout out of the first bytes of `_PyRuntime`, 3.13 and later. Raises `ValueError`."""
    if data[:8] != _COOKIE or len(data) < 1024:
        raise ValueError("_PyRuntime does not begin with the offsets for debuggers")
    version, free_threaded = struct.unpack_from("<2Q", data, 8)
    if free_threaded:
        raise ValueError("CPython without the global lock is not followed")
    found: dict[str, dict[str, int]] = {}
    place = 24
    for group, words in (_GROUPS_3_14 if version >= 0x030E0000 else _GROUPS_3_13).items():
        names = words.split()
        found[group] = dict(zip(names, struct.unpack_from(f"<{len(names)}Q", data, place), strict=True))
        place += 8 * len(names)
    interpreter, thread, frame, code = (found[name] for name in ("interpreter", "thread", "frame", "code"))
    layout = Layout(
        interpreters=found["runtime"]["interpreters_head"],
        interpreter_next=interpreter["next"],
        threads=interpreter["threads_head"],
        thread_next=thread["next"],
        native_thread_id=thread["native_thread_id"],
        frame=thread["current_frame"],
        previous=frame["previous"],
        executable=frame["executable"],
        instruction=frame["instr_ptr"],
        owner=frame["owner"],
        owner_c=3,
        filename=code["filename"],
        qualified_name=code["qualname"],
        line_table=code["linetable"],
        first_line=code["firstlineno"],
        code=code["co_code_adaptive"],
        ascii=40,
        unicode=56,
    )
    if any(getattr(layout, name) > OFFSET_MAX for name in Layout.__struct_fields__):
        raise ValueError("the offsets for debuggers are damaged")
    return layout


class _Elf:
    """Sections and symbols of a 64-bit little-endian ELF file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        header = self._read(0, 64)
        if header[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        begin, (entry_bytes, count) = struct.unpack_from("<Q", header, 40)[0], struct.unpack_from("<2H", header, 58)
        if entry_bytes != 64 or count > SECTIONS_MAX:
            raise ValueError("a table of sections that is none")
        self.sections = list(struct.iter_unpack("<IIQQQQIIQQ", self._read(begin, 64 * count)))
        begin, count = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
        headers = struct.iter_unpack("<IIQQQQQQ", self._read(begin, 56 * count))
        code = [offset - address for kind, flags, offset, address, *_ in headers if kind == 1 and flags & 1]
        if not code:
            raise ValueError("no code is loaded of it")
        self.shift = code[0]

    def _read(self, offset: int, count: int) -> bytes:
        if count > SECTION_BYTES_MAX or offset + count > self._size:
            raise ValueError(f"{count} bytes at {offset} are not in the file")
        return os.pread(self._fd, count, offset)

    def at(self, address: int, count: int) -> bytes:
        """Bytes which are mapped at a virtual address, fewer at the end of their section. Raises `ValueError`."""
        for _, kind, _, begin, offset, size, *_ in self.sections:
            if begin and kind != 8 and begin <= address < begin + size:
                return self._read(offset + address - begin, min(count, begin + size - address))
        raise ValueError(f"nothing is at {address:#x}")

    def functions(self) -> NDArray[np.int64]:
        """First addresses and sizes, of those without a symbol, too. Raises `ValueError`."""
        with mmap.mmap(self._fd, self._size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
            return tables.functions(data)

    def symbols(self) -> Iterator[tuple[str, int, int]]:
        """Name, address and size, of both symbol tables."""
        for _, kind, _, _, offset, size, link, _, _, entry_bytes in self.sections:
            if kind not in (2, 11) or entry_bytes != 24 or link >= len(self.sections):
                continue
            names = self._read(self.sections[link][4], self.sections[link][5])
            for name, _, _, _, value, length in struct.iter_unpack("<IBBHQQ", self._read(offset, size - size % 24)):
                if value and name < len(names):
                    yield names[name : names.find(b"\0", name)].decode("ascii", "replace"), value, length


def _evaluates(name: str) -> bool:
    # `_TAIL_CALL_`: the interpreter of 3.14 that is made of one function an instruction.
    return name.startswith(("_PyEval_EvalFrameDefault", "_TAIL_CALL_"))


def interpreter(fds: Sequence[int]) -> dict[str, Any] | None:
    """`Interpreter` as plain values of the ELF file `fds[0]`; None when it holds none. Raises `ValueError`: a CPython that is not followed,
    or damage."""
    elf = _Elf(fds[0])
    runtime = version = 0
    ranges = set()
    for name, value, length in elf.symbols():
        if name == "_PyRuntime":
            runtime = value
        elif name == "Py_Version":
            version = int.from_bytes(elf.at(value, 4), "little")
        elif length and _evaluates(name):
            ranges.add((value, value + length))
    if not runtime or not ranges:
        return None
    short = (version >> 24, version >> 16 & 255)
    if not SUPPORTED[0] <= short <= SUPPORTED[1]:
        raise ValueError(f"CPython {short[0]}.{short[1]} is not followed, only 3.11 to 3.14")
    ranges |= split.parts(ranges, elf.functions(), elf.at)
    layout = {(3, 11): _3_11, (3, 12): _3_12}.get(short) or published(elf.at(runtime, 1024))
    found = Interpreter(version=short, runtime=runtime, evaluates=sorted(ranges), layout=layout, shift=elf.shift)
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain
