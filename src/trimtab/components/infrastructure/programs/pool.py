"""Running providers, one for each program and credential: started when first asked, stopped when nobody has asked for a while.

    (program, configuration, secrets) --> Talk: a configured provider, its schema, its rate

A provider that ended is started anew by the next question. A credential's reads are held to its rate; after a "too many requests" nobody
asks for a while, longer each time. What was made anew is counted, so that a credential that sees nothing any more does not make a fleet twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
from trimtab.components.infrastructure.programs.terms import NotReady, Providers
from trimtab.components.infrastructure.protocol import provider as protocol
from trimtab.components.infrastructure.protocol.provider import Applied, Planned, ProviderError, State
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.components.infrastructure.protocol.values import Value, ValueFault

T = TypeVar("T")

IDLE_S = 300.0
CHECK_S = 30.0
WINDOW_S = 600.0
"""Within this long so many resources may be made anew as `removalsPerInterval` says."""
AGAIN_FIRST_S, AGAIN_LAST_S = 1.0, 60.0
"""After a program that did not start, or ended at once, so long nobody starts it: then twice as long, and so on."""
STEADY_S = 60.0
"""What ran so long was well."""
QUIET_S = 4.0
"""At the end of the process: so long whoever still asks is waited for, before the provider is told to stop."""
BUSY_FIRST_S, BUSY_LAST_S = 5.0, 300.0
BUSY = re.compile(r"\b429\b|too many requests|rate.?limit|throttl", re.IGNORECASE)


class Command(Protocol):
    """How a provider's program is started: shut in, as nobody in particular."""

    def __call__(self, provider: Provider) -> tuple[Sequence[str], Path, Mapping[str, str]]:
        """The command, a directory of sockets of its own (deleted with it), its environment. Raises `NotReady`."""


@dataclass
class Rate:
    """A token bucket, and the pause after a refusal. Questions overlap: only what is asked after a pause says how the next one is."""

    per_second: float
    clock: Callable[[], float]
    next_at: float = 0.0
    busy_until: float = 0.0
    busy_s: float = BUSY_FIRST_S
    pauses: int = 0

    def open(self) -> None:
        """Raises `NotReady` while its cloud is said to be busy."""
        left_s = self.busy_until - self.clock()
        if left_s > 0:
            raise NotReady(
                "RateLimited", f"the cloud asks for fewer requests: nothing is asked for {left_s:.0f} s", left_s
            )

    async def turn(self) -> None:
        """Waits until the credential may ask again. Raises `NotReady` while its cloud is said to be busy, or was in the meantime."""
        self.open()
        now, pauses = self.clock(), self.pauses
        at = max(now, self.next_at)
        self.next_at = at + 1 / self.per_second
        if at > now:
            await asyncio.sleep(at - now)
            self.open()
            if self.pauses != pauses:  # the turns are dealt out anew
                raise NotReady("RateLimited", "the cloud asked for fewer requests while this waited for its turn")

    def answered(self) -> None:
        """Something that the cloud was asked was not refused."""
        if self.clock() >= self.busy_until:
            self.busy_s = BUSY_FIRST_S

    def refused(self) -> None:
        """It was asked too often. What was asked together is refused together, and is one refusal."""
        if self.clock() < self.busy_until:
            return
        self.busy_until = self.next_at = self.clock() + self.busy_s
        self.busy_s = min(self.busy_s * 2, BUSY_LAST_S)
        self.pauses += 1


