"""An object of a provider's kind -> what it says exists, stays as it says, and goes with it.

    object, ProviderConfig, Secrets --Keeper.look--> plan --gate, breaker--> Keeper.carry_out --> Secret NAME-KIND-state, status, connection

What must survive a crash is in the state Secret, written before and after every step (`ctx.save`). One effect, "resource", says that
something may exist outside: its undo deletes it. An answer that never came leaves `pending` in the Secret: what was to be changed or
deleted is looked at again; what was to be made is looked for, and if nobody can say whether it is there, a person is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from trimtab.api import Resource
from trimtab.api.core import Pod, Secret
from trimtab.api.jobs import Job
from trimtab.components.infrastructure.kinds import TOLD_OF_CONFIG, Managed, Provider, ProviderConfig
from trimtab.components.infrastructure.loop.budgets import Budget
from trimtab.components.infrastructure.loop.connected import Connected
from trimtab.components.infrastructure.loop.ephemeral import Fresh, marks
from trimtab.components.infrastructure.loop.gathering import (
    APPROVE,
    BLOCKED_S,
    Blocked,
    Sources,
    ignored_paths,
    initial_paths,
    interval_s,
    keeper_of,
    refusal,
)
from trimtab.components.infrastructure.loop.keeping import After, Failed, Keeper, Look
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.permission import permission
from trimtab.components.infrastructure.loop.recalling import UNSEEN_RETRY_S, Recall
from trimtab.components.infrastructure.loop.remembering import Unwritten, reconciler_name
from trimtab.components.infrastructure.loop.restoring import Restore, restore
from trimtab.components.infrastructure.loop.taking import Claims
from trimtab.components.infrastructure.loop.telling import Telling, id_of, summary, verb
from trimtab.components.infrastructure.loop.unhurried import to_its_end
from trimtab.components.infrastructure.loop.users import Unseen, reaching, referring, told
from trimtab.components.infrastructure.programs.leases import Lease, close_all, redacted
from trimtab.components.infrastructure.programs.pool import Talk
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import RETRY_S, NotReady, Providers
from trimtab.components.infrastructure.protocol.provider import ProviderError, State
from trimtab.components.infrastructure.protocol.values import Value, ValueFault
from trimtab.components.infrastructure.remote.kinds import ClusterManifests
from trimtab.components.infrastructure.schemas.mapping import FieldFault, Output, to_type
from trimtab.runtime import Context, Desired, Owned, Reconciler, Requeue, Writes
from trimtab.runtime.effects import NotDone

K = TypeVar("K", bound=Resource)

WORKERS = 256
"""Objects of a kind that are at work at a time. Making one may take an hour, in which the others must be looked at: what bounds the
requests to a cloud is the rate of its credential."""
GONE_AGAIN_S = 1.0
"""So much later what is gone has to be gone still, and what was deleted, too."""
RESTLESS_S_MAX = 3600.0
QUICK_S = 5.0
"""So long after something was carried out it is looked at again, then after twice as long, and so on: clouds have surprises, most of them
soon."""
JITTER = 0.1
"""Looks come up to so much of their time sooner, so that they do not come all at once. Never later: `interval` is a promise."""


def managed(kind: type[Managed], resource: str) -> Reconciler[Managed]:
    """The reconciler of one resource of a provider. Its objects may refer to those of every enabled kind."""

    claims, unwritten = Claims(), Unwritten()

    async def keep(subject: Managed, ctx: Context) -> Desired | Requeue:
        return await Run(subject, ctx, resource, claims, unwritten).outcome()

    return Reconciler(
        name=reconciler_name(kind),
        subject=kind,
        function=keep,
        reads=(Provider, ProviderConfig, Secret, Pod, ClusterManifests),
        writes=(Writes(ProviderConfig, TOLD_OF_CONFIG),),
        family=Managed,
        owns=(Owned(Secret, retain=True, quiet=True), Owned(Job)),
        effects=True,
        heedless=True,
        workers=WORKERS,
    )


class Run:
    """One run for one object."""

    def __init__(self, subject: Managed, ctx: Context, resource: str, claims: Claims, unwritten: Unwritten) -> None:
        self._claims = claims
        self._subject = subject
        self._ctx = ctx
        self._resource = resource
        self._connected = Connected(subject, ctx)
        providers: Providers = ctx.adapter(Providers)  # type: ignore[type-abstract]
        self._suspects = ctx.adapter(Suspects)
        self._budget = Budget(subject, ctx)
        self._sources = Sources(subject, self._read, providers, self._suspects)
        self._recall = Recall(subject, ctx, resource, self._sources, claims, unwritten)
        self._telling = Telling(subject, ctx, resource)
        self._jobs: Sequence[Job] = ()

    async def _read(self, kind: type[K], name: str) -> K | None:
        # What is counted in a ProviderConfig's status is no reason to look at everything again.
        return await self._ctx.get(kind, name, given=kind is ProviderConfig)

    async def outcome(self) -> Desired | Requeue:
        """What the runtime is to make so."""
        if self._ctx.deleting:
            return await self._ending()
        self._jobs = await self._ctx.owned(Job)
        if self._subject.spec.pause:
            await self._budget.no_more_looks()
            return Desired(
                keep=self._kept_refs(), status=self._telling.status("Unknown", "Paused", "spec.pause is true")
            )
        try:
            return await self._kept_true()
        except (Blocked, NotReady) as err:
            return self._blocked(err.reason, str(err), err.retry_s)
        except FieldFault as err:
            return self._blocked("InvalidField", str(err), BLOCKED_S)
        except ValueFault as err:
            return self._blocked("InvalidField", f"spec.forProvider.{err}", BLOCKED_S)
        except (ProviderError, Failed) as err:
            self._blame(err)
            return self._blocked("ProviderError", str(err), RETRY_S)

    def _blame(self, err: Exception) -> None:
        """When the program ended while it was asked about this."""
        if isinstance(err, ProviderError) and err.died:
            self._suspects.blame(self._subject.metadata.uid, str(err))

    def _blocked(self, reason: str, message: str, retry_s: float) -> Desired:
        self._telling.standing(reason, message)
        status = self._telling.status("False", reason, message)
        return Desired(
            keep=self._kept_refs(), status=status, requeue_after_s=retry_s * (0.9 + 0.2 * self._ctx.random.random())
        )

    # Living

    async def _kept_true(self) -> Desired | Requeue:
        spec = self._subject.spec
        talk = await self._sources.talk()
        await self._budget.look(talk)
        keeper = keeper_of(talk, self._resource)
        block = self._telling.block = talk.schema.resources[self._resource].block
        kept = await self._recall.known(keeper, talk, self._telling.block)
        config = await self._sources.configuration(block, new=kept.state is None)
        fresh = await self._sources.fresh(block)
        if kept.state is None and (found := await keeper.tagged(kept, config, self._subject.metadata.uid)):
            kept = found
            await self._recall.save(kept)
            self._ctx.event("Adopted", f"found {self._resource} by its tag")
        ignored, initial = ignored_paths(block, spec.ignore_changes), initial_paths(block, self._subject)
        look = await self._looked(keeper, kept, config, ignored, initial)
        if look.gone and (found := await keeper.tagged(kept, config, self._subject.metadata.uid)):
            # Made anew since what is remembered was written: that is from a backup.
            self._ctx.event(
                "Adopted",
                f"found {self._resource} {id_of(found.state)} by its tag, which {id_of(kept.state)} made place for",
            )
            kept = found
            await self._recall.save(kept)
            look = await self._looked(keeper, kept, config, ignored, initial)
        self._seen(look)
        if look.action != "none":
            if await self._outdated():
                return Requeue(0.0)
            if look.gone or look.action == "replace":
                await self._sources.configuration(block, new=True)  # raises, if what making it needs is no longer there
            if not look.deferred and (wrong := await keeper.refused(config)):
                raise Blocked("InvalidField", refusal(block, wrong))
            self._recall.foreseen(keeper, kept, look)
            await self._permitted(look, kept, talk)
            restless = kept.restless
            began = self._ctx.now
            await self._telling.report(look, self._telling.doing(look))
            kept = await to_its_end(self._carried_out(keeper, talk, kept, look, fresh))
            took_ms = (self._ctx.now - began).total_seconds() * 1000
            self._ctx.event(verb(look), self._telling.deed(look, kept), duration_ms=took_ms)
            config = await self._sources.configuration(block, new=False)
            look = self._telling.look = await keeper.look(
                kept, config, ignored=ignored, initial=initial, now=self._now_s, marks=self._marks()
            )
            if look.unseen:
                self._seen(look)
            if look.action != "none":
                kept = msgspec.structs.replace(kept, restless=restless + 1)
                await self._recall.save(kept)
                raise Blocked(
                    "NonConvergent",
                    f"applied, and planned again at once: {summary(look, block)}",
                    min(RETRY_S * 2.0 ** min(kept.restless, 16), RESTLESS_S_MAX),
                )
        if (settled := keeper.keep(kept, look.live)) != kept:
            kept = settled
            await self._recall.save(kept)
        connections = await self._connected.wanted(block, look.live.value)
        if (settled := await self._connected.renamed(kept, connections)) != kept:
            kept = settled
            await self._recall.save(kept)
        self._suspects.clear(self._subject.metadata.uid)
        restored = await self._restored(kept)
        status = self._telling.status("True", "Synced", "")
        if restored is not None and restored.state != "done":
            reason = "Restoring" if restored.state == "running" else "RestoreFailed"
            self._telling.unready(status, reason, restored.message)
        return Desired(
            objects=[*connections, *(restored.create if restored is not None else ())],
            keep=self._kept_refs() if restored is None else [self._recall.ref, *restored.keep],
            status=status,
            requeue_after_s=self._next_look_s(kept, talk),
        )

    def _next_look_s(self, kept: Kept, talk: Talk) -> float:
        """In how many seconds it is looked again: within `interval`, sooner after something was carried out."""
        after_s = interval_s(self._subject)
        if not talk.rate.crowded:
            after_s = min(after_s, max(self._now_s - kept.changed_at, QUICK_S))
        return after_s * (1 - JITTER * self._ctx.random.random())

    def _marks(self) -> Mapping[str, str]:
        return marks(self._telling.block, self._subject.spec.ephemeral)

    def _after(self, talk: Talk) -> After:
        """Reads once more what was deleted, where that makes nobody else wait."""

        async def read(state: State) -> State:
            await asyncio.sleep(GONE_AGAIN_S)
            try:
                return State(None) if talk.rate.crowded else await talk.read(self._resource, state)
            except (ProviderError, NotReady, ValueFault):
                return State(None)

        return read

    async def _carried_out(self, keeper: Keeper, talk: Talk, kept: Kept, look: Look, fresh: Sequence[Fresh]) -> Kept:
        """Does what was planned, with what is had anew for it, which is given back at the end. Raises as `Keeper.carry_out`, `NotReady`."""
        leases: list[Lease] = []
        try:
            for one in fresh:
                leases.append(await Lease.open(self._ctx.adapter(Providers), one.opening))  # type: ignore[type-abstract]
            if leases:
                values = {
                    one.path: to_type(one.attribute.implied, Output(lease.value), f"ephemeral.{one.path}")
                    for one, lease in zip(fresh, leases, strict=True)
                }
                look = await keeper.filled(look, values)
            return await keeper.carry_out(kept, look, self._recall.save, now=self._now_s, after=self._after(talk))
        except (ProviderError, Failed, ValueFault) as err:
            if not leases:
                raise
            raise Failed(redacted(str(err), leases)) from None
        finally:
            await close_all(leases)

    async def _restored(self, kept: Kept) -> Restore | None:
        """What was in it comes back; None: there is nothing to do."""
        if not kept.restoring:
            return None
        hook = self._subject.spec.restore_from
        done = await restore(self._subject, self._ctx, hook, kept.lives) if hook is not None else None
        if done is None or done.state == "done":
            await self._recall.save(msgspec.structs.replace(kept, restoring=False))
        if done is not None and done.state != "running":
            reason = "Restored" if done.state == "done" else "RestoreFailed"
            took_ms = done.seconds * 1000 or None
            self._ctx.event(reason, done.message, warning=done.state == "failed", duration_ms=took_ms)
        return done

    async def _outdated(self) -> bool:
        """Whether the object says something else by now: a turn to ask the cloud may be minutes in coming, and nothing is done for what was
        taken back meanwhile."""
        now, then = await self._ctx.get(type(self._subject), self._subject.name), self._subject.metadata
        if now is None or now.metadata.uid != then.uid:
            return True
        said = [(m.generation, m.deletion_timestamp, m.annotations.get(APPROVE)) for m in (then, now.metadata)]
        return said[0] != said[1]

    @property
    def _now_s(self) -> float:
        return self._ctx.now.timestamp()

    async def _looked(
        self, keeper: Keeper, kept: Kept, config: Value, ignored: Sequence[str] = (), initial: Sequence[str] = ()
    ) -> Look:
        marked = self._marks() if config is not None else {}
        look = await keeper.look(kept, config, ignored=ignored, initial=initial, now=self._now_s, marks=marked)
        if look.gone:
            # One answer of a cloud that is not of one mind is not enough.
            await asyncio.sleep(GONE_AGAIN_S)
            look = await keeper.look(kept, config, ignored=ignored, initial=initial, now=self._now_s, marks=marked)
        if look.gone and await keeper.listed(kept):
            raise Blocked(
                "NotVisibleYet", "it reads as gone, and the cloud lists it: it is looked at again", UNSEEN_RETRY_S
            )
        self._telling.look = look
        return look

    def _seen(self, look: Look) -> None:
        """Says what was seen. Raises `Blocked` when it is not to be seen yet."""
        if look.unseen:
            raise Blocked("NotVisibleYet", "it was made, and the cloud does not show it yet", UNSEEN_RETRY_S)
        self._telling.seen(look)

    async def _permitted(self, look: Look, kept: Kept, talk: Talk) -> None:
        """Raises `Blocked`: it may not be carried out now."""
        verdict = permission(self._subject, self._telling.block, look, self._ctx.now)
        if not verdict.go:
            raise self._held(look, verdict.reason, verdict.message)
        talk.rate.open()
        if look.gone or look.action == "replace":
            await self._counted(look, kept, talk, "were made anew, or would be")
        if verdict.approved:
            self._ctx.event("Approved", f"{look.action}, as approved: {look.digest}")

    async def _counted(self, look: Look, kept: Kept, talk: Talk, what: str) -> None:
        """Counts something that was there and is not, or will not be. Raises `Blocked`: it would be one too many."""
        if await self._budget.may_make_anew(kept, talk):
            return
        name = self._subject.spec.provider_ref.name
        raise self._held(
            look,
            "TooManyGone",
            f"more than {talk.removals} resources of ProviderConfig {name} {what} within ten minutes: does its credential still see them?",
        )

    def _held(self, look: Look, reason: str, message: str) -> Blocked:
        self._telling.waiting(look, reason, message)
        return Blocked(reason, message, interval_s(self._subject))

    def _kept_refs(self) -> list[Any]:
        return [self._recall.ref, *(job.ref for job in self._jobs)]

    # Ending

    async def _ending(self) -> Desired | Requeue:
        try:
            await self._recall.may_exist(undo=self._forget)
        except NotDone:
            await self._recall.discard()
            raise
        if not self._over():
            try:
                await self._end()
            except (Blocked, NotReady) as err:
                return self._stays(err.reason, str(err), err.retry_s)
            except (ProviderError, Failed, ValueFault) as err:
                self._blame(err)
                return self._stays("ProviderError", str(err), RETRY_S)
            self._suspects.clear(self._subject.metadata.uid)
            # Written down before what is remembered goes, so that its absence is understood.
            return Requeue(0.0, status=self._telling.over())
        return Desired()

    async def _end(self) -> None:
        """Deletes the resource. Raises `Blocked`: what stands in the way."""
        policy = self._subject.spec.policy
        if policy.delete == "deny":
            raise Blocked("DeleteDenied", "spec.policy.delete is deny: set it to delete or to orphan")
        if policy.delete == "orphan":
            return
        try:
            users = [*await referring(self._ctx, self._subject), *await reaching(self._ctx, self._subject)]
        except Unseen as err:
            raise Blocked("InUse", str(err), UNSEEN_RETRY_S) from None
        if users:
            raise Blocked(
                "InUse", f"{told(users)} {'refers' if len(users) == 1 else 'refer'} to it: what refers goes first"
            )
        talk = await self._sources.talk()
        keeper = keeper_of(talk, self._resource)
        self._telling.block = talk.schema.resources[self._resource].block
        kept = await self._recall.known(keeper, talk, self._telling.block)
        if kept.state is not None:
            await self._deleted(keeper, talk, kept)
        if kept.connected:
            await self._connected.gone(kept)

    async def _deleted(self, keeper: Keeper, talk: Talk, kept: Kept) -> None:
        look = await self._looked(keeper, kept, None)
        if look.unseen:
            raise Blocked("NotVisibleYet", "it was made, and the cloud does not show it yet", UNSEEN_RETRY_S)
        if look.gone:
            await self._counted(look, kept, talk, "are gone")
        if look.gone and kept.refused:
            what = f"{self._resource} {id_of(kept.state)}"
            self._ctx.event(
                "MayRemain",
                f"{what} reads as gone, and was refused to be made anew: if it is there, it stays",
                warning=True,
            )
        if look.action == "delete":
            await self._permitted(look, kept, talk)
            await self._telling.report(look, f"{self._resource} {id_of(look.live.value)} is being deleted")
            await to_its_end(keeper.carry_out(kept, look, self._recall.save, now=self._now_s, after=self._after(talk)))
            self._ctx.event("Deleted", f"deleted {self._resource} {id_of(look.live.value)}")

    async def _forget(self, _: Any) -> None:
        self._claims.drop(self._subject)
        await self._budget.no_more_looks()
        await self._recall.discard()

    def _over(self) -> bool:
        return any(c.type == "Ready" and c.reason == "Deleted" for c in self._subject.status.conditions)

    def _stays(self, reason: str, message: str, retry_s: float) -> Requeue:
        self._telling.standing(reason, message)
        after_s = retry_s * (0.9 + 0.2 * self._ctx.random.random())
        return Requeue(after_s, status=self._telling.status("False", reason, message))


__all__ = ["managed"]
