"""A server that is made when somebody knocks."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web
from aiohttp.client_exceptions import ClientError

from trimtab.components.node.listen import LateServer


class Maker:
    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> web.Application:
        self.made += 1
        app = web.Application()
        app.router.add_get("/", self.hello)
        return app

    async def hello(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")


async def ask(path: Path) -> str:
    async with ClientSession("http://late", connector=UnixConnector(str(path))) as session, session.get("/") as answer:
        return await answer.text()


async def test_it_is_made_once_by_the_first_who_come(tmp_path: Path) -> None:
    make = Maker()
    server = LateServer(make)
    await server.listen_unix(tmp_path / "s")
    assert make.made == 0

    assert await asyncio.gather(*(ask(tmp_path / "s") for _ in range(5))) == ["hello"] * 5
    assert await ask(tmp_path / "s") == "hello"

    assert make.made == 1
    await server.close()
    with pytest.raises(ClientError):
        await ask(tmp_path / "s")


async def test_what_cannot_be_made_closes_the_connection_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fails = True
    make = Maker()

    def sometimes() -> web.Application:
        if fails:
            raise RuntimeError("no such module")
        return make()

    server = LateServer(sometimes)
    await server.listen_unix(tmp_path / "s")
    with caplog.at_level(logging.ERROR), pytest.raises(ClientError):
        await ask(tmp_path / "s")
    assert "what serves here cannot be made" in caplog.text

    fails = False
    assert await ask(tmp_path / "s") == "hello"
    await server.close()


async def test_it_closes_without_having_been_asked(tmp_path: Path) -> None:
    server = LateServer(Maker())
    port = await server.listen_tcp("127.0.0.1")
    assert port > 0

    await server.close()

    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
