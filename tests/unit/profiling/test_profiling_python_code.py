"""CPython's structures, read from outside: what its files say, tables of lines, and where its frames stand in a native stack."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from types import CodeType

import numpy as np
import pytest

from trimtab.components.profiling.agent import python_code, python_elf, split
from trimtab.components.profiling.agent.python import Interpreters
from trimtab.components.profiling.batch import Frame


def facts(path: Path) -> dict[str, object] | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return python_elf.interpreter([fd])
    finally:
        os.close(fd)


def running() -> Path:
    """The file that holds the interpreter of this very process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if "python3" in path.name and path.is_file() and facts(path):
            return path
    pytest.skip("the running interpreter's file has no symbol _PyRuntime")


def test_an_interpreter_says_its_version_and_where_its_code_is() -> None:
    found = facts(running())
    assert found is not None
    assert found["version"] == sys.version_info[:2]
    assert found["runtime"]
    assert found["evaluates"]


def test_a_file_without_an_interpreter_holds_none() -> None:
    assert facts(Path("/bin/ls").resolve()) is None


def test_a_part_that_was_split_off_is_found_by_jumps_to_its_middle() -> None:
    def jump(opcode: bytes, place: int, target: int) -> bytes:
        return opcode + struct.pack("<i", target - (place + len(opcode) + 4))

    functions = np.array([(0x1000, 0x40), (0x2000, 0x100), (0x3000, 0x80), (0x5000, 0x20)], np.int64)
    code = jump(b"\xe9", 0x3000, 0x2010) + jump(b"\x0f\x84", 0x3005, 0x2080)  # a part: its middle, twice
    code += jump(b"\xe9", 0x300B, 0x1000) + jump(b"\xe9", 0x3010, 0x1000)  # calls in tail position
    code += jump(b"\x0f\x8f", 0x3015, 0x5008)  # once alone: these bytes may be data
    code += jump(b"\xe9", 0x301B, 0x3040) + jump(b"\xe9", 0x3020, 0x3040)  # within itself
    code += jump(b"\xe8", 0x3025, 0x1010) + jump(b"\xe8", 0x302A, 0x1010)  # calls
    code = code.ljust(0x80, b"\x90")
    found = split.parts([(0x3000, 0x3080)], functions, lambda address, count: code[address - 0x3000 :][:count])
    assert found == {(0x2000, 0x2100)}
    assert split.parts([(0x3000, 0x3080)], functions[:0], lambda address, count: code) == set()


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = running().read_bytes()[:4096]
    for name, data in {
        "empty": b"",
        "no ELF": b"#!/bin/sh\n".ljust(200),
        "cut": whole,
        "sections outside": whole[:40] + struct.pack("<Q", 1 << 60) + whole[48:],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=r"not in the file|not a 64-bit") as caught:
            facts(tmp_path / name)
        assert "\n" not in str(caught.value)


def published(version: int, groups: dict[str, str], **offsets: dict[str, int]) -> bytes:
    words = [offsets.get(group, {}).get(name, 7) for group, names in groups.items() for name in names.split()]
    return (b"xdebugpy" + struct.pack("<2Q", version, 0) + struct.pack(f"<{len(words)}Q", *words)).ljust(1024, b"\0")


@pytest.mark.parametrize(
    ("version", "groups"),
    [(0x030D00F0, python_elf._GROUPS_3_13), (0x030E00F0, python_elf._GROUPS_3_14)],
)
def test_offsets_that_the_interpreter_publishes(version: int, groups: dict[str, str]) -> None:
    data = published(
        version,
        groups,
        interpreter={"threads_head": 7344},
        thread={"current_frame": 72, "native_thread_id": 160},
        frame={"owner": 70},
        code={"linetable": 136, "co_code_adaptive": 200},
    )
    layout = python_elf.published(data)
    assert (layout.threads, layout.frame, layout.native_thread_id) == (7344, 72, 160)
    assert (layout.owner, layout.line_table, layout.code) == (70, 136, 200)


def test_offsets_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="does not begin with the offsets"):
        python_elf.published(b"\0" * 1024)
    with pytest.raises(ValueError, match="are damaged"):
        python_elf.published(published(0x030D00F0, python_elf._GROUPS_3_13, frame={"previous": 1 << 40}))
    free_threaded = bytearray(published(0x030D00F0, python_elf._GROUPS_3_13))
    free_threaded[16] = 1
    with pytest.raises(ValueError, match="without the global lock"):
        python_elf.published(bytes(free_threaded))


def codes(code: CodeType) -> list[CodeType]:
    return [
        code,
        *(inner for constant in code.co_consts if isinstance(constant, CodeType) for inner in codes(constant)),
    ]


def test_lines_are_those_that_python_says() -> None:
    """Over every instruction of a real module and all of its functions."""
    source = Path(python_code.__file__)
    checked = 0
    for code in codes(compile(source.read_text(), str(source), "exec")):
        mine = python_code.Code(1, 1, 1, code.co_qualname, "", code.co_firstlineno)
        mine.keep(code.co_linetable)
        for begin, end, line in code.co_lines():
            for place in range(begin, end, 2):
                assert mine.line(place) == (line or code.co_firstlineno), (code.co_qualname, place)
                checked += 1
    assert checked > 500


