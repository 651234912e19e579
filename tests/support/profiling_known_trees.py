"""Programs whose call trees are known, and whether a profile's stacks are paths of them.

    profiling_programs/tree.* --build()--> Program --started by who measures--> batches --judge()--> complete, or why not

Names of native frames come from `nm`, so that the profiler's own symbols are not part of what is checked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from trimtab.components.profiling.batch import Batch, Frame

SOURCES = Path(__file__).with_name("profiling_programs")
PYTHON = SOURCES / "tree.py"
"""Other modules have functions of the same names."""
BUILD_S = 180


@dataclass(frozen=True)
class Program:
    """A program, how it is started (the seconds come last), and the calls that its functions make."""

    name: str
    command: tuple[str, ...]
    calls: dict[str, tuple[str, ...]]
    """Caller to callees. A function that nobody calls begins a stack."""
    environment: dict[str, str] = field(default_factory=dict)
    note: str = ""
    goal: bool = True
    """Whether it counts for the goal; else it is reported separately."""

    @property
    def functions(self) -> set[str]:
        return {*self.calls, *(callee for callees in self.calls.values() for callee in callees)}

    @property
    def roots(self) -> set[str]:
        return self.functions - {callee for callees in self.calls.values() for callee in callees}


@dataclass
class Verdict:
    """Samples of a program, by what is right or wrong with them."""

    complete: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return self.complete + self.wrong.total()


_C = {
    "main": ("work",),
    "thread_main": ("work",),
    "work": ("heavy", "light", "sorted", "timed", "now", "handled"),
    "heavy": ("spin", "handled"),
    "light": ("spin", "handled"),
    "sorted": ("compare", "handled"),
    "compare": ("handled",),
    "timed": ("now", "handled"),
    "now": ("handled",),
    "spin": ("handled",),
    "handled": ("spin",),
}
_CPP = {"main": ("work", "now"), "work": ("heavy", "caught", "now"), "caught": ("dive",), "dive": ("dive",)}
_PYTHON = {
    "<module>": ("main",),
    "main": ("work",),
    "work": ("timed", "Shop.heavy"),
    "timed": ("Shop.heavy", "Shop.light", "work.<locals>.<lambda>"),
    "Shop.heavy": ("spin",),
    "Shop.light": ("spin",),
    "work.<locals>.<lambda>": ("generated", "called_back"),
    "generated": ("spin",),
    "called_back": ("spin",),
}
_SIMPLE = {"work": ("heavy", "light"), "heavy": ("spin",), "light": ("spin",)}
_RUST = {f"tree::{caller}": tuple(f"tree::{one}" for one in callees) for caller, callees in _SIMPLE.items()}
_ERLANG = {
    "$tree:start/1": ("$tree:work/2",),
    "$tree:work/2": ("$tree:heavy/0", "$tree:light/0"),
    "$tree:heavy/0": ("$tree:spin/2",),
    "$tree:light/0": ("$tree:spin/2",),
}
_GO = {"main.main": ("main.work",), "main.beside": ("main.work",), "main.work": ("main.heavy", "main.light")}


def pythons() -> list[Path]:
    """Every CPython on the machine that is followed."""
    found = [Path("/usr/bin/python3.11"), *sorted(Path.home().glob(".pyenv/versions/3.1[1-4]*/bin/python3.1[1-4]"))]
    on_path = [shutil.which(f"python3.{minor}") for minor in range(11, 15)]
    found += [Path(path) for path in on_path if path and "shims" not in path]
    return sorted({path.resolve() for path in found if path.exists()})


def c(directory: Path) -> list[Program]:
    flags = ("-O1", "-fno-inline", "-fno-optimize-sibling-calls", "-pthread")
    programs = []
    for name, more in (("tree-fp", "-fno-omit-frame-pointer"), ("tree-nofp", "-fomit-frame-pointer")):
        _run("gcc", *flags, more, "-o", directory / name, SOURCES / "tree.c")
        programs.append(Program(f"C {more}", (str(directory / name),), _C))
    return programs


def made(directory: Path) -> Program:
    """Code that is made at run time; it leaves /tmp/perf-PID.map."""
    _run("gcc", "-O1", "-o", directory / "made", SOURCES / "made.c")
    return Program("made at run time", (str(directory / "made"),), {"main": ("outer",), "outer": ("leaf",)})


def cpp(directory: Path) -> list[Program]:
    _run("g++", "-O1", "-fno-inline", "-fno-optimize-sibling-calls", "-o", directory / "tree-cpp", SOURCES / "tree.cpp")
    return [Program("C++ exceptions", (str(directory / "tree-cpp"),), _CPP)]


def cpython(path: Path) -> Program:
    version = subprocess.run([path, "-V"], capture_output=True, text=True, check=True, timeout=60).stdout.split()[1]
    return Program(
        f"CPython {version} {'Debian' if str(path).startswith('/usr') else 'shared'}",
        (str(path), str(PYTHON)),
        _PYTHON,
    )


def node(directory: Path) -> list[Program]:
    flags = ("--perf-basic-prof", "--interpreted-frames-native-stack", "--no-turbo-inlining")
    return [
        Program("Node --perf-basic-prof", ("node", *flags, str(SOURCES / "tree.js")), {"main": ("work",), **_SIMPLE})
    ]


def go(directory: Path) -> list[Program]:
    _run("go", "build", "-o", directory / "tree-go", SOURCES / "tree.go")
    return [Program("Go", (str(directory / "tree-go"),), _GO)]


def rust(directory: Path) -> list[Program]:
    _run("rustc", "-C", "opt-level=1", "-o", directory / "tree-rust", SOURCES / "tree.rs")
    return [Program("Rust", (str(directory / "tree-rust"),), {"tree::main": ("tree::work",), **_RUST})]


def erlang(directory: Path) -> list[Program]:
    _run("erlc", "-o", directory, SOURCES / "tree.erl")
    command = ("-noshell", "-pa", str(directory), "-run", "tree", "start")
    return [
        Program("Erlang VM +JPperf true", ("erl", "+JPperf", "true", *command), _ERLANG),
        Program("Erlang VM without maps", ("erl", *command), {"$tree:start/1": ()}, note="no names", goal=False),
    ]


BUILDERS: dict[str, Callable[[Path], list[Program]]] = {
    "gcc": c,
    "g++": cpp,
    "node": node,
    "go": go,
    "rustc": rust,
    "erlc": erlang,
}


def build(directory: Path) -> tuple[list[Program], list[str]]:
    """All programs that can be made here, and a line for each that cannot."""
    programs, missing = [cpython(path) for path in pythons()], []
    for tool, builder in BUILDERS.items():
        if shutil.which(tool):
            programs += builder(directory)
        else:
            missing.append(f"{tool} is not there: its program is left out")
    return programs, missing


def _run(*command: str | Path) -> None:
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    subprocess.run(command, check=True, timeout=BUILD_S, capture_output=True, env=environment)


@cache
def _symbols(path: str) -> tuple[list[int], list[tuple[int, str]]]:
    found: dict[int, tuple[int, str]] = {}
    for flag in ("-D", "-a"):
        done = subprocess.run(
            ["nm", "-C", "-S", flag, path], capture_output=True, text=True, timeout=BUILD_S, check=False
        )
        for line in done.stdout.splitlines():
            if match := re.match(r"([0-9a-f]+) ([0-9a-f]+) [TtWwiu] (.*)", line):
                found[int(match[1], 16)] = int(match[2], 16), match[3]
    starts = sorted(found)
    return starts, [found[start] for start in starts]


def name(frame: Frame) -> str:
    """A frame's function; of a native one without a symbol, file and address; of C++ and Rust without arguments and hashes."""
    if frame.kind != "native":
        return frame.name
    starts, sizes = _symbols(frame.file)
    index = bisect_right(starts, frame.address) - 1
    if index < 0 or frame.address >= starts[index] + sizes[index][0]:
        return f"{Path(frame.file).name}+{frame.address:#x}"
    return plain(sizes[index][1])


