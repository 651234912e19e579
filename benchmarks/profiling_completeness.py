"""Are the profiler's stacks complete, are Python's names right, and what does it cost? Beside perf and py-spy, in one run.

    python benchmarks/profiling_completeness.py [--seconds 60] [--hz 19] [--py-spy FILE]

Programs with known call trees (tests/support/profiling_programs) run all at once while a loop compiles, twice: with the agent's cache of
unwind tables empty, and with what it learned. Expected ticks are the CPU time that the kernel says a program used, times the rate; what
is missing of them counts as a failure as a stack does which says itself that it is not complete, or is no path of the program's tree.
Then each CPython runs alone at 99 Hz, with py-spy beside the agent, and says itself how long each function took. At last the native
programs run once more with `perf record --call-graph dwarf`. Root, and a machine with nothing else to do, give the best figures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import profiling_known_trees as trees  # noqa: E402
from profiling_known_trees import Program, Verdict, judge, stacks_of  # noqa: E402
from profiling_postgres import Postgres  # noqa: E402
from trimtab.components.profiling import batch  # noqa: E402
from trimtab.components.profiling.batch import Batch, Frame  # noqa: E402

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SHARES_S = 12.0
SHARES_HZ = 99
PERF_S = 12.0
READY_S = 60.0
SETTLE_S, QUIET_S = 180.0, 20.0


@dataclass
class Agent:
    """The agent as a process, and what it costs."""

    directory: Path
    hz: float
    process: subprocess.Popen[str] = field(init=False)
    status: dict[str, object] = field(default_factory=dict)

    def __enter__(self) -> Agent:
        command = [
            sys.executable,
            "-m",
            "trimtab.components.profiling.agent",
            str(self.directory),
            "--hz",
            str(self.hz),
        ]
        self.process = subprocess.Popen(
            [*command, "--cpu-percent", "100", "--talk"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.status = json.loads(self.process.stdout.readline() or "{}")
        if self.status.get("state") != "running":
            raise SystemExit(f"the agent does not run: {self.status}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        for line in self.process.stdout:
            self.status = json.loads(line)
        self.process.wait(timeout=READY_S)
        self.process.stdout.close()

    def says(self) -> str:
        """What it tells of itself."""
        told = self.told()
        kept = ("cpu_percent", "memory_bytes", "samples", "processes", "sample_us", "shed", "files")
        return ", ".join(f"{name} {told[name]}" for name in kept if name in told)

    def cpu_s(self) -> dict[str, float]:
        """Of it, of the sandboxes that it started, and of the BPF program as that measures itself."""
        spent = {"agent": 0.0, "sandboxes": 0.0}
        for pid in (self.process.pid, *children(self.process.pid)):
            try:
                parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            own, ended = (sum(int(part) for part in parts[at : at + 2]) * TICK_S for at in (11, 13))
            spent["agent" if pid == self.process.pid else "sandboxes"] += own
            spent["sandboxes"] += ended
        told = self.told()
        spent["BPF"] = float(told.get("sample_us", 0)) * float(told.get("samples", 0)) / 1e6
        return spent

    def told(self) -> dict[str, float]:
        """What it wrote of itself last; nothing before its first batch."""
        try:
            told: dict[str, float] = json.loads((self.directory / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return told

    def memory(self) -> str:
        """Of the agent itself, resident now and at most; and what of the sandboxes that run now is theirs alone."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        now, most = (kilobytes(text, name) / 1000 for name in ("VmRSS", "VmHWM"))
        others = 0.0
        for pid in children(self.process.pid):
            with suppress(OSError):
                others += kilobytes(Path(f"/proc/{pid}/status").read_text(), "RssAnon") / 1000
        return f"resident {now:.0f} MB, at most {most:.0f} MB (sandboxes {others:.0f} MB)"


def kilobytes(status: str, name: str) -> float:
    """0 of a process that has just ended."""
    return float((status.partition(f"{name}:")[2].split() or ["0"])[0])


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]
    return found


@dataclass
class Ran:
    """A program that has ended: what the kernel says of it."""

    program: Program
    pids: set[int]
    cpu_s: float
    output: str = ""


