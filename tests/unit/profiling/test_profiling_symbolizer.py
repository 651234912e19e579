"""Names of places in programs that are made here: inline chains, symbol tables alone, stripped ones, C++ and Rust; and why there is none."""

import lzma
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.components.profiling.batch import MARKS, Frame
from trimtab.components.profiling.symbols import elf
from trimtab.components.profiling.symbols.demangle import demangled
from trimtab.components.profiling.symbols.keep import Keeper
from trimtab.components.profiling.symbols.sandbox import ParseError
from trimtab.components.profiling.symbols.shelf import QUALITIES, Shelf
from trimtab.components.profiling.symbols.sources import Patience
from trimtab.components.profiling.symbols.symbolizer import REASONS, Line, Named, Symbolizer

WAIT_S = 120.0
AT_ONCE = Patience(found_s=0, not_found_s=0, unreachable_s=0, local_s=0, first_wait_s=WAIT_S, again_wait_s=WAIT_S)

SOURCE = """void abort(void);
#define KEPT __attribute__((noinline, used))
static int KEPT hidden(volatile int *n) { *n += 3; return *n; }
static inline __attribute__((always_inline)) int inner(volatile int *n) { *n *= 5; return *n; }
static inline __attribute__((always_inline)) int middle(volatile int *n) { return inner(n) + 1; }
int KEPT exported(volatile int *n) { return middle(n) + hidden(n); }
int main(int argc, char **argv) { volatile int n = argc; if (argc > 9) abort(); return exported(&n); }
"""


def run(directory: Path, *command: str) -> str:
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    (directory / "a.c").write_text(SOURCE)
    run(directory, "clang", "-g", "-O1", "-rdynamic", "-Wl,--build-id=sha1", "-o", "whole", "a.c")
    run(directory, "clang", "-g", "-O1", "-no-pie", "-Wl,--build-id=sha1", "-o", "fixed", "a.c")
    run(directory, "objcopy", "--only-keep-debug", "whole", "whole.debug")
    run(directory, "objcopy", "--strip-debug", "whole", "symtab")
    run(directory, "objcopy", "--strip-all", "--add-gnu-debuglink=whole.debug", "whole", "stripped")
    # Fedora's way: the symbol table without what is exported, compressed, in a section of the stripped program
    run(directory, "objcopy", "--strip-debug", "-R", ".comment", "whole", "mini")
    (directory / "mini.xz").write_bytes(lzma.compress((directory / "mini").read_bytes()))
    run(directory, "objcopy", "--add-section", ".gnu_debugdata=mini.xz", "stripped", "minidebug")
    return directory


def facts_of(path: Path) -> elf.ElfFacts:
    with open(path, "rb") as file:
        return elf.read(file.fileno())


