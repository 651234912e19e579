"""What all objects of one ProviderConfig may do together: looks a second, and resources made anew within ten minutes.

an object is looked at --Budget.look--> Paces          is made anew --Budget.may_make_anew--> Removals
what there is to say of either --status--> ProviderConfig
"""

from __future__ import annotations

import asyncio

import msgspec

from trimtab.components.infrastructure.kinds import MadeAnew, Managed, ProviderConfig
from trimtab.components.infrastructure.loop.gathering import interval_s
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.telling import id_of
from trimtab.components.infrastructure.programs.paces import Paces
from trimtab.components.infrastructure.programs.pool import Talk
from trimtab.runtime import Context, FieldWrite

ID_LENGTH = 64


class Budget:
    """As one object has a part in it."""

    def __init__(self, subject: Managed, ctx: Context) -> None:
        self._subject = subject
        self._ctx = ctx
        self._paces = ctx.adapter(Paces)

    async def look(self, talk: Talk) -> None:
        """Counts a look, and says when those of its ProviderConfig are more than it may ask for."""
        place = (self._subject.namespace or "", self._subject.spec.provider_ref.name)
        now_s = asyncio.get_running_loop().time()
        wanted_s = interval_s(self._subject)
        told = self._paces.look(self._subject.metadata.uid, place, wanted_s, talk.rate.per_second, now_s)
        if told is not None:
            await self._tell(made_anew=talk.anew.entries, behind=told)

    async def no_more_looks(self) -> None:
        """It is not looked at any more; the last of a ProviderConfig says so."""
        if self._paces.drop(self._subject.metadata.uid):
            await self._tell(behind="")

    async def may_make_anew(self, kept: Kept, talk: Talk) -> bool:
        """Counts something that was there and is not, or will not be. False: it would be one too many."""
        which = f"{self._subject.metadata.uid}/{kept.lives}/{id_of(kept.state)[:ID_LENGTH]}"
        if not talk.may_make_anew(which, self._ctx.now.timestamp()):
            return False
        await self._tell(made_anew=talk.anew.entries)
        return True

    async def _tell(self, *, made_anew: list[MadeAnew] | None = None, behind: str | None = None) -> None:
        """Writes what is new into the status of the ProviderConfig, with what stays: what is not named is taken back."""
        config = await self._ctx.get(ProviderConfig, self._subject.spec.provider_ref.name, given=True)
        if config is None:
            return
        before = (config.status.made_anew, config.status.behind)
        now = (before[0] if made_anew is None else made_anew, before[1] if behind is None else behind)
        if now != before:
            said = {"status": {"madeAnew": msgspec.to_builtins(now[0]), "behind": now[1]}}
            await self._ctx.write(FieldWrite(config.ref, said, "status"))


__all__ = ["Budget"]
