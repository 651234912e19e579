"""What is remembered of one object's resource: in a Secret of the object's namespace, which outlives the object until it is let go.

    Kept <--load, save--> Secret NAME-KIND-state, with a finalizer of ours; packed when it is long <--discard-- the object's end

It is written before anything is recorded to exist outside, so that its absence later says that somebody took it away. What became of
what was begun may not be writable when it is known (a full disk, an API that is away): `Unwritten` has it until it is.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import msgspec

from trimtab.api import ObjectMeta, Ref
from trimtab.api.core import Secret
from trimtab.client.errors import ApiError
from trimtab.components.infrastructure.kinds import Managed
from trimtab.components.infrastructure.loop.gathering import STATE_KEY, Blocked, named, state_name
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.runtime import Context
from trimtab.runtime.ownership import RECONCILER_LABEL

STATE_FINALIZER = "trimtab.dev/infrastructure-state"
PACKED_KEY = "state.zlib"
EITHER = " If it is there:"
"""Begins the commands for either case."""
RETRY = "trimtab.dev/retry-create"
PACK_BYTES = 64 << 10
"""What is longer is packed: an object of the API has a megabyte and a third at most."""
UNPACKED_BYTES_MAX = 64 << 20
SECRET_BYTES_MAX = 1 << 20
"""Of all that a Secret holds: no API takes more."""
ROOM_BYTES = 64 << 10
"""Left free before something is made: a provider answers more than it plans."""
SHORT_BYTES = 1024
"""A field of a state that is too long is left out when it is longer."""


class TooLong(ValueError):
    """More than a Secret can hold: one line with what it would take."""

    def __init__(self, bytes_packed: int, bytes_max: int) -> None:
        super().__init__(
            f"{bytes_packed / 1024:,.0f} KiB packed, and a Secret has room for {bytes_max >> 10:,} KiB: give it less, "
            "or split it into several objects"
        )


class Unwritten:
    """What became of what was begun for objects of a kind, while it cannot be written down: in this process alone."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[bytes, Kept]] = {}
        """By uid: what was written down before, and what is to be."""

    def hold(self, uid: str, before: Kept, kept: Kept) -> None:
        self._of[uid] = (before.encode(), kept)

    def instead_of(self, uid: str, before: Kept | None) -> Kept | None:
        """What is to be written down in the place of what is; None when there is nothing, or somebody wrote since."""
        if uid not in self._of:
            return None
        written, kept = self._of[uid]
        if before is None or before.encode() != written:
            self.drop(uid)
            return None
        return kept

    def drop(self, uid: str) -> None:
        """It is written down, or there is no such object any more."""
        self._of.pop(uid, None)


