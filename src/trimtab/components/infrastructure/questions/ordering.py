"""In which order objects of providers' kinds are planned: what is referred to before what refers to it.

objects --waves--> lists of objects that need nothing of each other        what refers to itself by a way around: `Circle`
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.api import JSON
from trimtab.components.infrastructure.schemas.naming import GROUP_SUFFIX

Place = tuple[str, str]
"""Namespace, and `key_of` the object in it."""


class Circle(ValueError):
    """Objects that need each other's output: one line that names them."""


def is_managed(obj: JSON) -> bool:
    """Whether an object is of a provider's kind."""
    return str(obj.get("apiVersion")).partition("/")[0].endswith(f".{GROUP_SUFFIX}")


def key_of(api_version: str, kind: str, name: str) -> str:
    """By what an object is known within its namespace."""
    return f"{api_version}/{kind}/{name}"


def place_of(obj: JSON) -> Place:
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


def waves(objects: Sequence[JSON]) -> list[list[JSON]]:
    """The objects by waves, each in the given order. Raises `Circle`."""
    left = {place_of(obj): obj for obj in objects}
    needed = {place: needs(obj) for place, obj in left.items()}
    out = []
    while left:
        wave = {place: obj for place, obj in left.items() if not needed[place] & left.keys()}
        if not wave:
            raise Circle(_circle(left))
        out.append(list(wave.values()))
        left = {place: obj for place, obj in left.items() if place not in wave}
    return out


def _circle(left: dict[Place, JSON]) -> str:
    place = next(iter(left))
    way: list[Place] = []
    while place not in way:
        way.append(place)
        place = min(needs(left[place]) & left.keys())
    names = [_name(left[one]) for one in [*way[way.index(place) :], place]]
    return f"they refer to each other in a circle, so that none can be made first: {' -> '.join(names)}"


def _name(obj: JSON) -> str:
    return f"{obj['kind']} {obj['metadata'].get('name')}"


__all__ = ["Circle", "Place", "is_managed", "key_of", "needs", "place_of", "waves"]
