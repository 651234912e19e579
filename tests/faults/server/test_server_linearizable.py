"""Many clients, over TLS and the unix socket, on few objects, while the server is killed: what they were told is linearizable, and
a watch told each change once and in order. The same check finds a server that is broken on purpose.

Lists count as reads of all objects at one moment. Reads with `resourceVersion=0` may be old, but never made up.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import broken_api_process
from api_process import ApiProcess
from linearizable import Operation, violation

CLIENTS = 8
KEYS = 4
ATTEMPTS = 20
COLLECTION = "/api/v1/namespaces/default/configmaps"
MERGE = "application/merge-patch+json"
LOST = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)


@dataclass
class Recorded:
    history: list[Operation] = field(default_factory=list)
    stale: list[Operation] = field(default_factory=list)
    events: list[tuple[int, str, str, int]] = field(default_factory=list)
    """The watch's: revision, type, name, value."""
    written: dict[int, float] = field(default_factory=dict)
    """Value -> when its write was called."""
    up: asyncio.Event = field(default_factory=asyncio.Event)
    stop: bool = False
    values: Any = field(default_factory=lambda: count(1))

    def violation(self) -> str | None:
        for read in self.stale:
            if self.written.get(read.value, read.answered) >= read.answered:
                return f"a read saw what nobody had written: {read}"
        return violation(self.history) or self._watched_wrong()

    def _watched_wrong(self) -> str | None:
        revisions = [revision for revision, *_ in self.events]
        if revisions != sorted(set(revisions)):
            return "the watch told a revision twice or out of order"
        told = {revision: (name, value) for revision, kind, name, value in self.events if kind != "DELETED"}
        for op in self.history:
            wrote = op.verb in ("create", "update", "patch") and op.outcome == "ok"
            if wrote and told.get(op.revision) != (op.key, op.value):
                return f"the watch did not tell of {op}"
        return None


class Client:
    """One client of a process that comes and goes."""

    def __init__(self, server: ApiProcess, recorded: Recorded, *, tls: bool) -> None:
        self._server = server
        self._recorded = recorded
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    def url(self, path: str) -> str:
        return (f"https://127.0.0.1:{self._server.port}" if self._tls else "http://api") + COLLECTION + path

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            if self._tls:
                context = ssl.create_default_context(cafile=str(self._server.folder / "ca.crt"))
                connector: aiohttp.BaseConnector = aiohttp.TCPConnector(ssl=context)
            else:
                connector = aiohttp.UnixConnector(str(self._server.socket))
            headers = {"authorization": f"Bearer {self._server.token}"}
            self._session = aiohttp.ClientSession(connector=connector, headers=headers)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def again(self) -> None:
        """After a connection was lost: once the server is there again."""
        await self.close()
        await self._recorded.up.wait()

    async def _call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.url(path), data=data, headers={"content-type": kind}) as answer:
            return answer.status, await answer.json()

    async def step(self, rng: random.Random, seen: dict[str, int]) -> None:
        """One request, recorded. seen: the revisions that this client believes in."""
        recorded = self._recorded
        key = f"k{rng.randrange(KEYS)}"
        verb = rng.choices(("get", "list", "stale", "create", "update", "patch", "delete"), (4, 1, 2, 3, 4, 3, 1))[0]
        value = next(recorded.values) if verb in ("create", "update", "patch") else 0
        body = {"metadata": {"name": key}, "data": {"value": str(value)}}
        called = time.monotonic()
        if value:
            recorded.written[value] = called
        expected = seen.get(key, 1)
        try:
            match verb:
                case "list":
                    _, answer = await self._call("GET", "")
                    self._record_list(answer, called)
                    return
                case "get":
                    status, answer = await self._call("GET", f"/{key}")
                case "stale":
                    status, answer = await self._call("GET", f"/{key}?resourceVersion=0")
                case "create":
                    status, answer = await self._call("POST", "", body)
                case "update":
                    body["metadata"]["resourceVersion"] = str(expected)
                    status, answer = await self._call("PUT", f"/{key}", body)
                case "patch":
                    status, answer = await self._call("PATCH", f"/{key}", {"data": body["data"]}, MERGE)
                case _:
                    status, answer = await self._call("DELETE", f"/{key}")
        except LOST:
            if verb not in ("get", "list", "stale"):
                recorded.history.append(
                    Operation(key, verb, called, time.monotonic(), "unknown", value, expected=expected)
                )
            await self.again()
            return
        answered = time.monotonic()
        if status == 503:  # it stops, or the store does: nothing is known
            recorded.history.append(Operation(key, verb, called, answered, "unknown", value, expected=expected))
            return
        outcome = {404: "absent", 409: "exists" if verb == "create" else "conflict"}.get(status, "ok")
        assert outcome != "ok" or status in (200, 201), answer
        revision = 0
        if outcome == "ok" and verb != "delete":
            revision = seen[key] = int(answer["metadata"]["resourceVersion"])
            value = int(answer["data"]["value"])
        done = Operation(key, verb, called, answered, outcome, value, revision, expected)
        if verb == "stale":
            if outcome == "ok":
                recorded.stale.append(done)
        else:
            recorded.history.append(done)

    def _record_list(self, answer: Any, called: float) -> None:
        now = time.monotonic()
        found = {item["metadata"]["name"]: item for item in answer["items"]}
        for key in (f"k{n}" for n in range(KEYS)):
            if (item := found.get(key)) is None:
                self._recorded.history.append(Operation(key, "get", called, now, "absent"))
                continue
            revision = int(item["metadata"]["resourceVersion"])
            assert revision <= int(answer["metadata"]["resourceVersion"])
            value = int(item["data"]["value"])
            self._recorded.history.append(Operation(key, "get", called, now, "ok", value, revision))


