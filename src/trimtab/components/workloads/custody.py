"""Which pods are an owner's: those it made, those without an owner that its selector takes in, and no longer those that
were relabelled away from it.

The rules are Kubernetes' (`controller_ref_manager.go`): an object has one controller; what has none and matches is adopted, what
is owned and does not match is released and goes on as it is, so that a pod can be taken out of service to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from trimtab.api import Ref, Resource
from trimtab.api.core import Pod
from trimtab.api.labels import LabelSelector
from trimtab.api.selector import selects
from trimtab.components.workloads import pods as facts
from trimtab.runtime import Adopt, Context

K = TypeVar("K", bound=Resource)


@dataclass(frozen=True)
class Custody(Generic[K]):
    """An owner's objects, `adopt` among them, and those that it lets go."""

    mine: tuple[K, ...]
    adopt: tuple[Adopt, ...]
    release: tuple[Ref, ...]


def uncontrolled(obj: Resource) -> bool:
    """Whether anybody may adopt the object."""
    meta = obj.metadata
    if meta.deletion_timestamp is not None or any(owner.controller for owner in meta.owner_references):
        return False
    return not isinstance(obj, Pod) or not facts.finished(obj)


async def custody(
    ctx: Context,
    kind: type[K],
    namespace: str | None,
    selector: LabelSelector | None,
    *,
    fits: Callable[[K], bool] = lambda obj: True,
    finalizers: tuple[str, ...] = (),
) -> Custody[K]:
    """The objects of `kind` that belong to the context's subject; `fits` tells further which of the free ones may."""
    owned = await ctx.owned(kind)
    free = await ctx.list(
        kind,
        namespace,
        labels=selector.match_labels if selector else None,
        where=lambda obj: uncontrolled(obj) and selects(selector, obj.metadata.labels) and fits(obj),
    )
    released = [o for o in owned if not selects(selector, o.metadata.labels) and o.metadata.deletion_timestamp is None]
    gone = {obj.name for obj in released}
    mine = sorted([*(obj for obj in owned if obj.name not in gone), *free], key=lambda obj: obj.name)
    return Custody(tuple(mine), tuple(Adopt(o.ref, finalizers) for o in free), tuple(o.ref for o in released))


async def unused(ctx: Context, kind: type[K], namespace: str | None, names: Iterable[str], count: int) -> list[str]:
    """The first of these names that nobody has: what was released, or is somebody else's, keeps its name."""
    out: list[str] = []
    for name in names:
        if len(out) == count:
            break
        if await ctx.get(kind, name, namespace) is None:
            out.append(name)
    return out
