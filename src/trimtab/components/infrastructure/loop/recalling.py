"""What is known of an object's resource before it is looked at, after what was left open is cleared up.

    state Secret --Recall.known--> Kept: as it was kept; or taken over, as the object says; or found, when the answer to making it never came

What nobody can clear up is said as `Blocked`, with the commands for a person.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from trimtab.api import Ref
from trimtab.components.infrastructure.kinds import Managed
from trimtab.components.infrastructure.loop.gathering import Blocked, Sources, existing, interval_s
from trimtab.components.infrastructure.loop.keeping import Keeper, Look
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.remembering import ROOM_BYTES, Memory, TooLong, Unwritten, named_only
from trimtab.components.infrastructure.loop.taking import Claims, keeping_already
from trimtab.components.infrastructure.loop.telling import id_of
from trimtab.components.infrastructure.programs.pool import Talk
from trimtab.components.infrastructure.protocol.provider import State
from trimtab.components.infrastructure.protocol.schema import Block
from trimtab.components.infrastructure.protocol.values import known
from trimtab.runtime import Context

UNSEEN_RETRY_S = 3.0
"""So much later is looked again for what the cloud does not show yet."""


class Recall:
    """Of one run for one object. claims: what objects of its kind are about to take. unwritten: what of them could not be written down."""

    def __init__(
        self, subject: Managed, ctx: Context, resource: str, sources: Sources, claims: Claims, unwritten: Unwritten
    ) -> None:
        self._subject = subject
        self._ctx = ctx
        self._resource = resource
        self._sources = sources
        self._claims = claims
        self._memory = Memory(subject, ctx, unwritten)

    @property
    def ref(self) -> Ref:
        """The Secret that holds what is known."""
        return self._memory.ref

    async def known(self, keeper: Keeper, talk: Talk, block: Block) -> Kept:
        """block: the schema of the resource. Raises `Blocked`, `ProviderError`, `FieldFault`."""
        kept, lost = await self._loaded()
        if kept is None:
            kept = Kept.fresh()
            if not lost:
                await self.save(kept)  # its key stays: what is approved is a plan of this resource
        await self.may_exist()
        adopt = self._subject.spec.policy.adopt
        if kept.state is not None and not (kept.refused and adopt.startswith("id:")):
            self._claims.drop(self._subject)  # its Secret says it
            if adopt.startswith("id:") and adopt != kept.adopted:
                # It has one: the word is not for a later day, when that is gone.
                kept = msgspec.structs.replace(kept, adopted=adopt)
                await self.save(kept)
            return kept
        if adopt.startswith("id:") and adopt != kept.adopted:
            return await self._adopted(keeper, talk, kept, adopt)
        if kept.pending == "create":
            return await self._after_lost_answer(keeper, kept)
        if lost and not self._memory.retried(self._subject.metadata.uid):
            config = await self._sources.configuration(block, new=True)
            found = await keeper.tagged(kept, config, self._subject.metadata.uid)
            if found is None:
                raise self._memory.lost(lost)
            await self.save(found)
            return found
        return kept

    async def may_exist(self, undo: Callable[[Any], Awaitable[None]] | None = None) -> None:
        """Records that from here on there may be something outside. undo: what lets go of it, when the object is deleted."""
        await self._ctx.effect("resource", find=_nothing, do=_something, undo=undo)

    async def save(self, kept: Kept) -> None:
        """Raises `Blocked`: it is too much to be remembered. What is there already is remembered by its name, all the same."""
        try:
            await self._memory.save(kept)
        except TooLong as err:
            if kept.state is not None and kept.pending in ("", "delete"):
                await self._memory.save(named_only(kept))
            if kept.pending == "delete":
                return  # of what goes more is not needed
            raise self._too_long(err) from None

    def foreseen(self, keeper: Keeper, kept: Kept, look: Look) -> None:
        """Raises `Blocked`: what there would be is too much to be remembered, so that it is not made."""
        if look.planned is None:
            return
        after = keeper.keep(kept, State(known(look.planned.value), look.planned.private))
        try:
            self._memory.packed(after, room_bytes=ROOM_BYTES)
        except TooLong as err:
            raise self._too_long(err) from None

    async def discard(self) -> None:
        """Nothing is known any more."""
        await self._memory.discard()

    async def _loaded(self) -> tuple[Kept | None, str]:
        """What is kept, and if there should be something and is not, what happened to it."""
        name = self._memory.name
        try:
            kept = await self._memory.load()
        except ValueError as err:
            return None, f"the Secret {name}: {err}"
        if kept is None and "resource" in await self._ctx.done():
            return None, f"the Secret {name}, which held what is known of it, is gone"
        if (late := self._memory.overdue) is not None:
            await self.save(late)
            kept = late
            told = f"{self._resource} {id_of(kept.state)}" if kept.state is not None else f"no {self._resource} is left"
            self._ctx.event("Remembered", f"{told}: what was done could not be written down at first, and is now")
        if kept is not None and (timely := kept.as_of(self._now_s)) != kept:
            kept = timely
            await self.save(kept)
        return kept, ""

    async def _adopted(self, keeper: Keeper, talk: Talk, kept: Kept, adopt: str) -> Kept:
        """What exists already, where the object says that it is to be taken over. Nothing is made while it is not there."""
        name = adopt[3:]
        other = await keeping_already(self._ctx, self._subject, name)
        if other is not None:
            where = f"{other.resource_type.kind} {other.name}"
            raise Blocked("InvalidField", f"spec.policy.adopt: {self._resource} {name} is {where}'s already")
        live = await existing(talk, self._resource, name)
        if live.value is None:
            raise Blocked("ProviderError", f"there is no {self._resource} {name} to take over")
        kept = keeper.keep(msgspec.structs.replace(kept, adopted=adopt), live)
        await self.save(kept)
        self._ctx.event("Adopted", f"took over {self._resource} {name}")
        return kept

    async def _after_lost_answer(self, keeper: Keeper, kept: Kept) -> Kept:
        """Making it was begun, and how that ended was not heard."""
        token = kept.attempt.token if kept.attempt is not None else self._subject.metadata.uid
        if self._memory.retried(token):
            return keeper.keep(kept, State(None), agreed=kept.agreed)
        me = self._subject

        async def taken(key: str) -> bool:
            return self._claims.held(me, key) or await keeping_already(self._ctx, me, key) is not None

        recovered = await keeper.recover(kept, me.metadata.uid, self._now_s, taken)
        if recovered.outcome == "found" and not self._claims.claim(me, recovered.names[0]):
            raise Blocked("NotVisibleYet", "what was found is another's since: it is looked for", UNSEEN_RETRY_S)
        if recovered.outcome == "early":
            if recovered.kept is not None and recovered.kept != kept:
                await self.save(recovered.kept)
            how = (
                f"making it ended with: {kept.attempt.said}"
                if kept.attempt and kept.attempt.said
                else "the answer to making it never came"
            )
            raise Blocked("NotVisibleYet", f"{how}: it is looked for", UNSEEN_RETRY_S)
        if recovered.kept is None:
            raise self._memory.unknown(token, recovered.names)
        await self.save(recovered.kept)
        if recovered.outcome == "found":
            self._ctx.event("Found", f"{self._resource} {recovered.names[0]} had been made, unheard")
        return recovered.kept

    @property
    def _now_s(self) -> float:
        return self._ctx.now.timestamp()

    def _too_long(self, err: TooLong) -> Blocked:
        what = f"what is to be remembered of it is too long: {err}"
        return Blocked("StateTooLong", what, interval_s(self._subject))


async def _nothing() -> Any | None:
    return None


async def _something() -> Any:
    return {}


__all__ = ["UNSEEN_RETRY_S", "Recall"]