class Memory:
    """The state of one object."""

    def __init__(self, subject: Managed, ctx: Context, unwritten: Unwritten) -> None:
        self._subject = subject
        self._ctx = ctx
        self._unwritten = unwritten
        self._written: Kept | None = None
        self.name = state_name(subject)

    @property
    def ref(self) -> Ref:
        return self._secret({}).ref

    async def load(self) -> Kept | None:
        """None when there is none. Raises `ValueError`: one line, when it cannot be read. `Blocked`: it is another object's."""
        secret = await self._ctx.get(Secret, self.name)
        self._written = kept_for(self._subject, secret) if secret is not None else None
        return self._written

    @property
    def overdue(self) -> Kept | None:
        """What became of what was begun, when that could not be written down; None when what was loaded is the latest."""
        return self._unwritten.instead_of(self._subject.metadata.uid, self._written)

    async def save(self, kept: Kept) -> None:
        """Raises `TooLong`, and what writing it raises: then the outcome of what was begun is `overdue`."""
        key, data = self.packed(kept)
        uid, before = self._subject.metadata.uid, self._written
        try:
            await self._ctx.save(self._secret({key: base64.b64encode(data).decode()}))
        except (ApiError, ConnectionError):
            if before is not None and before.pending and not kept.pending:
                self._unwritten.hold(uid, before, kept)
            raise
        self._written = kept
        self._unwritten.drop(uid)

    def packed(self, kept: Kept, *, room_bytes: int = 0) -> tuple[str, bytes]:
        """(key, data) of the Secret in which so much is left free. Raises `TooLong`."""
        raw = kept.encode()
        if len(raw) <= PACK_BYTES:
            return STATE_KEY, raw
        data = zlib.compress(raw)
        if len(data) > SECRET_BYTES_MAX - room_bytes:
            raise TooLong(len(data), SECRET_BYTES_MAX - room_bytes)
        return PACKED_KEY, data

    async def discard(self) -> None:
        self._unwritten.drop(self._subject.metadata.uid)
        await self._ctx.discard(self._secret({}), [STATE_FINALIZER])

    def _secret(self, data: dict[str, str]) -> Secret:
        meta = ObjectMeta(name=self.name, namespace=self._subject.namespace, finalizers=[STATE_FINALIZER])
        return Secret(metadata=meta, type="trimtab.dev/infrastructure-state", data=data)

    # What a person is told

    def lost(self, why: str) -> Blocked:
        """That there was something, and what is known of it is gone."""
        name = self._subject.status.id or "ITS-ID"
        return Blocked("StateLost", f"{why}. {self._either(name, self._subject.metadata.uid)}")

    def unknown(self, token: str, names: tuple[str, ...]) -> Blocked:
        """That nobody can say whether it was made."""
        could = f" It could be {' or '.join(names[:5])}." if names else ""
        return Blocked(
            "CreateUnknown",
            f"making it was begun and the answer never came.{could} {self._either(names[0] if names else 'ITS-ID', token)}",
        )

    def _either(self, name: str, token: str) -> str:
        where = named(self._subject)
        patch = json.dumps({"spec": {"policy": {"adopt": f"id:{name}"}}}, separators=(",", ":"))
        take = f"kubectl patch {where} --type merge -p '{patch}'"
        return f"{EITHER.strip()} {take}. If not: kubectl annotate --overwrite {where} {RETRY}={token}"

    def retried(self, token: str) -> bool:
        """Whether somebody said of this attempt that it made nothing."""
        return self._subject.metadata.annotations.get(RETRY) == token


def reconciler_name(kind: type[Managed]) -> str:
    """Of the reconciler that keeps objects of a kind."""
    return f"{kind.resource_type.plural}-{kind.resource_type.group.partition('.')[0]}"


def kept_for(subject: Managed, secret: Secret) -> Kept | None:
    """As `kept_of`, of an object's own. Raises `Blocked`: kinds of two providers have one name, and so have an object of each."""
    keeper = secret.metadata.labels.get(RECONCILER_LABEL)
    if keeper is not None and keeper.rpartition(".")[2] != reconciler_name(type(subject)):
        raise Blocked(
            "NameTaken",
            f"the Secret {secret.name} holds what is known of another object, which {keeper} keeps: give one of the two another name",
        )
    return kept_of(secret)


def kept_of(secret: Secret) -> Kept | None:
    """What a Secret holds; None when it holds nothing. Raises `ValueError`: one line."""
    if (packed := secret.data.get(PACKED_KEY)) is not None:
        return Kept.decode(_unpacked(base64.b64decode(packed)))
    raw = secret.data.get(STATE_KEY)
    return None if raw is None else Kept.decode(base64.b64decode(raw))


def named_only(kept: Kept) -> Kept:
    """What tells which one it is, without what is long: what a provider reads by it is the rest."""

    def short(value: Any) -> Any:
        if len(json.dumps(value)) <= SHORT_BYTES:
            return value
        return [] if isinstance(value, list) else None

    state = {name: value if name == "id" else short(value) for name, value in (kept.state or {}).items()}
    return msgspec.structs.replace(kept, state=state)


def _unpacked(data: bytes) -> bytes:
    """Raises `ValueError`."""
    unpacking = zlib.decompressobj()
    try:
        raw = unpacking.decompress(data, UNPACKED_BYTES_MAX)
    except zlib.error as err:
        raise ValueError(f"the kept state cannot be unpacked: {err}") from None
    if not unpacking.eof:
        raise ValueError(f"the kept state is cut off, or longer than {UNPACKED_BYTES_MAX >> 20} MiB unpacked")
    return raw
