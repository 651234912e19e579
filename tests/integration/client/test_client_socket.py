"""The transport over a unix socket against servers that misbehave: what is asked again, what is told, what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from trimtab.client import Request, SocketTransport
from trimtab.client import socket as client_socket

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Type: text/plain\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def served(folder: Path, serve: Serve) -> AsyncIterator[SocketTransport]:
    """A transport to a server that treats each connection with `serve`."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(connected, folder / "s")
    async with SocketTransport(folder / "s") as transport, asyncio.timeout(60):
        yield transport
    server.close()
    await server.wait_closed()


async def request_head(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode()


async def test_a_connection_is_used_again_and_requests_are_well_formed(tmp_path: Path) -> None:
    heads: list[str] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            heads.append(await request_head(reader))
            writer.write(OK)

    async with served(tmp_path, serve) as transport:
        for path in ("/a b", "/api/v1/ümlaut"):
            answer = await transport.send(Request("GET", path, {"labelSelector": "app in (a, b)", "x": ""}))
            assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"ok", "text/plain")
        await transport.send(Request("PUT", "/c", body=b"", headers={"X-Evil": "1\r\nInjected: yes"}))

    assert connections == 1
    assert heads[0].startswith("GET /a%20b?labelSelector=app%20in%20%28a%2C%20b%29&x= HTTP/1.1\r\nhost: trimtab\r\n")
    assert heads[1].startswith("GET /api/v1/%C3%BCmlaut?")
    assert "content-length: 0\r\n" in heads[2]
    assert "x-evil: 1  Injected: yes\r\n" in heads[2]


async def test_a_header_that_comes_several_times_is_heard_each_time(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(OK.replace(b"\r\n\r\n", b'\r\nWarning: 299 - "one"\r\nwarning: 299 - "two"\r\n\r\n'))

    async with served(tmp_path, serve) as transport:
        answer = await transport.send(Request("GET", "/"))
    assert answer.headers["warning"] == '299 - "one", 299 - "two"'


async def test_what_only_reads_is_asked_again_when_a_resting_connection_was_closed(tmp_path: Path) -> None:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await request_head(reader)).split()[0])
        writer.write(OK)
        await request_head(reader)  # the second request over it is read, and nothing is said

    async with served(tmp_path, serve) as transport:
        await transport.send(Request("GET", "/"))
        assert (await transport.send(Request("GET", "/"))).body == b"ok"
        with pytest.raises(
            ConnectionError, match=r"the API server at .*/s cannot be reached: the connection was closed"
        ):
            await transport.send(Request("POST", "/", body=b"{}"))

    assert asked == ["GET", "GET"], "a write is not repeated: it may have been done"


async def test_a_stream_is_read_as_it_comes_and_its_connection_is_kept(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(CHUNKED + b"3\r\none\r\n")
        await gate.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await request_head(reader)
        writer.write(OK)

    async with served(tmp_path, serve) as transport:
        answer = await transport.send(Request("GET", "/", stream=True))
        pieces = answer.chunks()
        assert await anext(pieces) == b"one"
        gate.set()
        assert [piece async for piece in pieces] == [b"two"]
        await answer.close()
        assert (await transport.send(Request("POST", "/", body=b"x"))).body == b"ok"


async def test_a_stream_that_is_closed_early_leaves_no_connection(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(CHUNKED + b"3\r\none\r\n")
        await reader.read()
        ended.set()

    async with served(tmp_path, serve) as transport:
        answer = await transport.send(Request("GET", "/", stream=True))
        await answer.close()
        await ended.wait()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (CHUNKED + b"3\r\non", "the connection was closed in the middle of an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
    ],
    ids=["torn", "not HTTP"],
)
async def test_an_answer_that_is_torn_or_no_http_is_one_line(tmp_path: Path, said: bytes, line: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(said)
        await writer.drain()

    async with served(tmp_path, serve) as transport:
        with pytest.raises(ConnectionError, match=line):
            await transport.send(Request("GET", "/"))


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "ANSWER_TIMEOUT_S", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with served(tmp_path, serve) as transport:
        with pytest.raises(ConnectionError, match="no answer in time"):
            await transport.send(Request("GET", "/"))


async def test_a_slow_reader_is_not_flooded(tmp_path: Path) -> None:
    size, told = 64 * 1024, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal told
        await request_head(reader)
        writer.write(CHUNKED)
        for _ in range(200):
            writer.write(b"10000\r\n" + b"x" * size + b"\r\n")
            await writer.drain()
            told += size
        writer.write(b"0\r\n\r\n")

    async with served(tmp_path, serve) as transport:
        answer = await transport.send(Request("GET", "/", stream=True))
        pieces = answer.chunks()
        read = len(await anext(pieces))
        for _ in range(2000):  # turns of the loop: far more than it would take to send everything
            await asyncio.sleep(0)
        assert told < 100 * size, "it waits for its reader"
        async for piece in pieces:
            read += len(piece)
        assert read == 200 * size


async def test_no_server_and_a_socket_that_is_gone_name_the_path(tmp_path: Path) -> None:
    async with SocketTransport(tmp_path / "none") as transport:
        with pytest.raises(ConnectionError, match=r"the API server at .*/none cannot be reached: .*No such file"):
            await transport.send(Request("GET", "/"))
