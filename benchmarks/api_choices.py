"""The choices under the API server, measured beside their alternatives: HTTP, event loop, Python, JSON, where a commit runs.

    python benchmarks/api_choices.py [--python INTERPRETER ...]

Every server gets the same load over TLS (`load/load.go`; needs Go), in turns. Each `--python` names an interpreter of another
version with Trimtab installed. Server CPU per call is the figure to compare, the least of the rounds: what else the machine does
can only add to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

ROUNDS = 5
SECONDS = 1.5
WRITES = 400
TURNS = 5_000


# --- the servers ---------------------------------------------------------------------------------------------------


async def _serve(variant: str, folder: Path, port: int) -> None:
    """One variant, until it is killed."""
    from trimtab.server import ApiServer, create_app
    from trimtab.server.serve import Listen, run_server
    from trimtab.server.server import ServerSettings
    from trimtab.store import Store

    settings = ServerSettings(admin_token_file=folder / "admin.token", service_account_key=folder / "sa.key")
    if variant == "own":
        listen = Listen(port=port, certificate=folder / "server.crt", key=folder / "server.key")
        await run_server(folder / "store.sqlite", listen, settings, on_ready=lambda: print("ready", flush=True))
        return
    import uvicorn

    server = ApiServer(await Store.open(folder / "store.sqlite"), settings=settings)
    await server.start()
    config = uvicorn.Config(
        create_app(server, trusted=False),
        port=port,
        http=variant.removeprefix("uvicorn-"),  # type: ignore[arg-type]
        lifespan="off",
        log_level="critical",
        access_log=False,
        ssl_certfile=folder / "server.crt",
        ssl_keyfile=str(folder / "server.key"),
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print("ready", flush=True)

    await Server(config).serve()


def serve(variant: str, loop: str, folder: Path, port: int) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(_serve(variant, folder, port))
    else:
        asyncio.run(_serve(variant, folder, port))


@dataclass
class Variant:
    """A server process; what `Side` needs of one."""

    name: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    token: str = "t" * 40


def _start(name: str, interpreter: str, variant: str, loop: str, stack: ExitStack) -> Variant:
    from api_process import free_port, make_certificates

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    make_certificates(folder)
    (folder / "admin.token").write_text(Variant.token)
    port = free_port()
    command = [interpreter, __file__, "--serve", variant, loop, str(folder), str(port)]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", f"{name} did not start"
    return Variant(name, folder, port, process)


def servers(interpreters: list[str]) -> None:
    from api_against_kubernetes import CONFIG_MAP, NAMESPACE, OBJECTS, VALUE, Side

    wanted = [
        ("own HTTP on httptools, uvloop (chosen)", sys.executable, "own", "uvloop"),
        ("the same on asyncio's own loop", sys.executable, "own", "asyncio"),
        ("uvicorn with httptools, uvloop", sys.executable, "uvicorn-httptools", "uvloop"),
        ("uvicorn with h11, uvloop", sys.executable, "uvicorn-h11", "uvloop"),
    ]
    for interpreter in interpreters:
        script = "import platform; print(platform.python_version())"
        version = subprocess.run([interpreter, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
        wanted.append((f"chosen, on Python {version}", interpreter, "own", "uvloop"))
    with ExitStack() as stack:
        load = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "load"
        subprocess.run(["go", "build", "-o", load, Path(__file__).parent / "load" / "load.go"], check=True)
        sides = [Side(each[0], _start(*each, stack), load) for each in wanted]
        figures: list[dict[str, list[float]]] = [{"get": [], "create": []} for _ in sides]
        for side in sides:
            side.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            side.ask("POST", OBJECTS, {"metadata": {"name": "bench"}, "data": {"v": VALUE}})
        memory = [side.memory_mb()[0] for side in sides]
        for _ in range(ROUNDS):
            for side, found in zip(sides, figures, strict=True):
                [get] = side.measure(
                    {"name": "get", "method": "GET", "path": f"{OBJECTS}/bench", "clients": 32}, seconds=SECONDS
                )
                [create] = side.measure(
                    {"name": "create", "method": "POST", "path": OBJECTS, "body": CONFIG_MAP, "clients": 32},
                    seconds=SECONDS,
                )
                found["get"].append(get.cpu_us)
                found["create"].append(create.cpu_us)
    print(f"| {'server, Python ' + sys.version.split()[0]:<44} | GET, CPU us | create, CPU us | RSS MB |")
    print(f"|{'-' * 46}|------------:|---------------:|-------:|")
    for side, found, mb in zip(sides, figures, memory, strict=True):
        get_us, create_us = min(found["get"]), min(found["create"])
        print(f"| {side.name:<44} | {get_us:>11.0f} | {create_us:>14.0f} | {mb:>6.1f} |")


# --- JSON, and the thread of the commits ---------------------------------------------------------------------------


def _us(call: Callable[[], Any]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TURNS):
            call()
        rounds.append((time.process_time() - began) / TURNS * 1e6)
    return statistics.median(rounds)


def libraries() -> None:
    """Decoding and encoding of one Deployment."""
    import msgspec

    from api_against_kubernetes import APPLY_DEPLOYMENT

    body = APPLY_DEPLOYMENT["body"].encode()
    obj = json.loads(body)
    known: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], Any]]] = {
        "msgspec (chosen)": (msgspec.json.decode, msgspec.json.encode),
        "json of the standard library": (json.loads, json.dumps),
    }
    try:
        import orjson  # type: ignore[import-not-found]

        known["orjson"] = (orjson.loads, orjson.dumps)
    except ImportError:
        pass
    print(f"\n| {'JSON, a Deployment of ' + str(len(body)) + ' bytes':<44} | decode us | encode us |")
    print(f"|{'-' * 46}|----------:|----------:|")
    for name, (decode, encode) in known.items():
        took = [_us(lambda d=decode: d(body)), _us(lambda e=encode: e(obj))]  # type: ignore[misc]
        print(f"| {name:<44} | {took[0]:>9.1f} | {took[1]:>9.1f} |")


async def commits() -> None:
    """Writes of so many at a time, each acknowledged on disk; how long the event loop could do nothing else meanwhile."""
    from trimtab.store import Put, Store

    print(f"\n| {'commits':<44} | writes/s | p99 ms | the loop's worst stall ms |")
    print(f"|{'-' * 46}|---------:|-------:|--------------------------:|")
    for name, inline in (("in a thread, grouped (chosen)", False), ("on the loop, one by one", True)):
        for writers in (1, 32):
            with tempfile.TemporaryDirectory() as folder:
                store = await Store.open(Path(folder) / "store.sqlite", inline=inline)
                numbers = iter(range(WRITES))
                latencies: list[float] = []
                stall = asyncio.create_task(_worst_stall())

                async def write(store: Store, numbers: Any = numbers, latencies: list[float] = latencies) -> None:
                    for number in numbers:
                        began = time.perf_counter()
                        await store.write([Put(f"/k/{number}", b"x" * 700)])
                        latencies.append(time.perf_counter() - began)
                        await asyncio.sleep(0)

                began = time.perf_counter()
                await asyncio.gather(*(write(store) for _ in range(writers)))
                rate = WRITES / (time.perf_counter() - began)
                stall.cancel()
                [worst] = await asyncio.gather(stall)
                await store.close()
            p99 = sorted(latencies)[len(latencies) * 99 // 100] * 1e3
            print(f"| {f'{name}, {writers} at a time':<44} | {rate:>8,.0f} | {p99:>6.1f} | {worst * 1e3:>25.1f} |")


async def _worst_stall() -> float:
    worst = 0.0
    try:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - began - 0.001)
    except asyncio.CancelledError:
        return worst


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="INTERPRETER")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    servers(arguments.python)
    libraries()
    asyncio.run(commits())
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