def plain(symbol: str) -> str:
    """A function's name without arguments, hash and version."""
    return re.sub(r"(\(.*|::h[0-9a-f]{16}|@.*)$", "", symbol)


def judge(program: Program, stacks: Sequence[tuple[Sequence[Frame], int]]) -> Verdict:
    """Stacks (leaf first) with how often each was seen. Complete: no mark, and the program's own functions in it are a path of its tree
    from the root; one without any of them (start and end of the program, threads of its runtime) needs no mark only."""
    verdict = Verdict()
    for frames, count in stacks:
        reason = _wrong(program, frames)
        if not reason:
            verdict.complete += count
            continue
        verdict.wrong[reason] += count
        verdict.examples.setdefault(reason, [" < ".join(name(frame) for frame in frames)]).append("")
    return verdict


def _wrong(program: Program, frames: Sequence[Frame]) -> str:
    mark = next((frame.name for frame in frames if frame.kind == "mark"), "")
    if mark:
        return mark
    names = [name(frame) for frame in reversed(frames) if frame.kind != "python" or frame.file == str(PYTHON)]
    names = [one for one in names if one in program.functions]
    if names and names[0] not in program.roots:
        return f"begins with {names[0]}"
    for caller, callee in pairwise(names):
        if callee not in program.calls.get(caller, ()):
            return f"{caller} calls {callee}"
    return ""


def stacks_of(batches: Sequence[Batch], pids: set[int]) -> list[tuple[list[Frame], int]]:
    """The stacks of some processes."""
    wanted = {str(pid) for pid in pids}
    return [
        ([batch.frames[index] for index in batch.stacks[sample.stack]], sample.count)
        for batch in batches
        for sample in batch.samples
        if batch.labels[sample.labels].get("pid") in wanted
    ]
