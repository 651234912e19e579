"""A machine's day of batches, made of a recording of many programs.

    python benchmarks/profiling_recorded.py DIR      # records into DIR/incoming; profiling_day.py makes a day of it

The agent records this machine at 199 Hz while a service, a compiler, interpreters, sorters and archivers run (root and BPF). A batch of
the day takes stacks of one stretch of the recording, with programs that are busy at different hours; programs that live for seconds get
new pids, and the place in the leaf's function is varied by 64 bytes, so that most stacks of an hour differ, as in a recording.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, read

HZ, CPUS, PERIOD_NS = 19, 2, 52_631_579
A_BATCH = HZ * CPUS * 10
RECORD_S, RECORD_HZ = 25, 199
SERVICE = "shipnotes"

SERVICE_PROGRAM = """
import hashlib, html, json, re, sqlite3, textwrap
def page(rows): return "".join(f"<h2>{html.escape(t)}</h2><p>{linked(b)}</p>" for t, b in rows)
def linked(body): return re.sub(r"(\\w+)@(\\w+)", r"<a>\\1</a>", "\\n".join(textwrap.wrap(body, 60)))
def stored(base): return base.execute("select title, body from notes where body like '%a%' order by title desc limit 50").fetchall()
def feed(rows): return json.dumps([{"title": t, "id": hashlib.sha256(b.encode()).hexdigest()} for t, b in rows])
def request(base): rows = stored(base); return len(page(rows)) + len(json.loads(feed(rows)))
base = sqlite3.connect(":memory:")
base.execute("create table notes (title, body)")
base.executemany("insert into notes values (?, ?)", [(f"{n*7919%1000}", f"some words of note {n} by a@b " * 9) for n in range(1000)])
while True: request(base)
"""
C_PROGRAM = "\n".join(
    f"double f{n}(double *a, int k) {{ double s = {n}; for (int i = 0; i < k; i++) s += a[i] * {n % 7 + 1} + s / (i + {n % 5 + 1}); return s; }}"
    for n in range(400)
)
LOOPS = {
    "gcc": "while :; do gcc -O2 -c p.c -o p.o; done",
    "node": "while :; do node -e 'let a=[];for(let i=0;i<3e5;i++)a.push({k:i%97,s:String(i)});JSON.parse(JSON.stringify(a)).sort((x,y)=>x.k-y.k)'; done",
    "perl": "while :; do perl -e 'for(1..2e5){$h{$_%991}.=chr(65+$_%26)} for(sort keys %h){$n+=()=$h{$_}=~/A+B/g}'; done",
    "sort": "while :; do seq 200000 | sort -R | gzip -6 | gunzip | md5sum; done > /dev/null",
    "git": "git init -q g && cp p.c g && cd g && git add . && while :; do git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x; git log --stat | wc -l; done > /dev/null",
    "tar": "while :; do tar cf - /usr/share/doc 2>/dev/null | xz -1 -T1 | wc -c; done > /dev/null",
    "find": "while :; do find /usr -name '*a*' | xargs ls -ld | awk '{n[$3]+=$5} END {print NR}'; done > /dev/null",
    "python3": "while :; do python3 -c 'import ast,pathlib,os; [ast.dump(ast.parse(p.read_text())) for p in list(pathlib.Path(os.__file__).parent.glob(\"*.py\"))[:25]]'; done",
}


# The recording


def record(into: Path, work: Path) -> None:
    """Runs programs, and the agent beside them."""
    (work / "p.c").write_text(C_PROGRAM)
    (work / "service.py").write_text(SERVICE_PROGRAM)
    (work / SERVICE).symlink_to(Path("/usr/bin/python3").resolve())
    running = [subprocess.Popen([work / SERVICE, "service.py"], cwd=work, process_group=0)]
    for name, loop in LOOPS.items():
        if shutil.which(name):
            running.append(subprocess.Popen(["sh", "-c", loop], cwd=work, process_group=0, stderr=subprocess.DEVNULL))
    try:
        agent = [sys.executable, "-m", "trimtab.components.profiling.agent", str(into)]
        subprocess.run(
            [*agent, "--hz", str(RECORD_HZ), "--seconds", str(RECORD_S)],
            check=True, stdout=subprocess.DEVNULL, timeout=20 * RECORD_S,
        )  # fmt: skip
    finally:
        for one in running:
            os.killpg(one.pid, 9)
            one.wait()


class Recorded:
    """All samples of a recording, in columns: the frames of stack i are `flat[offsets[i]:offsets[i + 1]]`, leaf first."""

    def __init__(self, root: Path) -> None:
        known: dict[Frame, int] = {}
        stacks: list[list[int]] = []
        self.programs: list[str] = []
        self.times: list[int] = []
        executables: dict[str, str] = {}
        for path in sorted((root / "incoming").glob("*.batch")):
            batch = read(path)
            numbers = [known.setdefault(frame, len(known)) for frame in batch.frames]
            for sample in batch.samples:
                labels = batch.labels[sample.labels]
                program = labels.get("process", "kernel")
                executables.setdefault(program, labels.get("executable", ""))
                for _ in range(sample.count):
                    stacks.append([numbers[index] for index in batch.stacks[sample.stack]])
                    self.programs.append(program)
                    self.times.append(batch.start)
        if not stacks:
            raise SystemExit(f"{root}: nothing was recorded: root and BPF are needed, or --recorded DIR")
        self.executables = executables
        self.frames = list(known)
        self.offsets = np.cumsum([0, *map(len, stacks)])
        self.flat = np.array([index for stack in stacks for index in stack], np.int64)
        self.distinct = len({tuple(stack) for stack in stacks}) / len(stacks)
        self.depth = len(self.flat) / len(stacks)


class Machine:
    """The day, batch by batch."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.random = np.random.default_rng(7)
        names = sorted(set(recorded.programs))
        self.names = names
        self.program = np.array([names.index(name) for name in recorded.programs])
        self.time = np.array(recorded.times)
        self.short = np.array([name not in (SERVICE, "kernel") and not name.startswith("kworker") for name in names])
        self.leaf_native = np.array([f.kind == "native" for f in recorded.frames])
        self.pid = 1000

    def batch(self, start: int) -> Batch:
        chosen = self._chosen(start)
        of, labels = self._labels(self.program[chosen])
        flat, offsets, frames = self._stacks(chosen)
        counts = Counter((who, tuple(flat[offsets[i] : offsets[i + 1]].tolist())) for i, who in enumerate(of))
        stacks: dict[tuple[int, ...], int] = {}
        samples = [
            Sample(0, who, stacks.setdefault(stack, len(stacks)), count * PERIOD_NS, count)
            for (who, stack), count in counts.items()
        ]
        return Batch(
            start=start, source="agent", types=[SampleType("cpu", "nanoseconds")], labels=labels, frames=frames,
            stacks=[list(stack) for stack in stacks], samples=samples,
        )  # fmt: skip

    def _chosen(self, start: int) -> np.ndarray:
        """Samples of one stretch and of all, by programs that are more or less busy at that hour."""
        hour = np.random.default_rng(start // 3600)
        weight = hour.gamma(1.5, size=len(self.names))[self.program]
        weight *= np.where(self.time == self.random.choice(self.time), 4.0, 1.0)
        return self.random.choice(len(self.program), A_BATCH, p=weight / weight.sum())

    def _labels(self, programs: np.ndarray) -> tuple[list[int], list[dict[str, str]]]:
        known: dict[tuple[int, int], int] = {}
        labels: list[dict[str, str]] = []
        of = []
        for index, program in enumerate(programs.tolist()):
            lives = index // 40 if self.short[program] else 0
            if (program, lives) not in known:
                known[program, lives] = len(labels)
                labels.append(self._of(program))
            of.append(known[program, lives])
        return of, labels

    def _of(self, program: int) -> dict[str, str]:
        name = self.names[program]
        self.pid += bool(self.short[program])
        pid = self.pid if self.short[program] else 500 + program
        labels = {"node": "node-1", "process": name, "pid": str(pid)}
        if executable := self.recorded.executables[name]:
            labels["executable"] = executable
        if name == SERVICE:
            labels |= {"namespace": "default", "pod": f"{SERVICE}-5d8f7c9b4-x2x4z", "container": "app", "app": SERVICE}
            labels["image"] = "sha256:" + "5" * 64
        return labels

    def _stacks(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Frame]]:
        recorded = self.recorded
        lengths = recorded.offsets[chosen + 1] - recorded.offsets[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        flat = recorded.flat[np.repeat(recorded.offsets[chosen], lengths) + within]
        used, flat = np.unique(flat, return_inverse=True)
        frames = [recorded.frames[index] for index in used.tolist()]
        varied: dict[Frame, int] = {}
        shift = (4 * self.random.integers(-16, 17, len(chosen))).tolist()
        for at, length, by in zip(offsets[:-1].tolist(), lengths.tolist(), shift, strict=True):
            if not length:
                continue
            leaf = frames[flat[at]]
            if leaf.kind == "native" and leaf.address + by > 0:
                moved = msgspec.structs.replace(leaf, address=leaf.address + by)
                flat[at] = varied.setdefault(moved, len(frames) + len(varied))
        return flat, offsets, frames + list(varied)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="profiling-") as directory:
        record(Path(sys.argv[1]), Path(directory))
