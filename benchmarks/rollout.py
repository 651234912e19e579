"""Does a rollout drop or double a request? Closed-loop clients against one address while pods are replaced, counted honestly.

40 clients, half on one connection each, half with a new connection per request; 30 % are POSTs with an id of their own. No
client repeats anything: a refused connection, a reset, a torn answer, a status other than 200 is a failure, also on a
connection that was idle. "Doubled" is what popular proxies hide: a POST whose id was executed more than once, which only
the app can say; it is asked at the end.

    python benchmarks/rollout.py --address 127.0.0.1:443 --host shop.example.com --ca ca.crt \
        --kubeconfig admin.kubeconfig --deployment shop/web --replacements 20 --executed-path /executed

replaces all pods of the Deployment so many times (a changed annotation of its template) and prints one line of JSON. Without
`--address`, as root, it starts an engine of its own with the counter app of the tests, measures that with 5 replacements
unless told otherwise, and removes it. The baseline is 0: every failed, doubled or lost request is one too many. The module's `Load` is used the same way by the tests, which start their own apps.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POST_SHARE = 0.3
REQUEST_TIMEOUT_S = 30.0
FAILURES_KEPT = 20


@dataclass(frozen=True)
class Target:
    """Where requests go: `address` is (IP, port), `host` the name in Host and SNI; tls None is plain HTTP."""

    address: tuple[str, int]
    host: str
    path: str = "/"
    tls: ssl.SSLContext | None = None


@dataclass
class Result:
    """What the clients saw. posts: every id sent, and whether it was answered 200."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    posts: dict[str, bool] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)

    def doubled(self, executed: Mapping[str, int]) -> list[str]:
        """Ids of POSTs that the app executed more than once, from its own count."""
        return sorted(key for key, count in executed.items() if count > 1 and key in self.posts)

    def lost(self, executed: Mapping[str, int]) -> list[str]:
        """Ids that were answered 200 and that no app executed."""
        return sorted(key for key, answered in self.posts.items() if answered and not executed.get(key))

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.latencies_ms)
        return {
            "requests": self.requests,
            "posts": len(self.posts),
            "failed": len(self.failures),
            "p50_ms": round(statistics.median(ordered), 2) if ordered else None,
            "p99_ms": round(ordered[int(len(ordered) * 0.99)], 2) if ordered else None,
            "first_failures": self.failures[:FAILURES_KEPT],
        }


class Load:
    """So many closed-loop clients, from `start` to `stop`."""

    def __init__(self, target: Target, *, clients: int = 40, seed: int = 0) -> None:
        self.result = Result()
        self.target = target
        self._clients = clients
        self._seed = seed
        self._running = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._running = True
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._clients)]

    async def stop(self) -> Result:
        """Lets every client finish its request, then returns what they saw."""
        self._running = False
        await asyncio.gather(*self._tasks)
        return self.result

    async def wait_for_requests(self, count: int) -> None:
        """Returns when so many requests have been answered (or failed)."""
        while self.result.requests < count:  # noqa: ASYNC110 - a client's hot path sets no events
            await asyncio.sleep(0.02)

    async def _client(self, number: int) -> None:
        rng = random.Random(self._seed * 1000 + number)
        keep = number % 2 == 0
        connection: _Connection | None = None
        sent = 0
        while self._running:
            sent += 1
            key = f"{os.getpid()}-{self._seed}-{number}-{sent}" if rng.random() < POST_SHARE else None
            began = time.perf_counter()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    if connection is None:
                        connection = await _Connection.open(self.target)
                    status, closes = await connection.request(self.target, key, keep=keep)
                problem = "" if status == 200 else f"status {status}: {connection.text[:120]}"
            except (OSError, EOFError, ValueError, TimeoutError) as err:
                problem, closes = f"{type(err).__name__}: {err}", True
            self.result.requests += 1
            self.result.latencies_ms.append((time.perf_counter() - began) * 1000)
            if key is not None:
                self.result.posts[key] = not problem
            if problem:
                reused = "reused" if keep and sent > 1 else "new"
                self.result.failures.append(f"{'POST' if key else 'GET'} on a {reused} connection: {problem}")
            if connection is not None and (closes or not keep):
                await connection.close()
                connection = None
        if connection is not None:
            await connection.close()


