"""How quick compositions are: calls of a function in its process, and from a claim to what it is composed of.

    .venv/bin/python benchmarks/infrastructure_compositions.py [--claims 200]

Against a real API server (a process) with the reconcilers in this one; what claims are composed of are ConfigMaps, so that no cloud's time
is in it. Beside it, in the same run: what Crossplane's composition functions cost at least, a gRPC call of the same request and answer to
a server in another process, each decoded and encoded by its protobuf `Struct`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, struct_pb2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from cloud import Cloud
from composing_world import ComposingWorld
from trimtab.components.infrastructure.composition.sandbox import Functions
from trimtab.components.infrastructure.composition.terms import Function

SOURCE = """
from trimtab.compose import Manifest, Status
def compose(xr, observed):
    made = [Manifest(f"part-{i}", "v1", "ConfigMap", {"data": {"n": str(i)}}) for i in range(xr.spec["parts"])]
    return made
"""
XR: dict[str, Any] = {"name": "lab", "namespace": "default", "uid": "u", "labels": {}, "annotations": {}}
SERVER = """
import sys, grpc
from concurrent import futures
from google.protobuf import json_format, struct_pb2
def compose(request, context):
    xr = json_format.MessageToDict(request)
    made = [{"name": f"part-{i}", "apiVersion": "v1", "kind": "ConfigMap", "data": {"n": str(i)}} for i in range(int(xr["spec"]["parts"]))]
    answer = struct_pb2.Struct()
    json_format.ParseDict({"resources": made}, answer)
    return answer
server = grpc.server(futures.ThreadPoolExecutor(2))
handler = grpc.unary_unary_rpc_method_handler(compose, struct_pb2.Struct.FromString, struct_pb2.Struct.SerializeToString)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("fn", {"Run": handler}),))
server.add_insecure_port(sys.argv[1])
server.start()
print("ready", flush=True)
server.wait_for_termination()
"""


async def calls(parts: int, count: int) -> float:
    """Calls a second."""
    functions = Functions()
    try:
        function = Function("lab.py", SOURCE)
        given = XR | {"spec": {"parts": parts}}
        observed = {
            f"part-{i}": {"ready": True, "message": "", "kind": "ConfigMap", "status": {}} for i in range(parts)
        }
        await functions.compose(function, given, observed)
        began = time.perf_counter()
        for _ in range(count):
            await functions.compose(function, given, observed)
        return count / (time.perf_counter() - began)
    finally:
        await functions.close()


async def starts(count: int) -> tuple[float, int]:
    """Median ms from a function that does not run to its first answer, and its processes' memory: proportional set size, KiB."""
    took, memory = [], 0
    for number in range(count):
        functions = Functions()
        try:
            began = time.perf_counter()
            await functions.compose(Function(f"lab-{number}.py", SOURCE), XR | {"spec": {"parts": 3}}, {})
            took.append((time.perf_counter() - began) * 1000)
            (pid,) = functions.pids
            memory = sum(pss(one) for one in (pid, *children(pid)))
        finally:
            await functions.close()
    return statistics.median(took), memory


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


async def peer(parts: int, count: int) -> float:
    """gRPC calls a second of the same size."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"unix:{folder}/fn.sock"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, place, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            await process.stdout.readline()
            async with grpc.aio.insecure_channel(place) as channel:
                call = channel.unary_unary("/fn/Run", struct_pb2.Struct.SerializeToString, struct_pb2.Struct.FromString)
                observed = {f"part-{i}": {"ready": True, "kind": "ConfigMap"} for i in range(parts)}

                async def once() -> None:
                    request = struct_pb2.Struct()
                    json_format.ParseDict(XR | {"spec": {"parts": parts}, "observed": observed}, request)
                    json_format.MessageToDict(await call(request))

                await once()
                began = time.perf_counter()
                for _ in range(count):
                    await once()
                return count / (time.perf_counter() - began)
        finally:
            process.kill()
            await process.wait()


async def claims(count: int) -> tuple[list[float], float]:
    """One after another: ms from the claim's request to the last of its three parts; then all at once: claims a second until all are ready."""
    with tempfile.TemporaryDirectory() as folder, Cloud() as cloud:
        Path(folder).chmod(0o755)
        world = ComposingWorld(Path(folder), cloud)
        await world.start()
        try:
            await world.define(SOURCE.replace('xr.spec["parts"]', "3"))
            await world.claim("warm", region="eu")
            await world.claim_says("warm", "AllReady", "Ready")
            took = []
            for number in range(20):
                began = time.perf_counter()
                await world.claim(f"one-{number}", region="eu")
                while await world.raw("ConfigMap", f"one-{number}-part-2") is None:  # noqa: ASYNC110 (it is asked as a user would)
                    await asyncio.sleep(0.001)
                took.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            for number in range(count):
                await world.claim(f"all-{number}", region="eu")
            for number in range(count):
                await world.claim_says(f"all-{number}", "AllReady", "Ready")
            return took, count / (time.perf_counter() - began)
        finally:
            await world.stop()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--claims", type=int, default=200)
    options = parser.parse_args()
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    ms, memory = await starts(5)
    print(
        f"first call of a function that does not run: {ms:.0f} ms (median of 5); its processes: {memory / 1024:.1f} MiB"
    )
    for parts, count in ((3, 2000), (50, 300)):
        mine, theirs = await calls(parts, count), await peer(parts, count)
        print(
            f"calls with {parts} resources: {mine:.0f}/s; gRPC and protobuf: {theirs:.0f}/s; ratio {mine / theirs:.2f}"
        )
    took, rate = await claims(options.claims)
    took.sort()
    print(f"claim -> 3 children: p50 {took[len(took) // 2]:.0f} ms, p95 {took[int(len(took) * 0.95)]:.0f} ms")
    print(f"{options.claims} claims at once, 3 children each, until all say Ready: {rate:.1f} claims/s")
    print(f"load now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