async def _work(client: Client, recorded: Recorded, seed: int) -> None:
    rng = random.Random(seed)
    seen: dict[str, int] = {}
    try:
        while not recorded.stop:
            await client.step(rng, seen)
    finally:
        await client.close()


async def _watch(client: Client, recorded: Recorded, after: int) -> None:
    try:
        while True:
            try:
                url = client.url(f"?watch=1&allowWatchBookmarks=true&resourceVersion={after}")
                async with client.session.get(url) as answer:
                    async for line in answer.content:
                        if not line.endswith(b"\n"):
                            break  # torn by the kill
                        event = json.loads(line)
                        obj = event["object"]
                        after = int(obj["metadata"]["resourceVersion"])
                        if event["type"] != "BOOKMARK":
                            value = int((obj.get("data") or {}).get("value", 0))
                            recorded.events.append((after, event["type"], obj["metadata"]["name"], value))
            except LOST:
                pass
            await client.again()
    finally:
        await client.close()


async def _last(client: Client, recorded: Recorded) -> None:
    """Writes one more object and waits until the watch has told of it."""
    status, answer = await client._call("POST", "", {"metadata": {"name": "last"}, "data": {"value": "0"}})
    assert status == 201, answer
    async with asyncio.timeout(60):
        while not recorded.events or recorded.events[-1][2] != "last":  # noqa: ASYNC110 (a condition of another task)
            await asyncio.sleep(0.01)
    await client.close()


async def _record(server: ApiProcess, kills: int, operations: int) -> Recorded:
    """What clients of the server were told until there are so many answers between any two of its deaths, and after the last."""
    recorded = Recorded()
    await asyncio.to_thread(server.start)
    recorded.up.set()
    own = Client(server, recorded, tls=True)
    _, listed = await own._call("GET", "")
    watching = asyncio.ensure_future(
        _watch(Client(server, recorded, tls=False), recorded, int(listed["metadata"]["resourceVersion"]))
    )
    tasks = [
        asyncio.ensure_future(_work(Client(server, recorded, tls=number % 2 == 0), recorded, number))
        for number in range(CLIENTS)
    ]
    try:
        async with asyncio.timeout(120):
            for round_number in range(kills + 1):
                enough = len(recorded.history) + operations
                while len(recorded.history) < enough:
                    assert not any(task.done() for task in tasks), [task.exception() for task in tasks if task.done()]
                    await asyncio.sleep(0.005)
                if round_number < kills:
                    recorded.up.clear()
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                    recorded.up.set()
            recorded.stop = True
            await asyncio.gather(*tasks)
            await own.close()
            await _last(own, recorded)
    finally:
        for task in (*tasks, watching):
            task.cancel()
        await asyncio.gather(*tasks, watching, return_exceptions=True)
        await own.close()
    return recorded


@pytest.mark.serial
async def test_what_clients_are_told_is_linearizable_while_the_server_is_killed(tmp_path: Path) -> None:
    server = ApiProcess(tmp_path, tls=True)
    try:
        recorded = await _record(server, kills=4, operations=200)
    finally:
        server.close()

    assert recorded.violation() is None
    assert len(recorded.history) >= 1_000
    assert {op.outcome for op in recorded.history} >= {"ok", "absent", "exists", "conflict"}


@pytest.mark.long
@pytest.mark.serial
@pytest.mark.timeout(3600)
async def test_what_clients_are_told_is_linearizable_over_many_deaths(tmp_path: Path) -> None:
    for round_number in range(50):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        server = ApiProcess(folder, tls=True)
        try:
            recorded = await _record(server, kills=10, operations=400)
        finally:
            server.close()
        assert recorded.violation() is None


@pytest.mark.serial
@pytest.mark.parametrize(
    ("broken", "kills", "found"),
    [("early", 3, "no order of its"), ("stale", 0, "no order of its"), ("lossy", 0, "the watch did not tell of")],
)
async def test_a_server_that_is_broken_on_purpose_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, kills: int, found: str
) -> None:
    monkeypatch.setenv("BROKEN", broken)
    violations = []
    for attempt in range(ATTEMPTS):  # whether clients get to see a fault is a matter of luck
        folder = tmp_path / str(attempt)
        folder.mkdir()
        server = ApiProcess(folder, tls=True, program=Path(broken_api_process.__file__))
        try:
            recorded = await _record(server, kills=kills, operations=150)
        finally:
            server.close()
        violations.append(recorded.violation())
        if violations[-1] is not None:
            break

    assert found in (violations[-1] or "")
