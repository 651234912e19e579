"""In which order objects of providers' kinds are planned: what is referred to before what refers to it.

objects --waves--> lists of objects that need nothing of each other
             `---> those of a circle, and what refers to them, each with why: none of them can be made first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.api import JSON
from trimtab.components.infrastructure.schemas.naming import GROUP_SUFFIX

Place = tuple[str, str]
"""Namespace, and `key_of` the object in it."""


NAMED_MAX = 5
"""So many members of a circle are named."""


def is_managed(obj: JSON) -> bool:
    """Whether an object is of a provider's kind."""
    return str(obj.get("apiVersion")).partition("/")[0].endswith(f".{GROUP_SUFFIX}")


def key_of(api_version: str, kind: str, name: str) -> str:
    """By what an object is known within its namespace."""
    return f"{api_version}/{kind}/{name}"


def place_of(obj: JSON) -> Place:
    """Where an object stands among others: its namespace, empty for the cluster's, and its key."""
    meta = obj["metadata"]
    return meta.get("namespace") or "", key_of(obj["apiVersion"], obj["kind"], meta.get("name") or "")


def needs(obj: JSON) -> set[Place]:
    """What an object refers to."""
    namespace = obj["metadata"].get("namespace") or ""
    out = set()
    for one in (obj.get("spec") or {}).get("references") or []:
        source = one.get("source") or {}
        place = source.get("apiVersion") or obj["apiVersion"]
        out.add((namespace, key_of(place, str(source.get("kind")), str(source.get("name")))))
    return out


def waves(objects: Sequence[JSON]) -> tuple[list[list[JSON]], list[tuple[JSON, str]]]:
    """The objects by waves, each in the given order; and those for which there is none, for they need each other's output or refer to what
    does, each with one line that says so."""
    left = {place_of(obj): obj for obj in objects}
    needed = {place: needs(obj) for place, obj in left.items()}
    out = []
    while wave := {place: obj for place, obj in left.items() if not needed[place] & left.keys()}:
        out.append(list(wave.values()))
        left = {place: obj for place, obj in left.items() if place not in wave}
    return out, _circles(left, {place: min(needed[place] & left.keys()) for place in left})


def _circles(left: Mapping[Place, JSON], onward: Mapping[Place, Place]) -> list[tuple[JSON, str]]:
    """Why each cannot be made. onward: to what of them each refers, so that whoever goes on comes to a circle."""
    circles: dict[Place, str] = {}
    """What there is to say of the circle that is reached, by place."""
    members: set[Place] = set()
    for first in left:
        way: dict[Place, None] = {}
        place = first
        while place not in circles and place not in way:
            way[place] = None
            place = onward[place]
        if place not in circles:
            walked = list(way)
            round_ = walked[walked.index(place) :]
            members |= set(round_)
            circles[place] = _circle([_name(left[one]) for one in round_])
        circles |= dict.fromkeys(way, circles[place])
    return [
        (
            obj,
            circles[place]
            if place in members
            else f"it refers to {_name(left[onward[place]])}, which cannot be made: {circles[place]}",
        )
        for place, obj in left.items()
    ]


def _circle(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MAX
    shown = [*names[:NAMED_MAX], *([f"({more} more)"] if more > 0 else []), names[0]]
    return f"they refer to each other in a circle, so that none can be made first: {' -> '.join(shown)}"


def _name(obj: JSON) -> str:
    return f"{obj['kind']} {obj['metadata'].get('name')}"


__all__ = ["Place", "is_managed", "key_of", "needs", "place_of", "waves"]
