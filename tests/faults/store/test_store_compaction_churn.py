"""Compaction again and again under writers, while watches resume and lists are read in pieces: each is right, or told that what it
asks for is gone (410); never a gap, never a mixture of two moments."""

from __future__ import annotations

import asyncio
import random

import pytest

from api_in_process import Api, running_api

COLLECTION = "/api/v1/namespaces/default/configmaps"
OBJECTS = 60
WRITES = 1_500
WINDOW = 40
READERS = 4


async def _write(api: Api, seed: int, states: dict[int, dict[str, str]], done: asyncio.Event) -> None:
    """Changes one object after the other; notes what there was at each revision."""
    rng = random.Random(seed)
    live: dict[str, str] = {}
    for number in range(WRITES):
        name = f"c{rng.randrange(OBJECTS)}"
        if name not in live:
            answer = await api.post(COLLECTION, {"metadata": {"name": name}, "data": {"n": str(number)}})
        elif rng.random() < 0.2:
            answer = await api.delete(f"{COLLECTION}/{name}")
            del live[name]
            states[api.server.store.revision] = dict(live)
            continue
        else:
            answer = await api.put(f"{COLLECTION}/{name}", {"metadata": {"name": name}, "data": {"n": str(number)}})
        revision = int(answer.ok()["metadata"]["resourceVersion"])
        live[name] = str(number)
        states[revision] = dict(live)
        if number % 3 == 0:
            await asyncio.sleep(0)
    done.set()


def _at(states: dict[int, dict[str, str]], revision: int) -> dict[str, str]:
    """What there was at a revision."""
    known = max((one for one in states if one <= revision), default=None)
    return states[known] if known is not None else {}


async def _list_in_pieces(
    api: Api, seed: int, states: dict[int, dict[str, str]], done: asyncio.Event
) -> tuple[int, int]:
    """How many lists came to their end, and how many were told that they are too old."""
    rng = random.Random(seed)
    whole = expired = 0
    while not done.is_set():
        found: dict[str, str] = {}
        revision = token = ""
        while True:
            answer = await api.get(f"{COLLECTION}?limit={rng.randint(2, 20)}" + (f"&continue={token}" if token else ""))
            if answer.status == 410:
                assert answer.body["reason"] == "Expired"
                expired += 1
                break
            meta = answer.ok()["metadata"]
            assert revision in ("", meta["resourceVersion"]), "two pieces of one list show two moments"
            revision = meta["resourceVersion"]
            found |= {item["metadata"]["name"]: item["data"]["n"] for item in answer.body["items"] if "data" in item}
            token = meta.get("continue", "")
            if not token:
                assert found == _at(states, int(revision))
                whole += 1
                break
            if rng.random() < 0.1:  # a reader that is away until its moment is gone
                while not done.is_set() and api.server.store.compacted <= int(revision):  # noqa: ASYNC110
                    await asyncio.sleep(0)
        await asyncio.sleep(0)
    return whole, expired


async def _follow(api: Api, seed: int, states: dict[int, dict[str, str]], done: asyncio.Event) -> tuple[int, int]:
    """Keeps a copy by list and watch, as informers do, with long pauses; how many watches went on, how many were too late."""
    rng = random.Random(seed)
    resumed = expired = 0
    copy: dict[str, str] | None = None
    after = 0
    while not done.is_set():
        if copy is None:
            listed = (await api.get(COLLECTION)).ok()
            after = int(listed["metadata"]["resourceVersion"])
            copy = {item["metadata"]["name"]: item["data"]["n"] for item in listed["items"] if "data" in item}
        status, events = await _some_events(api, after, rng.randint(1, 30))
        if status == 410:
            expired += 1
            copy = None
            continue
        resumed += 1
        for event in events:
            obj = event["object"]
            revision = int(obj["metadata"]["resourceVersion"])
            assert revision > after
            after = revision
            if event["type"] == "DELETED":
                del copy[obj["metadata"]["name"]]
            elif "data" in obj:
                assert (obj["metadata"]["name"] in copy) is (event["type"] == "MODIFIED")
                copy[obj["metadata"]["name"]] = obj["data"]["n"]
            assert copy == _at(states, after), f"a gap before revision {after}"
        for _ in range(rng.choice((0, 5, 50, 300))):
            await asyncio.sleep(0)
    return resumed, expired


async def _some_events(api: Api, after: int, count: int) -> tuple[int, list[dict]]:  # type: ignore[type-arg]
    """The status of a watch from a revision on, and its first events, as far as they are there already."""
    probe = await api.get(f"{COLLECTION}?resourceVersion={after}&resourceVersionMatch=Exact&limit=1")
    if probe.status == 410:
        return 410, []
    try:
        watching = await api.watch(f"{COLLECTION}?watch=1&resourceVersion={after}")
    except AssertionError:
        return 410, []
    events = []
    try:
        while len(events) < count and api.server.store.revision > (
            int(events[-1]["object"]["metadata"]["resourceVersion"]) if events else after
        ):
            event = await watching.next()
            if event["type"] == "ERROR":
                assert event["object"]["code"] == 410
                return 410, []
            events.append(event)
    finally:
        await watching.close()
    return 200, events


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 40))])
async def test_what_is_read_beside_compaction_is_right_or_gone(seed: int) -> None:
    async with running_api(window=WINDOW) as api:
        states: dict[int, dict[str, str]] = {}
        done = asyncio.Event()
        writing = asyncio.create_task(_write(api, seed, states, done))
        lists = [asyncio.create_task(_list_in_pieces(api, n, states, done)) for n in range(READERS)]
        follows = [asyncio.create_task(_follow(api, n, states, done)) for n in range(READERS)]
        await asyncio.wait([writing, *lists, *follows], return_when=asyncio.FIRST_EXCEPTION)
        done.set()
        await writing
        whole, too_old = (sum(column) for column in zip(*[await task for task in lists], strict=True))
        resumed, too_late = (sum(column) for column in zip(*[await task for task in follows], strict=True))

        assert api.server.store.compacted > WRITES // 2
        assert min(whole, too_old, resumed, too_late) > 0, (whole, too_old, resumed, too_late)