@dataclass
class Talk:
    """A configured provider. Implements what `Keeper` needs."""

    provider: protocol.Provider
    schema: ProviderSchema
    rate: Rate
    removals: int
    clock: Callable[[], float]
    sockets: Path
    used: float = 0.0
    asked: int = 0
    began: float = 0.0
    anew: deque[float] = field(default_factory=deque)

    async def quiet(self, within_s: float) -> None:
        """Waits until nobody asks anything any more, at most so long."""
        until = self.clock() + within_s
        while self.asked and self.clock() < until:  # noqa: ASYNC110 (at the end of a process, once)
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.provider.close()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def may_make_anew(self) -> bool:
        """Whether one more resource that was there may be made anew now; counts it if so."""
        now = self.clock()
        while self.anew and self.anew[0] <= now - WINDOW_S:
            self.anew.popleft()
        if len(self.anew) >= self.removals:
            return False
        self.anew.append(now)
        return True

    async def plan(self, kind: str, prior: State, config: Value) -> Planned:
        return await self._asking(self.provider.plan(kind, prior, config), cloud=False)

    async def read(self, kind: str, state: State) -> State:
        await self.rate.turn()
        return await self._asking(self.provider.read(kind, state))

    async def apply(self, kind: str, prior: State, planned: Planned, config: Value) -> Applied:
        done = await self._asking(self.provider.apply(kind, prior, planned, config), cloud=False)
        if any(BUSY.search(str(one)) for one in done.errors):
            self.rate.refused()
        else:
            self.rate.answered()
        return done

    async def upgrade(self, kind: str, version: int, state: Any) -> Value:
        return await self._asking(self.provider.upgrade(kind, version, state), cloud=False)

    async def import_(self, kind: str, name: str) -> list[protocol.Imported]:
        await self.rate.turn()
        return await self._asking(self.provider.import_(kind, name))

    async def import_identity(self, kind: str, identity: Value) -> list[protocol.Imported]:
        await self.rate.turn()
        return await self._asking(self.provider.import_identity(kind, identity))

    async def data(self, kind: str, config: Value) -> Value:
        await self.rate.turn()
        return await self._asking(self.provider.data(kind, config))

    async def list_(self, kind: str, config: Value, limit: int) -> list[protocol.Listed]:
        await self.rate.turn()
        return await self._asking(self.provider.list_(kind, config, limit))

    async def validate(self, kind: str, config: Value) -> tuple[protocol.Diagnostic, ...]:
        return await self._asking(self.provider.validate(kind, config), cloud=False)

    async def _asking(self, question: Awaitable[T], *, cloud: bool = True) -> T:
        """cloud: an answer means that the cloud gave one; many a plan does without it."""
        self.asked += 1
        try:
            answer = await question
        except ProviderError as err:
            if BUSY.search(str(err)):
                self.rate.refused()
            raise
        else:
            if cloud:
                self.rate.answered()
            return answer
        finally:
            self.asked -= 1
            self.used = self.clock()


@dataclass
class Trouble:
    """A program that did not run, and when it is tried again."""

    why: NotReady
    until: float
    wait_s: float

    def pause(self, now: float) -> None:
        """Raises `NotReady` until it is time to try again."""
        if now < self.until:
            raise NotReady(self.why.reason, f"{self.why}; it is started again in {max(self.until - now, 1):.0f} s")


