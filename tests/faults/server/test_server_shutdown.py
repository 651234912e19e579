"""SIGTERM under load: open watches end as if their time was over, requests in flight are answered, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp

from api_process import ApiProcess

COLLECTION = "/api/v1/namespaces/default/configmaps"
WRITERS = 8
ENOUGH = 200
DEADLINE_S = 60.0


def _session(server: ApiProcess) -> aiohttp.ClientSession:
    return aiohttp.ClientSession("http://api", connector=aiohttp.UnixConnector(str(server.socket)))


async def _write(server: ApiProcess, writer: int, acknowledged: list[str], refused: list[int]) -> None:
    """Creates objects until the server goes; only a request that was never answered may end without a word."""
    async with _session(server) as session:
        for number in range(1_000_000):
            name = f"w{writer}-{number}"
            try:
                async with session.post(COLLECTION, json={"metadata": {"name": name}}) as answer:
                    body = await answer.json()
            except aiohttp.ClientConnectionError:
                return
            if answer.status != 201:
                assert (answer.status, body["kind"]) == (503, "Status"), body
                refused.append(answer.status)
                return
            acknowledged.append(name)


async def _watch(server: ApiProcess, seen: list[str], opened: asyncio.Event) -> None:
    """Reads a watch to its end, which must be a clean one: no line torn, no chunk missing."""
    async with _session(server) as session, session.get(f"{COLLECTION}?watch=1&allowWatchBookmarks=true") as answer:
        opened.set()
        async for line in answer.content:
            assert line.endswith(b"\n")
            event = json.loads(line)
            if event["type"] == "ADDED":
                seen.append(event["object"]["metadata"]["name"])
            else:
                assert event["type"] == "BOOKMARK"


async def test_a_stop_under_load_loses_and_tears_nothing(tmp_path: Path) -> None:
    server = ApiProcess(tmp_path)
    acknowledged: list[str] = []
    refused: list[int] = []
    seen: list[str] = []
    try:
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(DEADLINE_S):
            opened = asyncio.Event()
            watching = asyncio.create_task(_watch(server, seen, opened))
            await opened.wait()
            writing = [asyncio.create_task(_write(server, n, acknowledged, refused)) for n in range(WRITERS)]
            while len(acknowledged) < ENOUGH:  # noqa: ASYNC110 (a condition of other tasks)
                await asyncio.sleep(0.01)

            code = await asyncio.to_thread(server.stop)
            await asyncio.gather(watching, *writing)

        assert code == 0
        await asyncio.to_thread(server.start)
        async with _session(server) as session, session.get(COLLECTION) as answer:
            kept = {item["metadata"]["name"] for item in (await answer.json())["items"]}
        assert set(acknowledged) <= kept
        assert len(kept - set(acknowledged) - {"kube-root-ca.crt"}) == 0, "written, and whoever asked was not told"
        assert len(seen) == len(set(seen))
        assert set(seen) <= kept
    finally:
        server.close()
