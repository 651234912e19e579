"""Programs that mean harm: whatever their bytes are, whoever asks for names gets an answer, and no name of another program."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.symbols import elf
from trimtab.components.profiling.symbols.extract import Extracted
from trimtab.components.profiling.symbols.keep import Keeper
from trimtab.components.profiling.symbols.sandbox import ParseError, Sandbox
from trimtab.components.profiling.symbols.shelf import Shelf
from trimtab.components.profiling.symbols.sources import Patience
from trimtab.components.profiling.symbols.symbolizer import Symbolizer

DEADLINE_S = 120.0
AT_ONCE = Patience(
    found_s=0, not_found_s=0, unreachable_s=0, local_s=0, first_wait_s=DEADLINE_S, again_wait_s=DEADLINE_S
)
SOURCE = """
struct pair { int a, b; };
template <typename T> __attribute__((noinline, used)) T sum(const T *of, int n) { T s{}; while (n--) s += of[n]; return s; }
int main(int argc, char **) { int values[] = {argc, 2, 3}; double more[] = {1.0 * argc}; return sum(values, 3) + (int)sum(more, 1); }
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """With DWARF, with a symbol table, stripped, and of debug information alone."""
    directory = tmp_path_factory.mktemp("programs")
    (directory / "a.cc").write_text(SOURCE)
    for command in (
        "clang -g -O1 -rdynamic -nostdinc++ -x c++ a.cc -Wl,--build-id=sha1 -o whole",
        "objcopy --strip-debug whole symtab",
        "objcopy --strip-all whole stripped",
        "objcopy --only-keep-debug whole debug",
        "objcopy --compress-debug-sections=zlib debug compressed",
    ):
        subprocess.run(command.split(), cwd=directory, check=True, timeout=DEADLINE_S)
    return [directory / name for name in ("whole", "symtab", "stripped", "debug", "compressed")]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


def mutated(content: bytes, chosen: random.Random) -> bytes:
    """Some bytes changed, where the tables are as often as anywhere; numbers set to what numbers should not be; cut short."""
    found = bytearray(content)
    sections_at = min(int.from_bytes(content[40:48], "little"), len(content) - 9)
    for _ in range(chosen.randint(1, 8)):
        low, high = chosen.choice([(16, 64), (sections_at, len(content)), (0, len(content))])
        at = chosen.randrange(low, max(low + 1, high - 8))
        if chosen.random() < 0.5:
            found[at] = chosen.randrange(256)
        else:
            extreme = chosen.choice(
                [0, 1, (1 << 64) - 1, 1 << 63, 0x7FFFFFFF, 0xFFFFFFFF, len(content), len(content) - 1]
            )
            found[at : at + 8] = extreme.to_bytes(8, "little")
    return bytes(found[: chosen.choice([len(found)] * 4 + [chosen.randrange(len(found))])])


def check_mutations(programs: list[Path], sandbox: Sandbox, tmp_path: Path, seed: int, count: int) -> None:
    chosen = random.Random(seed)
    for _ in range(count):
        program = chosen.choice(programs)
        (tmp_path / "mutated").write_bytes(mutated(program.read_bytes(), chosen))
        with open(tmp_path / "mutated", "rb") as file, open(tmp_path / "names", "w+b") as names:
            answer = said(sandbox, "symbols.extract:extract", None, 0, fds=[file.fileno(), names.fileno()])
            if isinstance(answer, str):
                continue
            found = msgspec.convert(answer, Extracted)
            if found.quality != "nothing":
                check_names(sandbox, found.quality, names.fileno(), chosen.sample(range(0x3000), 50))


def said(sandbox: Sandbox, function: str, *arguments: Any, fds: list[int]) -> Any:
    """The answer, or the one line."""
    try:
        return sandbox.run(function, *arguments, fds=fds)
    except ParseError as err:
        line = str(err)
    assert line.isprintable()
    assert 0 < len(line) <= 400
    return line


def check_names(sandbox: Sandbox, quality: str, fd: int, addresses: Sequence[int]) -> None:
    asked = b"".join(at.to_bytes(8, "little") for at in addresses)
    answer = said(sandbox, "symbols.lookup:lookup", quality, asked, fds=[fd])
    if not isinstance(answer, str):
        texts, rows = answer
        assert len(rows) == len(addresses)
        assert all(text.isprintable() and len(text) <= 1000 for text in texts)


