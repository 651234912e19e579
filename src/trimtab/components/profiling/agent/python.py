"""Names of what CPython ran: Python's frames in the place of the C function that evaluates them.

    a file with an interpreter --learn()--> python_interpreters (BPF) --> samples walked by bpf/python.h
    python_stacks, python_codes (BPF) --take()--> stacks and code objects --merge(native stack)--> one stack of C and Python

From 3.11 on, one `_PyEval_EvalFrameDefault` runs many Python functions. A border in the walked frames says where C code came in: as many
borders as evaluating C frames in the native stack, matched from the thread's start, because only the leaf can be in between.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from trimtab.components.profiling.agent.python_code import Code, Memory, complete, decode
from trimtab.components.profiling.agent.python_elf import Interpreter
from trimtab.components.profiling.batch import Frame

FUNCTION = "agent.python_elf:interpreter"
"""What the sandbox is asked to run on a file."""
_NAMES = re.compile(r"(^|/)(lib)?python3[^/]*$")

CODES_MAX = 10_000
"""Some 10 MB."""
FRAMES_MAX = 128
INTERPRETERS_MAX = 256
_INTERPRETER = struct.Struct("<Q6Ii5Ii7I")
_STACK = struct.Struct("<Q2I")
_FRAME = struct.Struct("<Q2I")
_COMPLETE = 0
UNKNOWN = Frame("python", "?")

MAPS = {"stacks_a": ("python_stacks_a", "python_codes_a"), "stacks_b": ("python_stacks_b", "python_codes_b")}
"""What belongs to each map of native stacks."""
STACK_BYTES = _STACK.size + FRAMES_MAX * _FRAME.size


T = TypeVar("T")
"""What stands for a native frame."""


class Map(Protocol):
    def update(self, key: bytes, value: bytes) -> None: ...


class Stack(Struct, frozen=True):
    """Python's frames, leaf first: key of the code object (0: the border alone), bytes into its code, whether C code called it."""

    frames: list[tuple[int, int, bool]]
    whole: bool


