"""What a live copy of 10,000 pods costs: time and memory to fill it, to read it, to follow a change.

    python benchmarks/informer.py [--pods N]

Starts the real API server on an empty store, makes the pods, and follows them from this process as the controllers do. The
peer is the Python client that most operators are written with (`kubernetes`), which decodes the same list into its models, in
a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from api_process import ApiProcess  # noqa: E402
from trimtab.api.core import Pod  # noqa: E402
from trimtab.client import Client, Informer, Request, SocketTransport  # noqa: E402

AT_ONCE = 64
CHANGES = 200
READS = 20
POD = """{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-%d","namespace":"ns-%d","labels":{"app":"web-%d","tier":"front"}},
"spec":{"serviceAccountName":"default","schedulerName":"none","containers":[{"name":"web","image":"registry.example.com/web:1",
"ports":[{"containerPort":8080}],"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],
"resources":{"requests":{"cpu":"100m","memory":"64Mi"}},"readinessProbe":{"httpGet":{"path":"/","port":8080}}}]}}"""
NAMESPACES = 10
PEER = """
import sys, time, gc
from kubernetes import client, config
def rss():
    return next(int(l.split()[1]) for l in open("/proc/self/smaps_rollup") if l.startswith("Rss"))
config.load_kube_config(sys.argv[1])
api = client.CoreV1Api()
api.list_namespaced_pod("default")
before, began, cpu = rss(), time.perf_counter(), time.process_time()
pods = api.list_pod_for_all_namespaces().items
gc.collect()
print(len(pods), time.perf_counter() - began, time.process_time() - cpu, (rss() - before) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=10_000)
    pods = parser.parse_args().pods
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        server = ApiProcess(Path(folder), tls=True)
        server.start()
        try:
            asyncio.run(_measure(server, pods))
            peer = subprocess.run(
                [sys.executable, "-c", PEER, server.kubeconfig()], check=True, capture_output=True, text=True
            )
        finally:
            server.stop()
    count, took, cpu, grown = peer.stdout.split()
    print(
        f"the Python client `kubernetes`: {int(count):,} pods after {float(took):.2f} s ({float(cpu):.2f} s of CPU), {float(grown):.1f} MB"
    )
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def _rss_mb() -> float:
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss")) / 1024


async def _make(transport: SocketTransport, pods: int) -> None:
    for number in range(NAMESPACES):
        for path, body in (
            ("/api/v1/namespaces", f'{{"metadata":{{"name":"ns-{number}"}}}}'),
            (f"/api/v1/namespaces/ns-{number}/serviceaccounts", '{"metadata":{"name":"default"}}'),
        ):
            await transport.send(Request("POST", path, body=body.encode(), content_type="application/json"))
    numbers = iter(range(pods))

    async def some() -> None:
        for number in numbers:
            namespace = number % NAMESPACES
            body = (POD % (number, namespace, number % 100)).encode()
            path = f"/api/v1/namespaces/ns-{namespace}/pods"
            answer = await transport.send(Request("POST", path, body=body, content_type="application/json"))
            assert answer.status == 201, answer.body

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _measure(server: ApiProcess, pods: int) -> None:
    transport = SocketTransport(server.socket)
    await _make(transport, pods)
    client = Client(transport)
    informer = Informer(client, Pod)
    before, began, cpu = _rss_mb(), time.perf_counter(), time.process_time()
    running = asyncio.create_task(informer.run())
    await informer.wait_synced()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert len(informer.list()) == pods
    print(f"informer: {pods:,} pods after {took:.2f} s ({cpu:.2f} s of CPU), {_rss_mb() - before:.1f} MB")
    print(f"a full garbage collection with them: {_cpu_s(gc.collect) * 1e3:.0f} ms")

    arrived = asyncio.Event()
    informer.subscribe(lambda _: arrived.set())
    delays, reads, others = [], [], []
    for number in range(CHANGES):
        body = b'{"metadata":{"annotations":{"n":"%d"}}}' % number
        path = f"/api/v1/namespaces/ns-{number % NAMESPACES}/pods/web-{number}"
        arrived.clear()
        began = time.perf_counter()
        await transport.send(Request("PATCH", path, body=body, content_type="application/merge-patch+json"))
        await arrived.wait()
        delays.append(time.perf_counter() - began)
        if number < READS:
            reads.append(_cpu_s(lambda: informer.list()))
            others.append(_cpu_s(lambda: informer.list("ns-1")))
    print(f"a change, from the request to the subscriber: median {statistics.median(delays) * 1e3:.2f} ms")
    print(
        f"the list of all after a change: {statistics.median(reads) * 1e3:.3f} ms; of one namespace: {statistics.median(others) * 1e3:.3f} ms"
    )
    running.cancel()
    await asyncio.wait([running])
    await client.close()


def _cpu_s(call: object) -> float:
    began = time.process_time()
    call()  # type: ignore[operator]
    return time.process_time() - began


if __name__ == "__main__":
    main()
