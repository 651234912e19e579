"""What a claim would be composed of, asked without making it.

claim, what there is of it --CompositeDefinition/compose--> the function, shut in --> manifests, what it waits for
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from trimtab.api import JSON
from trimtab.components.infrastructure.composition.claims import function_of
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition
from trimtab.components.infrastructure.composition.output import BadOutput, NotNamed, checked, refuse_unnamed
from trimtab.components.infrastructure.composition.packages import NotInstalled, Packages
from trimtab.components.infrastructure.composition.terms import Compositions, Failed


class Claimed(Struct):
    """A question. observed: what there is of it by now, as functions are told: name -> {ready, message, kind, status}."""

    claim: JSON
    observed: dict[str, JSON] = {}


class Foretold(Struct):
    """objects: manifests in the order in which they need each other; parts: their names within the claim, in the same order."""

    objects: list[JSON]
    parts: list[str]
    waiting: str = ""


class Unforeseen(Exception):
    """The function could not be asked, or said what cannot be: one line."""


async def foretold(process: Any, made: CompositeDefinition, asked: Claimed) -> Foretold:
    """Raises `Unforeseen`."""
    claim, meta = asked.claim, asked.claim.get("metadata") or {}
    name, namespace = str(meta.get("name") or ""), str(meta.get("namespace") or "")
    xr: JSON = {"name": name, "namespace": namespace, "uid": str(meta.get("uid") or "")}
    xr |= {"labels": meta.get("labels") or {}, "annotations": meta.get("annotations") or {}}
    xr["spec"] = claim.get("spec") or {}
    try:
        function = function_of(made, process.adapter(Packages))
        wanted = checked(await process.adapter(Compositions).compose(function, xr, asked.observed), name, namespace)
        refuse_unnamed(wanted, made.spec.composes)
    except (Failed, BadOutput, NotNamed, NotInstalled) as err:
        raise Unforeseen(str(err)) from None
    objects = [{**one.object, "apiVersion": one.api_version, "kind": one.kind} for one in wanted.parts]
    return Foretold(objects, [one.name for one in wanted.parts], wanted.waiting)


__all__ = ["Claimed", "Foretold", "Unforeseen", "foretold"]
