"""Each client gets its share of the server, however much one of them asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from trimtab.server import turns as turns_module
from trimtab.server.errors import StatusError
from trimtab.server.turns import TURN_MAX, Turns

GREEDY, POLITE = ("greedy", "10.0.0.1"), ("polite", "10.0.0.2")


class Served:
    """Takes turns as a server does: a request's seat is given back when its time is over."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []

    async def request(
        self, client: tuple[str, str], work: Callable[[], Awaitable[object]] | None = None, cost_s: float = 0.0001
    ) -> None:
        await self.turns.take(client)
        self.order.append(client[0])
        if work is not None:
            await work()
        self.turns.give_back(client, cost_s, reads=True)


async def test_a_polite_client_is_served_before_the_line_of_a_greedy_one() -> None:
    served = Served(Turns())
    greedy = [asyncio.ensure_future(served.request(GREEDY)) for _ in range(500)]
    await asyncio.sleep(0)
    polite = asyncio.ensure_future(served.request(POLITE))

    await asyncio.gather(*greedy, polite)

    assert len(served.order) == 501
    assert served.order.index("polite") < 3 * TURN_MAX
    assert served.turns.seats_used == 0


async def test_who_asks_for_costly_things_gets_fewer_of_them() -> None:
    served = Served(Turns())
    costly = [asyncio.ensure_future(served.request(GREEDY, cost_s=0.01)) for _ in range(100)]
    cheap = [asyncio.ensure_future(served.request(POLITE, cost_s=0.0001)) for _ in range(100)]

    await asyncio.gather(*costly, *cheap)

    last_cheap = len(served.order) - 1 - served.order[::-1].index("polite")
    assert served.order[:last_cheap].count("greedy") < 60


async def test_one_client_cannot_take_all_seats() -> None:
    served = Served(Turns(seats=8, client_seats=4))
    disk = asyncio.Event()
    greedy = [asyncio.ensure_future(served.request(GREEDY, disk.wait)) for _ in range(20)]
    for _ in range(10):  # steps of the loop, until all that may begin has begun
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await served.request(POLITE)
        assert served.order.count("greedy") == 4
        disk.set()
        await asyncio.gather(*greedy)

    assert (served.turns.seats_used, served.turns.waiting) == (0, 0)


async def test_too_long_a_line_is_refused_and_told_when_to_come_back() -> None:
    turns = Turns(seats=1, waiting_max=1)
    await turns.take(GREEDY)
    waiting = asyncio.ensure_future(turns.take(GREEDY))
    await asyncio.sleep(0)

    with pytest.raises(StatusError, match="too many requests, please try again later") as refused:
        await turns.take(GREEDY)

    assert refused.value.code == 429
    assert dict(refused.value.headers) == {"retry-after": "1"}
    turns.give_back(GREEDY, 0.0, reads=True)
    await waiting
    turns.give_back(GREEDY, 0.0, reads=True)


async def test_who_waited_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "WAIT_MAX_S", -1.0)
    turns = Turns(seats=1)
    await turns.take(GREEDY)
    waiting = asyncio.ensure_future(turns.take(GREEDY))
    await asyncio.sleep(0)
    turns.give_back(GREEDY, 0.0, reads=True)

    with pytest.raises(StatusError, match="too many requests"):
        await waiting
    assert turns.refused == 1


async def test_who_went_away_gives_its_place_back() -> None:
    turns = Turns(seats=1)
    await turns.take(GREEDY)
    first, second = (asyncio.ensure_future(turns.take(GREEDY)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    turns.give_back(GREEDY, 0.0, reads=True)
    async with asyncio.timeout(60):
        await second
    turns.give_back(GREEDY, 0.0, reads=True)

    assert (turns.seats_used, turns.waiting) == (0, 0)
