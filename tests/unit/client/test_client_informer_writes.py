"""Our own writes and the cache: answers in order, and no decision on what a lost answer may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

from simulated_api import make_api
from trimtab.api import ObjectMeta
from trimtab.api.core import ConfigMap
from trimtab.client.client import Client
from trimtab.client.clock import SystemClock
from trimtab.client.informer import Informer
from trimtab.client.wire import encode

KEY = ("default", "a")


def config_map(value: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"v": value})


@asynccontextmanager
async def watching() -> AsyncIterator[tuple[Client, Informer[ConfigMap]]]:
    """A client and an informer that has listed, and whose watch stays silent: it is never started."""
    api = await make_api(SystemClock())
    client = Client(api.transport())
    await client.apply(config_map("old"), manager="test")
    informer = Informer(client, ConfigMap)
    await informer._list()
    try:
        yield client, informer
    finally:
        await api.close()


def value(informer: Informer[ConfigMap]) -> str | None:
    found = informer.get("a", "default")
    return found.data["v"] if found else None


async def lose_answer(informer: Informer[ConfigMap], write: Awaitable[object]) -> None:
    with suppress(ConnectionError):
        async with informer.writing(KEY, "test"):
            await write
            raise ConnectionError("the answer is lost")


async def test_after_a_lost_answer_the_api_is_asked() -> None:
    async with watching() as (client, informer):
        await lose_answer(informer, client.apply(config_map("new"), manager="test"))
        assert not informer.sure
        assert value(informer) == "old"
        await informer.settle()
        assert informer.sure
        assert value(informer) == "new"


async def test_after_a_lost_answer_to_a_deletion_the_api_is_asked() -> None:
    async with watching() as (client, informer):
        await lose_answer(informer, client.delete(config_map("").ref))
        await informer.settle()
        assert value(informer) is None


async def test_an_answer_that_a_list_overtook_is_not_taken_for_news() -> None:
    async with watching() as (client, informer):
        async with informer.writing(KEY, "test") as sent:
            mine = await client.apply(config_map("mine"), manager="test")
            await client.apply(config_map("theirs"), manager="other")
            await informer._list()
            informer.wrote(encode(mine), "test", sent)
        assert value(informer) == "theirs"
        assert not informer.sure
        await informer.settle()
        assert value(informer) == "theirs"
        assert informer.sure


async def test_one_object_is_written_by_one_at_a_time() -> None:
    async with watching() as (_, informer):
        inside: list[str] = []

        async def write(name: str) -> None:
            async with informer.writing(KEY):
                inside.append(name)
                await asyncio.sleep(0)
                inside.append(name)

        await asyncio.gather(write("first"), write("second"))
        assert inside == ["first", "first", "second", "second"]