def run(programs: Sequence[Program], seconds: float, directory: Path) -> list[Ran]:
    """All at once. Their CPU time is that of their whole life."""
    started = []
    for index, program in enumerate(programs):
        output = (directory / f"output-{index}").open("w+")
        process = subprocess.Popen(
            [*program.command, f"{seconds:.1f}"], stdout=output, stderr=subprocess.DEVNULL, cwd=directory
        )
        started.append((program, process, output))
    ended = []
    for program, process, output in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        ended.append(Ran(program, {process.pid}, usage.ru_utime + usage.ru_stime, output.read()))
        output.close()
        Path(f"/tmp/perf-{process.pid}.map").unlink(missing_ok=True)
        Path(f"/tmp/jit-{process.pid}.dump").unlink(missing_ok=True)
    return ended


@contextmanager
def churn(directory: Path) -> Iterator[None]:
    """A loop that compiles and links, one short process after the other."""
    source = trees.SOURCES / "tree.c"
    script = f"while :; do gcc -O1 -pthread -o {directory}/churned {source} && {directory}/churned 0; ls /usr/lib >/dev/null; done"
    loop = subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(loop.pid, signal.SIGKILL)
        loop.wait()


def batches(directory: Path) -> list[Batch]:
    return [batch.read(path) for path in sorted(batch.incoming(directory).glob("*.batch"))]


def tell(ended: Sequence[Ran], measured: Sequence[Batch], hz: float) -> None:
    """A program's ticks are few and come by chance, so what is lost is told of all of them together."""
    print(f"\n| program | expected | samples | complete | % | not complete |\n|{'---|' * 6}")
    expected, complete, samples = 0.0, 0, 0
    for ran in ended:
        verdict = judge(ran.program, stacks_of(measured, ran.pids))
        if ran.program.goal:
            expected += ran.cpu_s * hz
            complete += verdict.complete
            samples += verdict.samples
        wrong = ", ".join(f"{reason} {count}" for reason, count in verdict.wrong.most_common(4))
        note = "" if ran.program.goal else f" ({ran.program.note or 'separately'})"
        share = verdict.complete / max(1, verdict.samples)
        ticks = f"{ran.cpu_s * hz:.0f} | {verdict.samples} | {verdict.complete}"
        print(f"| {ran.program.name}{note} | {ticks} | {share:.1%} | {wrong} |")
        for reason, examples in list(verdict.examples.items())[:3] if OPTIONS.verbose else ():
            print(f"    {reason}: {examples[0][:600]}")
    share = complete / max(1.0, expected, samples)
    print(f"| **all, lost ticks too** | {expected:.0f} | {samples} | {complete} | **{share:.1%}** | |")
    print(f"of the samples that were taken {complete / max(1, samples):.1%}; {chance(expected, measured)}")
    tell_all(measured)


def chance(expected: float, measured: Sequence[Batch]) -> str:
    """Each tick of the machine meets one of the programs with the part of the CPU time that they have: a binomial distribution."""
    ticks = sum(sample.count for one in measured for sample in one.samples)
    part = min(1.0, expected / max(1, ticks))
    return f"chance alone moves their number by {math.sqrt(ticks * part * (1 - part)):.0f} (standard deviation, of {ticks} ticks in all)"


def tell_all(measured: Sequence[Batch]) -> None:
    """Of the whole machine, all processes however short they lived: what stacks say of themselves."""
    marks: Counter[str] = Counter()
    for one in measured:
        for reason, count in one.lost.items():
            marks[reason] += count
        for sample in one.samples:
            last = one.frames[one.stacks[sample.stack][-1]] if one.stacks[sample.stack] else Frame("mark", "empty")
            marks[last.name if last.kind == "mark" else ""] += sample.count
    total, whole = marks.total(), marks.pop("", 0)
    print(
        f"whole machine with short-lived processes: {whole} of {total} without a mark ({whole / max(1, total):.1%}); {dict(marks)}"
    )


def settle(agent: Agent) -> None:
    """Until no table has been made for a while: the agent is then through with what it has seen."""
    deadline, count, since = time.monotonic() + SETTLE_S, -1, time.monotonic()
    while time.monotonic() < min(deadline, since + QUIET_S):
        now = len(list((agent.directory / "unwind").glob("*.table")))
        if now != count:
            count, since = now, time.monotonic()
        time.sleep(1)


