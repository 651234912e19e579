"""One resource kept true: what is there, what would be done about it, whether that may be done, and doing it.

    Kept (a Secret) --look--> Look: live, plan, its lines --gate--> Verdict --carry_out--> Kept, at every step

Pure of the API and of time: a `Provider` does what a cloud does, `save` keeps the state, and the caller decides when to look again.
Every state that a provider gives back is saved before anything else is done, whatever else it said.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from trimtab.components.infrastructure.changes import Change, changes, differences, digest, ignoring, overlap
from trimtab.components.infrastructure.protocol.provider import Applied, Planned, ProviderError, State
from trimtab.components.infrastructure.protocol.schema import Schema, fill
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import Value, decode_json, encode_json, known, same, unknowns

Action = Literal["none", "create", "update", "replace", "delete"]
KEY_BYTES = 32


class Talks(Protocol):
    """The part of a provider that keeping needs."""

    async def plan(self, kind: str, prior: State, config: Value) -> Planned: ...
    async def apply(self, kind: str, prior: State, planned: Planned, config: Value) -> Applied: ...
    async def read(self, kind: str, state: State) -> State: ...
    async def upgrade(self, kind: str, version: int, state: Any) -> Value: ...


class Kept(Struct, frozen=True, omit_defaults=True):
    """What is remembered of a resource between runs: all of it in a Secret.

    state: JSON of its value, as `version` of the provider's schema has it; None when there is none.
    tainted: making it went wrong half-way, so that it has to be made anew.
    pending: an action was begun and how it ended is not known.
    adopted: what `policy.adopt` said when something was taken over by it, which is done once.
    lives: how often it came to be whole: 1 when it was made or taken over, 2 when it was made anew.
    restoring: it was made anew, and what was in it is not brought back yet.
    """

    state: Any = None
    private: str = ""
    identity: Any = None
    version: int = 0
    tainted: bool = False
    pending: str = ""
    key: str = ""
    adopted: str = ""
    lives: int = 0
    restoring: bool = False

    @classmethod
    def fresh(cls) -> Kept:
        """Of a resource that nothing is known of. Its key is for digests of its plans."""
        return cls(key=secrets.token_hex(KEY_BYTES))

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> Kept:
        """Raises `ValueError`: one line."""
        try:
            return msgspec.json.decode(raw, type=cls)
        except msgspec.MsgspecError as err:
            raise ValueError(f"the kept state cannot be read: {err}") from None


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
    tainted: bool = False
    deferred: str = ""


class Policy(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What may be done without asking."""

    apply: Literal["auto", "onApproval", "never"] = "auto"
    replace: Literal["deny", "approve", "auto"] = "deny"
    delete: Literal["delete", "orphan", "deny"] = "delete"


class Verdict(Struct, frozen=True):
    """Whether a plan may be carried out; if not, a reason for a condition, and one line for a person."""

    go: bool
    reason: str = ""
    message: str = ""


Save = Callable[[Kept], Awaitable[None]]


class Failed(Exception):
    """A step that the provider did not do; what there is has been saved. Its text is one line in the provider's words."""


