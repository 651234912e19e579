"""Fields that are sent and never come back: write-only ones, of which no state has a value.

    configuration --written--> each of them that is given, with its place        --unwritten--> the same without them

As nothing of them is in a state, only who gives them can tell that they changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from trimtab.components.infrastructure.protocol.schema import Attribute, Block, Nesting
from trimtab.components.infrastructure.protocol.values import Value

Each = Callable[[str, Value], Iterator[tuple[str, Value]]]


def written(block: Block, value: Value, path: str = "") -> Iterator[tuple[str, Value]]:
    """(path, value) of every write-only field that is given."""
    if not isinstance(value, dict):
        return
    yield from _attributes(block.attributes, path, value)
    for name, nested in block.blocks.items():
        yield from _within(nested.nesting, value.get(name), _at(path, name), partial(_in_block, nested.block))


def _in_block(block: Block, path: str, value: Value) -> Iterator[tuple[str, Value]]:
    return written(block, value, path)


def _attributes(attributes: Mapping[str, Attribute], path: str, value: Value) -> Iterator[tuple[str, Value]]:
    if not isinstance(value, dict):
        return
    for name, one in attributes.items():
        inner = value.get(name)
        if inner is None:
            continue
        if one.write_only:
            yield _at(path, name), inner
        elif one.nested is not None:
            yield from _within(one.nested.nesting, inner, _at(path, name), partial(_attributes, one.nested.attributes))


def _within(nesting: Nesting, value: Value, path: str, each: Each) -> Iterator[tuple[str, Value]]:
    if nesting in ("list", "set") and isinstance(value, list):
        for i, one in enumerate(value):
            yield from each(f"{path}[{i}]", one)
    elif nesting == "map" and isinstance(value, dict):
        for key, one in value.items():
            yield from each(f"{path}[{key}]", one)
    else:
        yield from each(path, value)


def unwritten(block: Block, value: Value) -> Value:
    """The value with null for every write-only field."""
    if not isinstance(value, dict):
        return value
    out = _without(block.attributes, value)
    for name, nested in block.blocks.items():
        if name in out:
            out[name] = _each(nested.nesting, out[name], partial(unwritten, nested.block))
    return out


def _without(attributes: Mapping[str, Attribute], value: Value) -> Value:
    if not isinstance(value, dict):
        return value
    out = dict(value)
    for name, one in attributes.items():
        if out.get(name) is None:
            continue
        if one.write_only:
            out[name] = None
        elif one.nested is not None:
            out[name] = _each(one.nested.nesting, out[name], partial(_without, one.nested.attributes))
    return out


def _each(nesting: Nesting, value: Value, do: Callable[[Value], Value]) -> Value:
    if nesting in ("list", "set") and isinstance(value, list):
        return [do(one) for one in value]
    if nesting == "map" and isinstance(value, dict):
        return {key: do(one) for key, one in value.items()}
    return do(value)


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


__all__ = ["unwritten", "written"]