def phase(title: str, programs: Sequence[Program], agent: Agent, directory: Path) -> None:
    seen, before, began = len(batches(agent.directory)), agent.cpu_s(), time.monotonic()
    with (
        churn(directory),
        Postgres(directory) as postgres,
        postgres.busy(OPTIONS.seconds, jit=False) as plain,
        postgres.busy(OPTIONS.seconds, jit=True) as compiled,
    ):
        ended = run(programs, OPTIONS.seconds, directory)
    took_s = time.monotonic() - began
    spent = {name: 100 * (now - before[name]) / took_s for name, now in agent.cpu_s().items()}
    memory = agent.memory()
    time.sleep(batch.TIME_S + 2)  # the last batch is written by then
    measured = batches(agent.directory)[seen:]
    ended += [Ran(one.program, one.pids, one.cpu_s) for one in (plain, compiled) if one.pids]
    print(f"\n## {title}: {took_s:.0f} s, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    parts = ", ".join(f"{name} {percent:.2f}" for name, percent in spent.items())
    print(f"agent: {sum(spent.values()):.2f} % of a core ({parts}), {memory}; {agent.says()}")
    tell(ended, measured, agent.hz)


def shares(names: Sequence[str], stacks: Sequence[tuple[Sequence[str], int]]) -> dict[str, float]:
    """Of the samples that are in one of some functions, the part of each."""
    found: Counter[str] = Counter()
    for stack, count in stacks:
        for name in names:
            if any(one.rpartition(".")[2] == name for one in stack):
                found[name] += count
    return {name: found[name] / max(1, found.total()) for name in names}


def phase_python(directory: Path, py_spy: str | None) -> None:
    """The share of each function, told by the program itself, by the agent and by py-spy."""
    print(f"\n## Python's functions at {SHARES_HZ} Hz, load {os.getloadavg()[0]:.1f}")
    print(f"| program | samples | agent's largest error, points | py-spy's | py-spy, % of a core |\n|{'---|' * 5}")
    for path in trees.pythons():
        program = trees.cpython(path)
        kept = directory / "agent"
        seen = len(batches(kept))
        with Agent(kept, SHARES_HZ):
            process = subprocess.Popen([*program.command, str(SHARES_S)], stdout=subprocess.PIPE, text=True)
            spied, cpu_s = spy(py_spy, process.pid, directory)
            truth = json.loads(process.communicate(timeout=SHARES_S * 10)[0])
        stacks = stacks_of(batches(kept)[seen:], {process.pid})
        mine = shares(list(truth), [([trees.name(frame) for frame in frames], count) for frames, count in stacks])
        error = 100 * max(abs(mine[name] - truth[name]) for name in truth)
        theirs = shares(list(truth), spied)
        other = (
            f"{100 * max(abs(theirs[name] - truth[name]) for name in truth):.1f} | {100 * cpu_s / (SHARES_S - 2):.1f}"
            if spied
            else "- | -"
        )
        print(f"| {program.name} | {sum(count for _, count in stacks)} | {error:.1f} | {other} |")


def spy(py_spy: str | None, pid: int, directory: Path) -> tuple[list[tuple[list[str], int]], float]:
    """Stacks by py-spy of a running process, and its CPU seconds."""
    if not py_spy:
        return [], 0.0
    output = directory / "py-spy.txt"
    command = [py_spy, "record", "--pid", str(pid), "--rate", str(SHARES_HZ), "--duration", str(int(SHARES_S - 2))]
    process = subprocess.Popen(
        [*command, "--format", "raw", "--output", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    if not output.exists():
        return [], 0.0
    lines = [line.rpartition(" ") for line in output.read_text().splitlines()]
    return [
        ([one.split(" (")[0] for one in stack.split(";")], int(count)) for stack, _, count in lines
    ], usage.ru_utime + usage.ru_stime


def phase_perf(programs: Sequence[Program], directory: Path) -> None:
    """`perf record --call-graph dwarf` of the whole machine at the same rate, and what reading it costs."""
    native = [
        program for program in programs if program.name.startswith(("C", "Go", "Rust")) and "Python" not in program.name
    ]
    data = directory / "perf.data"
    command = [
        "perf",
        "record",
        "-q",
        "-a",
        "-e",
        "cpu-clock",
        "-F",
        str(round(OPTIONS.hz)),
        "--call-graph",
        "dwarf,16384",
    ]
    recording = subprocess.Popen([*command, "-o", str(data)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with churn(directory):
        ended = run(native, PERF_S, directory)
    recording.send_signal(signal.SIGINT)
    _, _, usage = os.wait4(recording.pid, 0)
    recording.returncode = 0
    record_s = usage.ru_utime + usage.ru_stime
    with (directory / "perf.txt").open("w+") as text:
        script = ["perf", "script", "-i", str(data), "--no-inline", "-F", "pid,ip,sym"]
        reading = subprocess.Popen(script, stdout=text, stderr=subprocess.DEVNULL)
        _, _, usage = os.wait4(reading.pid, 0)
        reading.returncode = 0
        text.seek(0)
        stacks = perf_stacks(text.read())
    print(f"\n## perf record --call-graph dwarf at {OPTIONS.hz} Hz: {PERF_S:.0f} s, load {os.getloadavg()[0]:.1f}")
    print(
        f"recording {100 * record_s / PERF_S:.2f} % of a core, {data.stat().st_size / PERF_S / 1e3:.0f} KB/s; "
        f"unwinding afterwards (perf script) {usage.ru_utime + usage.ru_stime:.1f} s of CPU"
    )
    print(f"\n| program | expected | complete | % |\n|{'---|' * 4}")
    for ran in ended:
        mine: list[tuple[Sequence[Frame], int]] = [(frames, 1) for pid, frames in stacks if pid in ran.pids]
        verdict: Verdict = judge(ran.program, mine)
        expected = max(ran.cpu_s * OPTIONS.hz, float(verdict.samples))
        print(
            f"| {ran.program.name} | {expected:.0f} | {verdict.complete} | {verdict.complete / max(1.0, expected):.1%} |"
        )


def perf_stacks(text: str) -> list[tuple[int, list[Frame]]]:
    """Of `perf script -F pid,ip,sym`. A stack whose outermost function is none that begins a thread has a mark."""
    found = []
    for block in text.split("\n\n"):
        head, *lines = [line.strip() for line in block.strip().splitlines()] or [""]
        if not head.isdigit():
            continue
        names = [line.partition(" ")[2].split("(")[0].split("+0x")[0] for line in lines]
        frames = [Frame("named", trees.plain(name)) for name in names]
        if not names or not names[-1].startswith(
            ("_start", "__clone", "clone", "runtime.", "__GI___clone", "_dl_", "__libc_start")
        ):
            frames.append(Frame("mark", "no start of a thread"))
        found.append((int(head), frames))
    return found


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, kernel {os.uname().release}, {OPTIONS.hz} Hz")
    with tempfile.TemporaryDirectory(prefix="trimtab-completeness-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        programs, missing = trees.build(directory)
        print("\n".join(missing + Postgres.missing()))
        with Agent(directory / "agent", OPTIONS.hz) as agent:
            phase("Cold: no unwind table is known", programs, agent, directory)
            settle(agent)
            phase("Warm: tables are cached", programs, agent, directory)
        if OPTIONS.stacks:
            return
        py_spy = OPTIONS.py_spy or shutil.which("py-spy")
        if not py_spy:
            print("py-spy is not there (pip install py-spy): left out")
        phase_python(directory, py_spy)
        if shutil.which("perf"):
            phase_perf(programs, directory)
        else:
            print("perf is not there (apt-get install linux-perf): left out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of the cold and of the warm phase, each")
    parser.add_argument("--hz", type=float, default=19)
    parser.add_argument("--py-spy", help="its file, when it is not on the path")
    parser.add_argument("--stacks", action="store_true", help="the cold and the warm phase alone")
    parser.add_argument("--verbose", action="store_true", help="shows stacks that are not complete")
    OPTIONS = parser.parse_args()
    if os.geteuid():
        raise SystemExit("the agent needs root")
    main()
