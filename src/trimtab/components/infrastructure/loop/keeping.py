"""One resource kept true: what is there, what would be done about it, and doing it.

    Kept (a Secret) --look--> Look: live, plan, its lines --(permission.py)--carry_out--> Kept, at every step
         `-- an attempt to make it whose answer never came --recover--> what was made, or that nothing was

Pure of the API and of time: a `Provider` does what a cloud does, `save` keeps the state, and the caller says what time it is and decides
when to look again. Every state that a provider gives back is saved before anything else is done, whatever else it said.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from trimtab.components.infrastructure.loop.finding import LOST, Finder, tag_of
from trimtab.components.infrastructure.loop.kept import Attempt, Kept
from trimtab.components.infrastructure.protocol.planned import alike, nonsense, softened
from trimtab.components.infrastructure.protocol.provider import (
    Applied,
    Diagnostic,
    Planned,
    ProviderError,
    State,
    in_words,
)
from trimtab.components.infrastructure.protocol.schema import Identity, Schema, fill
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import (
    Value,
    ValueFault,
    decode_json,
    encode,
    encode_json,
    known,
    plain,
    same,
    unknowns,
)
from trimtab.components.infrastructure.protocol.written import unwritten, written
from trimtab.components.infrastructure.schemas.changes import (
    SENSITIVE,
    Change,
    bare,
    changes,
    differences,
    digest,
    ignoring,
    overlap,
    put,
    within,
)

UNSEEN_S = 600.0
"""For so long what was made and has not been seen since is taken to be there: many clouds show what is new a while later."""
SETTLE_S = 30.0
"""So long after it was first looked for, not finding what was begun means nothing yet: how long the call itself took says nothing of how
long the cloud goes on with it."""

Action = Literal["none", "create", "update", "replace", "delete"]
NO_MARKS: Mapping[str, str] = MappingProxyType({})
SAID_MAX = 500
"""Characters of an answer that are told again while what may have been made is looked for."""
DISBELIEVED_MAX = 2
"""So often in a row a provider is not believed that it deleted what reads as there still: some clouds show for long what is gone."""
TOKEN_BYTES = 8


class Talks(Protocol):
    """The part of a provider that keeping needs."""

    async def validate(self, kind: str, config: Value) -> tuple[Diagnostic, ...]: ...
    async def plan(self, kind: str, prior: State, config: Value) -> Planned: ...
    async def apply(self, kind: str, prior: State, planned: Planned, config: Value) -> Applied: ...
    async def read(self, kind: str, state: State) -> State: ...
    async def upgrade(self, kind: str, version: int, state: Any) -> Value: ...
    async def upgrade_identity(self, kind: str, version: int, identity: Value) -> Value: ...


class Look(Struct, frozen=True):
    """What there is, and what would be done."""

    action: Action
    live: State
    planned: Planned | None
    config: Value
    lines: tuple[Change, ...] = ()
    digest: str = ""
    drifted: tuple[Change, ...] = ()
    """What somebody changed since we last looked."""
    gone: bool = False
    """Whether it was there and no longer is."""
    unseen: bool = False
    """Whether it was made a moment ago and is not to be seen yet."""
    tainted: bool = False
    deferred: str = ""
    sent: str = ""
    """Seal of the write-only fields, as it is kept once they were sent."""
    sending: Value = None
    """What is given, with what is had anew at the last moment; None: there is nothing of that."""
    agreed: bool = False
    """Whether this makes what was permitted to be made anew, and was deleted for it."""


class Recovered(Struct, frozen=True):
    """What came of an attempt: found, nothing, early (too soon to say), unknown (nobody can say; names: what it could be). kept: what is
    to be remembered then."""

    outcome: Literal["found", "nothing", "early", "unknown"]
    kept: Kept | None = None
    names: tuple[str, ...] = ()


Save = Callable[[Kept], Awaitable[None]]
Taken = Callable[[str], Awaitable[bool]]
After = Callable[[State], Awaitable[State]]
"""What reads, a moment after it was deleted, of what there was; value None also when nobody can say."""


async def _by_nobody(_: str) -> bool:
    return False


async def _gone(_: State) -> State:
    return State(None)


class Failed(Exception):
    """A step that the provider did not do; what there is has been saved. Its text is one line in the provider's words."""


