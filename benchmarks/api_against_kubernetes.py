"""The embedded API server beside the real one, kube-apiserver with etcd, in one run on the same machine.

    python benchmarks/api_against_kubernetes.py [--quick] [--programs DIR]

Both are started on empty directories, spoken to over TLS by the same load program (`load/load.go`), and made to sync every
write. Each figure is measured on one and then on the other, round by round, so that the noise of the machine hits both; medians
are printed. Beside a rate stands what a call cost the server in CPU time, which a busy machine changes least. The real server
runs without its controllers (the embedded one has its own inside), so what is printed for it is the least that it needs.

`.ci/kubernetes` builds the programs (Go; a quarter of an hour, once) unless `--programs` names their directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from api_process import ApiProcess  # noqa: E402
from kubernetes_process import KubernetesProcess  # noqa: E402

SETTLE_S = 5.0
"""After a start or a lot of writes, before memory is looked at."""
IDLE_S = 10.0
NAMESPACE = "bench"
OBJECTS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
LISTED = "/api/v1/namespaces/listed/configmaps"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
VALUE = "x" * 300
JSON_TYPE = "application/json"
TABLE_TYPE = "application/json;as=Table;v=v1;g=meta.k8s.io"
APPLY_TYPE = "application/apply-patch+yaml"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True)
class Size:
    """How long a run looks."""

    boots: int
    rounds: int
    seconds: float
    watchers: int
    writes: int
    many: int
    crds: int
    mixed_s: float


FULL = Size(boots=3, rounds=3, seconds=2.0, watchers=1000, writes=15, many=100_000, crds=2000, mixed_s=12.0)
QUICK = Size(boots=1, rounds=1, seconds=1.5, watchers=200, writes=5, many=0, crds=0, mixed_s=5.0)


@dataclass
class Side:
    """One of the two servers."""

    name: str
    process: ApiProcess | KubernetesProcess
    load: Path
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(0, 10**12, 10**6)))
    """First numbers of the names that a measurement makes."""

    def pids(self) -> list[int]:
        if isinstance(self.process, KubernetesProcess):
            return self.process.pids()
        assert self.process.process is not None
        return [self.process.process.pid]

    def cpu_s(self) -> float:
        ticks = 0
        for pid in self.pids():
            parts = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            ticks += int(parts[11]) + int(parts[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> tuple[float, float]:
        """RSS and PSS of its processes together."""
        sums = {"Rss": 0, "Pss": 0}
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, _, rest = line.partition(":")
                if name in sums:
                    sums[name] += int(rest.split()[0])
        return sums["Rss"] / 1024, sums["Pss"] / 1024

    def measure(
        self, *groups: dict[str, Any], between: Callable[[], None] | None = None, **plan: Any
    ) -> list[Measured]:
        """Runs a plan of the load program; `between` is called when all is connected and nothing asked yet."""
        first = next(self.numbers)
        whole = {"address": f"127.0.0.1:{self.process.port}", "ca": str(self.process.folder / "ca.crt")}
        whole |= {"token": self.process.token, **plan}
        whole["groups"] = [
            {"accept": JSON_TYPE, "content_type": JSON_TYPE, "clients": 1, "from": first, **group} for group in groups
        ]
        with subprocess.Popen([self.load], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            print(json.dumps(whole), file=program.stdin, flush=True)
            assert program.stdout.readline() == "connected\n", f"{self.name}: no load could be made"
            if between is not None:
                between()
            before = self.cpu_s()
            print(file=program.stdin, flush=True)
            answer = program.stdout.readline()
            cpu_s = self.cpu_s() - before
        assert answer, f"{self.name}: the load ended early"
        results = json.loads(answer)
        calls = sum(result["calls"] for result in results)
        return [Measured(**result, cpu_us=cpu_s / max(calls, 1) * 1e6) for result in results]

    def ask(self, method: str, path: str, body: Any = None, accept: str = JSON_TYPE, calls: int = 1) -> Measured:
        """So many calls of one client."""
        [measured] = self.measure(
            {"name": path, "method": method, "path": path, "body": _body(body), "calls": calls, "accept": accept}
        )
        return measured

    def fill(self, path: str, body: str, count: int, clients: int = 64) -> Measured:
        """Creates so many objects."""
        group = {"name": path, "method": "POST", "path": path, "body": body, "calls": count, "clients": clients}
        [measured] = self.measure(group)
        return measured


@dataclass(frozen=True)
class Measured:
    """What the load program says of a group; cpu_us is the server's, for each call of the whole plan."""

    name: str
    calls: int
    took_s: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    bytes: int
    cpu_us: float

    @property
    def rate(self) -> float:
        return self.calls / self.took_s