class Keeper:
    """Keeps resources of one kind of one configured provider."""

    def __init__(self, provider: Talks, kind: str, schema: Schema) -> None:
        self._provider = provider
        self._kind = kind
        self._schema = schema
        self._type: Type = schema.block.implied

    # What there is

    async def state(self, kept: Kept) -> State:
        """The state as it was kept, in terms of the provider as it is. Raises `ProviderError`, `ValueFault`."""
        if kept.state is None:
            return State(None)
        if kept.version == self._schema.version:
            value = decode_json(self._type, json.dumps(kept.state).encode())
        else:
            value = await self._provider.upgrade(self._kind, kept.version, kept.state)
        return State(value, base64.b64decode(kept.private), kept.identity)

    def keep(self, kept: Kept, state: State, *, tainted: bool = False, pending: str = "") -> Kept:
        """What to remember from now on."""
        whole = state.value is not None and not tainted
        born = whole and (kept.state is None or kept.tainted)
        lives = kept.lives + born
        return Kept(
            state=None if state.value is None else encode_json(self._type, state.value),
            private=base64.b64encode(state.private).decode(),
            identity=state.identity,
            version=self._schema.version,
            tainted=tainted and state.value is not None,
            pending=pending,
            key=kept.key,
            adopted=kept.adopted,
            lives=lives,
            restoring=kept.restoring or (born and lives > 1),
        )

    async def look(self, kept: Kept, config: Value, *, ignored: list[str] | None = None) -> Look:
        """Reads what is there and plans what would make `config` true; config None: what would delete it.

        Raises:
            ProviderError: it did not answer, or refuses the configuration, in its words.
        """
        prior = await self.state(kept)
        live = State(None) if prior.value is None else await self._provider.read(self._kind, prior)
        full = None if config is None else fill(self._schema.block, config)
        if ignored and full is not None and live.value is not None:
            full = ignoring(self._schema.block, live.value, full, ignored)
        gone = prior.value is not None and live.value is None
        drifted = tuple(
            changes(self._schema.block, prior=prior.value, live=prior.value, config=None, planned=live.value)
            if prior.value is not None and not gone and not same(self._type, prior.value, live.value)
            else ()
        )
        if full is None:
            return await self._look_at_end(kept, live, gone, drifted)
        planned = await self._provider.plan(self._kind, live, full)
        forced = self._forced(live, planned)
        action = self._action(kept, live, planned, forced)
        if action == "replace":
            # What comes after is planned as if there were nothing, so that what the provider makes up is new, too.
            anew = await self._provider.plan(self._kind, State(None), full)
            planned = Planned(
                value=anew.value,
                private=anew.private,
                replace=forced,
                deferred=anew.deferred or planned.deferred,
                legacy=anew.legacy,
                identity=anew.identity,
                warnings=planned.warnings,
            )
        lines = tuple(
            changes(
                self._schema.block,
                prior=prior.value,
                live=live.value,
                config=full,
                planned=planned.value,
                replace=planned.replace,
            )
            if action != "none"
            else ()
        )
        return Look(
            action=action,
            live=live,
            planned=planned,
            config=full,
            lines=lines,
            digest=digest(action, list(lines), full, bytes.fromhex(kept.key)) if action != "none" else "",
            drifted=drifted,
            gone=gone,
            tainted=kept.tainted,
            deferred=planned.deferred,
        )

    async def _look_at_end(self, kept: Kept, live: State, gone: bool, drifted: tuple[Change, ...]) -> Look:
        if live.value is None:
            return Look("none", live, None, None, gone=gone)
        planned = await self._provider.plan(self._kind, live, None)
        lines = tuple(changes(self._schema.block, prior=live.value, live=live.value, config=None, planned=None))
        seal = digest("delete", list(lines), None, bytes.fromhex(kept.key))
        return Look("delete", live, planned, None, lines=lines, digest=seal, drifted=drifted)

    def _action(self, kept: Kept, live: State, planned: Planned, forced: tuple[str, ...]) -> Action:
        if live.value is None:
            return "create"
        if kept.tainted:
            return "replace"
        if same(self._type, live.value, planned.value):
            return "none"
        return "replace" if forced else "update"

    def _forced(self, live: State, planned: Planned) -> tuple[str, ...]:
        """Those of the fields for which it has to be made anew that change: SDKs list others, too (`id`)."""
        if live.value is None or not planned.replace:
            return ()
        differing = [one.path for one in differences(self._type, live.value, planned.value)]
        return tuple(path for path in planned.replace if any(overlap(path, one) for one in differing))

    # Doing it

    async def carry_out(self, kept: Kept, look: Look, save: Save) -> Kept:
        """Does what was planned, saving what there is after each step; returns what is kept at the end.

        Raises:
            Failed: the provider refused, or did half of it.
            ProviderError: no answer came: `pending` stays in what was saved, and nobody knows what there is.
        """
        if look.action == "none":
            return kept
        if look.action == "replace":
            kept = await self._end(kept, look.live, save)
            return await self._apply(kept, State(None), look, "create", save)
        if look.action == "delete":
            return await self._end(kept, look.live, save)
        return await self._apply(kept, look.live, look, look.action, save)

    async def _apply(self, kept: Kept, prior: State, look: Look, action: Action, save: Save) -> Kept:
        assert look.planned is not None
        kept = self.keep(kept, prior, tainted=kept.tainted, pending=action)
        await save(kept)
        done = await self._provider.apply(self._kind, prior, look.planned, look.config)
        # Half a resource is one, that has to be made anew; a change that failed leaves what there is.
        tainted = bool(done.errors) and (action == "create" or kept.tainted)
        vague = list(unknowns(self._type, done.state.value))
        state = msgspec.structs.replace(done.state, value=known(done.state.value))
        kept = self.keep(kept, state, tainted=tainted)
        await save(kept)
        if done.errors:
            raise Failed("; ".join(map(str, done.errors)))
        if vague:
            raise Failed(f"the provider applied it and left unknown: {', '.join(vague)}")
        return kept

    async def _end(self, kept: Kept, live: State, save: Save) -> Kept:
        await save(self.keep(kept, live, tainted=kept.tainted, pending="delete"))
        planned = await self._provider.plan(self._kind, live, None)
        done = await self._provider.apply(self._kind, live, planned, None)
        state = live if done.errors and done.state.value is None else done.state
        kept = self.keep(kept, state)
        await save(kept)
        if done.errors:
            raise Failed("; ".join(map(str, done.errors)))
        if state.value is not None:
            raise Failed("the provider says that it deleted it, and that it is still there")
        return kept


def gate(look: Look, policy: Policy, approved: str, named: str) -> Verdict:
    """Whether a plan may be carried out under a policy. approved: the digest that somebody approved, or empty; named: the object, as
    kubectl takes it."""
    if look.deferred:
        return Verdict(False, "Deferred", f"nothing can be planned yet: {look.deferred}")
    if look.action == "none":
        return Verdict(True)
    how = f"{look.action} ({len(look.lines)} {'field' if len(look.lines) == 1 else 'fields'})"
    if policy.apply == "never":
        return Verdict(False, "ApplyNever", f"would {how}; spec.policy.apply is never")
    agreed = approved == look.digest
    ask = "what its annotation trimtab.dev/approve names is another plan; " if approved else ""
    ask += f"approve with: kubectl annotate --overwrite {named} trimtab.dev/approve={look.digest}"
    if look.action == "replace" and not look.tainted and not agreed:
        because = ", ".join(sorted({line.path for line in look.lines if line.replaces})) or "the provider asks for it"
        if policy.replace == "deny":
            return Verdict(
                False,
                "ReplaceDenied",
                f"a change of {because} would delete it and make it anew; spec.policy.replace is deny",
            )
        if policy.replace == "approve":
            return Verdict(False, "ApprovalNeeded", f"a change of {because} would delete it and make it anew: {ask}")
    if look.action == "delete" and policy.delete == "deny":
        return Verdict(False, "DeleteDenied", "spec.policy.delete is deny: set it to delete or to orphan")
    if policy.apply == "onApproval" and not agreed:
        return Verdict(False, "ApprovalNeeded", f"would {how}: {ask}")
    return Verdict(True)


__all__ = ["Action", "Failed", "Keeper", "Kept", "Look", "Policy", "ProviderError", "Verdict", "gate"]