class Keeper:
    """Keeps resources of one kind of one configured provider."""

    def __init__(
        self,
        provider: Talks,
        kind: str,
        schema: Schema,
        finder: Finder | None = None,
        identity: Identity | None = None,
    ) -> None:
        """finder: looks for what may have been made; without one, only a person can say. identity: of the kind, where the provider has one."""
        self._provider = provider
        self._identity_version = identity.version if identity is not None else -1
        self._kind = kind
        self._schema = schema
        self._type: Type = schema.block.implied
        self._finder = finder

    # What there is

    async def state(self, kept: Kept) -> State:
        """The state as it was kept, in terms of the provider as it is. Raises `ProviderError`, `ValueFault`."""
        if kept.state is None:
            return State(None)
        if kept.version > self._schema.version:
            raise ProviderError(
                f"what is kept of it is of version {kept.version} of {self._kind}, and the provider that runs knows {self._schema.version}: "
                "install the newer one again"
            )
        try:
            value = self._as_it_is(kept)
        except ValueFault:  # as of another version, or of a release that changed the types without counting
            value = await self._provider.upgrade(self._kind, kept.version, kept.state)
        return State(value, base64.b64decode(kept.private), await self._identity(kept))

    def _as_it_is(self, kept: Kept) -> Value:
        """Raises `ValueFault`: what is kept is not in terms of the provider as it is."""
        if kept.version != self._schema.version:
            raise ValueFault("", f"version {kept.version}")
        return decode_json(self._type, json.dumps(kept.state).encode())

    async def _identity(self, kept: Kept) -> Value:
        """In terms of the provider as it is; None where nobody can say: it is told again by the next answer. Raises `ProviderError`."""
        if kept.identity is None or kept.identity_version in (-1, self._identity_version):
            return kept.identity
        if kept.identity_version > self._identity_version:
            return None
        return await self._provider.upgrade_identity(self._kind, kept.identity_version, kept.identity)

    def keep(
        self,
        kept: Kept,
        state: State,
        *,
        tainted: bool = False,
        pending: str = "",
        attempt: Attempt | None = None,
        made_at: float = 0.0,
        agreed: str = "",
        sent: str | None = None,
        changed_at: float | None = None,
        disbelieved: int = 0,
    ) -> Kept:
        """What to remember from now on."""
        whole = state.value is not None and not tainted
        born = whole and (kept.state is None or kept.tainted)
        lives = kept.lives + born
        return Kept(
            state=None if state.value is None else encode_json(self._type, state.value),
            private=base64.b64encode(state.private).decode(),
            identity=state.identity,
            identity_version=self._identity_version if state.identity is not None else -1,
            version=self._schema.version,
            tainted=tainted and state.value is not None,
            pending=pending,
            key=kept.key,
            adopted=kept.adopted,
            lives=lives,
            restoring=kept.restoring or (born and lives > 1),
            attempt=attempt,
            made_at=made_at if state.value is not None else 0.0,
            agreed=agreed,
            written=kept.written if sent is None else sent,
            connected=kept.connected,
            changed_at=kept.changed_at if changed_at is None else changed_at,
            disbelieved=disbelieved,
        )

    def _sent(self, kept: Kept, config: Value, marks: Mapping[str, str], alone: Sequence[str]) -> str:
        """A seal of the write-only fields of a configuration; empty when there are none. marks: what counts of those that are had anew.
        alone: places that are left alone once it is made, and do not count when it is, either."""
        places = [bare(pattern) for pattern in alone]
        found = [
            (path, marks.get(path, plain(value)))
            for path, value in written(self._schema.block, config)
            if not any(within(place, bare(path)) for place in places)
        ]
        raw = msgspec.json.encode(found, order="deterministic")
        return hmac.new(bytes.fromhex(kept.key), raw, hashlib.sha256).hexdigest() if found else ""

    def _seal(self, kept: Kept, config: Value) -> str:
        return hmac.new(bytes.fromhex(kept.key), encode(self._type, config), hashlib.sha256).hexdigest()

    async def look(
        self,
        kept: Kept,
        config: Value,
        *,
        ignored: Sequence[str] = (),
        initial: Sequence[str] = (),
        now: float = 0.0,
        marks: Mapping[str, str] = NO_MARKS,
    ) -> Look:
        """Reads what is there and plans what would make `config` true; config None: what would delete it.

        ignored: places of which what is there stays; initial: such that only making it needs, also when it is made anew. now: seconds since 1970.
        marks: by their paths, of fields that are unknown until they are sent, what makes them be sent.

        Raises:
            ProviderError: it did not answer, or refuses the configuration, in its words.
        """
        prior = await self.state(kept)
        live = State(None) if prior.value is None else await self._provider.read(self._kind, prior)
        full = None if config is None else fill(self._schema.block, config)
        if ignored and full is not None and live.value is not None:
            full = ignoring(self._schema.block, live.value, full, ignored)
        anew_full = full
        if initial and full is not None and live.value is not None:
            full = ignoring(self._schema.block, live.value, full, initial)
        gone = prior.value is not None and live.value is None
        if gone and kept.made_at and now - kept.made_at < UNSEEN_S:
            return Look("none", prior, None, full, unseen=True)
        if full is None:
            return await self._look_at_end(kept, prior, live)
        planned = await self._planned(live, full)
        forced = self._forced(live, planned)
        action = self._action(kept, live, planned, forced)
        rewrites = (sent := self._sent(kept, full, marks, [*ignored, *initial])) != "" and sent != kept.written
        if action == "none" and rewrites:
            action = "update"
        if action == "replace":
            # What comes after is planned as if there were nothing, so that what the provider makes up is new, too.
            full = anew_full
            anew = await self._planned(State(None), full)
            planned = msgspec.structs.replace(
                anew, replace=forced, deferred=anew.deferred or planned.deferred, warnings=planned.warnings
            )
        shown = planned.value
        if planned.legacy and action == "update":
            shown = softened(self._type, live.value, shown)
        lines = tuple(
            changes(
                self._schema.block,
                prior=prior.value,
                live=live.value,
                config=full,
                planned=shown,
                replace=planned.replace,
            )
            if action != "none"
            else ()
        )
        if rewrites or action in ("create", "replace"):
            before = None if action == "create" else SENSITIVE
            lines += tuple(Change(path, before, SENSITIVE, "spec") for path, _ in written(self._schema.block, full))
        return Look(
            action=action,
            live=live,
            planned=planned,
            config=full,
            lines=lines,
            digest=digest(action, list(lines), [full, sent] if marks else full, bytes.fromhex(kept.key))
            if action != "none"
            else "",
            sent=sent,
            drifted=self._drifted(prior, live, legacy=planned.legacy),
            gone=gone and not kept.agreed,
            tainted=kept.tainted,
            deferred=planned.deferred,
            agreed=action == "create" and bool(kept.agreed) and kept.agreed == self._seal(kept, full),
        )

    async def _planned(self, prior: State, config: Value) -> Planned:
        planned = await self._provider.plan(self._kind, prior, config)
        if not planned.legacy and (fault := nonsense(self._schema.block, prior.value, config, planned.value)):
            raise ProviderError(f"{self._kind}: the provider produced an invalid plan, which is a bug of its: {fault}")
        return planned

    def _drifted(self, prior: State, live: State, *, legacy: bool = False) -> tuple[Change, ...]:
        """What somebody changed since we last looked."""
        if prior.value is None or live.value is None or self._alike(prior.value, live.value, legacy=legacy):
            return ()
        return tuple(changes(self._schema.block, prior=prior.value, live=prior.value, config=None, planned=live.value))

    def _alike(self, a: Value, b: Value, *, legacy: bool) -> bool:
        return same(self._type, a, b) or (legacy and alike(self._type, a, b))

    async def _look_at_end(self, kept: Kept, prior: State, live: State) -> Look:
        if live.value is None:
            # That it is gone is no wonder once it was begun to be deleted.
            return Look("none", live, None, None, gone=prior.value is not None and kept.pending != "delete")
        planned = await self._provider.plan(self._kind, live, None)
        lines = tuple(changes(self._schema.block, prior=live.value, live=live.value, config=None, planned=None))
        seal = digest("delete", list(lines), None, bytes.fromhex(kept.key))
        return Look("delete", live, planned, None, lines=lines, digest=seal, drifted=self._drifted(prior, live))

    def _action(self, kept: Kept, live: State, planned: Planned, forced: tuple[str, ...]) -> Action:
        if live.value is None:
            return "create"
        if kept.tainted:
            return "replace"
        if self._alike(live.value, planned.value, legacy=planned.legacy):
            return "none"
        return "replace" if forced else "update"

    def _forced(self, live: State, planned: Planned) -> tuple[str, ...]:
        """Those of the fields for which it has to be made anew that change: SDKs list others, too (`id`)."""
        if live.value is None or not planned.replace:
            return ()
        differing = [one.path for one in differences(self._type, live.value, planned.value)]
        return tuple(path for path in planned.replace if any(overlap(path, one) for one in differing))

    async def refused(self, config: Value) -> list[Diagnostic]:
        """Why the provider does not take a configuration: who wrote it may not have heard, or what it refers to has come since. Raises
        `ProviderError`, `ValueFault`."""
        return [one for one in await self._provider.validate(self._kind, config) if one.error]

    # Doing it

    async def filled(self, look: Look, values: Mapping[str, Value]) -> Look:
        """The same plan, with what was had anew at its places.

        Raises:
            Failed: with that the provider plans something else. ProviderError: it did not answer, or refuses the values.
        """
        assert look.planned is not None
        config = look.config
        for path, value in values.items():
            config = put(config, path, value)
        planned = await self._planned(look.live if look.action == "update" else State(None), config)
        if not same(self._type, planned.value, look.planned.value):
            places = ", ".join(one.path for one in differences(self._type, look.planned.value, planned.value))
            raise Failed(f"with the value that was had anew the provider plans something else: {places}")
        return msgspec.structs.replace(look, planned=planned, sending=config)

    async def carry_out(self, kept: Kept, look: Look, save: Save, *, now: float = 0.0, after: After = _gone) -> Kept:
        """Does what was planned, saving what there is after each step; returns what is kept at the end. after: asked of what was deleted,
        since a provider takes a 404 that answers its deletion for one.

        Raises:
            Failed: the provider refused, or did half of it.
            ProviderError: no answer came: `pending` stays in what was saved, and nobody knows what there is.
        """
        match look.action:
            case "none":
                return kept
            case "delete":
                return await self._end(kept, look.live, save, after)
            case "replace":
                kept = await self._end(kept, look.live, save, after, agreed=self._seal(kept, look.config))
                return await self._make(kept, look, save, now)
            case "create":
                return await self._make(kept, look, save, now)
        return await self._change(kept, look, save, now)

    async def _make(self, kept: Kept, look: Look, save: Save, now: float) -> Kept:
        assert look.planned is not None
        attempt = await self._attempt(look, now)
        nothing, before = State(None), kept
        kept = self.keep(kept, nothing, pending="create", attempt=attempt, agreed=kept.agreed)
        await save(kept)
        done = await self._apply(kept, nothing, look, save)
        if done.state.value is None:
            said = in_words(done.errors) or "the provider says that it was made, and gives no state of it"
            # Where it can be looked for, it is, whatever was said; else only if the words leave it open.
            open_ = attempt.before is not None or not done.errors or bool(LOST.search(said))
            if not open_:
                # What read as gone and may not be made anew is looked for again: who may not see it is told, by some clouds, that it is gone.
                still = msgspec.structs.replace(before, refused=True)
                await save(still if before.state is not None else self.keep(kept, nothing, agreed=kept.agreed))
            elif done.errors:
                await save(
                    msgspec.structs.replace(kept, attempt=msgspec.structs.replace(attempt, said=said[:SAID_MAX]))
                )
            raise Failed(said)
        # Half a resource is one, that has to be made anew.
        return await self._settled(kept, look, done, save, tainted=bool(done.errors), made_at=now, changed_at=now)

    async def _attempt(self, look: Look, now: float) -> Attempt:
        assert look.planned is not None
        name = look.planned.value.get("id") if isinstance(look.planned.value, dict) else None
        expected = name if isinstance(name, str) else ""
        there = await self._finder.there(look.config, expected) if self._finder is not None else None
        free = await self._finder.free(look.config) if self._finder is not None and there is None else ""
        return Attempt(
            token=secrets.token_hex(TOKEN_BYTES),
            at=now,
            config=encode_json(self._type, known(unwritten(self._schema.block, look.config))),
            expected=expected,
            before=None if there is None else [one.key for one in there],
            name=free,
        )

    async def _change(self, kept: Kept, look: Look, save: Save, now: float) -> Kept:
        await save(self.keep(kept, look.live, tainted=kept.tainted, pending="update"))
        done = await self._apply(kept, look.live, look, save)
        if done.state.value is None and not done.errors:
            await save(self.keep(kept, look.live, tainted=kept.tainted))
            raise Failed("the provider says that it was changed, and gives no state of it")
        # Who changes it outside again and again must not be answered faster and faster.
        asked = any(line.cause == "spec" for line in look.lines)
        return await self._settled(
            kept, look, done, save, tainted=bool(done.errors) and kept.tainted, changed_at=now if asked else None
        )

    async def _apply(self, kept: Kept, prior: State, look: Look, save: Save) -> Applied:
        assert look.planned is not None
        try:
            config = look.config if look.sending is None else look.sending
            return await self._provider.apply(self._kind, prior, look.planned, config)
        except ValueFault:
            # It was never asked.
            await save(self.keep(kept, prior, tainted=kept.tainted, agreed=kept.agreed))
            raise

    async def _settled(
        self,
        kept: Kept,
        look: Look,
        done: Applied,
        save: Save,
        *,
        tainted: bool,
        made_at: float = 0.0,
        changed_at: float | None = None,
    ) -> Kept:
        vague = list(unknowns(self._type, done.state.value))
        identity = kept.identity if done.state.identity is None else done.state.identity
        state = State(known(done.state.value), done.state.private, identity)
        sent = kept.written if done.errors else look.sent
        kept = self.keep(kept, state, tainted=tainted, made_at=made_at, sent=sent, changed_at=changed_at)
        await save(kept)
        if done.errors:
            raise Failed(in_words(done.errors))
        if vague:
            raise Failed(f"the provider applied it and left unknown: {', '.join(vague)}")
        return kept

    async def _end(self, kept: Kept, live: State, save: Save, after: After, *, agreed: str = "") -> Kept:
        disbelieved = kept.disbelieved
        begun = self.keep(kept, live, tainted=kept.tainted, pending="delete", agreed=agreed, disbelieved=disbelieved)
        await save(begun)
        planned = await self._provider.plan(self._kind, live, None)
        done = await self._provider.apply(self._kind, live, planned, None)
        state = live if done.errors and done.state.value is None else done.state
        if state.value is None and disbelieved < DISBELIEVED_MAX and (await after(live)).value is not None:
            await save(msgspec.structs.replace(begun, disbelieved=disbelieved + 1))
            raise Failed("the provider says that it deleted it, and it is there still: it is looked at again")
        kept = self.keep(kept, state, tainted=kept.tainted, pending="delete" if done.errors else "", agreed=agreed)
        await save(kept)
        if done.errors:
            raise Failed(in_words(done.errors))
        if state.value is not None:
            raise Failed("the provider says that it deleted it, and that it is still there")
        return kept

    # After an answer that never came

    async def recover(self, kept: Kept, uid: str, now: float, taken: Taken = _by_nobody) -> Recovered:
        """Looks for what may have been made in a pending attempt. uid: of the object, as its tags may say. taken: whether another object
        keeps what has a key; that is not what was begun here.

        Raises:
            ProviderError: it did not answer.
        """
        attempt = kept.attempt
        if attempt is None or self._finder is None:
            return Recovered("unknown")
        config = decode_json(self._type, json.dumps(attempt.config).encode())
        if attempt.before is not None or tag_of(self._schema.block, config) == uid:
            found = await self._finder.ours(config, attempt.expected, attempt.before or [], uid)
        elif attempt.name:
            found = await self._finder.under(attempt.name, config)
        else:
            return Recovered("unknown")
        if found is not None:
            found = [one for one in found if not await taken(one.key)]
        if found is not None and len(found) > 1:
            return Recovered("unknown", names=tuple(one.key for one in found))
        state = await self._finder.take(found[0]) if found else State(None)
        if state.value is None:
            if not attempt.missed_at:
                missed = msgspec.structs.replace(attempt, missed_at=now)
                return Recovered("early", msgspec.structs.replace(kept, attempt=missed))
            if now - attempt.missed_at < SETTLE_S:
                return Recovered("early", kept)
            if found is None:
                return Recovered("unknown")
            return Recovered("nothing", self.keep(kept, State(None), agreed=kept.agreed))
        assert found
        return Recovered("found", self.keep(kept, state), (found[0].key,))

    async def listed(self, kept: Kept) -> bool:
        """Whether what reads as gone is among what the cloud lists, where there is a list. Raises `ProviderError`, `ValueFault`."""
        value = (await self.state(kept)).value
        name = value.get("id") if isinstance(value, dict) else None
        return self._finder is not None and isinstance(name, str) and await self._finder.lists(value, name)

    async def tagged(self, kept: Kept, config: Value, uid: str) -> Kept | None:
        """What is there and bears the uid of the object in its tags; None when there is none, or no way to look. Raises `ProviderError`."""
        if self._finder is None or tag_of(self._schema.block, config) != uid:
            return None
        found = await self._finder.ours(fill(self._schema.block, config), "", [], uid)
        if not found or len(found) > 1:
            return None
        state = await self._finder.take(found[0])
        return None if state.value is None else self.keep(kept, state)


__all__ = [
    "Action",
    "Attempt",
    "Failed",
    "Keeper",
    "Kept",
    "Look",
    "ProviderError",
    "Recovered",
]
