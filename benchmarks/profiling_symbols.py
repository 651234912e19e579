"""Names of 10,000 addresses of libc, next to addr2line, llvm-symbolizer and eu-addr2line; what keeping a program's names costs.

Needs libc6-dbg; peers that are not installed are left out. Times are wall times, with the CPU time of all processes beside them.
Run: python benchmarks/profiling_symbols.py
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.symbols import elf
from trimtab.components.profiling.symbols.keep import Keeper
from trimtab.components.profiling.symbols.shelf import Shelf
from trimtab.components.profiling.symbols.symbolizer import Named, Symbolizer

ADDRESSES = 10_000


def cpu_s() -> float:
    """Of this process, what it has waited for, and what of it is running."""
    ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in ended) + sum(map(running_cpu_s, children_of(os.getpid())))


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children_of(child)]
    return found


def running_cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def measured(what: str, note: Callable[[], str] = str) -> Iterator[None]:
    wall, cpu = time.monotonic(), cpu_s()
    yield
    print(f"  {what:46} {time.monotonic() - wall:8.3f} s wall {cpu_s() - cpu:8.3f} s CPU  {note()}")


def libc() -> tuple[Path, Path, list[Frame], dict[str, int]]:
    """libc, its debug file, addresses within its functions, and where each of its symbols is."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    path = Path(next(line.split()[-1] for line in maps if "libc.so.6" in line))
    with open(path, "rb") as file:
        facts = elf.read(file.fileno())
    debug = Path(f"/usr/lib/debug/.build-id/{facts.build_id[:2]}/{facts.build_id[2:]}.debug")
    if not debug.exists():
        sys.exit(f"{debug} is not there: apt install libc6-dbg")
    rows = [
        line.split() for line in subprocess.run(["nm", "-S", debug], capture_output=True, text=True).stdout.splitlines()
    ]
    functions = [(int(r[0], 16), int(r[1], 16)) for r in rows if len(r) == 4 and r[2] in "tTwWi"]
    chosen = random.Random(1)
    places = [start + chosen.randrange(max(1, size)) for start, size in chosen.choices(functions, k=ADDRESSES)]
    frames = [Frame("native", file=str(path), build_id=facts.build_id, address=a) for a in places]
    return path, debug, frames, {r[3]: int(r[0], 16) for r in rows if len(r) == 4}


def told_by(command: list[str], debug: Path, addresses: list[int]) -> list[list[str]]:
    """The names of each address, innermost first, of a program that speaks as addr2line does."""
    given = "".join(f"{a:#x}\n" for a in addresses)
    lines = subprocess.run(
        [*command, "-a", "-f", "-i", "-e", str(debug)], input=given, capture_output=True, text=True
    ).stdout
    found: list[list[str]] = []
    for line in lines.splitlines():
        if line.startswith("0x"):
            found.append([])
            name = True
        elif line:
            if name:
                found[-1].append(line)
            name = not name
    return found


def agreement(ours: list[Named], theirs: list[list[str]], starts: dict[str, int]) -> str:
    """Whether the outermost function is the same, by name or because both names are of one address; and how deep the chains are."""
    if len(ours) != len(theirs):
        return f"({len(theirs)} answers)"
    named = [(o, t) for o, t in zip(ours, theirs, strict=True) if not o.reason and t and t[-1] != "??"]

    def alike(one: str, other: str) -> bool:
        one, other = one.partition(".")[0], other.partition(".")[0]  # f.cold is of f
        return one == other or starts.get(one, -1) == starts.get(other, -2)

    same = sum(alike(o.lines[-1].name, t[-1]) for o, t in named)
    deep = sum(len(o.lines) == len(t) for o, t in named)
    return f"{len(named)} named by both, {same} the same function, {deep} chains as long"


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    path, debug, frames, starts = libc()
    addresses = [f.address for f in frames]
    print(f"{ADDRESSES} addresses of {path.name}, {debug.stat().st_size / 1e6:.1f} MB of debug information")
    root = Path(tempfile.mkdtemp())
    try:
        with Symbolizer(root) as first:
            with measured("first question (makes the symcache)"):
                first.names(frames[:1], wait_s=600)
            with measured("10,000 addresses"):
                ours = first.names(frames)
            with measured("the same again"):
                first.names(frames)
        inlined = sum(len(n.lines) > 1 for n in ours)
        print(
            f"  {sum(not n.reason for n in ours)} named, {inlined} with inline chains; {size_of(root) / 1e6:.1f} MB kept"
        )
        again = Symbolizer(root)
        with measured("10,000 addresses, from a new process' start"):
            again.names(frames)
        again.close()
        for peer in (["addr2line"], ["llvm-symbolizer", "--output-style=GNU", "--no-demangle"], ["eu-addr2line"]):
            if not shutil.which(peer[0]):
                print(f"  {peer[0]} is not installed")
                continue
            if peer[0] == "llvm-symbolizer":
                peer = [
                    shutil.which("llvm-addr2line") or "llvm-symbolizer",
                    *([] if shutil.which("llvm-addr2line") else peer[1:]),
                ]
            theirs: list[list[str]] = []
            with measured(Path(peer[0]).name, lambda: agreement(ours, theirs, starts)):  # noqa: B023 (called within)
                theirs += told_by(peer, debug, addresses)
    finally:
        shutil.rmtree(root)
    keeping()


def size_of(root: Path) -> int:
    return sum(p.stat().st_size for p in root.rglob("*") if p.is_file())


def keeping() -> None:
    """What the agent does at the first sight of each program of this machine."""
    root = Path(tempfile.mkdtemp())
    try:
        paths = {
            line.split()[-1]
            for maps in Path("/proc").glob("[0-9]*/maps")
            for line in lines_of(maps)
            if " r-xp " in line and "/" in line
        }
        known: set[str] = set()
        with (
            Keeper(root) as keeper,
            measured(
                "names of all running programs kept", lambda: f"{len(known)} builds, {size_of(root) / 1e6:.1f} MB"
            ),
        ):
            for path in sorted(paths):
                with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
                    build_id = elf.read(file.fileno()).build_id
                    keeper.keep(file.fileno(), build_id, path)
                    known.add(build_id)
            keeper.close()
        qualities = [best[0] for b in known if (best := Shelf(root).best(b)) is not None]
        print("  " + ", ".join(f"{qualities.count(q)} {q}" for q in sorted(set(qualities))))
    finally:
        shutil.rmtree(root)


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
