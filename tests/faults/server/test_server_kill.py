"""kill -9 of the API server, again and again, under writers and watchers over real HTTP.

Writers count up numbers in ConfigMaps and note what was acknowledged; a write whose answer was lost may have happened or not,
but not half and not twice. A watcher resumes from the last revision it saw, as informers do. At the end:

* every acknowledged write is there, with the revision that its answer named;
* the watcher saw each revision of each object exactly once and in order, and what it saw adds up to what is there.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api_process import ApiProcess

WRITERS = 6
OBJECTS_PER_WRITER = 4
ALIVE_S = (0.01, 0.06)
ANSWERS = 8
"""Up to so many writes are acknowledged before the moment of a kill is drawn: on a slow machine as well."""
WAIT_S = 60.0
COLLECTION = "http://api/api/v1/namespaces/default/configmaps"
LOST = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)


@dataclass
class Observed:
    """What clients were told."""

    acknowledged: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    """Revision -> the object's name and its number; None for a deletion."""
    events: list[tuple[int, str, str, int]] = field(default_factory=list)
    """The watcher's: revision, type, name, number."""
    unanswered: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the server runs."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class Client:
    """HTTP over the server's unix socket, by a session that is made anew when a connection was lost."""

    def __init__(self, server: ApiProcess) -> None:
        self._path = str(server.socket)
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._path))
        return self._session

    async def call(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.request(method, url, json=body) as answer:
            return answer.status, await answer.json()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _write_forever(server: ApiProcess, writer: int, seen: Observed) -> None:
    rng = random.Random(writer)
    client = Client(server)
    number = 0
    try:
        while not seen.stop.is_set():
            name = f"w{writer}-{rng.randrange(OBJECTS_PER_WRITER)}"
            number += 1
            try:
                await _write_once(client, name, number, rng, seen)
            except LOST:
                seen.unanswered += 1
                await client.close()
                await seen.up.wait()
    finally:
        await client.close()


async def _write_once(client: Client, name: str, number: int, rng: random.Random, seen: Observed) -> None:
    """Creates, replaces or deletes one object, with the live revision as precondition."""
    status, live = await client.call("GET", f"{COLLECTION}/{name}")
    body = {"metadata": {"name": name}, "data": {"number": str(number)}}
    if status == 404:
        status, answer = await client.call("POST", COLLECTION, body)
        assert status == 201, answer
    elif rng.random() < 0.1:
        conditions = {"preconditions": {"resourceVersion": live["metadata"]["resourceVersion"]}}
        status, answer = await client.call("DELETE", f"{COLLECTION}/{name}", conditions)
        assert status == 200, answer
        return
    else:
        body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
        status, answer = await client.call("PUT", f"{COLLECTION}/{name}", body)
        assert status == 200, answer
    revision = int(answer["metadata"]["resourceVersion"])
    assert revision not in seen.acknowledged
    seen.acknowledged[revision] = (name, number)


async def _watch_forever(server: ApiProcess, after: int, seen: Observed) -> None:
    client = Client(server)
    try:
        while not seen.stop.is_set():
            try:
                url = f"{COLLECTION}?watch=1&allowWatchBookmarks=true&resourceVersion={after}"
                async with client.session.get(url) as answer:
                    assert answer.status == 200, await answer.text()
                    async for line in answer.content:
                        if not line.endswith(b"\n"):
                            break  # torn by the kill
                        after = _note_event(json.loads(line), seen)
            except LOST:
                pass
            await client.close()
            await seen.up.wait()
    finally:
        await client.close()


def _note_event(event: dict[str, Any], seen: Observed) -> int:
    obj = event["object"]
    assert event["type"] != "ERROR", obj
    revision = int(obj["metadata"]["resourceVersion"])
    if event["type"] != "BOOKMARK":
        number = int((obj.get("data") or {}).get("number", -1))
        seen.events.append((revision, event["type"], obj["metadata"]["name"], number))
    return revision


async def _kill_and_restart(server: ApiProcess, times: int, seed: int, seen: Observed) -> None:
    rng = random.Random(seed)
    for _ in range(times):
        await _acknowledged(seen, len(seen.acknowledged) + rng.randrange(ANSWERS))
        await asyncio.sleep(rng.uniform(*ALIVE_S))  # the moment of the kill: any
        seen.up.clear()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        seen.up.set()


async def _acknowledged(seen: Observed, count: int) -> None:
    """Waits until so many writes were acknowledged in all; or for what stands in a writer's way to be told by the writer."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while len(seen.acknowledged) < count and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.002)  # writers only note; nobody tells of each answer


async def _torture(folder: Path, kills: int, seed: int) -> Observed:
    server = ApiProcess(folder)
    seen = Observed()
    try:
        await asyncio.to_thread(server.start)
        seen.up.set()
        client = Client(server)
        _, listed = await client.call("GET", COLLECTION)
        after = int(listed["metadata"]["resourceVersion"])
        tasks = [asyncio.ensure_future(_write_forever(server, w, seen)) for w in range(WRITERS)]
        watcher = asyncio.ensure_future(_watch_forever(server, after, seen))
        killer = asyncio.ensure_future(_kill_and_restart(server, kills, seed, seen))
        done, _ = await asyncio.wait([killer, watcher, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        seen.stop.set()
        await asyncio.gather(*tasks)
        await client.close()
        _, listed = await client.call("GET", COLLECTION)
        await _caught_up(seen, watcher, listed)
        await client.close()
        _check(seen, listed)
    finally:
        server.close()
    return seen


async def _caught_up(seen: Observed, watcher: asyncio.Task[None], listed: Any) -> None:
    """Waits until the watcher has seen the last revision of the collection."""
    last = max((int(item["metadata"]["resourceVersion"]) for item in listed["items"]), default=0)
    async with asyncio.timeout(60):
        while not seen.events or seen.events[-1][0] < last:
            assert not watcher.done() or watcher.exception() is None
            await asyncio.sleep(0.01)
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)


def _check(seen: Observed, listed: Any) -> None:
    revisions = [revision for revision, *_ in seen.events]
    assert revisions == sorted(set(revisions)), "the watcher saw a revision twice or out of order"

    told = {revision: (name, number) for revision, kind, name, number in seen.events if kind != "DELETED"}
    for revision, (name, number) in seen.acknowledged.items():
        assert told.get(revision) == (name, number), f"revision {revision} of {name} was acknowledged and is lost"

    state: dict[str, tuple[int, int]] = {}
    for revision, kind, name, number in seen.events:
        if name == "kube-root-ca.crt":
            continue
        assert (name in state) is (kind != "ADDED"), f"{kind} of {name} at revision {revision} does not follow"
        if kind == "DELETED":
            del state[name]
        else:
            state[name] = (revision, number)
    found = {
        item["metadata"]["name"]: (int(item["metadata"]["resourceVersion"]), int(item["data"]["number"]))
        for item in listed["items"]
        if item["metadata"]["name"] != "kube-root-ca.crt"
    }
    assert state == found


@pytest.mark.serial
async def test_200_kills_lose_no_acknowledged_write_and_no_event(tmp_path: Path) -> None:
    seen = await _torture(tmp_path, kills=200, seed=1)

    assert len(seen.acknowledged) > 500
    assert seen.unanswered > 100
    print(f"{len(seen.acknowledged)} acknowledged, {seen.unanswered} unanswered, {len(seen.events)} events")


@pytest.mark.long
@pytest.mark.serial
@pytest.mark.timeout(7200)
async def test_10000_kills(tmp_path: Path) -> None:
    for round_number in range(10):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        await _torture(folder, kills=1000, seed=round_number)
