"""The connection Secret of one object: what it holds, that it is this object's alone, and that it goes when it has another name.

what is there, spec.connection --connection.py--> Secret      Kept.connected: the name of the one that was made last
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from trimtab.api import ObjectMeta
from trimtab.api.core import Secret
from trimtab.components.infrastructure.kinds import Managed
from trimtab.components.infrastructure.loop.connection import TemplateFault, rendered
from trimtab.components.infrastructure.loop.gathering import STATE_SUFFIX, Blocked
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.remembering import reconciler_name
from trimtab.components.infrastructure.loop.users import Unseen, enabled, objects, told
from trimtab.components.infrastructure.protocol.schema import Block
from trimtab.components.infrastructure.protocol.values import Value
from trimtab.components.infrastructure.schemas.mapping import hidden, shown
from trimtab.runtime import Context
from trimtab.runtime.ownership import ADOPT_ANNOTATION, OWNER_LABEL, RECONCILER_LABEL


class Connected:
    """Of one object, in one run."""

    def __init__(self, subject: Managed, ctx: Context) -> None:
        self._subject = subject
        self._ctx = ctx

    async def wanted(self, block: Block, value: Value) -> list[Secret]:
        """The Secret of what is there; none when none is asked for. Raises `Blocked`: its templates cannot be filled, or its name is taken."""
        connection = self._subject.spec.connection
        if connection is None or not isinstance(value, dict):
            return []
        await self._refuse_taken(connection.secret_name)
        try:
            data = rendered(connection.data, shown(block, value), hidden(block, value), block)
        except TemplateFault as err:
            raise Blocked("ConnectionInvalid", f"spec.connection.data: {err}") from None
        meta = ObjectMeta(name=connection.secret_name, namespace=self._subject.namespace)
        return [Secret(metadata=meta, data={key: base64.b64encode(raw).decode() for key, raw in data.items()})]

    async def renamed(self, kept: Kept, wanted: Sequence[Secret]) -> Kept:
        """What is to be remembered once the connection Secret is the one that is wanted: one of another name is deleted."""
        name = wanted[0].name if wanted else ""
        if kept.connected == name:
            return kept
        if kept.connected:
            await self.gone(kept)
        return msgspec.structs.replace(kept, connected=name)

    async def gone(self, kept: Kept) -> None:
        """Deletes the one that was made last."""
        if await self._owner_of(kept.connected) != self._subject.metadata.uid:
            return  # somebody else has made one of that name since
        await self._ctx.discard(Secret(metadata=ObjectMeta(name=kept.connected, namespace=self._subject.namespace)))

    async def _refuse_taken(self, name: str) -> None:
        """Nobody's state is overwritten by the name of a connection Secret, and nobody else's connection. Raises `Blocked`."""
        if name.endswith(STATE_SUFFIX):
            raise Blocked(
                "ConnectionInvalid",
                f"spec.connection.secretName: names that end in {STATE_SUFFIX} are of what is remembered of resources: choose another",
            )
        secret = await self._ctx.get(Secret, name)
        if secret is None or secret.metadata.labels.get(OWNER_LABEL) == self._subject.metadata.uid:
            return  # as it is at nearly every look: the others need not be gone through
        if problem := await self._taken(secret):
            raise Blocked("ConnectionInvalid", f"spec.connection.secretName: {name} {problem} choose another")

    async def _taken(self, secret: Secret) -> str:
        """Whose a Secret is that is not ours, in words; empty when it may be taken."""
        owner, keeper = (secret.metadata.labels.get(label, "") for label in (OWNER_LABEL, RECONCILER_LABEL))
        if not keeper:
            if owner or secret.metadata.annotations.get(ADOPT_ANNOTATION) == "true":
                return ""
            return f'is there already and was not made for it. Hand it over with the annotation {ADOPT_ANNOTATION}: "true", or'
        mine = type(self._subject)
        try:
            kinds = [mine, *(kind for kind in await enabled(self._ctx) if kind is not mine)]
        except Unseen:
            kinds = [mine]
        kind = next((one for one in kinds if keeper.rpartition(".")[2] == reconciler_name(one)), None)
        if kind is None:
            return f"is kept by {keeper}:"
        found = await objects(self._ctx, [kind], self._subject.namespace, lambda one: one.metadata.uid == owner)
        wants = [one for one in found if one.spec.connection and one.spec.connection.secret_name == secret.name]
        if wants:
            return f"is {kind.resource_type.kind} {wants[0].name}'s:"
        return "" if kind is mine else f"was made for {told(found) or f'a {kind.resource_type.kind} that is gone'}:"

    async def _owner_of(self, name: str) -> str:
        """The uid of the object for which a Secret was made."""
        secret = await self._ctx.get(Secret, name)
        return secret.metadata.labels.get(OWNER_LABEL, "") if secret is not None else ""
