"""HTTP/1.1 as clients of all kinds speak it: bodies in pieces, requests ahead of answers, old and broken ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from trimtab.server.connection import HEAD_MAX_BYTES, UNREAD_MAX_BYTES, Connection, Open
from trimtab.server.http import Message, Receive, Scope, Send

OK = b"HTTP/1.1 200 OK\r\n"
DEADLINE_S = 60


class Application:
    """Answers `/echo` with the body, `/stream` in pieces, `/wait` when it is let, `/early` without reading, `/broken` never."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.let = asyncio.Event()
        self.gone = asyncio.Event()
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append((scope["method"], scope["path"], scope["query_string"]))
        self.headers = scope["headers"]
        self.entered.set()
        body = b""
        match scope["path"]:
            case "/echo":
                while True:
                    message = await receive()
                    body += message["body"]
                    if not message["more_body"]:
                        break
            case "/stream":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                for piece in (b"", b"one", b"three"):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return
            case "/wait":
                await self.let.wait()
            case "/until-gone":
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.gone.set()
                return
            case "/split":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]})
            case "/broken":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                raise RuntimeError("this is what the log is for")
        await _whole(send, body or scope["path"].encode())


async def _whole(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    message: Message = {"type": "http.response.body", "body": body}
    await send(message)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, app: Application) -> None:
        self.app = app
        self._reader = reader
        self._writer = writer

    def send(self, text: bytes) -> None:
        self._writer.write(text)

    async def read(self, size: int) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(size), DEADLINE_S)

    async def answer(self, body: bytes, *more: bytes) -> None:
        """Expects a whole answer with such a body and such further headers."""
        wanted = OK + b"content-length: %d\r\n" % len(body) + b"".join(line + b"\r\n" for line in more) + b"\r\n" + body
        assert await self.read(len(wanted)) == wanted

    async def rest(self) -> bytes:
        """All until the server ends the connection."""
        return await asyncio.wait_for(self._reader.read(-1), DEADLINE_S)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    app, opened = Application(), Open()
    path = str(tmp_path / "http.sock")
    server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(app, opened), path)
    client = Client(*await asyncio.open_unix_connection(path), app)
    yield client
    app.let.set()
    await client.close()
    server.close()
    if opened.tasks:
        await asyncio.wait(opened.tasks, timeout=DEADLINE_S)
    for connection in list(opened.connections):
        connection.transport.abort()


async def test_the_path_is_unquoted_and_the_query_is_not(client: Client) -> None:
    client.send(b"GET /a%20b?c=%20d HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.answer(b"/a b")
    client.send(b"GET http://x/e?f=1 HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.answer(b"/e")
    assert client.app.asked == [("GET", "/a b", b"c=%20d"), ("GET", "/e", b"f=1")]


async def test_requests_that_come_early_are_answered_in_their_order(client: Client) -> None:
    client.send(b"".join(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path for path in (b"/wait", b"/2", b"/3")))
    client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nfour")
    client.app.let.set()
    for body in (b"/wait", b"/2", b"/3", b"four"):
        await client.answer(body)


async def test_a_body_may_come_in_chunks_and_is_asked_for_when_the_client_waits_for_that(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n")
    assert await client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"3\r\none\r\n")
    client.send(b"3\r\ntwo\r\n0\r\n\r\n")
    await client.answer(b"onetwo")


async def test_a_large_body_is_read_to_its_end(client: Client) -> None:
    body = bytes(range(256)) * (UNREAD_MAX_BYTES // 64)
    client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await client.answer(body)


async def test_an_answer_without_a_length_goes_out_in_chunks(client: Client) -> None:
    client.send(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
    wanted = OK + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    assert await client.read(len(wanted)) == wanted
    client.send(b"GET /again HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.answer(b"/again")


async def test_http_1_0_has_no_chunks_and_ends_with_the_connection(client: Client) -> None:
    client.send(b"GET /stream HTTP/1.0\r\n\r\n")
    assert await client.rest() == OK + b"connection: close\r\n\r\nonethree"


async def test_http_1_0_may_ask_to_go_on(client: Client) -> None:
    client.send(b"GET /1 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    await client.answer(b"/1", b"connection: keep-alive")
    client.send(b"GET /2 HTTP/1.0\r\n\r\n")
    await client.answer(b"/2", b"connection: close")
    assert await client.rest() == b""


async def test_the_answer_to_head_has_no_body(client: Client) -> None:
    client.send(b"HEAD /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    head = OK + b"content-length: 2\r\n\r\n"
    assert await client.read(len(head)) == head
    assert await client.rest() == OK + b"content-length: 2\r\nconnection: close\r\n\r\n/2"


async def test_what_nobody_reads_of_a_body_is_dropped_after_the_answer(client: Client) -> None:
    client.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n")
    await client.answer(b"/early")
    client.send(b"x" * 200_000 + b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.answer(b"/next")


async def test_an_upgrade_to_something_else_is_a_plain_request(client: Client) -> None:
    client.send(b"GET /1 HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\r\n")
    await client.answer(b"/1")
    client.send(b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.answer(b"/2")


@pytest.mark.parametrize(
    "request_text",
    [b"what is this\r\n\r\n", b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost x\r\n\r\n"],
)
async def test_what_is_no_http_is_refused_and_the_connection_ended(client: Client, request_text: bytes) -> None:
    client.send(request_text)
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\n400 Bad Request")


async def test_what_is_no_http_does_not_garble_the_answer_before_it(client: Client) -> None:
    client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\nwhat is this\r\n\r\n")
    await asyncio.wait_for(client.app.entered.wait(), DEADLINE_S)
    client.app.let.set()
    await client.answer(b"/wait", b"connection: close")
    assert await client.rest() == b""


async def test_a_head_without_end_is_refused(client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\n" + b"a: %b\r\n" % (b"x" * 1000) * (HEAD_MAX_BYTES // 1000))
    assert (await client.rest()).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


async def test_an_answer_that_breaks_off_does_not_look_whole(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.send(b"GET /broken HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (OK + b"content-length: 9\r\n\r\nhalf").startswith(await client.rest())
    assert "GET /broken failed while it was answered" in caplog.text


async def test_a_header_cannot_end_its_line(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.send(b"GET /split HTTP/1.1\r\nhost: x\r\n\r\n")
    assert await client.rest() == b""
    assert "a header would end its line early" in caplog.text


async def test_a_client_that_goes_away_is_noticed(client: Client) -> None:
    client.send(b"GET /until-gone HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(client.app.entered.wait(), DEADLINE_S)
    await client.close()
    await asyncio.wait_for(client.app.gone.wait(), DEADLINE_S)


async def test_one_header_without_end_is_refused(client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\na: " + b"x" * HEAD_MAX_BYTES)
    assert (await client.rest()).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


async def test_what_comes_behind_a_body_is_no_header(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    client.send(b"1\r\na\r\n0\r\nimpersonate-user: root\r\n\r\n")
    await client.answer(b"a")
    assert dict(client.app.headers) == {b"host": b"x", b"transfer-encoding": b"chunked"}


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked",
        b"content-length: 4\r\ncontent-length: 5",
        b"content-length: +4",
        b"content-length: 4\r\n x: folded",
        b"transfer-encoding: chunked, identity",
        b"host : x",
        b"a\0b: c",
    ],
)
async def test_a_body_whose_end_two_readers_could_see_differently_is_refused(client: Client, head: bytes) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert not any(path == "/smuggled" for _, path, _ in client.app.asked)
