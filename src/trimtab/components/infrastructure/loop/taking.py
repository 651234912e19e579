"""Whether what is about to be taken over is another object's already: one resource is kept by one object.

key of a resource --> status.id of the others --> their state Secrets, where no status says it yet --> who keeps it
found after a lost answer --Claims.claim--> ours until our Secret says so: two that look at the same time do not both take it
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trimtab.api.core import Secret
from trimtab.client import Index
from trimtab.components.infrastructure.kinds import Managed
from trimtab.components.infrastructure.loop.gathering import Blocked, state_name
from trimtab.components.infrastructure.loop.remembering import kept_for

if TYPE_CHECKING:
    from trimtab.runtime import Context


async def keeping_already(ctx: Context, subject: Managed, key: str) -> Managed | None:
    """Another object of the same kind, namespace and ProviderConfig that keeps what has this id."""
    uid, config = subject.metadata.uid, subject.spec.provider_ref.name
    for id_ in (key, ""):
        for one in await ctx.by_index(type(subject), KEPT, _place_of(config, id_), subject.namespace):
            if one.metadata.uid != uid and (one.status.id == key or await _remembers(ctx, one, key)):
                return one
    return None


def _kept(one: Managed) -> Iterator[str]:
    yield _place_of(one.spec.provider_ref.name, one.status.id)


def _place_of(config: str, id_: str) -> str:
    return f"{config}/{id_}"


KEPT = Index(_kept)
"""By ProviderConfig and status.id: of thousands that are taken over at a time each would go through all others."""


async def _remembers(ctx: Context, one: Managed, key: str) -> bool:
    secret = await ctx.get(Secret, state_name(one))
    try:
        kept = kept_for(one, secret) if secret is not None else None
    except (ValueError, Blocked):
        return False  # of what nobody can read nobody knows
    return kept is not None and isinstance(kept.state, dict) and str(kept.state.get("id") or "") == key


class Claims:
    """What objects of a kind are about to take, in this process."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str | None, str, str]] = {}
        """By uid: namespace, ProviderConfig, key."""

    def held(self, subject: Managed, key: str) -> bool:
        """Whether another is about to take it."""
        place = self._place(subject, key)
        return any(one == place for uid, one in self._of.items() if uid != subject.metadata.uid)

    def claim(self, subject: Managed, key: str) -> bool:
        """Whether it is this one's from now on."""
        if self.held(subject, key):
            return False
        self._of[subject.metadata.uid] = self._place(subject, key)
        return True

    def drop(self, subject: Managed) -> None:
        """It is known by now whose it is, or there is no such object any more."""
        self._of.pop(subject.metadata.uid, None)

    def _place(self, subject: Managed, key: str) -> tuple[str | None, str, str]:
        return subject.namespace, subject.spec.provider_ref.name, key


__all__ = ["Claims", "keeping_already"]