class Pool:
    """All running providers of a process. `run` it as a service; it stops them when it is cancelled."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._talks: dict[str, Talk] = {}
        self._starting: dict[str, asyncio.Task[Talk]] = {}
        self._troubles: dict[str, Trouble] = {}
        self._shared: dict[str, tuple[Rate, deque[float]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> list[Talk]:
        return list(self._talks.values())

    async def talk(self, provider: Provider, config: ProviderConfig, secrets: Mapping[str, str]) -> Talk:
        key = self._key(provider, config, secrets)
        talk = self._talks.get(key)
        if talk is not None and talk.provider.plugin.running:
            talk.used = talk.clock()
            talk.removals, talk.rate.per_second = config.spec.removals_per_interval, config.spec.requests_per_second
            return talk
        if talk is not None:
            del self._talks[key]
            if talk.clock() - talk.began < STEADY_S:
                self._trouble(key, NotReady("ProviderFailed", f"{provider.name}: {talk.provider.plugin.epitaph()}"))
            self._end(talk)
        task = self._starting.get(key)
        if task is None:
            if (trouble := self._troubles.get(key)) is not None:
                trouble.pause(asyncio.get_running_loop().time())
            task = self._starting[key] = asyncio.get_running_loop().create_task(
                self._started(key, provider, config, secrets)
            )
            task.add_done_callback(lambda done: self._begun(key, done))
        return await asyncio.shield(task)

    async def _started(self, key: str, provider: Provider, config: ProviderConfig, secrets: Mapping[str, str]) -> Talk:
        try:
            started = self._talks[key] = await self._start(provider, config, secrets)
        except NotReady as err:
            self._trouble(key, err)
            raise
        return started

    def _begun(self, key: str, done: asyncio.Task[Talk]) -> None:
        self._starting.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever asked may be gone: nobody else hears of it

    def _end(self, talk: Talk) -> asyncio.Task[None]:
        """Closes what nobody finds any more, whatever becomes of who says so; meanwhile another may be started."""
        task = asyncio.get_running_loop().create_task(talk.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _trouble(self, key: str, err: NotReady) -> None:
        """Remembers that it did not run, or not for long: it is started again later, each time later."""
        now = asyncio.get_running_loop().time()
        before = self._troubles.get(key)
        wait_s = min(before.wait_s * 2, AGAIN_LAST_S) if before is not None else AGAIN_FIRST_S
        self._troubles = {k: t for k, t in self._troubles.items() if now < t.until + STEADY_S}
        self._troubles[key] = Trouble(err, now + wait_s, wait_s)

    def _key(self, provider: Provider, config: ProviderConfig, secrets: Mapping[str, str]) -> str:
        parts = [provider.metadata.uid, provider.spec.checksum, provider.spec.version, config.metadata.uid]
        raw = msgspec.json.encode([parts, config.spec.config, dict(secrets)], order="deterministic")
        return hashlib.sha256(raw).hexdigest()

    async def _start(self, provider: Provider, config: ProviderConfig, secrets: Mapping[str, str]) -> Talk:
        command, sockets, environment = self._command(provider)
        clock = asyncio.get_running_loop().time
        try:
            started = await protocol.Provider.start(command, sockets, name=provider.name, environment=environment)
        except BaseException as err:
            shutil.rmtree(sockets, ignore_errors=True)
            if isinstance(err, protocol.LaunchError):
                raise NotReady("ProviderFailed", str(err)) from None
            raise
        try:
            schema = await started.schema()
            await started.configure({**config.spec.config, **secrets})
        except BaseException as err:
            await started.close()
            shutil.rmtree(sockets, ignore_errors=True)
            if isinstance(err, ProviderError | ValueFault):
                raise NotReady("ConfigurationRefused", f"ProviderConfig {config.name}: {err}") from None
            raise
        spec = config.spec
        # Of the ProviderConfig, not of the process: neither an idle end nor another token makes anybody forget.
        rate, anew = self._shared.setdefault(config.metadata.uid, (Rate(spec.requests_per_second, clock), deque()))
        rate.per_second = spec.requests_per_second
        return Talk(
            started, schema, rate, spec.removals_per_interval, clock, sockets, used=clock(), anew=anew, began=clock()
        )

    async def run(self) -> None:
        """Stops what is idle, until cancelled; then stops all."""
        try:
            while True:
                await asyncio.sleep(CHECK_S)
                await self.reap()
        finally:
            await self.close()

    async def reap(self) -> None:
        """Stops what nobody has asked for `IDLE_S`."""
        for key, talk in list(self._talks.items()):
            if talk.asked == 0 and talk.used + IDLE_S <= talk.clock():
                del self._talks[key]
                await asyncio.shield(self._end(talk))

    async def close(self) -> None:
        starting = list(self._starting.values())
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        talks, self._talks = list(self._talks.values()), {}
        await asyncio.gather(*(talk.quiet(QUIET_S) for talk in talks))
        await asyncio.gather(*self._ending, *map(self._end, talks))


__all__ = ["Command", "NotReady", "Pool", "Providers", "Rate", "Talk"]
