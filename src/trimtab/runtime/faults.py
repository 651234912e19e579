"""An unreliable network and a mortal process, from a seed.

`FaultyTransport` stands between a process and its API. Requests are delayed, refused (409, 429, 500, 503), lost before they are
carried out, or carried out with the answer lost; watches break, end, expire (410), and bring their events late, so that caches
are stale. An `Outage` is the API server itself dying: whatever is under way is cut, and for a while nobody answers.
`Mortal` ends the whole process at the n-th thing it does. All of it stops with `rates = NO_FAULTS`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec

from trimtab.client.transport import Request, Response, Transport


@dataclass(frozen=True)
class Rates:
    """How often what goes wrong: the chance per request, per event of a watch, or per step of an effect."""

    lost_before: float = 0.02
    lost_after: float = 0.02
    conflict: float = 0.02
    busy: float = 0.02
    slow: float = 0.05
    slow_s_max: float = 4.0
    latency_s_max: float = 0.01
    watch_refused: float = 0.05
    watch_expired: float = 0.03
    watch_broken: float = 0.02
    watch_late: float = 0.1
    watch_late_s_max: float = 6.0
    effect_failed: float = 0.1
    effect_slow: float = 0.1
    effect_slow_s_max: float = 20.0
    crashes_max: int = 2
    api_restarts_max: int = 1
    api_away_s_max: float = 5.0
    crash_within: int = 60
    """Crashes fall among so many requests and effect steps of one life."""


NO_FAULTS = Rates(
    lost_before=0,
    lost_after=0,
    conflict=0,
    busy=0,
    slow=0,
    latency_s_max=0.0,
    watch_refused=0,
    watch_expired=0,
    watch_broken=0,
    watch_late=0,
    effect_failed=0,
    effect_slow=0,
    crashes_max=0,
    api_restarts_max=0,
)


class InjectedFault(ConnectionError):
    """A fault of the simulation, not of the code under test."""


@dataclass
class Outage:
    """The API server's absences, as every process of a run sees them."""

    away: bool = False
    count: int = 0
    """How many there have been: a request that saw this change was cut."""


@dataclass
class Mortal:
    """Ends a process at its n-th step: from then on all that it does hangs, and `died` is set so that somebody can
    bury it."""

    dies_at: int | None = None
    effects_only: bool = False
    """Only the steps of effects count, not requests."""
    steps: int = 0
    died: asyncio.Event = field(default_factory=asyncio.Event)
    buried: bool = False

    def bury(self) -> None:
        """The process is being cancelled: what it still tries on its way out fails at once."""
        self.died.set()
        self.buried = True

    async def step(self, *, effect: bool = False) -> None:
        if self.buried:
            raise InjectedFault("injected: this process is dead")
        if self.died.is_set():
            await self._rest()
        if effect or not self.effects_only:
            self.steps += 1
        if self.dies_at is not None and self.steps >= self.dies_at:
            self.died.set()
            await self._rest()

    async def _rest(self) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")


class FaultyTransport:
    """A transport with faults. `writes` counts the requests other than GET that it was asked to send."""

    def __init__(
        self,
        inner: Transport,
        rng: random.Random,
        rates: Rates,
        mortal: Mortal | None = None,
        outage: Outage | None = None,
    ) -> None:
        self.writes: list[str] = []
        self._inner = inner
        self._rng = rng
        self.rates = rates
        self._mortal = mortal or Mortal()
        self._outage = outage or Outage()

    async def send(self, request: Request) -> Response:
        await self._mortal.step()
        if request.method != "GET":
            self.writes.append(f"{request.method} {request.path} as {request.query.get('fieldManager', '-')}")
        rates, rng = self.rates, self._rng
        await self._delay(rates)
        if self._outage.away:
            raise InjectedFault("injected: connection refused")
        if request.stream:
            return await self._watch(request)
        if _happens(rng, rates.lost_before):
            raise InjectedFault("injected: connection refused")
        if request.method != "GET" and _happens(rng, rates.conflict):
            return _Refusal(409, "Conflict", "injected: the object has been modified")
        if _happens(rng, rates.busy):
            return _Refusal(*rng.choice(_BUSY))
        outages = self._outage.count
        response = await self._inner.send(request)
        await self._mortal.step()
        if self._outage.count != outages:
            raise InjectedFault("injected: the API server died before it answered")
        if _happens(rng, rates.lost_after):
            raise InjectedFault("injected: connection reset after the request was sent")
        await self._delay(rates)
        return response

    async def _delay(self, rates: Rates) -> None:
        if rates.latency_s_max:
            most = rates.slow_s_max if _happens(self._rng, rates.slow) else rates.latency_s_max
            await asyncio.sleep(self._rng.random() * most)

    async def _watch(self, request: Request) -> Response:
        rates, rng = self.rates, self._rng
        if _happens(rng, rates.watch_refused):
            raise InjectedFault("injected: connection refused")
        if _happens(rng, rates.watch_expired):
            return _Refusal(410, "Expired", "injected: too old resource version")
        response = await self._inner.send(request)
        return response if response.status >= 400 else _LateWatch(response, self)

    async def close(self) -> None:
        await self._inner.close()


_BUSY = (
    (429, "TooManyRequests", "injected: too many requests"),
    (500, "InternalError", "injected: internal error"),
    (503, "ServiceUnavailable", "injected: the server is not ready"),
)


def _happens(rng: random.Random, chance: float) -> bool:
    return chance > 0 and rng.random() < chance


class _Refusal:
    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self.body = msgspec.json.encode(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": reason,
                "message": message,
                "code": status,
            }
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body

    async def close(self) -> None:
        return None


class _LateWatch:
    """A watch whose events come late and which breaks off."""

    body = b""

    def __init__(self, inner: Response, transport: FaultyTransport) -> None:
        self._inner = inner
        self._transport = transport
        self.status = inner.status
        self.headers = inner.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        transport, rng = self._transport, self._transport._rng
        async for chunk in self._inner.chunks():
            rates = transport.rates
            if _happens(rng, rates.watch_late):
                await asyncio.sleep(rng.random() * rates.watch_late_s_max)
            if _happens(rng, rates.watch_broken):
                if rng.random() < 0.5:
                    raise InjectedFault("injected: the watch broke")
                if rng.random() < 0.5:
                    yield b'{"type":"ERROR","object":' + _Refusal(410, "Expired", "injected: expired").body + b"}\n"
                return
            yield chunk

    async def close(self) -> None:
        await self._inner.close()


class EffectFaults:
    """Failing and slow effects, and death between any two of their steps. Passed to a `Process` as `checkpoint`."""

    def __init__(self, rng: random.Random, rates: Rates, mortal: Mortal) -> None:
        self.steps: list[str] = []
        self._rng = rng
        self.rates = rates
        self._mortal = mortal

    async def __call__(self, step: str) -> None:
        self.steps.append(step)
        await self._mortal.step(effect=True)
        if _happens(self._rng, self.rates.effect_slow):
            await asyncio.sleep(self._rng.random() * self.rates.effect_slow_s_max)
        if _happens(self._rng, self.rates.effect_failed):
            raise InjectedFault(f"injected: {step} failed")
