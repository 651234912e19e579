"""What 2,000 CustomResourceDefinitions cost an API server: memory, boot, reads of other kinds, the first use of one.

    python benchmarks/crds.py [COUNT]

Starts the real process twice on directories of its own, one empty and one with COUNT definitions of about 6 kB, each with validation
rules, and compares the two in the same run: the machine is as busy for the one as for the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from api_process import ApiProcess
from api_server import Connection

COUNT = 2000
WRITERS = 8
BOOTS = 5
GETS = 2000
FIELDS = 24
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MAP = "/api/v1/namespaces/default/configmaps"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as full:
        servers = [ApiProcess(Path(empty)), ApiProcess(Path(full))]
        try:
            servers[1].start()
            took = asyncio.run(_fill(servers[1], count))
            servers[1].stop()
            size = len(json.dumps(definition(0)))
            print(f"{count:,} definitions of {size:,} bytes written by {WRITERS} clients in {took:.1f} s")
            _compare(servers, count)
        finally:
            for server in servers:
                server.close()


def definition(number: int) -> dict[str, object]:
    """A definition with some fields, texts and rules."""
    text = {
        "type": "string",
        "maxLength": 64,
        "description": "What this field means, in a sentence of usual length." * 2,
    }
    spec = {
        "type": "object",
        "properties": {f"field{i}": text for i in range(FIELDS)},
        "x-kubernetes-validations": [{"rule": "self.field0 != self.field1", "message": "must differ"}],
    }
    schema = {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "properties": {"x": text}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    version["subresources"] = {"status": {}}
    version["additionalPrinterColumns"] = [{"name": "First", "type": "string", "jsonPath": ".spec.field0"}]
    group = f"g{number % 50}.bench.example"
    names = {"plural": f"things{number}", "kind": f"Thing{number}"}
    spec_ = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": f"things{number}.{group}"}, "spec": spec_}


async def _fill(server: ApiProcess, count: int) -> float:
    numbers = iter(range(count))

    async def write() -> None:
        connection = await Connection.open(server)
        for number in numbers:
            status, answer = await connection.call("POST", CRDS, json.dumps(definition(number)).encode())
            assert status == 201, answer
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(WRITERS)))
    return time.perf_counter() - began


def _compare(servers: list[ApiProcess], count: int) -> None:
    boots: list[list[float]] = [[], []]
    for _ in range(BOOTS):
        for taken, server in zip(boots, servers, strict=True):
            began = time.perf_counter()
            server.start()
            taken.append(time.perf_counter() - began)
            server.stop()
    for server in servers:
        server.start()
    plain, loaded = (statistics.median(taken) for taken in boots)
    print(f"boot to ready: {plain:.3f} s without, {loaded:.3f} s with: {loaded / plain:.2f} times")
    memory = [_pss_kb(server) for server in servers]
    each = (memory[1] - memory[0]) / count
    print(f"memory after boot: {memory[0] / 1024:.1f} MB without, {memory[1] / 1024:.1f} MB with: {each:.1f} kB each")
    asyncio.run(_requests(servers, count))
    print(f"memory after that: {_pss_kb(servers[0]) / 1024:.1f} MB without, {_pss_kb(servers[1]) / 1024:.1f} MB with")


def _pss_kb(server: ApiProcess) -> int:
    assert server.process is not None
    for line in Path(f"/proc/{server.process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


async def _requests(servers: list[ApiProcess], count: int) -> None:
    connections = [await Connection.open(server) for server in servers]
    for connection in connections:
        await connection.call("POST", MAP, b'{"metadata":{"name":"bench"},"data":{"v":"x"}}')
    taken: list[list[float]] = [[], []]
    for _ in range(GETS):
        for times, connection in zip(taken, connections, strict=True):
            began = time.perf_counter()
            status, _ = await connection.call("GET", f"{MAP}/bench")
            times.append(time.perf_counter() - began)
            assert status == 200
    plain, loaded = (statistics.median(times) * 1e6 for times in taken)
    print(f"GET of a ConfigMap: {plain:.0f} us without, {loaded:.0f} us with: {loaded / plain:.2f} times (medians)")
    for path in ("/apis", "/openapi/v3", f"/apis/g{1}.bench.example/v1"):
        began = time.perf_counter()
        status, body = await connections[1].call("GET", path)
        print(f"GET {path}: {status}, {len(body) / 1024:.0f} kB in {(time.perf_counter() - began) * 1e3:.1f} ms")
    uses = []
    for number in range(min(20, count)):
        thing = {"metadata": {"name": "t"}, "spec": {"field0": "a", "field1": "b"}}
        path = f"/apis/g{number % 50}.bench.example/v1/namespaces/default/things{number}"
        for _ in range(2):
            began = time.perf_counter()
            status, answer = await connections[1].call("POST", path, json.dumps(thing).encode())
            assert status == 201, answer
            uses.append(time.perf_counter() - began)
            thing["metadata"] = {"name": "u"}
    first, second = uses[0], statistics.median(uses[1::2])
    others = statistics.median(uses[2::2])
    print(
        f"first use of a kind with rules: {first * 1e3:.1f} ms the very first (loads CEL), {others * 1e3:.1f} ms others"
    )
    print(f"second use: {second * 1e3:.1f} ms; the first is {others / second:.1f} times that (both durable creates)")
    for connection in connections:
        connection.close()


if __name__ == "__main__":
    main()
