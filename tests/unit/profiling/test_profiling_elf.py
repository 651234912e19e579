"""What an ELF file says of itself, checked against binutils; and what broken ones are answered with."""

import hashlib
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.components.profiling.symbols import elf
from trimtab.components.profiling.symbols.sandbox import ParseError, Sandbox

SOURCE = "int twice(int n) { return 2 * n; }\nint main(int argc, char **argv) { return twice(argc); }\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("elf")
    (directory / "a.c").write_text(SOURCE)
    run = lambda *command: subprocess.run(command, cwd=directory, check=True, timeout=60)  # noqa: E731
    run("clang", "-g", "-O0", "-Wl,--build-id=sha1", "-o", "whole", "a.c")
    run("clang", "-g", "-O0", "-Wl,--build-id=none", "-static-pie", "-o", "without-id", "a.c")
    run("objcopy", "--only-keep-debug", "whole", "whole.debug")
    run("objcopy", "--strip-all", "--add-gnu-debuglink=whole.debug", "whole", "stripped")
    return directory


def facts_of(path: Path) -> elf.ElfFacts:
    fd = os.open(path, os.O_RDONLY)
    try:
        return elf.read(fd)
    finally:
        os.close(fd)


def printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_facts_are_what_binutils_say(built: Path) -> None:
    whole, debug, stripped = (facts_of(built / name) for name in ("whole", "whole.debug", "stripped"))
    notes = printed("readelf", "-n", str(built / "whole"))
    assert f"Build ID: {whole.build_id}\n" in notes
    assert whole.build_id == debug.build_id == stripped.build_id
    assert (whole.type, whole.machine) == ("dyn", os.uname().machine)
    assert (whole.has_symtab, whole.has_dynsym, whole.has_dwarf, whole.has_code) == (True, True, True, True)
    assert (debug.has_symtab, debug.has_dwarf, debug.has_code) == (True, True, False)
    assert (stripped.has_symtab, stripped.has_dynsym, stripped.has_dwarf) == (False, True, False)
    assert (whole.debuglink, stripped.debuglink) == ("", "whole.debug")
    text = next(line.split() for line in printed("nm", str(built / "whole")).splitlines() if line.endswith(" T main"))
    main = int(text[0], 16)
    mapped = next(s for s in whole.segments if s.flags & 1)
    assert whole.address(main - mapped.vaddr + mapped.offset) == main
    assert whole.address(whole.size) is None


def test_a_file_without_a_build_id_is_named_by_its_content(built: Path) -> None:
    path = built / "without-id"
    found = facts_of(path)
    assert found.build_id == "sha256-" + hashlib.sha256(path.read_bytes()).hexdigest()[:40]
    assert not found.has_own_id


def test_many_are_examined_in_the_sandbox(built: Path) -> None:
    paths = [built / "whole", built / "a.c"] * 10
    fds = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        with Sandbox() as sandbox:
            found = elf.examine(sandbox, fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert found[::2] == [facts_of(built / "whole")] * 10
    assert [str(f) for f in found[1::2]] == ["not an ELF file"] * 10


def changed(content: bytes, at: int, form: str, value: int) -> bytes:
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


@pytest.mark.parametrize(
    ("at", "form", "value", "line"),
    [
        (0, "<B", 0, "not an ELF file"),
        (4, "<B", 1, "an ELF file, but not a 64-bit little-endian one, which alone are read"),
        (16, "<H", 77, "an ELF file of the unknown type 77"),
        (32, "<Q", 1 << 60, "program headers: past the end of the file"),
        (54, "<H", 9, "N program headers of 9 bytes: not those of an ELF file"),
        (56, "<H", 60000, "60000 program headers of 56 bytes: not those of an ELF file"),
        (58, "<H", 1, "section headers of 1 bytes: not those of an ELF file"),
        (60, "<H", 60000, "section headers: past the end of the file"),
    ],
)
def test_a_broken_header_is_one_line(built: Path, tmp_path: Path, at: int, form: str, value: int, line: str) -> None:
    (tmp_path / "broken").write_bytes(changed((built / "whole").read_bytes(), at, form, value))
    with pytest.raises(ParseError) as raised:
        facts_of(tmp_path / "broken")
    assert re.sub(r"^\d+ (?=program headers of 9)", "N ", str(raised.value)) == line


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "file"


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_bytes_give_facts_or_one_line(built: Path, scratch: Path, data: st.DataObject) -> None:
    content = bytearray((built / "stripped").read_bytes())
    spots = st.one_of(st.integers(0, 1023), st.integers(len(content) - 2200, len(content) - 1))
    for at in data.draw(st.lists(spots, max_size=12)):
        content[at] = data.draw(st.integers(0, 255))
    scratch.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 100, 20]))])
    fd = os.open(scratch, os.O_RDONLY)
    try:
        (found,) = elf.facts([fd])
    finally:
        os.close(fd)
    if isinstance(found, str):
        assert "\n" not in found
        assert 0 < len(found) < 300
    else:
        assert found["build_id"]
        assert "/" not in found["debuglink"]