def symbols_of(path: Path) -> dict[str, tuple[int, int]]:
    """Address and size of each function, as nm knows them."""
    rows = (line.split() for line in run(path.parent, "nm", "-S", str(path)).splitlines())
    return {row[3]: (int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 4 and row[2] in "tT"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    return tmp_path / "profiles"


@pytest.fixture
def symbolizer(root: Path, tmp_path: Path) -> Iterator[Symbolizer]:
    with Symbolizer(root, debug_directories=(tmp_path / "debug",), patience=AT_ONCE) as made:
        yield made


def frame(path: Path, address: int) -> Frame:
    return Frame("native", file=str(path), build_id=facts_of(path).build_id, address=address)


@pytest.mark.parametrize("program", ["whole", "fixed"])
def test_inline_chains_are_those_of_addr2line(built: Path, symbolizer: Symbolizer, program: str) -> None:
    """Also of a program that is loaded where it was linked to, as Debian's python3 is."""
    whole = built / program
    start, size = symbols_of(whole)["exported"]
    addresses = list(range(start, start + size))
    named = symbolizer.names([frame(whole, a) for a in addresses])
    told = run(built, "addr2line", "-afi", "-e", str(whole), *(hex(a) for a in addresses)).splitlines()
    expected: list[list[tuple[str, str, int]]] = []
    for line in told:
        if line.startswith("0x"):
            expected.append([])
            names: list[str] = []
        elif (place := re.fullmatch(r"(.*):(\d+)(?: \(.*\))?", line)) is not None:
            expected[-1].append((names.pop(), os.path.basename(place[1]), int(place[2])))
        else:
            names.append(line)
    assert [[(x.name, os.path.basename(x.file), x.line) for x in n.lines] for n in named] == expected
    assert max(len(n.lines) for n in named) == 3, "inner within middle within exported"


@pytest.mark.skipif(not shutil.which("dwz"), reason="there is no dwz here: apt install dwz")
def test_what_dwz_put_into_a_shared_file_is_its_callers(root: Path, tmp_path: Path) -> None:
    """`inner` and `middle` are inlined; their names are in the file that two programs share, which is not read."""
    for program in ("one", "two"):
        # More than a few bytes that both have, and a little that one has not.
        names = "".join(f"struct shared_{n} {{ int a; struct shared_{n} *next_of_them; }} s{n};\n" for n in range(50))
        (tmp_path / "a.c").write_text(f"{names}{SOURCE}int {program};\n")
        run(tmp_path, "gcc", "-g", "-O1", "-rdynamic", "-Wl,--build-id=sha1", "-o", program, "a.c")
        run(tmp_path, "objcopy", "--only-keep-debug", program, f"{program}.debug")
    run(tmp_path, "dwz", "-m", "common", "-M", "/nowhere/common", "one.debug", "two.debug")
    assert ".gnu_debugaltlink" in run(tmp_path, "objdump", "-h", "one.debug")
    start, size = symbols_of(tmp_path / "one")["exported"]
    at = [frame(tmp_path / "one.debug", address) for address in range(start, start + size)]
    with Symbolizer(root, debug_directories=(), patience=AT_ONCE) as symbolizer:
        named = symbolizer.names(at)
    assert {name for n in named for name in (line.name for line in n.lines)} == {"exported"}
    assert {(os.path.basename(n.lines[0].file), n.reason) for n in named} == {("a.c", "")}


def test_what_lies_between_functions_has_no_name_of_theirs(built: Path, symbolizer: Symbolizer) -> None:
    """The table of calls into libraries comes after `_init`, which has no size."""
    with open(built / "fixed", "rb") as file:
        (calls,) = [s for s in elf.ElfFile(file.fileno()).sections if s.name == ".plt"]
    named = symbolizer.names([frame(built / "fixed", at) for at in range(calls.address, calls.address + calls.size)])
    assert {n.reason for n in named} == {REASONS["no-function"]}


@pytest.mark.parametrize(("program", "known"), [("symtab", True), ("minidebug", True), ("stripped", False)])
def test_symbol_tables_name_what_they_hold_and_nothing_else(
    built: Path, symbolizer: Symbolizer, program: str, known: bool
) -> None:
    symbols = symbols_of(built / "whole")
    path = built / program
    for name, (start, size) in symbols.items():
        if name in ("hidden", "exported", "main"):
            first, last, after = symbolizer.names([frame(path, a) for a in (start, start + size - 1, start + size)])
            if known or name != "hidden":
                assert first == last == Named([Line(name)])
            else:
                assert first.lines == [Line(f"{program}+{start:#x}")]
                assert first.reason == (
                    "the program is stripped, this is none of the functions that it exports,"
                    " and no debuginfod server is set (spec.debuginfod.urls of the Profiler)"
                )
            assert Line(name) not in after.lines, "the padding after a function is not of it"


def test_better_information_replaces_worse_in_what_is_stored(built: Path, root: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy(built / "stripped", program)
    places = [frame(program, symbols_of(built / "whole")["hidden"][0])]
    debug = tmp_path / "debug"
    shelf, build_id = Shelf(root), places[0].build_id
    with Symbolizer(root, debug_directories=(debug,), patience=AT_ONCE) as symbolizer:
        assert symbolizer.names(places)[0].reason
        assert shelf.best(build_id) == ("dynsym", shelf.path(build_id, "dynsym"))
        program.unlink()
        late = debug / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
        late.parent.mkdir(parents=True)
        shutil.copy(built / "whole.debug", late)
        assert [line.name for line in symbolizer.names(places)[0].lines] == ["hidden"]
        assert not shelf.path(build_id, "dynsym").exists()
        late.unlink()
    with Symbolizer(root, debug_directories=(), patience=AT_ONCE) as again:
        (named,) = again.names(places)
    assert (named.lines[0].name, os.path.basename(named.lines[0].file), named.lines[0].line) == ("hidden", "a.c", 3)


def test_names_are_kept_while_the_program_is_there(
    built: Path, root: Path, symbolizer: Symbolizer, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    symbols = symbols_of(built / "whole")
    with Keeper(root) as keeper, open(built / "whole", "rb") as whole:
        build_id = facts_of(built / "whole").build_id
        keeper.keep(whole.fileno(), build_id, str(gone))
        keeper.keep(-1, build_id)  # known: the descriptor is not even looked at
        with open(built / "a.c", "rb") as text, pytest.raises(ParseError, match=r"^not an ELF file$"):
            keeper.keep(text.fileno(), "ab" * 20)
        with pytest.raises(ParseError, match=f"^is build {build_id}, not {'cd' * 20}$"):
            keeper.keep(whole.fileno(), "cd" * 20)
    (named,) = symbolizer.names([Frame("native", file=str(gone), build_id=build_id, address=symbols["hidden"][0])])
    assert named.lines[0].name == "hidden"
    assert sum(f.stat().st_size for f in (root / "symbols").iterdir() if f.is_file()) < (built / "whole").stat().st_size


def test_what_the_agent_leaves_for_later_is_read_when_somebody_asks(
    built: Path, root: Path, symbolizer: Symbolizer
) -> None:
    whole = built / "whole"
    build_id = facts_of(whole).build_id
    with Keeper(root, dwarf_bytes_max=10) as keeper, open(whole, "rb") as file:
        keeper.keep(file.fileno(), build_id, str(whole))
    shelf = Shelf(root)
    assert shelf.best(build_id) == ("symtab", shelf.path(build_id, "symtab"))
    assert "more than the 10 that are read now" in shelf.trail(build_id).trouble
    (named,) = symbolizer.names([frame(whole, symbols_of(whole)["hidden"][0])])
    assert named.lines[0].line == 3


def test_a_debug_file_is_found_by_the_link_in_the_program(built: Path, root: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "program"
    program.parent.mkdir()
    shutil.copy(built / "stripped", program)
    place = frame(program, symbols_of(built / "whole")["hidden"][0])
    with Keeper(root) as keeper, open(program, "rb") as file:
        keeper.keep(file.fileno(), place.build_id, str(program))
    (program.parent / ".debug").mkdir()
    shutil.copy(built / "whole.debug", program.parent / ".debug")
    with Symbolizer(root, debug_directories=(), patience=AT_ONCE) as symbolizer:
        assert symbolizer.names([place])[0].lines[0].name == "hidden"


def test_every_unnamed_frame_says_why(built: Path, symbolizer: Symbolizer, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copy(built / "symtab", other)
    broken = tmp_path / "broken"
    content = (built / "stripped").read_bytes()
    broken.write_bytes(content[:58] + b"\x01\0" + content[60:])
    no_server = ", and no debuginfod server is set (spec.debuginfod.urls of the Profiler)"
    named = symbolizer.names(
        [
            Frame("native", file="/gone/lib.so", build_id="ab" * 20, address=0x12),
            Frame("native", file=str(other), build_id="cd" * 20, address=0x12),
            Frame("native", file=str(broken), build_id="ef" * 20, address=0x12),
            Frame("native", file=str(built / "whole"), build_id=facts_of(built / "whole").build_id, address=1),
            Frame("native", file="/dev/zero", build_id="01" * 20, address=1 << 63),
            Frame("native", address=5),
            Frame("native", file="x", build_id="../../etc", address=5),
            Frame("jit"),
            Frame("kernel"),
            Frame("mark", name="truncated"),
            Frame("python", name="f", file="f.py", line=3),
        ]
    )
    gone = "the program was gone before its symbols were read" + no_server
    assert named == [
        Named([Line("lib.so+0x12")], gone),
        Named([Line("other+0x12")], gone),
        Named([Line("broken+0x12")], f"the symbols cannot be read: section headers of 1 bytes: not those of an ELF file{no_server}"),
        Named([Line("whole+0x1")], "the symbols have no function at this address"),
        Named([Line("zero+0x8000000000000000")], gone),
        Named([Line("[unknown]+0x5")], "the address is in no file that is known"),
        Named([Line("x+0x5")], "the address is in no file that is known"),
        Named([Line("[jit]")], "made at run time, and no perf map names it"),
        Named([Line("[kernel]")], "the kernel hides its symbols (kernel.kptr_restrict)"),
        Named([Line("[truncated]")], MARKS["truncated"]),
        Named([Line("f", "f.py", 3)]),
    ]  # fmt: skip
    assert all(n.reason in [*REASONS.values(), *MARKS.values(), ""] or no_server in n.reason for n in named)


def test_a_link_in_the_place_of_the_directory_leads_nowhere(root: Path, tmp_path: Path) -> None:
    """Who owns the directory is less than the agent that writes there."""
    (tmp_path / "elsewhere" / "uploads").mkdir(parents=True)
    (root / "symbols").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError), Shelf(root).part():
        pass
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["uploads"]


def test_a_disk_that_takes_nothing_is_said(built: Path, root: Path, symbolizer: Symbolizer) -> None:
    (root / "symbols").write_text("in the way")
    (named,) = symbolizer.names([frame(built / "whole", 0x1000)])
    assert re.fullmatch(
        r"its symbols cannot be looked for: \[Errno 20\] Not a directory: '.*/symbols/.*'", named.reason
    )
    (root / "symbols").unlink()
    assert "looked for" not in symbolizer.names([frame(built / "whole", 0x1000)])[0].reason


@pytest.mark.parametrize("quality", ["dwarf", "symtab", "pclntab"])
def test_a_broken_file_on_the_shelf_is_made_anew(built: Path, root: Path, symbolizer: Symbolizer, quality: str) -> None:
    place = frame(built / "whole", symbols_of(built / "whole")["hidden"][0])
    (root / "symbols").mkdir()
    at = root / "symbols" / f"{place.build_id}.{quality}"
    at.write_bytes(random.Random(1).randbytes(500))
    os.utime(at, (1, 1))
    first = symbolizer.names([place])[0]
    assert first.reason or first.lines[0].line == 3
    assert symbolizer.names([place])[0].lines[0].line == 3


def test_the_shelf_forgets_what_was_not_used_for_longest(root: Path) -> None:
    shelf = Shelf(root, names_bytes=2500)
    ids = [f"{n:040x}" for n in range(4)]
    for at, build_id in enumerate(ids[:3]):
        with shelf.part() as part:
            part.file.write(bytes(1000 if at else 100))
            assert shelf.put(part, build_id, "symtab")
        os.utime(shelf.path(build_id, "symtab"), (at + 1, at + 1))
    assert shelf.best(ids[0]) is not None, "and so it was used now"
    with shelf.part() as part:
        part.file.write(bytes(1000))
        assert shelf.put(part, ids[3], "symtab")
    assert [shelf.best(b) is not None for b in ids] == [True, False, True, True]
    with shelf.part() as part:
        assert not shelf.put(part, ids[3], "dynsym"), "worse"
        assert shelf.put(part, ids[3], "dwarf")
    assert not shelf.path(ids[3], "symtab").exists()
    assert not [p for p in shelf.names.iterdir() if p.name.endswith(".part")]
    abandoned = shelf.names / ".0.part"
    abandoned.write_bytes(bytes(10))
    os.utime(abandoned, (1, 1))
    with shelf.part() as part:
        shelf.put(part, ids[2], "dwarf")
    assert not abandoned.exists()
    with pytest.raises(ValueError, match=r"^'../x' is no build id$"):
        shelf.path("../x", "dwarf")
    assert QUALITIES[-1] == "dwarf"


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        (b"main", "main"),
        (b"_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back(int const&)"),
        (b"_ZL4swapPiS_.part.0", "swap(int*, int*) [.part.0]"),
        (b"_ZL4swapPiS_.cold", "swap(int*, int*)"),
        (b"exec_simple_query.cold.12", "exec_simple_query"),
        (b"_Z", "_Z"),
        (b"_ZN4core3fmt5Write9write_fmt17h1234567890abcdefE", "core::fmt::Write::write_fmt"),
        (
            b"_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar17h930b740aa94f1d3aE",
            "<Test + 'static as foo::Bar<Test>>::bar",
        ),
        (b"_RINvNtC3std3mem8align_ofjE", "std::mem::align_of::<usize>"),
        (b"_RNvC6_123foo3bar", "123foo::bar"),
        (b"_RNCNCNgCs6DXkGYLi8lr_2cc5spawn00B5_", "cc::spawn::{closure#0}::{closure#0}"),
        (b"_RNvMsr_NtCs3ssYzQotkvD_3std4pathNtB5_7PathBuf3newCs15kBYyAo9fc_7mycrate", "<std::path::PathBuf>::new"),
        (b"_RNvXs_C7mycrateReNtB4_5Trait3foo", "<&str as mycrate::Trait>::foo"),
        (b"_RINbNbCskIICzLVDPPb_5alloc5alloc8box_freeDINbNiB4_5boxed5FnBoxuEp6OutputuEL_ECs1iopQbuBiw2_3std",
         "alloc::alloc::box_free::<dyn alloc::boxed::FnBox<(), Output = ()>>"),
        (b"_RMC0INtC8arrayvec8ArrayVechKj7b_E", "<arrayvec::ArrayVec<u8, 123>>"),
        (b"_RNvC7mycrateu8gdel_5qa", "mycrate::gödel"),
        (b"_RNvB_1a", "_RNvB_1a"),
        (b"_R" + b"NvC1a1b" * 50 + b"I" * 500, "_R" + "NvC1a1b" * 50 + "I" * 500),
    ],
)  # fmt: skip
def test_names_are_as_their_authors_wrote_them(mangled: bytes, name: str) -> None:
    assert demangled(mangled) == name


def test_a_question_waits_for_no_search(built: Path, root: Path) -> None:
    """The search may take as long as it takes; the answer has what is known by then, and says so."""
    with Symbolizer(root, debug_directories=(), patience=Patience(first_wait_s=0)) as symbolizer:
        place = frame(built / "whole", symbols_of(built / "whole")["hidden"][0])
        (first,) = symbolizer.names([place])
        assert first.reason == REASONS["fetching"] or first.lines[0].name == "hidden"
        assert symbolizer.names([place], wait_s=WAIT_S)[0].lines[0].name == "hidden"
        assert not symbolizer.left
