"""The types of values that providers speak of, as the plugin protocol writes them: JSON, `"string"` or `["list", ELEMENT]`.

Source: the description of the wire format of types in Terraform's plugin protocol (`DynamicValue`, `Schema.Attribute.type`).
"""

from __future__ import annotations

import json
from typing import Any, Literal

from msgspec import Struct

Collection = Literal["list", "set", "map"]

DEPTH_MAX = 64


def one_line(text: str) -> str:
    """A text that others wrote some of, with what cannot be shown in a line as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Type(Struct, frozen=True, omit_defaults=True):
    """One type.

    kind: a primitive, a collection, `object` or `tuple`.
    element: of a collection. attributes: of an object, by name. elements: of a tuple, in order.
    """

    kind: str
    element: Type | None = None
    attributes: dict[str, Type] = {}
    elements: tuple[Type, ...] = ()
    optional: frozenset[str] = frozenset()

    def __str__(self) -> str:
        if self.element is not None:
            return f"{self.kind} of {self.element}"
        if self.kind == "object":
            return "object with " + ", ".join(sorted(self.attributes)) if self.attributes else "empty object"
        return self.kind


STRING, NUMBER, BOOL, DYNAMIC = (Type(kind) for kind in ("string", "number", "bool", "dynamic"))
PRIMITIVES: dict[str, Type] = {t.kind: t for t in (STRING, NUMBER, BOOL, DYNAMIC)}


def list_of(element: Type) -> Type:
    return Type("list", element)


def set_of(element: Type) -> Type:
    return Type("set", element)


def map_of(element: Type) -> Type:
    return Type("map", element)


def object_of(attributes: dict[str, Type]) -> Type:
    return Type("object", attributes=attributes)


def parse(raw: bytes | str) -> Type:
    """The type that this JSON means. Raises `ValueError`: one line with what it is."""
    try:
        return from_json(json.loads(raw))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ValueError(f"not a type: {raw!r:.80} ({err})") from None


def from_json(value: Any, depth: int = 0) -> Type:
    """As `parse`, of decoded JSON."""
    if depth > DEPTH_MAX:
        raise ValueError(f"a type is nested deeper than {DEPTH_MAX} levels")
    match value:
        case str() if value in PRIMITIVES:
            return PRIMITIVES[value]
        case ["list" | "set" | "map" as kind, element]:
            return Type(kind, from_json(element, depth + 1))
        case ["object", dict() as attributes, *rest] if not rest or isinstance(rest[0], list):
            of = {str(name): from_json(one, depth + 1) for name, one in attributes.items()}
            return Type("object", attributes=of, optional=frozenset(map(str, rest[0])) if rest else frozenset())
        case ["tuple", list() as elements]:
            return Type("tuple", elements=tuple(from_json(one, depth + 1) for one in elements))
    raise ValueError(f"not a type: {json.dumps(value):.80}")


def to_json(of: Type) -> Any:
    """The JSON of a type."""
    if of.element is not None:
        return [of.kind, to_json(of.element)]
    if of.kind == "object":
        attributes = {name: to_json(one) for name, one in of.attributes.items()}
        return ["object", attributes, sorted(of.optional)] if of.optional else ["object", attributes]
    if of.kind == "tuple":
        return ["tuple", [to_json(one) for one in of.elements]]
    return of.kind
