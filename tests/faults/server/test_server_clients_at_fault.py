"""Clients that open connections and do nothing useful with them: rest, write a head without an end, ask for much and never read it.
Others do not notice, and memory stays where it was."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import limited_api_process
from api_process import ApiProcess

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
DEADLINE_S = 60.0
LARGE = {"v": "x" * 100_000}


def _connected(server: ApiProcess) -> socket.socket:
    """A connection without TLS to the port: what only the engine's tests may have."""
    return socket.create_connection(("127.0.0.1", server.port or 0), timeout=DEADLINE_S)


def _asked(server: ApiProcess, connection: socket.socket, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    raw = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {server.token}\r\ncontent-length: {len(raw)}\r\n\r\n"
    connection.sendall(head.encode() + raw)
    with connection.makefile("rb") as answer:
        status = int(answer.readline().split()[1])
        size = 0
        while (line := answer.readline().strip()) != b"":
            name, _, value = line.lower().partition(b":")
            size = int(value) if name == b"content-length" else size
        return status, json.loads(answer.read(size))


def _ended(connection: socket.socket) -> bool:
    """Whether the other end has closed it; waits for that."""
    connection.settimeout(DEADLINE_S)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def _resident(server: ApiProcess) -> int:
    assert server.process is not None
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiProcess]:
    made = ApiProcess(tmp_path, tls=True, program=Path(limited_api_process.__file__))
    made.start()
    yield made
    made.close()


def test_the_connection_that_rests_longest_makes_room_for_the_newest(server: ApiProcess) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(_connected(server))
        assert _asked(server, first, "GET", "/version")[0] == 200
        resting = [stack.enter_context(_connected(server)) for _ in range(limited_api_process.CONNECTIONS_MAX)]

        newest = stack.enter_context(_connected(server))
        status, _ = _asked(server, newest, "GET", "/version")

        assert status == 200
        assert _ended(first)
        assert _asked(server, resting[-1], "GET", "/version")[0] == 200


def test_heads_without_an_end_hold_up_nobody(server: ApiProcess) -> None:
    with ExitStack() as stack:
        for _ in range(limited_api_process.CONNECTIONS_MAX * 2):
            slow = stack.enter_context(_connected(server))
            slow.sendall(b"GET /version HTTP/1.1\r\nx: ")

        polite = stack.enter_context(_connected(server))
        status, version = _asked(server, polite, "GET", "/version")

        assert (status, version["compiler"]) == (200, "cpython")


def test_lists_and_watches_that_nobody_reads_cost_no_memory_of_their_size(server: ApiProcess) -> None:
    with ExitStack() as stack:
        polite = stack.enter_context(_connected(server))
        for number in range(50):
            made, _ = _asked(server, polite, "POST", CONFIGMAPS, {"metadata": {"name": f"c{number}"}, "data": LARGE})
            assert made == 201
        before = _resident(server)
        for number in range(40):
            deaf = stack.enter_context(_connected(server))
            path = CONFIGMAPS if number % 2 else f"{CONFIGMAPS}?watch=1"
            deaf.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {server.token}\r\n\r\n".encode())
            assert deaf.recv(1) == b"H"  # it has begun to answer; no more of it is ever read

        began = time.monotonic()
        for number in range(200):
            name = f"c{number % 50}"
            body = {"metadata": {"name": name}, "data": {**LARGE, "n": str(number)}}
            status, _ = _asked(server, polite, "PUT", f"{CONFIGMAPS}/{name}", body)
            assert status == 200
        assert time.monotonic() - began < DEADLINE_S

        grown = _resident(server) - before
        assert grown < 100_000_000, f"{grown >> 20} MB for 40 clients that do not read 5 MB and 20 MB each"
