"""How fast the API server is: boot, memory, reads, durable writes, watches.

    python benchmarks/api_server.py

Starts the real process on an empty store in a temporary directory and speaks to it over its unix socket. Prints medians, with the
machine's load and core count. The peer of a durable write is the disk: what a 4 kB write with fdatasync takes on it, and what
one SQLite transaction with `synchronous=FULL` a write gives from one thread without any server.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from api_process import ApiProcess

BOOTS = 9
ROUNDS = 5
ROUND_S = 1.5
COLLECTION = "/api/v1/namespaces/default/configmaps"
VALUE = "x" * 300
WATCHERS = 500
LISTED = 10_000
SYNCS = 300


def main() -> None:
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        server = ApiProcess(Path(folder))
        boots = [_boot(server) for _ in range(BOOTS)]
        print(f"boot to /readyz: median {statistics.median(boots):.3f} s, worst {max(boots):.3f} s (allowed 0.5 s)")
        server.start()
        try:
            asyncio.run(_measure(server))
        finally:
            server.stop()
        print(f"the disk: write 4 kB + fdatasync: median {_fdatasync_ms(Path(folder)):.2f} ms")
        print(f"the disk: SQLite, one FULL transaction a write, no server: {_sqlite_writes(Path(folder)):,.0f}/s")
    print(f"load {os.getloadavg()[0]:.2f} at the end")


def _boot(server: ApiProcess) -> float:
    began = time.perf_counter()
    server.start()
    took = time.perf_counter() - began
    server.stop()
    return took


def _status(server: ApiProcess, field: str) -> float:
    """A size of the process in MB."""
    assert server.process is not None
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu_s(server: ApiProcess) -> float:
    assert server.process is not None
    parts = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


class Connection:
    """HTTP/1.1 by hand over the unix socket: the client should cost as little as possible."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: ApiProcess) -> Connection:
        return cls(*await asyncio.open_unix_connection(str(server.socket), limit=64 * 1024 * 1024))

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        head = f"{method} {path} HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        self.send(method, path, body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b"content-length: " not in head:  # a long list comes in chunks
            return int(head[9:12]), await self.reader.readuntil(b"\r\n0\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await self.reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


async def _measure(server: ApiProcess) -> None:
    print(f"memory, empty store: {_status(server, 'VmRSS'):.1f} MB (allowed 60 MB)")
    counter = iter(range(10**9))

    async def get(connection: Connection) -> None:
        status, _ = await connection.call("GET", f"{COLLECTION}/bench")
        assert status == 200

    async def create(connection: Connection) -> None:
        body = b'{"metadata":{"name":"c%d"},"data":{"v":"%b"}}' % (next(counter), VALUE.encode())
        status, answer = await connection.call("POST", COLLECTION, body)
        assert status == 201, answer

    first = await Connection.open(server)
    body = b'{"metadata":{"name":"bench"},"data":{"v":"%b"}}' % VALUE.encode()
    assert (await first.call("POST", COLLECTION, body))[0] == 201
    for clients in (1, 32):
        await _rate(server, f"GET, {clients} clients", clients, get)
    for clients in (1, 32, 128):
        await _rate(server, f"durable create, {clients} clients", clients, create)
    await _fan_out(server)
    await _lists(server, first)
    first.close()
    print(
        f"memory with {next(counter) + LISTED:,} objects: {_status(server, 'VmRSS'):.1f} MB, peak {_status(server, 'VmHWM'):.1f} MB"
    )


async def _rate(server: ApiProcess, what: str, clients: int, call: Callable[[Connection], Awaitable[None]]) -> None:
    """Calls a second by so many clients that each wait for their answer; the server's CPU a call beside it."""
    connections = [await Connection.open(server) for _ in range(clients)]
    rates: list[float] = []
    costs: list[float] = []
    latencies: list[float] = []
    for _ in range(ROUNDS):
        began, cpu = time.perf_counter(), _cpu_s(server)

        counts = await asyncio.gather(*(_client(c, call, began + ROUND_S, latencies) for c in connections))
        count = sum(counts)
        took = time.perf_counter() - began
        rates.append(count / took)
        costs.append((_cpu_s(server) - cpu) / count * 1e6)
    latencies.sort()
    for connection in connections:
        connection.close()
    print(
        f"{what}: median {statistics.median(rates):,.0f}/s (best {max(rates):,.0f}), {statistics.median(costs):.0f} us of "
        f"server CPU each; p50 {latencies[len(latencies) // 2] * 1e3:.2f} ms, p99 {latencies[len(latencies) * 99 // 100] * 1e3:.2f} ms"
    )


async def _client(
    connection: Connection, call: Callable[[Connection], Awaitable[None]], until: float, latencies: list[float]
) -> int:
    """Calls until a time; returns how often."""
    count = 0
    while (asked := time.perf_counter()) < until:
        await call(connection)
        latencies.append(time.perf_counter() - asked)
        count += 1
    return count


async def _fan_out(server: ApiProcess) -> None:
    """One write, many watchers: until the last one has it."""
    before = _status(server, "VmRSS")
    control = await Connection.open(server)
    _, listed = await control.call("GET", f"{COLLECTION}?limit=1")
    revision = listed.partition(b'"resourceVersion":"')[2].partition(b'"')[0].decode()
    watchers = [await Connection.open(server) for _ in range(WATCHERS)]
    for watcher in watchers:
        watcher.send("GET", f"{COLLECTION}?watch=1&fieldSelector=metadata.name%3Dbench&resourceVersion={revision}")
        await watcher.reader.readuntil(b"\r\n\r\n")
    grown = _status(server, "VmRSS") - before
    times = []
    for number in range(ROUNDS * 2):
        began = time.perf_counter()
        lines = [asyncio.ensure_future(watcher.reader.readuntil(b"\n\r\n")) for watcher in watchers]
        await control.call("PUT", f"{COLLECTION}/bench", b'{"metadata":{"name":"bench"},"data":{"v":"%d"}}' % number)
        await asyncio.gather(*lines)
        times.append((time.perf_counter() - began) * 1e3)
    for connection in (control, *watchers):
        connection.close()
    print(
        f"{WATCHERS} watchers, one write, the last has it: median {statistics.median(times):.0f} ms, worst {max(times):.0f} ms; "
        f"{grown:.1f} MB for the watchers"
    )


async def _lists(server: ApiProcess, connection: Connection) -> None:
    """Lists of a namespace with so many objects."""
    assert (await connection.call("POST", "/api/v1/namespaces", b'{"metadata":{"name":"listed"}}'))[0] == 201
    collection = COLLECTION.replace("default", "listed")
    makers = [await Connection.open(server) for _ in range(64)]
    numbers = iter(range(LISTED))

    async def make(maker: Connection) -> None:
        for number in numbers:
            body = b'{"metadata":{"name":"l%d"},"data":{"v":"%b"}}' % (number, VALUE.encode())
            assert (await maker.call("POST", collection, body))[0] == 201

    await asyncio.gather(*(make(maker) for maker in makers))
    for maker in makers:
        maker.close()
    for what, path in (("all", collection), ("500 of them", f"{collection}?limit=500")):
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            _, listed = await connection.call("GET", path)
            times.append((time.perf_counter() - began) * 1e3)
        objects = listed.count(b'"uid":')
        print(
            f"list {what} ({objects:,} objects, {len(listed) / 1e6:.1f} MB): median {statistics.median(times):.0f} ms"
        )


def _fdatasync_ms(folder: Path) -> float:
    times = []
    file = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT)
    for _ in range(SYNCS):
        began = time.perf_counter()
        os.write(file, b"x" * 4096)
        os.fdatasync(file)
        times.append((time.perf_counter() - began) * 1e3)
    os.close(file)
    return statistics.median(times)


def _sqlite_writes(folder: Path) -> float:
    db = sqlite3.connect(folder / "peer.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
    began = time.perf_counter()
    for _ in range(SYNCS):
        db.execute("INSERT INTO t (value) VALUES (?)", (VALUE * 2,))
    rate = SYNCS / (time.perf_counter() - began)
    db.close()
    return rate


if __name__ == "__main__":
    main()
