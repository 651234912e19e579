"""Running providers, one for each program and credential: started when first asked, stopped when nobody has asked for a while.

    (program, configuration, secrets) --> Talk: a configured provider, its schema, its rate

A provider that ended is started anew by the next question. A credential's reads are held to its rate; after a "too many requests" nobody
asks for a while, longer each time. What was made anew is counted, so that a credential that sees nothing any more does not make a fleet twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
from trimtab.components.infrastructure.programs.leases import Lease, Opening, close_all, redacted
from trimtab.components.infrastructure.programs.rate import BUSY, Rate
from trimtab.components.infrastructure.programs.removals import WINDOW_S, Removals
from trimtab.components.infrastructure.programs.terms import NO_OPENINGS, NotReady
from trimtab.components.infrastructure.protocol import provider as protocol
from trimtab.components.infrastructure.protocol.provider import Applied, Planned, ProviderError, State
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.components.infrastructure.protocol.values import Value, ValueFault

T = TypeVar("T")

IDLE_S = 300.0
CHECK_S = 30.0
AGAIN_FIRST_S, AGAIN_LAST_S = 1.0, 60.0
"""After a program that did not start, or ended at once, so long nobody starts it: then twice as long, and so on."""
STEADY_S = 60.0
"""What ran so long was well."""
QUIET_S = 4.0
"""At the end of the process: so long whoever still asks is waited for, before the provider is told to stop."""
SHARED_S = WINDOW_S
"""So long after the last process of a ProviderConfig what all of them share is kept: longer than any pause, and than removals count."""


class Command(Protocol):
    """How a provider's program is started: shut in, as nobody in particular."""

    def __call__(self, provider: Provider) -> tuple[Sequence[str], Path, Mapping[str, str]]:
        """The command, a directory of sockets of its own (deleted with it), its environment. Raises `NotReady`."""


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
    anew: Removals = field(default_factory=Removals)
    leases: Sequence[Lease] = ()
    """What of its configuration is had from ephemeral resources, open as long as its process lives."""
    lent: int = 0
    """How many ephemeral resources of it are open."""
    broken_off: bool = False
    """Whether its process ended in the midst of a question."""

    async def quiet(self, within_s: float) -> None:
        """Waits until nobody asks anything any more, at most so long."""
        until = self.clock() + within_s
        while self.asked and self.clock() < until:  # noqa: ASYNC110 (at the end of a process, once)
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.provider.close()
        shutil.rmtree(self.sockets, ignore_errors=True)
        await close_all(self.leases)

    @property
    def spent(self) -> bool:
        """Whether something that it is configured with could not be renewed."""
        return any(lease.lost for lease in self.leases)

    @property
    def idle(self) -> bool:
        return self.asked == 0 and self.lent == 0

    def may_make_anew(self, what: str, now_s: float) -> bool:
        """Whether one more resource that was there may be made anew now; counts it if so, as `Removals.allows`."""
        return self.anew.allows(what, self.removals, now_s)

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

    async def upgrade_identity(self, kind: str, version: int, identity: Value) -> Value:
        return await self._asking(self.provider.upgrade_identity(kind, version, identity), cloud=False)

    async def import_(self, kind: str, name: str) -> list[protocol.Imported]:
        await self.rate.turn()
        return await self._asking(self.provider.import_(kind, name))

    async def import_identity(self, kind: str, identity: Value) -> list[protocol.Imported]:
        await self.rate.turn()
        return await self._asking(self.provider.import_identity(kind, identity))

    async def data(self, kind: str, config: Value, *, timeout_s: float) -> Value:
        await self.rate.turn()
        return await self._asking(self.provider.data(kind, config, timeout_s=timeout_s))

    async def list_(self, kind: str, config: Value, limit: int) -> list[protocol.Listed]:
        await self.rate.turn()
        return await self._asking(self.provider.list_(kind, config, limit))

    async def validate_ephemeral(self, kind: str, config: Value) -> tuple[protocol.Diagnostic, ...]:
        return await self._asking(self.provider.validate_ephemeral(kind, config))

    async def open_ephemeral(self, kind: str, config: Value) -> protocol.Opened:
        opened = await self._asking(self.provider.open_ephemeral(kind, config))
        self.lent += 1
        return opened

    async def renew_ephemeral(self, kind: str, opened: protocol.Opened) -> protocol.Opened:
        return await self._asking(self.provider.renew_ephemeral(kind, opened))

    async def close_ephemeral(self, kind: str, opened: protocol.Opened) -> None:
        self.lent = max(self.lent - 1, 0)  # it may have been opened by a process before this one
        await self._asking(self.provider.close_ephemeral(kind, opened))

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
            self.broken_off |= err.died
            raise
        else:
            if cloud:
                self.rate.answered()
            return answer
        finally:
            self.asked -= 1
            self.used = self.clock()