def test_any_program_gives_names_or_one_line(programs: list[Path], sandbox: Sandbox, tmp_path: Path) -> None:
    check_mutations(programs, sandbox, tmp_path, seed=1, count=150)


@pytest.mark.long
def test_many_more_programs_give_names_or_one_line(programs: list[Path], sandbox: Sandbox, tmp_path: Path) -> None:
    for seed in range(2, 12):
        check_mutations(programs, sandbox, tmp_path, seed, count=1000)


def test_names_on_the_shelf_are_no_more_trusted_than_programs(
    programs: list[Path], sandbox: Sandbox, tmp_path: Path
) -> None:
    """They were made of strangers' bytes by a process that may have been taken over."""
    chosen = random.Random(3)
    for program, quality in zip(programs[:3], ("dwarf", "symtab", "dynsym"), strict=True):
        with open(program, "rb") as file, open(tmp_path / quality, "w+b") as names:
            sandbox.run("symbols.extract:extract", None, 0, fds=[file.fileno(), names.fileno()])
        content = (tmp_path / quality).read_bytes()
        for _ in range(40):
            (tmp_path / "broken").write_bytes(mutated(content, chosen))
            with open(tmp_path / "broken", "rb") as names:
                check_names(sandbox, quality, names.fileno(), range(0, 0x3000, 0x51))


def test_a_name_is_never_of_another_build(programs: list[Path], tmp_path: Path) -> None:
    """A program whose path has another program now, and debug files under the wrong name."""
    whole = programs[0]
    with open(whole, "rb") as file:
        build_id = elf.read(file.fileno()).build_id
    other = "ab" * 20
    debug = tmp_path / "debug" / ".build-id" / "ab"
    debug.mkdir(parents=True)
    (debug / f"{other[2:]}.debug").write_bytes(programs[3].read_bytes())
    root = tmp_path / "profiles"
    root.mkdir()
    with Symbolizer(root, debug_directories=(tmp_path / "debug",), patience=AT_ONCE) as symbolizer:
        frames = [
            Frame("native", file=str(whole), build_id=b, address=a)
            for b in (other, build_id)
            for a in range(0x1000, 0x1400, 8)
        ]
        named = symbolizer.names(frames)
    strange, own = named[: len(named) // 2], named[len(named) // 2 :]
    assert all(n.reason and n.lines[0].name.startswith("whole+0x") for n in strange)
    assert any(n.lines[0].name.startswith("int sum<int>(") for n in own)
    assert Shelf(root).best(other) is None


def test_a_sandbox_that_is_killed_costs_no_names(programs: list[Path], tmp_path: Path) -> None:
    """It is killed all the time while names are asked for: answers are right or missing, and right when it is over."""
    root = tmp_path / "profiles"
    root.mkdir()
    whole = programs[0]
    with open(whole, "rb") as file:
        build_id = elf.read(file.fileno()).build_id
        with Keeper(root) as keeper:
            keeper.keep(file.fileno(), build_id, str(whole))
    gone = tmp_path / "gone"  # what was kept is all that there is
    frames = [Frame("native", file=str(gone), build_id=build_id, address=a) for a in range(0x1000, 0x1400, 8)]
    with Symbolizer(root, debug_directories=(), patience=AT_ONCE) as symbolizer:
        right = symbolizer.names(frames, wait_s=DEADLINE_S)
    over = threading.Event()

    def kill(sandbox: Sandbox) -> None:
        while not over.wait(0.02):
            if (pid := sandbox.pid) is not None:
                with contextlib.suppress(OSError):
                    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)

    with Symbolizer(root, debug_directories=(), patience=AT_ONCE) as symbolizer:
        killing = threading.Thread(target=kill, args=(symbolizer._sandbox,))
        killing.start()
        try:
            ends = time.monotonic() + 1.0
            while time.monotonic() < ends:
                symbolizer._known.clear()
                for found, expected in zip(symbolizer.names(frames), right, strict=True):
                    assert found.reason or found == expected
        finally:
            over.set()
            killing.join()
        symbolizer._known.clear()
        assert symbolizer.names(frames, wait_s=DEADLINE_S) == right