class _Connection:
    """HTTP/1.1 by hand, so that nothing is repeated behind our back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.text = ""

    @classmethod
    async def open(cls, target: Target) -> _Connection:
        host, port = target.address
        name = target.host if target.tls else None
        return cls(*await asyncio.open_connection(host, port, ssl=target.tls, server_hostname=name))

    async def request(self, target: Target, key: str | None, *, keep: bool) -> tuple[int, bool]:
        """The status, and whether the other side closes the connection now."""
        lines = [f"{'POST' if key else 'GET'} {target.path} HTTP/1.1", f"Host: {target.host}"]
        if not keep:
            lines.append("Connection: close")
        body = (key or "").encode()
        if key:
            lines.append(f"Content-Length: {len(body)}")
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        await self._writer.drain()
        status_line = (await self._reader.readuntil(b"\r\n")).decode()
        headers: dict[str, str] = {}
        while (line := (await self._reader.readuntil(b"\r\n")).decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.text = (await self._body(headers)).decode(errors="replace")
        return int(status_line.split(" ", 2)[1]), headers.get("connection", "").lower() == "close"

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        out = b""
        while size := int((await self._reader.readuntil(b"\r\n")).strip(), 16):
            out += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return out

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()


# Against a running engine


async def replace_pods(kubeconfig: str, namespace: str, name: str, times: int) -> AsyncIterator[float]:
    """Replaces all pods of a Deployment, time after time; yields the seconds that each took."""
    from trimtab.api.workloads import Deployment
    from trimtab.client import Client, HttpTransport

    client = Client(HttpTransport.for_kubeconfig(kubeconfig))
    try:
        for number in range(times):
            began = time.perf_counter()
            stamp = {"trimtab.dev/replacement": f"{os.getpid()}-{number}"}
            deployment = await client.get(Deployment, name, namespace)
            if deployment is None:
                raise SystemExit(f"there is no Deployment {namespace}/{name}")
            patch = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
            await client.patch(deployment, patch, manager="rollout-benchmark")
            while True:
                now = await client.get(Deployment, name, namespace)
                assert now is not None
                wanted = 1 if now.spec.replicas is None else now.spec.replicas
                status = now.status
                if status.observed_generation >= now.metadata.generation and (
                    status.updated_replicas == status.available_replicas == status.replicas == wanted
                ):
                    break
                await asyncio.sleep(0.05)
            yield time.perf_counter() - began
    finally:
        await client.close()


async def run(args: argparse.Namespace) -> int:
    tls = ssl.create_default_context(cafile=args.ca) if args.ca else None
    ip, _, port = args.address.rpartition(":")
    load = Load(Target((ip, int(port)), args.host, args.path, tls), clients=args.clients)
    load.start()
    namespace, _, name = args.deployment.partition("/")
    took = [s async for s in replace_pods(args.kubeconfig, namespace, name, args.replacements)]
    await load.wait_for_requests(args.requests)
    result = await load.stop()
    out = {
        "replacements": len(took),
        "replacement_s": round(statistics.mean(took), 2) if took else None,
        **result.summary(),
        "load": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
    }
    if args.executed_path:
        target = Target(load.target.address, args.host, args.executed_path, tls)
        connection = await _Connection.open(target)
        await connection.request(target, None, keep=False)
        await connection.close()
        executed = json.loads(connection.text)
        out |= {"doubled": len(result.doubled(executed)), "lost": len(result.lost(executed))}
    print(json.dumps(out))
    return 1 if result.failures or out.get("doubled") or out.get("lost") else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Requests failed and doubled while a Deployment's pods are replaced")
    parser.add_argument("--address", help="IP:PORT of the ingress; without it, an engine is started for the purpose")
    parser.add_argument("--host")
    parser.add_argument("--path", default="/")
    parser.add_argument("--ca", help="PEM file; without it plain HTTP")
    parser.add_argument("--kubeconfig")
    parser.add_argument("--deployment", help="NAMESPACE/NAME")
    parser.add_argument("--replacements", type=int)
    parser.add_argument("--requests", type=int, help="go on until so many were sent")
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--executed-path", help="a path at which the app answers {POST body: times executed}")
    args = parser.parse_args()
    if args.address is None:
        return on_own_engine(args)
    if not (args.host and args.kubeconfig and args.deployment):
        parser.error("--address needs --host, --kubeconfig and --deployment, too")
    args.replacements, args.requests = args.replacements or 20, args.requests or 10_000
    return asyncio.run(run(args))


def on_own_engine(args: argparse.Namespace) -> int:
    """Ships the tests' counter app on an engine of its own, and measures that."""
    support = Path(__file__).parents[1] / "tests" / "support"
    sys.path.insert(0, str(support))
    from engine_under_test import engine

    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory:
        Path(directory).chmod(0o755)
        with engine(Path(directory, "data")) as running:
            running.run("up", str(support / "counter_app"), timeout_s=400)
            args.address, args.host = f"127.0.0.1:{running.https_port}", "counter.localhost"
            args.ca = str(running.data / "pki" / "ca.crt")
            args.kubeconfig, args.deployment = str(running.data / "admin.kubeconfig"), "default/counter-web"
            args.executed_path = "/executed"
            args.replacements, args.requests = args.replacements or 5, args.requests or 5_000
            running.wait_serving(args.host)
            return asyncio.run(run(args))


if __name__ == "__main__":
    sys.exit(main())