@dataclass
class Shared:
    """What all processes of one ProviderConfig have in common. used: when there was one."""

    rate: Rate
    anew: Removals
    used: float


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
        self._retired: list[Talk] = []
        """Those that others have taken the place of, and that still do something."""
        self._starting: dict[str, asyncio.Task[Talk]] = {}
        self._troubles: dict[str, Trouble] = {}
        self.shared: dict[str, Shared] = {}
        """By uid of a ProviderConfig: neither an idle end nor another token makes anybody forget."""
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> list[Talk]:
        return [*self._talks.values(), *self._retired]

    async def talk(
        self,
        provider: Provider,
        config: ProviderConfig,
        secrets: Mapping[str, str],
        openings: Mapping[str, Opening] = NO_OPENINGS,
    ) -> Talk:
        key = self._key(provider, config, secrets, openings)
        talk = self._talks.get(key)
        if talk is not None and talk.spent:
            self._retired.append(self._talks.pop(key))
            talk = None
        if talk is not None and talk.provider.plugin.running:
            talk.used = talk.clock()
            talk.removals, talk.rate.per_second = config.spec.removals_per_interval, config.spec.requests_per_second
            return talk
        if talk is not None:
            del self._talks[key]
            if talk.clock() - talk.began < STEADY_S:
                ended = NotReady("ProviderFailed", f"{provider.name}: {talk.provider.plugin.epitaph()}")
                self._trouble(key, ended, again=not talk.broken_off)
            self._end(talk)
        task = self._starting.get(key)
        if task is None:
            if (trouble := self._troubles.get(key)) is not None:
                trouble.pause(asyncio.get_running_loop().time())
            task = self._starting[key] = asyncio.get_running_loop().create_task(
                self._started(key, provider, config, secrets, openings)
            )
            task.add_done_callback(lambda done: self._begun(key, done))
        return await asyncio.shield(task)

    async def _started(
        self,
        key: str,
        provider: Provider,
        config: ProviderConfig,
        secrets: Mapping[str, str],
        openings: Mapping[str, Opening],
    ) -> Talk:
        leases: list[Lease] = []
        try:
            for opening in openings.values():
                leases.append(await Lease.open(self, opening))
            fresh = {field: lease.value for field, lease in zip(openings, leases, strict=True)}
            started = self._talks[key] = await self._start(provider, config, {**secrets, **fresh})
            started.leases = leases
        except NotReady as err:
            await close_all(leases)
            said = NotReady(err.reason, redacted(str(err), leases))
            self._trouble(key, said)
            raise said from None
        except BaseException:
            await close_all(leases)
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

    def _trouble(self, key: str, err: NotReady, *, again: bool = True) -> None:
        """Remembers that it did not run, or not for long: it is started again later, each time later. again: False for one that ended in
        the midst of a question: what it was asked about waits instead (`Suspects`)."""
        now = asyncio.get_running_loop().time()
        before = self._troubles.get(key)
        wait_s = min(before.wait_s * 2, AGAIN_LAST_S) if before is not None and again else AGAIN_FIRST_S
        self._troubles = {k: t for k, t in self._troubles.items() if now < t.until + STEADY_S}
        self._troubles[key] = Trouble(err, now + wait_s, wait_s)

    def _key(
        self,
        provider: Provider,
        config: ProviderConfig,
        secrets: Mapping[str, str],
        openings: Mapping[str, Opening],
    ) -> str:
        parts = [
            provider.metadata.uid,
            provider.spec.checksum,
            provider.spec.version,
            provider.spec.memory,
            config.metadata.uid,
        ]
        told = {field: one.told for field, one in openings.items()}
        raw = msgspec.json.encode([parts, config.spec.config, dict(secrets), told], order="deterministic")
        return hashlib.sha256(raw).hexdigest()

    async def _start(self, provider: Provider, config: ProviderConfig, secrets: Mapping[str, Any]) -> Talk:
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
        shared = self.shared.setdefault(
            config.metadata.uid,
            Shared(Rate(spec.requests_per_second, clock), Removals(config.status.made_anew), clock()),
        )
        rate, anew = shared.rate, shared.anew
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
        """Stops what nobody has asked for `IDLE_S`; forgets what ProviderConfigs share that are gone, or not used for long."""
        for key, talk in list(self._talks.items()):
            if talk.idle and talk.used + IDLE_S <= talk.clock():
                del self._talks[key]
                await asyncio.shield(self._end(talk))
        for talk in [one for one in self._retired if one.idle]:
            self._retired.remove(talk)
            await asyncio.shield(self._end(talk))
        now = asyncio.get_running_loop().time()
        for uid, shared in list(self.shared.items()):
            if any(talk.rate is shared.rate for talk in self.running):
                shared.used = now
            elif shared.used + SHARED_S <= now:
                del self.shared[uid]

    async def close(self) -> None:
        starting = list(self._starting.values())
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(talk.quiet(QUIET_S) for talk in self.running))
        # Who gave something to others is there until they gave it back.
        while talks := [one for one in self.running if one.lent == 0] or self.running:
            self._retired = [one for one in self._retired if one not in talks]
            self._talks = {key: one for key, one in self._talks.items() if one not in talks}
            await asyncio.gather(*map(self._end, talks))
        await asyncio.gather(*self._ending)


__all__ = ["Command", "Pool", "Talk"]
