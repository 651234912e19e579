"""What the reconcilers ask of running providers, in words that cost nothing to load: what runs them comes when there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from trimtab.components.infrastructure.programs.paces import Paces

if TYPE_CHECKING:
    from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
    from trimtab.components.infrastructure.programs.leases import Opening
    from trimtab.components.infrastructure.programs.pool import Pool, Talk

NO_OPENINGS: Mapping[str, Opening] = MappingProxyType({})


RETRY_S = 15.0
SUSPECT_FIRST_S, SUSPECT_LAST_S = 10.0, 1800.0


_ASKED: ContextVar[bool] = ContextVar("asked", default=False)


@contextmanager
def asked_for() -> Iterator[None]:
    """Somebody waits for the answer: what is asked of a cloud herein, and in tasks that are begun herein, goes before looks."""
    before = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(before)


def is_asked_for() -> bool:
    """Whether this runs within `asked_for`."""
    return _ASKED.get()


class NotReady(Exception):
    """A provider that cannot be asked now. reason: for a condition; its text is one line; retry_s: when asking again makes sense."""

    def __init__(self, reason: str, message: str, retry_s: float = RETRY_S) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_s = retry_s


class Suspects:
    """Objects in the midst of whose questions a provider's program ended: one of them may be what ends it. When that happens again, each
    is asked about later, and later each time, so that one that takes the program down does not hold up all the others."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, float, str]] = {}
        """By uid: until when it is not asked about, for how long that was, and how the program ended."""

    def blame(self, uid: str, why: str) -> None:
        """why: how the program ended, in one line."""
        if uid not in self._found:
            self._found[uid] = (0.0, SUSPECT_FIRST_S / 2, why)
            return
        wait_s = min(self._found[uid][1] * 2, SUSPECT_LAST_S)
        self._found[uid] = (_now() + wait_s, wait_s, why)

    def spare(self, uid: str) -> None:
        """Raises `NotReady` until it is time to ask about it again."""
        until, _, why = self._found.get(uid, (0.0, 0.0, ""))
        left_s = until - _now()
        if left_s > 0:
            raise NotReady(
                "ProviderFailed", f"{why}; about this object it is asked again in {max(left_s, 1):.0f} s", left_s
            )

    def clear(self, uid: str) -> None:
        """It was asked about, and all went well; or it is gone."""
        self._found.pop(uid, None)


def _now() -> float:
    return asyncio.get_running_loop().time()


class Providers(Protocol):
    """Running providers."""

    @property
    def suspects(self) -> Suspects: ...

    @property
    def paces(self) -> Paces: ...

    async def talk(
        self,
        provider: Provider,
        config: ProviderConfig,
        secrets: Mapping[str, str],
        openings: Mapping[str, Opening] = NO_OPENINGS,
    ) -> Talk:
        """A configured provider. openings: fields of its configuration that come from ephemeral resources. Raises `NotReady`."""

    async def run(self) -> None:
        """The service that stops what is idle, until cancelled; then it stops all."""


class WhenAsked:
    """A pool that is made with the first question, gRPC and all. Implements `Providers`."""

    def __init__(self, make: Callable[[], Pool]) -> None:
        self._make = make
        self._pool: Pool | None = None
        self.suspects = Suspects()
        self.paces = Paces()
        self._made = asyncio.Event()

    async def talk(
        self,
        provider: Provider,
        config: ProviderConfig,
        secrets: Mapping[str, str],
        openings: Mapping[str, Opening] = NO_OPENINGS,
    ) -> Talk:
        if self._pool is None:
            self._pool = self._make()
            self._made.set()
        return await self._pool.talk(provider, config, secrets, openings)

    async def run(self) -> None:
        await self._made.wait()
        assert self._pool is not None
        await self._pool.run()
