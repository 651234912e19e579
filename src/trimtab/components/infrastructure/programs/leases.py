"""Ephemeral resources: values that are had anew each time, from a provider, for as long as somebody needs them.

    Opening (which, of which provider) --Lease.open--> value --in use, renewed in time--> close

A Lease is in memory alone. Who is killed renews and closes no more: what was open runs out by itself, as its provider says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from trimtab.components.infrastructure.programs.terms import NotReady, Providers
from trimtab.components.infrastructure.protocol.provider import Opened, ProviderError
from trimtab.components.infrastructure.protocol.schema import fields
from trimtab.components.infrastructure.protocol.values import UNKNOWN, ValueFault
from trimtab.components.infrastructure.schemas.changes import at, bare

if TYPE_CHECKING:
    from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
    from trimtab.components.infrastructure.programs.pool import Talk

RENEW_PART = 0.9
"""Of the time until it has to be renewed: a provider and a cloud take a moment."""
TRIES = 4
AGAIN_S = 1.0
"""After a renewal that failed; then twice as long, and so on."""
REDACTED_LEAST = 4
"""Letters: what is shorter is in every text."""
SENSITIVE = "(sensitive)"

log = logging.getLogger(__name__)


class Opening(Struct, frozen=True):
    """An ephemeral resource that is to be opened: `kind` with `config`, of whose answer `output` is taken. place: of the field that gets
    it, as a user knows it. provider, login, secrets, openings: the credential that opens it."""

    place: str
    kind: str
    config: dict[str, Any]
    output: str
    provider: Provider
    login: ProviderConfig
    secrets: Mapping[str, str]
    openings: Mapping[str, Opening] = {}

    @property
    def told(self) -> Any:
        """What tells it from others: of plain values, with the secrets in it."""
        inner = {field: one.told for field, one in self.openings.items()}
        of = [self.provider.metadata.uid, self.login.metadata.uid, self.login.spec.config, dict(self.secrets), inner]
        return [self.kind, self.config, self.output, of]


class Lease:
    """One that is open. value: what it gave. lost: why it could not be renewed, or empty."""

    def __init__(self, opening: Opening, ask: Callable[[], Awaitable[Talk]], opened: Opened) -> None:
        self.opening = opening
        self.value = at(opened.value, opening.output)
        self.lost = ""
        self._ask = ask
        self._opened = opened
        self._renewing = asyncio.get_running_loop().create_task(self._renewed())

    @classmethod
    async def open(cls, providers: Providers, opening: Opening) -> Lease:
        """Raises `NotReady`: one line that names the place."""

        async def ask() -> Talk:
            return await providers.talk(opening.provider, opening.login, opening.secrets, opening.openings)

        await check(providers, opening)
        try:
            opened = await (await ask()).open_ephemeral(opening.kind, opening.config)
        except (ProviderError, ValueFault) as err:
            raise NotReady("EphemeralFailed", f"{opening.place}: {err}") from None
        lease = cls(opening, ask, opened)
        if opened.deferred:
            await lease.close()
            raise NotReady("Deferred", f"{opening.place}: {opening.kind} cannot be opened yet: {opened.deferred}")
        if lease.value is None or lease.value is UNKNOWN:
            await lease.close()
            raise NotReady("EphemeralFailed", f"{opening.place}: {opening.kind} gives no {opening.output}")
        return lease

    async def close(self) -> None:
        """Gives it back. What cannot be given back runs out."""
        self._renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._renewing
        try:
            await (await self._ask()).close_ephemeral(self.opening.kind, self._opened)
        except (ProviderError, NotReady) as err:
            log.warning("%s of %s was not closed and runs out: %s", self.opening.kind, self.opening.place, err)

    async def _renewed(self) -> None:
        while self._opened.renew_at is not None:
            await asyncio.sleep(max(self._opened.renew_at - time.time(), 0.0) * RENEW_PART)
            for number in range(1, TRIES + 1):
                try:
                    self._opened = await (await self._ask()).renew_ephemeral(self.opening.kind, self._opened)
                    break
                except (ProviderError, NotReady) as err:
                    if number == TRIES:
                        self.lost = str(err)
                        log.warning("%s of %s was not renewed: %s", self.opening.kind, self.opening.place, err)
                        return
                await asyncio.sleep(AGAIN_S * 2.0 ** (number - 1))


async def check(providers: Providers, opening: Opening) -> None:
    """Whether there is such a resource, and its provider takes its configuration. Raises `NotReady`: one line that names the place."""
    talk = await providers.talk(opening.provider, opening.login, opening.secrets, opening.openings)
    schema = talk.schema.ephemeral.get(opening.kind)
    name = talk.provider.plugin.name
    if schema is None:
        there = ", ".join(sorted(talk.schema.ephemeral)) or "none"
        raise NotReady(
            "InvalidField", f"{opening.place}: {name} has no ephemeral resource {opening.kind}; it has {there}"
        )
    known = {bare(path.replace("[*]", "")) for path, _ in fields(schema.block)}
    if bare(opening.output) not in known:
        raise NotReady(
            "InvalidField",
            f"{opening.place}: {opening.kind} has no {opening.output}; it has {', '.join(sorted(known))}",
        )
    try:
        said = await talk.validate_ephemeral(opening.kind, opening.config)
    except ProviderError as err:
        raise NotReady("EphemeralFailed", f"{opening.place}: {err}") from None
    except ValueFault as err:
        raise NotReady("InvalidField", f"{opening.place}: config.{err}") from None
    if refused := [str(one) for one in said if one.error]:
        raise NotReady("InvalidField", f"{opening.place}: config: {'; '.join(refused)}")


async def close_all(leases: Iterable[Lease]) -> None:
    """Gives all of them back."""
    await asyncio.gather(*(lease.close() for lease in leases))


def redacted(text: str, leases: Iterable[Lease]) -> str:
    """A text in which none of their values stands."""
    for lease in leases:
        if isinstance(lease.value, str) and len(lease.value) >= REDACTED_LEAST:
            text = text.replace(lease.value, SENSITIVE)
    return text


__all__ = ["Lease", "Opening", "check", "close_all", "redacted"]