def _body(value: Any) -> str:
    return "" if value is None else json.dumps(value)


class Table:
    """What was measured, printed as it comes."""

    def __init__(self) -> None:
        print(f"| {'what':<66} | {'trimtab':>12} | {'kubernetes':>12} | {'ratio':>7} |")
        print(f"|{'-' * 68}|{'-' * 13}:|{'-' * 13}:|{'-' * 8}:|")

    def row(self, what: str, ours: Sequence[float], theirs: Sequence[float], digits: int = 1) -> None:
        """Medians, and ours through theirs."""
        one, other = statistics.median(ours), statistics.median(theirs)
        ratio = f"{one / other:.2f}" if other else ""
        print(f"| {what:<66} | {one:>12,.{digits}f} | {other:>12,.{digits}f} | {ratio:>7} |", flush=True)


@contextmanager
def _pair(load: Path, programs: Path) -> Iterator[tuple[Side, Side]]:
    """Both servers on empty directories, not started; ended and gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="api-against-kubernetes-"))
    for name in ("trimtab", "kubernetes"):
        (folder / name).mkdir()
    ours = ApiProcess(folder / "trimtab", tls=True)
    theirs = KubernetesProcess(folder / "kubernetes", programs, durable=True, controllers=False)
    try:
        yield Side("trimtab", ours, load), Side("kubernetes", theirs, load)
    finally:
        ours.close()
        theirs.close()
        shutil.rmtree(folder)


def _start(side: Side) -> float:
    began = time.perf_counter()
    side.process.start()
    return time.perf_counter() - began


def boots(table: Table, size: Size, load: Path, programs: Path) -> None:
    took: list[list[float]] = [[], []]
    for _ in range(size.boots):
        with _pair(load, programs) as pair:
            for i, side in enumerate(pair):
                took[i].append(_start(side))
    table.row("boot on an empty directory to ready, s", *took, digits=2)


def memory(table: Table, what: str, pair: tuple[Side, Side]) -> None:
    time.sleep(SETTLE_S)
    ours, theirs = (side.memory_mb() for side in pair)
    table.row(f"memory {what}, RSS MB", [ours[0]], [theirs[0]])
    table.row(f"memory {what}, PSS MB", [ours[1]], [theirs[1]])


def idle(table: Table, pair: tuple[Side, Side]) -> None:
    before = [side.cpu_s() for side in pair]
    time.sleep(IDLE_S)
    used = [100 * (side.cpu_s() - b) / IDLE_S for side, b in zip(pair, before, strict=True)]
    table.row("idle, % of a core", [used[0]], [used[1]], digits=2)


def calls(table: Table, size: Size, pair: tuple[Side, Side], what: str, **group: Any) -> None:
    """A rate, its latencies and its cost."""
    found: list[list[Measured]] = [[], []]
    for _ in range(size.rounds):
        for i, side in enumerate(pair):
            found[i] += side.measure({"name": what, **group}, seconds=size.seconds)
    table.row(f"{what}, /s", *([m.rate for m in side] for side in found), digits=0)
    table.row(f"{what}, p50 ms", *([m.p50_ms for m in side] for side in found), digits=2)
    table.row(f"{what}, p99 ms", *([m.p99_ms for m in side] for side in found), digits=2)
    table.row(f"{what}, server CPU us each", *([m.cpu_us for m in side] for side in found), digits=0)


def lists(table: Table, size: Size, pair: tuple[Side, Side]) -> None:
    for what, path, accept in (
        ("list of 10,000, JSON", LISTED, JSON_TYPE),
        ("list of 10,000, Table", LISTED, TABLE_TYPE),
        ("list of 500 of them, JSON", f"{LISTED}?limit=500", JSON_TYPE),
        ("list of 500 of them, Table", f"{LISTED}?limit=500", TABLE_TYPE),
    ):
        found: list[list[Measured]] = [[], []]
        for _ in range(size.rounds):
            for i, side in enumerate(pair):
                found[i].append(side.ask("GET", path, accept=accept, calls=5))
        table.row(f"{what}, ms", *([m.p50_ms for m in side] for side in found))
        table.row(f"{what}, server CPU ms", *([m.cpu_us / 1e3 for m in side] for side in found))


def fan_out(table: Table, size: Size, pair: tuple[Side, Side]) -> None:
    """One write until the last watcher has it."""
    collection = "/api/v1/namespaces/watched/configmaps"
    found: list[Measured] = []
    held: list[float] = []
    for side in pair:
        side.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "watched"}})

        def look(side: Side = side) -> None:
            held.append(side.memory_mb()[0])

        write = {"name": "fan-out", "method": "POST", "path": collection, "body": CONFIG_MAP}
        watch = f"{collection}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
        found += side.measure(write, between=look, watchers=size.watchers, watch=watch, rounds=size.writes)
    ours, theirs = found
    table.row(f"a write until the last of {size.watchers:,} watchers has it, ms", [ours.p50_ms], [theirs.p50_ms])
    table.row("  the worst, ms", [ours.worst_ms], [theirs.worst_ms])
    table.row("  server CPU ms a write", [ours.cpu_us / 1e3], [theirs.cpu_us / 1e3])
    table.row("  memory with them, RSS MB", [held[0]], [held[1]])


def mixed(table: Table, size: Size, pair: tuple[Side, Side]) -> None:
    """The same calls at the same pace on both; latencies count from when a call was due."""
    groups = [
        {"name": "GET, 200/s", "method": "GET", "path": f"{OBJECTS}/bench", "clients": 10, "interval_ms": 50},
        {
            "name": "create, 50/s",
            "method": "POST",
            "path": OBJECTS,
            "body": CONFIG_MAP,
            "clients": 5,
            "interval_ms": 100,
        },
        {"name": "apply, 50/s", **APPLY_DEPLOYMENT, "clients": 5, "interval_ms": 100},
        {"name": "list of 10,000, 1/s", "method": "GET", "path": LISTED, "interval_ms": 1000},
        {
            "name": "Table of 10,000, 1 in 2 s",
            "method": "GET",
            "path": LISTED,
            "accept": TABLE_TYPE,
            "interval_ms": 2000,
        },
    ]
    found = [side.measure(*groups, seconds=size.mixed_s) for side in pair]
    for ours, theirs in zip(*found, strict=True):
        table.row(f"all at once: {ours.name}: p50 ms", [ours.p50_ms], [theirs.p50_ms])
        table.row(f"all at once: {ours.name}: p99 ms", [ours.p99_ms], [theirs.p99_ms])
    cores = [100 * sum(m.calls for m in side) * side[0].cpu_us / 1e6 / size.mixed_s for side in found]
    table.row("all at once: % of a core", [cores[0]], [cores[1]], digits=0)


CONFIG_MAP = json.dumps({"metadata": {"name": "c{n}"}, "data": {"v": VALUE}})
_LABELS = {"app": "web-{c}"}
APPLY_CONFIG_MAP = {
    "method": "PATCH",
    "path": f"{OBJECTS}/apply-{{c}}?fieldManager=bench&force=true",
    "content_type": APPLY_TYPE,
    "body": json.dumps(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "apply-{c}"}, "data": {"v": "{n}" + VALUE}}
    ),
}
APPLY_DEPLOYMENT = {
    "method": "PATCH",
    "path": f"{DEPLOYMENTS}/web-{{c}}?fieldManager=bench&force=true",
    "content_type": APPLY_TYPE,
    "body": json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web-{c}", "labels": _LABELS, "annotations": {"example.com/number": "{n}"}},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": _LABELS},
                "template": {
                    "metadata": {"labels": _LABELS},
                    "spec": {
                        "containers": [
                            {
                                "name": "web",
                                "image": "registry.example.com/web:{n}",
                                "ports": [{"containerPort": 8080, "name": "http"}],
                                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "{n}"}],
                                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                            }
                        ]
                    },
                },
            },
        }
    ),
}
_NAMES = {"plural": "things{n}", "singular": "thing{n}", "kind": "Thing{n}", "listKind": "Thing{n}List"}
CRD = json.dumps(
    {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things{n}.bench.example.com"},
        "spec": {
            "group": "bench.example.com",
            "names": _NAMES,
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                part: {
                                    "type": "object",
                                    "properties": {
                                        f"field{i}": {
                                            "type": "string",
                                            "description": f"What field {i} of {part} is for.",
                                        }
                                        for i in range(20)
                                    },
                                }
                                for part in ("spec", "status")
                            },
                        }
                    },
                }
            ],
        },
    }
)


def rates(table: Table, size: Size, pair: tuple[Side, Side]) -> None:
    for clients in (1, 32):
        calls(table, size, pair, f"GET, {clients} clients", method="GET", path=f"{OBJECTS}/bench", clients=clients)
    for clients in (1, 32, 128):
        what = f"durable create, {clients} clients"
        calls(table, size, pair, what, method="POST", path=OBJECTS, body=CONFIG_MAP, clients=clients)
    calls(table, size, pair, "server-side apply of a ConfigMap, 8 clients", **APPLY_CONFIG_MAP, clients=8)
    calls(table, size, pair, "server-side apply of a Deployment, 8 clients", **APPLY_DEPLOYMENT, clients=8)


def definitions(table: Table, size: Size, load: Path, programs: Path) -> None:
    """Many CRDs, on servers of their own."""
    with _pair(load, programs) as pair:
        for side in pair:
            _start(side)
        before = [side.memory_mb()[0] for side in pair]
        made = [side.fill(CRDS, CRD, size.crds, clients=8) for side in pair]
        table.row(f"making {size.crds:,} CRDs, s", [made[0].took_s], [made[1].took_s])
        memory(table, f"with {size.crds:,} CRDs", pair)
        each = [(side.memory_mb()[0] - b) * 1024 / size.crds for side, b in zip(pair, before, strict=True)]
        table.row("  a CRD, kB", [each[0]], [each[1]])
        found = [side.ask("GET", "/api/v1/namespaces/default", calls=500) for side in pair]
        table.row("  GET p99 right afterwards, ms", [found[0].p99_ms], [found[1].p99_ms], digits=2)


def many(table: Table, size: Size, pair: tuple[Side, Side]) -> None:
    """The same with a lot more objects."""
    for number in range(10):
        for side in pair:
            side.ask("POST", "/api/v1/namespaces", {"metadata": {"name": f"many-{number}"}})
            side.fill(f"/api/v1/namespaces/many-{number}/configmaps", CONFIG_MAP, size.many // 10)
    memory(table, f"with {size.many:,} objects more", pair)
    calls(table, size, pair, "  GET, 32 clients", method="GET", path=f"{OBJECTS}/bench", clients=32)
    calls(table, size, pair, "  durable create, 32 clients", method="POST", path=OBJECTS, body=CONFIG_MAP, clients=32)
    took = []
    for side in pair:
        side.process.kill()
        took.append(_start(side))
    table.row("  kill -9, and ready again, s", [took[0]], [took[1]], digits=2)


def run(size: Size, load: Path, programs: Path) -> None:
    table = Table()
    boots(table, size, load, programs)
    with _pair(load, programs) as pair:
        for side in pair:
            _start(side)
        memory(table, "empty", pair)
        idle(table, pair)
        for side in pair:
            for namespace in (NAMESPACE, "listed"):
                side.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            side.ask("POST", OBJECTS, {"metadata": {"name": "bench"}, "data": {"v": VALUE}})
            side.fill(LISTED, CONFIG_MAP, 10_000)
        memory(table, "with 10,000 objects", pair)
        lists(table, size, pair)
        fan_out(table, size, pair)
        mixed(table, size, pair)
        rates(table, size, pair)
        if size.many:
            many(table, size, pair)
    if size.crds:
        definitions(table, size, load, programs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short look: few rounds, no 100,000 objects, no CRDs")
    parser.add_argument("--programs", type=Path, help="where kube-apiserver is")
    arguments = parser.parse_args()
    programs = arguments.programs or Path(
        subprocess.run([ROOT / ".ci" / "kubernetes"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; {programs.name}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        load = Path(folder) / "load"
        subprocess.run(["go", "build", "-o", load, Path(__file__).parent / "load" / "load.go"], check=True)
        run(QUICK if arguments.quick else FULL, load, programs)
    print(f"load {os.getloadavg()[0]:.1f} at the end; took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