def test_a_damaged_table_of_lines_ends_where_it_is_damaged() -> None:
    assert python_code.lines(b"\xe8\xff", 10) == ([], [])
    assert python_code.lines(b"\xd9\x01\x00\xe8", 10) == ([0], [11]) or python_code.lines(b"\xd9\x01\x00\xe8", 10)[
        0
    ] == [0]
    before_the_first = python_code.Code(1, 1, 1, "f", "", 10)
    before_the_first.keep(b"\xd9\x01\x00")
    assert before_the_first.line((1 << 32) - 2) == 10


def test_decoded_lines_are_shared_and_do_not_grow_without_end() -> None:
    table = facts.__code__.co_linetable
    shared = python_code.Lines(1 << 20)
    assert shared.of(bytes(table), 7) is shared.of(bytes(bytearray(table)), 7)
    assert [list(part) for part in shared.of(table, 7)] == list(python_code.lines(table, 7))

    narrow = python_code.Lines(1000)
    first = narrow.of(table, 1)
    for line in range(2, 100):
        narrow.of(table, line)
    assert narrow.of(table, 1) is not first
    assert list(python_code.Lines(0).of(table, 1)[1]) == list(first[1]), "one that has no room is decoded all the same"


def test_a_line_that_no_file_has_is_the_functions_first() -> None:
    # A delta of 2^66: a process may have anything in its memory.
    code = python_code.Code(1, 2, 3, "f", "f.py", 7)
    code.keep(b"\xe8" + b"\x40" * 11 + b"\x01")

    assert code.line(0) == 7


def record(name: bytes, file: bytes, *, file_length: int | None = None, key: int = 0, pid: int = 77) -> bytes:
    length = len(file) if file_length is None else file_length
    return struct.pack(
        "<3Q2I4I4I96s192s", key, 4096, 5, pid, 12, len(name), 0, 1, 0, length, length - len(file), 1, 0, name, file
    )


def test_a_code_object_as_bpf_copied_it() -> None:
    code, whole = python_code.decode(record("Über.f".encode("latin-1"), b"/a/b.py"))
    assert (code.name, code.file, code.first_line, code.pid, code.process) == ("Über.f", "/a/b.py", 12, 77, 5)
    assert whole
    code, whole = python_code.decode(record(b"f", b"end.py", file_length=300))
    assert (code.file, whole) == ("…end.py", False)


class Kept:
    """What would be the BPF map."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}

    def update(self, key: bytes, value: bytes) -> None:
        self.entries[key] = value


FOUND = {
    "version": [3, 11],
    "runtime": 4096,
    "shift": -1024,
    "evaluates": [[100, 200]],
    "layout": dict.fromkeys(python_elf.Layout.__struct_fields__, 0),
}
EVAL, CALL, START = (
    Frame("native", build_id="aa", address=150),
    Frame("native", build_id="aa", address=300),
    Frame("native", address=1),
)


def merged(native: list[Frame], walked: list[tuple[str, bool]], *, whole: bool = True) -> list[str]:
    """Names of a merged stack: native frames by address, Python's by name; `walked` are leaf first."""
    known = Kept()
    interpreters = Interpreters(known)
    assert interpreters.learn("aa", FOUND) == 1
    assert interpreters.learn("bb", None) == 0
    names = {name for name, _ in walked if name}
    keys = {name: index + 1 for index, name in enumerate(sorted(names))}
    frames = b"".join(struct.pack("<Q2I", keys.get(name, 0), 0, border) for name, border in walked)
    # Process number 0 is nobody's: names stay as they were copied.
    copied = [record(name.encode(), b"f.py", key=keys[name], pid=0) for name in names]
    interpreters.take([struct.pack("<Q2I", 9, len(walked), 0) + frames], copied)
    evaluating = [place for place, frame in enumerate(native) if interpreters.evaluates(frame)]
    return [frame.name or str(frame.address) for frame in interpreters.merge(9, native, evaluating, whole=whole)]


def test_functions_stand_where_they_are_evaluated() -> None:
    assert merged([EVAL, START], [("inner", False), ("outer", True)]) == ["inner", "outer", "1"]
    assert merged([CALL, EVAL, CALL, EVAL, START], [("inner", True), ("outer", False), ("main", True)]) == [
        *("300", "inner", "300", "outer", "main", "1")
    ]


def test_borders_that_are_frames_of_their_own_are_not_shown() -> None:
    assert merged([EVAL, CALL, EVAL, START], [("inner", False), ("", True), ("outer", False), ("", True)]) == [
        *("inner", "300", "outer", "1")
    ]


def test_the_leaf_may_be_in_between() -> None:
    entered_but_not_begun = merged([EVAL, CALL, EVAL, START], [("outer", True)])
    assert entered_but_not_begun == ["150", "300", "outer", "1"]
    begun_where_no_c_function_is_known = merged([CALL, EVAL, START], [("inner", True), ("outer", True)])
    assert begun_where_no_c_function_is_known == ["300", "inner", "outer", "1"]


def test_a_native_stack_without_its_begin_is_matched_from_the_leaf() -> None:
    assert merged([EVAL, CALL], [("inner", True), ("outer", True)], whole=False) == ["inner", "300", "outer"]


def test_an_unknown_stack_stays_as_it_is() -> None:
    assert Interpreters(Kept()).merge(9, [EVAL, START], [0], whole=True) == [EVAL, START]
