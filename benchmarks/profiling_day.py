"""A day of a busy 2-core machine in the store, and how quickly it is asked, by HTTP as the page asks.

    python benchmarks/profiling_day.py [--hours 24] [--data DIR] [--recorded DIR]

many programs --agent, 199 Hz--> batches --varied, time-shifted--> 8,640 batches of 380 samples --append, roll up--> the day --> questions

The agent records this machine while a service, a compiler, interpreters, sorters and archivers run (root and BPF; else give batches by
--recorded). A batch of the day takes stacks of one stretch of the recording, with programs that are busy at different hours; programs
that live for seconds get new pids, and the place in the leaf's function is varied by 64 bytes, so that most stacks of an hour differ, as
in a recording. Each batch is appended durably and the roll-up runs every five minutes of the day, as in the engine. The last five
minutes are left as batches.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import numpy as np

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, read
from trimtab.components.profiling.formats import pprof
from trimtab.components.profiling.storage.contents import contents
from trimtab.components.profiling.storage.segment import hours
from trimtab.components.profiling.storage.store import Profiles, Query

HZ, CPUS, PERIOD_NS = 19, 2, 52_631_579
A_BATCH = HZ * CPUS * 10
DAY_S = 86_400
ROLL_UP_S = 300
RECORD_S, RECORD_HZ = 25, 199
SERVICE = "shipnotes"
UID = "00000000-0000-0000-0000-000000000000"
MANY = 40
RSS_MAX_MIB = 512

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


# The day


class Nameless:
    """Names nothing, as a profiler that leaves names to its server."""

    class Named(msgspec.Struct):
        lines: list[object] = []

    def names(self, frames: Sequence[Frame]) -> list[Nameless.Named]:
        return [self.Named()] * len(frames)


def as_pprof(batch: Batch) -> int:
    """Bytes of a gzipped pprof file of it, without labels and names."""
    with tempfile.TemporaryDirectory() as directory:
        alone = Profiles(Path(directory))
        alone.append(batch)
        return len(pprof.encode(alone.select(Query(start=batch.start, end=batch.start + 10)), Nameless()))


def fill(root: Path, recorded: Recorded, begin: int, duration_s: int) -> None:
    """The agent's part here and the roll-up's in a process of its own, which is one run behind at most."""
    machine, store = Machine(recorded), Profiles(root)
    context = get_context("spawn")
    orders, done = context.JoinableQueue(1), context.Queue()
    roller = context.Process(target=roll_ups, args=(root, orders, done), daemon=True)
    roller.start()
    entropy, spent = 0, 0.0
    peer: list[int] = []
    for start in range(begin, begin + duration_s, 10):
        batch = machine.batch(start)
        entropy += len(batch.stacks)
        before = time.process_time()
        store.append(batch)
        spent += time.process_time() - before
        if start % 1200 == 0:
            peer.append(as_pprof(batch))
        if (start + 10) % ROLL_UP_S == 0 and start + 10 < begin + duration_s:
            orders.put(start + 10)
            if start + 10 == begin + duration_s - ROLL_UP_S:
                orders.join()
    orders.put(0)
    print(
        f"the same as a gzipped pprof file each 10 s: {np.mean(peer) / A_BATCH:.0f} bytes a sample, without labels and names"
    )
    cpu, longest, runs, peak = done.get()
    roller.join()
    batches = duration_s // 10
    incoming_bytes = sum(path.stat().st_size for path in contents(root).batches)
    waiting = len(contents(root).batches)
    print(
        f"the day: {batches * A_BATCH:,} samples in {batches:,} batches; {entropy / batches / A_BATCH:.2f} of a batch's stacks differ"
    )
    print(
        f"append: {1000 * spent / batches:.1f} ms of CPU a batch; {incoming_bytes / max(1, waiting * A_BATCH):.0f} bytes a sample until rolled up"
    )
    print(
        f"roll-up: {runs} runs, {cpu:.0f} s of CPU ({100 * cpu / duration_s:.2f} % of a core without the start of each process), "
        f"longest {longest:.2f} s, peak RSS {peak} MiB"
    )


def roll_ups(root: Path, orders: Any, done: Any) -> None:
    """Rolls up at each time that is ordered, until 0."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    store, cpu, longest, runs = Profiles(root), 0.0, 0.0, 0
    while now := orders.get():
        before = time.process_time()
        store.roll_up(now)
        orders.task_done()
        took = time.process_time() - before
        cpu, longest, runs = cpu + took, max(longest, took), runs + 1
    done.put((cpu, longest, runs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10))


