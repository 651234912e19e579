"""What a provider says of its kinds: blocks of attributes and nested blocks, the same for protocol 5 and 6.

    GetProviderSchema --messages.py--> ProviderSchema --kept by the provider's hash--> kinds, plans, checks

Every value of a kind is an object of its block's implied type: each attribute there, null when unset; a nested block is an object (SINGLE,
GROUP), a list, a set, or a map of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

from msgspec import Struct

from trimtab.components.infrastructure.protocol.types import Type, list_of, map_of, object_of, set_of
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Value, distinct, each_once

Nesting = Literal["single", "list", "set", "map", "group"]
NESTINGS: dict[int, Nesting] = {1: "single", 2: "list", 3: "set", 4: "map", 5: "group"}
"""By their number on the wire; an attribute's nested type has no GROUP."""


class Attribute(Struct, frozen=True, omit_defaults=True):
    """One field. Exactly one of `type` and `nested` says what it holds.

    required, optional, computed: who gives the value; `optional` and `computed` together: the user may, else the provider does.
    write_only: sent, but never part of the state.
    """

    type: Type | None = None
    nested: NestedType | None = None
    description: str = ""
    required: bool = False
    optional: bool = False
    computed: bool = False
    sensitive: bool = False
    write_only: bool = False
    deprecated: str = ""

    @property
    def implied(self) -> Type:
        if self.nested is not None:
            return self.nested.implied
        assert self.type is not None
        return self.type

    @property
    def secret(self) -> bool:
        """Whether only a Secret may give it, and no object shows it."""
        return self.sensitive or self.write_only

    @property
    def given(self) -> bool:
        """Whether a user may set it."""
        return self.required or self.optional


class NestedType(Struct, frozen=True, omit_defaults=True):
    """An attribute that holds objects with fields of their own (protocol 6)."""

    nesting: Nesting
    attributes: dict[str, Attribute]

    @property
    def element(self) -> Type:
        return object_of({name: one.implied for name, one in self.attributes.items()})

    @property
    def implied(self) -> Type:
        return _nested(self.nesting, self.element)


class NestedBlock(Struct, frozen=True, omit_defaults=True):
    """A block within a block. min_items, max_items: 0 for no limit; only of lists and sets."""

    nesting: Nesting
    block: Block
    min_items: int = 0
    max_items: int = 0

    @property
    def implied(self) -> Type:
        return _nested(self.nesting, self.block.implied)


class Block(Struct, frozen=True, omit_defaults=True):
    attributes: dict[str, Attribute] = {}
    blocks: dict[str, NestedBlock] = {}
    description: str = ""
    deprecated: str = ""

    @property
    def implied(self) -> Type:
        """The type of its values."""
        fields = {name: one.implied for name, one in self.attributes.items()}
        return object_of(fields | {name: one.implied for name, one in self.blocks.items()})

    @property
    def empty(self) -> dict[str, Value]:
        """The value of a block in which nothing is set."""
        return dict.fromkeys(self.attributes) | {name: _empty(one) for name, one in self.blocks.items()}


class Schema(Struct, frozen=True, omit_defaults=True):
    """One kind of resource. version: of its state, as the provider counts."""

    block: Block
    version: int = 0


class ProviderSchema(Struct, frozen=True, omit_defaults=True):
    """All that a provider serves."""

    provider: Schema
    resources: dict[str, Schema]
    data_sources: dict[str, Schema] = {}
    ephemeral: dict[str, Schema] = {}
    lists: dict[str, Schema] = {}
    identities: dict[str, Identity] = {}
    plan_destroy: bool = False


class Identity(Struct, frozen=True, omit_defaults=True):
    """By what a resource is known for good, where the provider says."""

    attributes: dict[str, Type]
    required: frozenset[str] = frozenset()
    version: int = 0

    @property
    def implied(self) -> Type:
        return object_of(self.attributes)


def _nested(nesting: Nesting, element: Type) -> Type:
    match nesting:
        case "list":
            return list_of(element)
        case "set":
            return set_of(element)
        case "map":
            return map_of(element)
        case _:
            return element


def _empty(one: NestedBlock) -> Value:
    match one.nesting:
        case "list" | "set":
            return []
        case "map":
            return {}
        case "group":
            return one.block.empty
        case _:
            return None


def fill(block: Block, config: Value) -> Value:
    """A value with every field of its block: what is not given is null, and so on downwards; what a set is given twice is there once.
    Fields that there are none of stay, so that `encode` names them."""
    if not isinstance(config, dict):
        return config
    out = dict(config)
    for name, attribute in block.attributes.items():
        value = config.get(name)
        if attribute.nested is not None:
            out[name] = _fill_nested(attribute.nested, value)
        else:
            out[name] = distinct(attribute.implied, value) if isinstance(value, list | dict) else value
    for name, nested in block.blocks.items():
        value = config.get(name)
        if value is None:
            out[name] = _empty(nested)
        else:
            out[name] = _once(nested.nesting, nested.block, _each(nested.nesting, value, partial(fill, nested.block)))
    return out


def _fill_nested(nested: NestedType, value: Value) -> Value:
    block = Block(attributes=nested.attributes)
    return _once(nested.nesting, block, _each(nested.nesting, value, partial(fill, block)))


def _once(nesting: Nesting, block: Block, value: Value) -> Value:
    return each_once(block.implied, value) if nesting == "set" and isinstance(value, list) else value


def _each(nesting: Nesting, value: Value, do: Callable[[Value], Value]) -> Value:
    if value is None or value is UNKNOWN:
        return value
    if nesting in ("list", "set") and isinstance(value, list):
        return [do(one) for one in value]
    if nesting == "map" and isinstance(value, dict):
        return {key: do(one) for key, one in value.items()}
    return do(value)


def fields(block: Block, path: str = "") -> Iterator[tuple[str, Attribute]]:
    """Every attribute of a block and of what is within it, with its path: `network_interface[*].address`."""
    for name, attribute in block.attributes.items():
        at = f"{path}.{name}" if path else name
        yield at, attribute
        if attribute.nested is not None:
            yield from fields(Block(attributes=attribute.nested.attributes), at + _star(attribute.nested.nesting))
    for name, nested in block.blocks.items():
        at = f"{path}.{name}" if path else name
        yield from fields(nested.block, at + _star(nested.nesting))


def groups(block: Block, path: str = "") -> Iterator[tuple[str, Nesting]]:
    """Every place that holds objects with fields of their own, and how: `rule`, `pool[*].taint`."""
    within = [
        (name, one.nested.nesting, Block(one.nested.attributes)) for name, one in block.attributes.items() if one.nested
    ]
    for name, nesting, inner in [*within, *((name, one.nesting, one.block) for name, one in block.blocks.items())]:
        at = f"{path}.{name}" if path else name
        yield at, nesting
        yield from groups(inner, at + _star(nesting))


def _star(nesting: Nesting) -> str:
    return "[*]" if nesting in ("list", "set", "map") else ""
