"""What the reconcilers ask of running providers, in words that cost nothing to load: what runs them comes when there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
    from trimtab.components.infrastructure.programs.leases import Opening
    from trimtab.components.infrastructure.programs.pool import Pool, Talk

NO_OPENINGS: Mapping[str, Opening] = MappingProxyType({})
RETRY_S = 15.0
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


class Providers(Protocol):
    """Running providers."""

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


class LazyPool:
    """A pool that is made with the first question, gRPC and all. Implements `Providers`."""

    def __init__(self, make: Callable[[], Pool]) -> None:
        self._make = make
        self._pool: Pool | None = None
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