class Interpreters:
    """What is known of the machine's interpreters and of the code that they run."""

    def __init__(self, interpreters: Map) -> None:
        self._map = interpreters
        self._known: dict[str, tuple[int, Interpreter]] = {}
        self._codes: dict[int, Code] = {}
        self._stacks: dict[int, Stack] = {}
        self._frames: dict[tuple[int, int], Frame] = {}
        """Of the stacks that were taken last: most have their callers in common."""

    def learn(self, build_id: str, facts: dict[str, Any] | None) -> int:
        """Takes over what `python_elf.interpreter` said of a file. Returns what BPF is to have as the file's `extra[0]`: 0 when it holds no
        interpreter."""
        if facts is None:
            return 0
        if build_id not in self._known:
            if len(self._known) >= INTERPRETERS_MAX:
                return 0
            found = msgspec.convert(facts, Interpreter)
            number = len(self._known)
            self._map.update(struct.pack("<I", number), _packed(found))
            self._known[build_id] = number, found
        return self._known[build_id][0] + 1

    def take(self, stacks: Iterable[bytes], codes: Iterable[bytes]) -> None:
        """Takes over what BPF walked since the last time: the stacks that `merge` is asked for next, and the code objects in them; records
        as in bpf/python.h, which begin with their keys."""
        self._stacks = {_key(value): _stack(value) for value in stacks}
        self._frames.clear()
        fresh: dict[int, list[tuple[int, Code, bool]]] = {}
        for value in codes:
            key = _key(value)
            code = self._codes.pop(key, None)
            if code is None:
                code, whole = decode(value)
                fresh.setdefault(code.pid, []).append((key, code, whole))
            self._codes[key] = code
        for pid, several in fresh.items():
            self._complete(pid, several)
        while len(self._codes) > CODES_MAX:
            del self._codes[next(iter(self._codes))]

    def merge(self, stack: int, native: Sequence[T], evaluating: Sequence[int], *, whole: bool) -> list[T | Frame]:
        """A native stack (leaf first) with Python's frames in it. `evaluating`: where in it frames are that evaluate (`evaluates`); `whole`:
        it reached the thread's start."""
        walked = self._stacks.get(stack)
        if walked is None:
            return list(native)
        groups = self._groups(walked)
        if not whole or not walked.whole:
            pairs = dict(zip(evaluating, groups, strict=False))
            return _merged(native, pairs, [], [frame for group in groups[len(evaluating) :] for frame in group])
        while len(groups) > len(evaluating) and not groups[-1]:
            groups.pop()
        pairs = dict(zip(reversed(evaluating), reversed(groups), strict=False))
        inner = groups[: max(0, len(groups) - len(evaluating))]
        return _merged(native, pairs, [frame for group in inner for frame in group], [])

    def evaluates(self, frame: Frame) -> bool:
        """Whether Python's functions run in a native frame."""
        if frame.kind != "native" or (known := self._known.get(frame.build_id)) is None:
            return False
        return any(begin <= frame.address < end for begin, end in known[1].evaluates)

    def _complete(self, pid: int, several: list[tuple[int, Code, bool]]) -> None:
        try:
            with Memory(pid) as memory:
                for key, code, whole in several:
                    self._read(memory, key, code, whole)
        except OSError:
            return  # The process has ended: its functions' first lines remain.

    def _read(self, memory: Memory, key: int, code: Code, whole: bool) -> None:
        # Which of the machine's versions a process runs is not told: the key says whether a layout fits.
        for layout in {known.layout for _, known in self._known.values()}:
            try:
                complete(code, key, memory, layout, whole=whole)
            except OSError:
                continue
            return

    def _groups(self, walked: Stack) -> list[list[Frame]]:
        groups: list[list[Frame]] = [[]]
        for key, instruction, border in walked.frames:
            if key:
                groups[-1].append(self._frame(key, instruction))
            if border:
                groups.append([])
        if not groups[-1]:
            groups.pop()
        return groups

    def _frame(self, key: int, instruction: int) -> Frame:
        frame = self._frames.get((key, instruction))
        if frame is None:
            code = self._codes.get(key)
            frame = Frame("python", code.name, file=code.file, line=code.line(instruction)) if code else UNKNOWN
            self._frames[key, instruction] = frame
        return frame


def may_hold_one(path: str) -> bool:
    """Whether a file is worth being asked for an interpreter, by its name."""
    return bool(_NAMES.search(path))


def _packed(found: Interpreter) -> bytes:
    layout = found.layout
    return _INTERPRETER.pack(
        (found.runtime + found.shift) % (1 << 64),
        layout.interpreters,
        layout.interpreter_next,
        layout.threads,
        layout.thread_next,
        layout.native_thread_id,
        layout.frame,
        layout.cframe_frame,
        layout.previous,
        layout.executable,
        layout.instruction,
        layout.owner,
        layout.owner_c,
        layout.is_entry,
        layout.filename,
        layout.qualified_name,
        layout.line_table,
        layout.first_line,
        layout.code,
        layout.ascii,
        layout.unicode,
    )


def _key(value: bytes) -> int:
    return int.from_bytes(value[:8], "little")


def _stack(value: bytes) -> Stack:
    _, count, status = _STACK.unpack_from(value)
    frames = _FRAME.iter_unpack(value[_STACK.size : _STACK.size + _FRAME.size * min(count, FRAMES_MAX)])
    return Stack([(code, instruction, bool(border)) for code, instruction, border in frames], status == _COMPLETE)


def _merged(
    native: Sequence[T], pairs: dict[int, list[Frame]], inner: list[Frame], outer: list[Frame]
) -> list[T | Frame]:
    """`inner` are Python's frames without an evaluating C frame, at the leaf: they come before the innermost that has one."""
    merged: list[T | Frame] = []
    for index, frame in enumerate(native):
        if index not in pairs:
            merged.append(frame)
            continue
        merged += inner
        inner = []
        merged += pairs[index] or [frame]
    return merged + inner + outer
