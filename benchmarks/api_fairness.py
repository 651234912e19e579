"""Whether one greedy client of the API server starves others: a polite client's latency alone and beside it.

    python benchmarks/api_fairness.py [connections of the greedy one]

Two users over TLS, each in a process of its own. The polite one does one thing after the other, a hundredth of a second apart:
it reads an object, then writes one. The greedy one keeps all its connections busy, with one kind of request a round: reads, lists
of 500 objects as tables, writes, and new watches. Printed are the polite one's median, p99 and worst, and what the greedy one got.
The greedy process takes processor time from both: with two cores, the server and it have one each.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from api_process import ApiProcess

CONNECTIONS = 500
ROUND_S = 8.0
PAUSE_S = 0.01
OBJECTS = 500
COLLECTION = "/api/v1/namespaces/default/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
GREED = {
    "reads": ("GET", f"{COLLECTION}/o1", "*/*"),
    "tables of 500 objects": ("GET", COLLECTION, TABLE),
    "writes": ("PATCH", f"{COLLECTION}/o2", "*/*"),
    "new watches": (
        "GET",
        f"{COLLECTION}?watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name=o1",
        "*/*",
    ),
}


class Caller:
    """One connection over TLS as one user."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        self._context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self._port = port
        self._token = token

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context)

    async def call(self, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> int:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._token}\r\naccept: {accept}\r\n"
        head += f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in answer:
            while (size := int(await self._reader.readline(), 16)) > 0:
                await self._reader.readexactly(size + 2)
            await self._reader.readexactly(2)
        else:
            size = int(answer.partition(b"content-length: ")[2].partition(b"\r")[0])
            self.body = await self._reader.readexactly(size)
        return int(answer[9:12])

    def close(self) -> None:
        self._writer.close()


async def greedy(folder: Path, port: int, token: str, connections: int, what: str) -> None:
    """Prints how many answers of which status it got until its round is over."""
    method, path, accept = GREED[what]
    codes: dict[int, int] = {}
    callers = [Caller(folder, port, token) for _ in range(connections)]
    for caller in callers:
        await caller.open()
    print("open", flush=True)
    until = time.perf_counter() + ROUND_S + 1

    async def loop(caller: Caller) -> None:
        number = 0
        while time.perf_counter() < until:
            number += 1
            body = json.dumps({"data": {"n": f"{id(caller)}-{number}"}}).encode() if method == "PATCH" else b""
            code = await caller.call(method, path, body, accept)
            codes[code] = codes.get(code, 0) + 1

    await asyncio.gather(*(loop(caller) for caller in callers))
    for caller in callers:
        caller.close()
    print(json.dumps(codes))


async def polite(caller: Caller) -> dict[str, list[float]]:
    """Latencies in ms of reads and writes."""
    took: dict[str, list[float]] = {"read": [], "write": []}
    until = time.perf_counter() + ROUND_S
    number = 0
    while time.perf_counter() < until:
        for what, method in (("read", "GET"), ("write", "PATCH")):
            number += 1
            body = json.dumps({"data": {"n": str(number)}}).encode() if method == "PATCH" else b""
            began = time.perf_counter()
            code = await caller.call(method, f"{COLLECTION}/o0", body)
            took[what].append((time.perf_counter() - began) * 1000)
            assert code == 200, code
            await asyncio.sleep(PAUSE_S)
    return took


def told(took: dict[str, list[float]]) -> str:
    return ", ".join(
        f"{what} p50 {statistics.median(ms):.1f} p99 {statistics.quantiles(ms, n=100)[98]:.1f} worst {max(ms):.1f} ms"
        for what, ms in took.items()
    )


async def prepare(server: ApiProcess, folder: Path) -> tuple[str, str]:
    """Makes the objects and two users; returns their tokens."""
    assert server.port is not None
    admin = Caller(folder, server.port, server.token)
    await admin.open()
    value = {"text": "x" * 300}
    for number in range(OBJECTS):
        body = json.dumps({"metadata": {"name": f"o{number}"}, "data": value}).encode()
        assert await admin.call("POST", COLLECTION, body) == 201
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    tokens = []
    for name in ("polite", "greedy"):
        account = {"metadata": {"name": name}}
        await admin.call("POST", "/api/v1/namespaces/default/serviceaccounts", json.dumps(account).encode())
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]
        binding = {"metadata": {"name": name}, "roleRef": role, "subjects": subjects}
        bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        assert await admin.call("POST", bindings, json.dumps(binding).encode()) == 201
        path = f"/api/v1/namespaces/default/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        assert await admin.call("POST", path, json.dumps(request).encode()) == 201
        tokens.append(json.loads(admin.body)["status"]["token"])
    admin.close()
    return tokens[0], tokens[1]


async def measure(server: ApiProcess, folder: Path, connections: int) -> None:
    assert server.port is not None
    own, other = await prepare(server, folder)
    caller = Caller(folder, server.port, own)
    await caller.open()
    print(f"alone:                                {told(await polite(caller))}")
    for what in GREED:
        command = [sys.executable, __file__, "--greedy", str(folder), str(server.port), other, str(connections), what]
        process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        took = await polite(caller)
        answers = json.loads((await asyncio.to_thread(process.communicate))[0])
        rates = ", ".join(f"{count / (ROUND_S + 1):,.0f}/s of {code}" for code, count in sorted(answers.items()))
        print(f"beside {connections} loops of {what:<22}: {told(took)}; the greedy one got {rates}")
    caller.close()


def main() -> None:
    if sys.argv[1:2] == ["--greedy"]:
        folder, port, token, connections, what = sys.argv[2:]
        asyncio.run(greedy(Path(folder), int(port), token, int(connections), what))
        return
    connections = int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at the start")
    with tempfile.TemporaryDirectory() as name:
        server = ApiProcess(Path(name), tls=True)
        server.start()
        try:
            asyncio.run(measure(server, Path(name), connections))
        finally:
            server.stop()
    print(f"load {os.getloadavg()[0]:.2f} at the end")


if __name__ == "__main__":
    main()
