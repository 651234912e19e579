"""Bringing a list of objects into a cluster, and what is no longer on the list out of it.

    list, inventory --remember both--> apply in order --> remove what is only in the inventory, last first --> remember the list

The inventory is in the cluster itself, written before anything else is: whatever ends us in between, the next run knows what there may be.
What somebody else made is neither changed nor removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.api import JSON
from trimtab.client import ApiError
from trimtab.components.infrastructure.remote.access import ADOPT, OWNER_LABEL, Cluster
from trimtab.components.infrastructure.remote.order import DEFINITIONS, Item, wave

SAID_MAX = 3


@dataclass
class Brought:
    """How far it came. there: objects of the list, as they are in the cluster now."""

    new: int = 0
    """How many were not there before."""
    there: dict[Item, JSON] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    """What has to wait for a kind that the cluster does not have."""
    refused: list[str] = field(default_factory=list)
    removed: list[Item] = field(default_factory=list)
    left: list[Item] = field(default_factory=list)
    """What is to go and is not gone yet."""


async def bring(cluster: Cluster, owner: str, whose: str, wanted: Sequence[tuple[Item, JSON]]) -> Brought:
    """Raises `ConnectionError`, and `ApiError` for what concerns the cluster as a whole."""
    known = await cluster.inventory(owner)
    before = known or []
    names = [await _placed(cluster, item) for item, _ in wanted]
    together = sorted({*before, *names})
    if known is None or together != sorted(before):
        await cluster.remember(owner, together, whose)
    done = Brought()
    last = None
    for item, manifest in sorted(wanted, key=lambda one: wave(one[0])):
        if last == DEFINITIONS != wave(item):
            cluster.forget_kinds()
        last = wave(item)
        await _one(cluster, owner, item, manifest, done)
    if done.refused or done.waiting:
        return done  # what stands stays, for as long as what is to replace it does not
    # Objects whose kind came only now have their namespace only now.
    names = [await _placed(cluster, item) for item, _ in wanted]
    done.removed, done.left = await remove(cluster, owner, [item for item in before if item not in names])
    after = sorted({*names, *done.left})
    if after != together:
        await cluster.remember(owner, after, whose)
    return done


async def _placed(cluster: Cluster, item: Item) -> Item:
    kind = await cluster.kind(item)
    return cluster.placed(item, kind) if kind is not None else item


async def _one(cluster: Cluster, owner: str, item: Item, manifest: JSON, done: Brought) -> None:
    kind = await cluster.kind(item)
    if kind is None:
        done.waiting.append(f"{item}: the cluster has no kind {item.kind} in {item.api_version}")
        return
    item = cluster.placed(item, kind)
    try:
        live = await cluster.get(kind, item)
        if live is not None and not _may_take(live, owner):
            done.refused.append(
                f'{item} is in the cluster already and not of this object: rename it here, or annotate it there with {ADOPT}: "true"'
            )
            return
        done.there[item] = await cluster.apply(kind, item, manifest, owner)
        done.new += live is None
    except ApiError as err:
        if _of_the_cluster(err):
            raise
        done.refused.append(f"{item}: {err}")


async def remove(cluster: Cluster, owner: str, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Asks for what is ours of these to be deleted, what came last first, the next of the order once it is gone.

    Returns (asked for now, not gone yet)."""
    asked: list[Item] = []
    left: list[Item] = []
    for number in sorted({wave(item) for item in items}, reverse=True):
        if left:
            left += [item for item in items if wave(item) == number]
            continue
        for item in (one for one in items if wave(one) == number):
            kind = await cluster.kind(item)
            live = await cluster.get(kind, item) if kind is not None else None
            if kind is None or live is None or not _ours(live, owner):
                continue
            if "deletionTimestamp" not in live["metadata"]:
                await cluster.delete(kind, item, live["metadata"]["uid"])
                asked.append(item)
            left.append(item)
    return asked, left


def _ours(live: JSON, owner: str) -> bool:
    return bool((live["metadata"].get("labels") or {}).get(OWNER_LABEL) == owner)


def _may_take(live: JSON, owner: str) -> bool:
    return _ours(live, owner) or (live["metadata"].get("annotations") or {}).get(ADOPT) == "true"


def _of_the_cluster(err: ApiError) -> bool:
    """Whether it says nothing about the object: who we are, or that the server is not well."""
    return err.status in (401, 429) or err.status >= 500


def several(lines: Sequence[str]) -> str:
    """The first few, and how many there are besides."""
    more = len(lines) - SAID_MAX
    return "; ".join(lines[:SAID_MAX]) + (f"; and {more} more" if more > 0 else "")
