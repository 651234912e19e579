"""Whose request is next, when more come over the network than can be answered at once: each client gets its share.

A request takes a seat when it begins and gives it back when its answer is known; a watch, once it is open, has none. While
there is nothing to wait for, that is all. Else requests wait in a line of their client's own, and the next one is taken from
the client that has used the least of the server's time lately (start-time fair queuing: Goyal, Vin and Cheng, SIGCOMM 1996).
So a loop with five hundred connections fills its own line, and a polite client's request is at most one turn away.

A client is a user at an address. The engine's own components come over its socket and do not pass here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from trimtab.server.errors import StatusError, too_many_requests

SEATS = 400
"""Requests answered at the same time (the real server's limit for those that do not change anything)."""
CLIENT_SEATS = 64
"""Of them for one client: as many writes as share a commit well, so few that the next client's writes are in the next one."""
CLIENT_WAITING_MAX = 1_000
WAIT_MAX_S = 15.0
"""A request that waited this long is refused: its client asks for more than it gets (the real server's limit)."""
TURN_S = 0.002
"""Work that is begun between two looks at the sockets; a newcomer waits no longer than that."""
TURN_MAX = 16
LINES_KEPT = 256
"""Clients beyond these are forgotten when they ask for nothing."""
COST_S = 0.0001
"""What a client's first request is taken to cost."""

Client = tuple[str, str]
Wait = asyncio.Future[None]


class _Line:
    """One client: what waits, what it has, what it used."""

    __slots__ = ("cost_s", "seats", "used_s", "waiting")

    def __init__(self, used_s: float) -> None:
        self.waiting: deque[tuple[Wait, float]] = deque()
        self.seats = 0
        self.used_s = used_s
        """Virtual time: grows with each request that is begun, and never lags behind those who are served."""
        self.cost_s = COST_S
        """Of its requests lately, on average."""


class Turns:
    """See the module. `seats_used` and `waiting` are for the metrics."""

    def __init__(
        self, seats: int = SEATS, client_seats: int = CLIENT_SEATS, waiting_max: int = CLIENT_WAITING_MAX
    ) -> None:
        self._seats = seats
        self._client_seats = client_seats
        self._waiting_max = waiting_max
        self._lines: dict[Client, _Line] = {}
        self._turn: asyncio.Handle | None = None
        self._begun_s = 0.0
        """Estimated work that was begun since the last look at the sockets."""
        self._begun = 0
        self._now_s = 0.0
        """The virtual time of whoever was served last."""
        self.seats_used = 0
        self.waiting = 0
        self.refused = 0

    async def take(self, client: Client, *, goes_on: bool = False) -> None:
        """Returns when it is this request's turn; `give_back` must follow. Raises `StatusError` 429.

        goes_on: with an answer that has begun, which is not refused any more.
        """
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line(self._now_s)
        loop = asyncio.get_running_loop()
        if self._turn is None:
            self._turn = loop.call_soon(self._next_turn)
        if not self.waiting and self._may(line):
            self._begin(line)
        elif len(line.waiting) >= self._waiting_max and not goes_on:
            self.refused += 1
            raise _refusal()
        else:
            await self._wait(loop, line, math.inf if goes_on else loop.time() + WAIT_MAX_S)

    def give_back(self, client: Client, took_s: float, *, reads: bool) -> None:
        """The request was answered. took_s: since its turn came; the time of one that only `reads` was all the server's."""
        line = self._lines[client]
        self.seats_used -= 1
        line.seats -= 1
        if reads:
            line.cost_s += (took_s - line.cost_s) / 8
        if self.waiting and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._next_turn)

    def _may(self, line: _Line) -> bool:
        return (
            self.seats_used < self._seats
            and line.seats < self._client_seats
            and self._begun < TURN_MAX
            and self._begun_s < TURN_S
        )

    def _begin(self, line: _Line) -> None:
        self.seats_used += 1
        line.seats += 1
        line.used_s = max(line.used_s, self._now_s)
        self._now_s = line.used_s
        line.used_s += line.cost_s
        self._begun += 1
        self._begun_s += line.cost_s

    async def _wait(self, loop: asyncio.AbstractEventLoop, line: _Line, until: float) -> None:
        wait: Wait = loop.create_future()
        line.waiting.append((wait, until))
        self.waiting += 1
        try:
            await wait
        except asyncio.CancelledError:
            if wait.done() and not wait.cancelled():  # its turn had come already
                self.seats_used -= 1
                line.seats -= 1
            raise

    def _next_turn(self) -> None:
        """Lets those begin whose turn it is; the sockets were looked at since the last time."""
        self._turn = None
        self._begun = 0
        self._begun_s = 0.0
        loop = asyncio.get_running_loop()
        if len(self._lines) > LINES_KEPT:
            self._lines = {client: line for client, line in self._lines.items() if line.seats or line.waiting}
        while self.waiting:
            ready = [line for line in self._lines.values() if line.waiting and self._may(line)]
            if not ready:
                break
            line = min(ready, key=lambda line: line.used_s)
            wait, until = line.waiting.popleft()
            self.waiting -= 1
            if wait.done():
                continue  # its client went away
            if loop.time() > until:
                self.refused += 1
                wait.set_exception(_refusal())
                continue
            self._begin(line)
            wait.set_result(None)
        if self._begun:
            self._turn = loop.call_soon(self._next_turn)


class Turn:
    """What one request has of the server's time. `reads`: its time is all the server's, none the disk's."""

    def __init__(self, turns: Turns, client: Client) -> None:
        self.reads = True
        self._turns = turns
        self._client = client
        self._began_s = 0.0
        self._has = False

    async def begin(self) -> None:
        """Raises `StatusError` 429."""
        await self._take(goes_on=False)

    async def again(self) -> None:
        """For the next piece of an answer that has begun."""
        await self._take(goes_on=True)

    def end(self) -> None:
        """Lets others in; does nothing when it had ended already."""
        if self._has:
            self._has = False
            self._turns.give_back(self._client, time.perf_counter() - self._began_s, reads=self.reads)

    async def _take(self, *, goes_on: bool) -> None:
        await self._turns.take(self._client, goes_on=goes_on)
        self._has = True
        self._began_s = time.perf_counter()


def _refusal() -> StatusError:
    return too_many_requests("too many requests, please try again later")