def sizes(root: Path, duration_s: int) -> None:
    by_table: Counter[str] = Counter()
    samples = 0
    for segments in contents(root).segments.values():
        if len(segments) == 1:
            samples += segments[0].about.events
            for file in segments[0].path.iterdir():
                by_table[file.stem] += file.stat().st_size
    if not samples:
        return
    total = sum(by_table.values()) / samples
    parts = ", ".join(f"{name} {size / samples:.2f}" for name, size in by_table.most_common())
    whole = sum(file.stat().st_size for file in hours(root).rglob("*") if file.is_file())
    print(f"hours: {total:.1f} bytes a sample ({parts}); all of {duration_s / 3600:.0f} h {whole / 1e6:.0f} MB")


# Questions


class Server:
    """The query server as the engine starts it, but for its isolation."""

    def __init__(self, root: Path) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        self.port = listening.getsockname()[1]
        code = (
            "import asyncio, socket, sys\nfrom pathlib import Path\nfrom trimtab.components.profiling import served\n"
            "asyncio.run(served.serve(Path(sys.argv[1]), [socket.socket(fileno=int(sys.argv[2]))], []))"
        )
        command = [sys.executable, "-c", code, str(root), str(listening.fileno())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])
        listening.close()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        self.together_mib = 0
        self.watching = threading.Thread(target=self.watch)
        self.watching.start()

    def ask(self, **parameters: object) -> bytes:
        self.connection.request("GET", f"/{UID}/query?{urlencode(parameters)}")
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{parameters}: {answer.status} {body.decode(errors='replace').strip()}")
        return body

    def pids(self) -> list[int]:
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with suppress(OSError):
                    todo += map(int, task.read_text().split())
        return found

    def cpu_s(self) -> float:
        """Of the server and its sandboxes, those that ended too."""
        ticks = 0
        for pid in self.pids():
            with suppress(OSError):
                parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(part) for part in parts[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def watch(self) -> None:
        """What the server and its sandboxes have resident, a hundred times a second, until it ends."""
        while self.process.poll() is None:
            kilobytes = 0
            for pid in self.pids():
                with suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    kilobytes += int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
            self.together_mib = max(self.together_mib, kilobytes >> 10)
            time.sleep(0.01)

    def rss_mib(self) -> int:
        """The server's peak."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10

    def end(self) -> None:
        self.connection.close()
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)
        self.watching.join()


def percentile(times: Sequence[float], part: float) -> str:
    return f"{1000 * float(np.percentile(times, part)):.0f}"


def timed(server: Server, title: str, many: int, goal_s: float, question: Callable[[], dict[str, object]]) -> None:
    wall, size, nodes = [], 0, 0
    spent = server.cpu_s()
    for _ in range(many):
        before = time.perf_counter()
        body = server.ask(**question())
        wall.append(time.perf_counter() - before)
        size, nodes = len(body), len(json.loads(body).get("parent", ()))
    each = (server.cpu_s() - spent) / many
    p95 = float(np.percentile(wall, 95))
    verdict = f" ({'within' if p95 < goal_s else 'NOT within'} {goal_s:.1f} s)" if goal_s else ""
    print(
        f"{title}: wall p50 {percentile(wall, 50)} ms, p95 {percentile(wall, 95)} ms{verdict}; CPU {1000 * each:.0f} ms; "
        f"{many} asked, {nodes:,} nodes, {size >> 10} KiB; server's RSS {server.rss_mib()} MiB at most"
    )
    sys.stdout.flush()


def said(server: Server, when: str) -> None:
    within = "within" if server.rss_mib() <= RSS_MAX_MIB else "NOT within"
    print(
        f"memory, {when}: the server {server.rss_mib()} MiB at most ({within} {RSS_MAX_MIB} MiB), "
        f"with the sandboxes that it runs {server.together_mib} MiB"
    )


def ask(root: Path, begin: int, duration_s: int) -> None:
    chance, end = random.Random(3), begin + duration_s
    one = {"view": "tree", "selector": f'app="{SERVICE}"'}
    before = time.perf_counter()
    server = Server(root)
    try:
        server.ask(**one, start=end - 3600, end=end)
        print(f"the first question, from the start of the server: {1000 * (time.perf_counter() - before):.0f} ms")
        while b"being looked for" in server.ask(view="tree", start=end - 1800, end=end):
            time.sleep(0.2)  # the names of programs that were never asked for

        def hour() -> dict[str, object]:
            start = begin + 10 * chance.randrange(max(1, (duration_s - 3600) // 10))
            return {**one, "start": start, "end": start + 3600}

        timed(server, "one service, any hour", MANY, 0.2, hour)
        timed(server, "one service, the last hour", MANY // 2, 0.2, lambda: {**one, "start": end - 3600, "end": end})
        timed(server, "one service, the day", 12, 2.0, lambda: {**one, "start": begin, "end": end})
        timed(server, "its table of functions, any hour", MANY // 2, 0, lambda: hour() | {"view": "top"})
        timed(server, "diff of two hours", MANY // 4, 0, lambda: hour() | {"view": "diff"})
        said(server, "until here")
        timed(server, "every process, any hour", 5, 0, lambda: hour() | {"selector": ""})
        timed(server, "every process, the day", 1, 0, lambda: {**one, "selector": "", "start": begin, "end": end})
        said(server, "in all")
    finally:
        server.end()


# What goes wrong


def housekeeping(root: Path, work: Path, begin: int, duration_s: int) -> None:
    """On a copy: a clock that jumps, less room than the day takes, a disk that is full."""
    copy, end, retention_s = work / "copy", begin + duration_s, 14 * DAY_S
    shutil.copytree(root, copy)
    store = Profiles(copy)
    there = len(contents(copy).segments)
    store.retain(end + 400 * DAY_S, retention_s, 1 << 40)
    left = len(contents(copy).segments)
    store.retain(end, retention_s, 1 << 40)
    assert len(contents(copy).segments) == left
    print(f"a clock 400 days ahead for one roll-up, and back: {left} of {there} hours are left")
    shutil.rmtree(copy)
    shutil.copytree(root, copy)
    half, before = whole_bytes(root) // 2, time.process_time()
    store.retain(end, retention_s, half)
    kept = contents(copy).segments
    assert whole_bytes(copy) <= half
    assert max(kept) == max(contents(root).segments), "the newest stay"
    took = 1000 * (time.process_time() - before)
    print(
        f"room for {half / 1e6:.0f} MB: {len(kept)} hours are left, {whole_bytes(copy) / 1e6:.0f} MB, {took:.0f} ms of CPU"
    )
    shutil.rmtree(copy)
    if os.geteuid() == 0:
        full(root, work / "disk", end)


def full(root: Path, disk: Path, end: int) -> None:
    """A disk of the day's size and a little more, while batches come in that nothing rolls up."""
    some = read(contents(root).batches[-1])
    events = sum(sample.count for sample in some.samples)
    disk.mkdir()
    size = whole_bytes(root) * 5 // 4 + (8 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        shutil.copytree(root, disk / "day")
        store = Profiles(disk / "day")
        many = 0
        while many < 200 or (many < 4000 and not lost(store, end, many)):
            store.append(msgspec.structs.replace(some, start=end + 10 * many))
            many += 1
        found = store.select(Query(start=end, end=end + 10 * many))
        counted, gone = int(found.counts.sum()), found.lost.get("no-room", 0)
        print(
            f"a disk that is full: {many} batches came in with no error, {counted:,} samples of them are there, {gone:,} are counted as lost, "
            f"of {many * events:,}"
        )
        store.retain(end, 14 * DAY_S, size * 3 // 5)
        store.roll_up(end + 10 * many)
        after = store.select(Query(start=end, end=end + 10 * many))
        assert int(after.counts.sum()) == counted
        print("once there is room, the roll-up has them all")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def lost(store: Profiles, end: int, many: int) -> int:
    """Asked once in a hundred."""
    return 0 if many % 100 else store.select(Query(start=end, end=end + 10 * many + 10)).lost.get("no-room", 0)


def whole_bytes(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--data", type=Path, help="keep the day here, or ask the one that is there")
    parser.add_argument("--recorded", type=Path, help="a directory with batches in incoming/, instead of recording")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    duration_s = 3600 * arguments.hours
    begin = (int(time.time()) - duration_s) // DAY_S * DAY_S
    with tempfile.TemporaryDirectory(prefix="profiling-day-") as directory:
        root = arguments.data or Path(directory, "day")
        if not (root / "hours").exists():
            recorded_at = arguments.recorded or Path(directory, "recorded")
            if not arguments.recorded:
                Path(directory, "work").mkdir()
                record(recorded_at, Path(directory, "work"))
            recorded = Recorded(recorded_at)
            print(
                f"recorded: {len(recorded.programs):,} samples of {len(set(recorded.programs))} programs, {len(recorded.frames):,} frames, "
                f"depth {recorded.depth:.0f}, {recorded.distinct:.2f} of the stacks differ"
            )
            fill(root, recorded, begin, duration_s)
        begin = min(contents(root).segments)
        sizes(root, duration_s)
        print(f"load {os.getloadavg()[0]:.1f}")
        ask(root, begin, duration_s)
        housekeeping(root, Path(directory), begin, duration_s)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
