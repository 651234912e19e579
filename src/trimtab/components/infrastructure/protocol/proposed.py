"""The state that is proposed to a provider before it plans: what the user gave, and where they gave nothing, what is there.

Written from the published description of a resource's life between core and provider ("Resource Instance Change Lifecycle"):

* what is given wins; an attribute that is computed and not given keeps its prior value; any other that is not given is null;
* nested blocks and nested attributes are paired with prior ones, each by its nesting (index, key, or for sets an element that the given
  one could have become), and merged alike;
* a nested attribute that is optional and computed, and not given any more, keeps its prior value only if the provider alone can have
  made it: with a value in it that only the user can have given, it is theirs, and goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, NestedType, Nesting
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Value, fingerprint, same

Merge = Callable[[Value, Value], Value]
"""(prior, config) of one object -> what is proposed."""
Fits = Callable[[Value, Value], bool]
"""Whether a prior object can be what became of a configured one."""
Left = Any
"""The places within a configured value that are left to the provider, hashable: `ANY`, `EMPTY`, ("fields", those of fields by name),
("each", those of the elements of a list). None: none."""
ANY = "any"
"""Whatever is there."""
EMPTY = "empty"
"""Nothing, or what is empty."""


class Element(NamedTuple):
    """Of the elements of sets: their type, what is left open in one that is given, and whether one can have become of it."""

    of: Type
    left: Callable[[Value], Left]
    fits: Fits


def proposed_new(block: Block, prior: Value, config: Value) -> Value:
    """The proposal for a resource.

    prior: the object as it is, None when there is none. config: what is given (`schema.fill` it first), None to delete.
    """
    if config is None or config is UNKNOWN:
        return config
    return _block(block, block.empty if prior is None else prior, config)


def _block(block: Block, prior: Value, config: Value) -> Value:
    if config is None or config is UNKNOWN:
        return config
    if prior is UNKNOWN or prior is None:
        prior = block.empty
    out = _attributes(block.attributes, prior, config)
    for name, nested in block.blocks.items():
        out[name] = _nested_block(nested, prior.get(name), config.get(name))
    return out


def _attributes(
    attributes: Mapping[str, Attribute], prior: Mapping[str, Value], config: Mapping[str, Value]
) -> dict[str, Value]:
    return {name: _attribute(one, prior.get(name), config.get(name)) for name, one in attributes.items()}


def _attribute(attribute: Attribute, prior: Value, config: Value) -> Value:
    if attribute.computed and config is None:
        if attribute.nested is not None and attribute.optional and _only_given(attribute.nested, prior):
            return None
        return prior
    if attribute.nested is None or config is None or config is UNKNOWN:
        return config
    return _nested_attribute(attribute.nested, prior, config)


def _nested_block(nested: NestedBlock, prior: Value, config: Value) -> Value:
    return _paired(
        nested.nesting,
        prior,
        config,
        merge=lambda p, c: _block(nested.block, p, c),
        element=lambda: Element(
            nested.block.implied,
            lambda c: _block_left(nested.block, c),
            lambda p, c: _block_fits(nested.block, p, c),
        ),
    )


def _nested_attribute(nested: NestedType, prior: Value, config: Value) -> Value:
    def merge(p: Value, c: Value) -> Value:
        if c is None or c is UNKNOWN:
            return c
        return _attributes(nested.attributes, p if isinstance(p, dict) else {}, c)

    return _paired(
        nested.nesting,
        prior,
        config,
        merge=merge,
        element=lambda: Element(
            nested.element,
            lambda c: _attributes_left(nested.attributes, c),
            lambda p, c: _attributes_fit(nested.attributes, p, c),
        ),
    )


def _paired(nesting: Nesting, prior: Value, config: Value, *, merge: Merge, element: Callable[[], Element]) -> Value:
    """Merges each of the given objects with its prior one."""
    if config is None or config is UNKNOWN:
        return config
    match nesting:
        case "list":
            priors = prior if isinstance(prior, list) else []
            return [merge(priors[i] if i < len(priors) else None, one) for i, one in enumerate(config)]
        case "map":
            keyed = prior if isinstance(prior, dict) else {}
            return {key: merge(keyed.get(key), one) for key, one in config.items()}
        case "set":
            priors = prior if isinstance(prior, list) else []
            pairs = _pairs(priors, config, element())
            return [merge(priors[pairs[i]] if i in pairs else None, one) for i, one in enumerate(config)]
        case _:
            return merge(prior, config)


# Elements of sets have no name: which prior one may this have been?


def _pairs(priors: list[Value], config: list[Value], element: Element) -> dict[int, int]:
    """Index of a given element -> index of its prior one, each used once. Those that say most choose first, so that one that says little
    does not take what another says exactly.

    Only those are held against each other that look alike but for what is left to the provider: priors are looked up by that."""
    lefts = [element.left(one) for one in config]
    ever = frozenset(name for left in lefts if left is not None for name, _ in left[1])
    priors_as, config_as = (_Looks(element.of, values, ever) for values in (priors, config))
    groups: dict[Any, list[int]] = {}
    for k in range(len(priors)):
        groups.setdefault(priors_as.always(k), []).append(k)
    looks: dict[tuple[Any, Left], dict[Any, deque[int]]] = {}
    used: set[int] = set()
    out = {}
    for i in sorted(range(len(config)), key=lambda i: _said(config[i]), reverse=True):
        group, left = config_as.always(i), lefts[i]
        if (group, left) not in looks:
            alike = looks[group, left] = {}
            for k in groups.get(group, ()):
                if k not in used:
                    alike.setdefault(priors_as.but_for(left, k), deque()).append(k)
        found = looks[group, left].get(config_as.but_for(left, i), deque())
        while found and found[0] in used:
            found.popleft()
        chosen = next((k for k in found if k not in used and element.fits(priors[k], config[i])), None)
        if chosen is not None:
            used.add(chosen)
            out[i] = chosen
    return out


class _Looks:
    """What elements of a set look like but for what is left open: each field is gone through once, however many ways of leaving open there
    are. ever: the fields that any of them leaves open, in whole or in part."""

    def __init__(self, of: Type, values: list[Value], ever: frozenset[str]) -> None:
        self._of = of
        self._values = values
        self._ever = ever
        self._fields = [
            {name: hash(fingerprint(inner, one.get(name))) for name, inner in of.attributes.items()}
            if isinstance(one, dict)
            else None
            for one in values
        ]
        self._within: dict[tuple[int, str, Left], int] = {}

    def always(self, place: int) -> Any:
        """As far as nobody leaves it open."""
        fields = self._fields[place]
        return None if fields is None else tuple(mark for name, mark in fields.items() if name not in self._ever)

    def but_for(self, left: Left, place: int) -> Any:
        fields = self._fields[place]
        if fields is None:
            return fingerprint(self._of, self._values[place])
        if left is None:
            return tuple(fields.values())
        seen = dict(fields)
        for name, inner in left[1]:
            if name in seen:
                seen[name] = 0 if inner == ANY else self._field(place, name, inner)
        return tuple(seen.values())

    def _field(self, place: int, name: str, left: Left) -> int:
        key = (place, name, left)
        if key not in self._within:
            value = _covered(left, self._values[place].get(name))
            self._within[key] = hash(fingerprint(self._of.attributes[name], value))
        return self._within[key]


def _block_left(block: Block, config: Value) -> Left:
    if not isinstance(config, dict):
        return None
    fields = {name: _attribute_left(one, config.get(name)) for name, one in block.attributes.items()}
    for name, nested in block.blocks.items():
        fields[name] = _each_left(nested.nesting, config.get(name), lambda c, n=nested: _block_left(n.block, c))  # type: ignore[misc]
    return _fields_left(fields)


def _attributes_left(attributes: Mapping[str, Attribute], config: Value) -> Left:
    if not isinstance(config, dict):
        return None
    return _fields_left({name: _attribute_left(one, config.get(name)) for name, one in attributes.items()})


def _attribute_left(attribute: Attribute, config: Value) -> Left:
    """As `_attribute_fits` has it."""
    nested = attribute.nested
    if config is None:
        if not attribute.computed or attribute.implied.kind == "set":
            return None
        return ANY if nested is None else EMPTY
    if nested is None:
        return None
    return _each_left(nested.nesting, config, lambda c: _attributes_left(nested.attributes, c))


def _each_left(nesting: Nesting, config: Value, left: Callable[[Value], Left]) -> Left:
    """As `_all_fit` has it."""
    match nesting:
        case "list" if isinstance(config, list):
            each = tuple(map(left, config))
            return ("each", each) if any(each) else None
        case "map" if isinstance(config, dict):
            return _fields_left({key: left(one) for key, one in config.items()})
        case "single" | "group":
            return left(config)
    return None


def _fields_left(fields: Mapping[str, Left]) -> Left:
    found = tuple(sorted((name, one) for name, one in fields.items() if one is not None))
    return ("fields", found) if found else None


def _covered(left: Left, value: Value) -> Value:
    """A value with nothing in the places that are left to the provider: two that fit each other look the same so."""
    match left:
        case "any":
            return None
        case "empty":
            return None if value in ([], {}) else value
        case ("fields", fields) if isinstance(value, dict):
            return {**value, **{name: _covered(one, value[name]) for name, one in fields if name in value}}
        case ("each", each) if isinstance(value, list) and len(value) == len(each):
            return [_covered(one, part) for one, part in zip(each, value, strict=True)]
    return value


def _said(value: Value) -> int:
    """How many values there are within a value."""
    match value:
        case None:
            return 0
        case dict():
            return sum(map(_said, value.values()))
        case list():
            return sum(map(_said, value))
    return 1


def _block_fits(block: Block, prior: Value, config: Value) -> bool:
    if not isinstance(prior, dict) or not isinstance(config, dict):
        return prior is None and config is None
    return _attributes_fit(block.attributes, prior, config) and all(
        _all_fit(n.nesting, n.implied, prior.get(name), config.get(name), lambda p, c, n=n: _block_fits(n.block, p, c))  # type: ignore[misc]
        for name, n in block.blocks.items()
    )


def _attributes_fit(attributes: Mapping[str, Attribute], prior: Value, config: Value) -> bool:
    if not isinstance(prior, dict) or not isinstance(config, dict):
        return prior is None and config is None
    return all(_attribute_fits(one, prior.get(name), config.get(name)) for name, one in attributes.items())


def _attribute_fits(attribute: Attribute, prior: Value, config: Value) -> bool:
    of, nested = attribute.implied, attribute.nested
    if same(of, prior, config):
        return True
    if config is None:
        # Terraform does not look into a set that is not given, nor into objects that are not: neither can have become of nothing.
        return attribute.computed and of.kind != "set" and (nested is None or prior in ([], {}))
    if nested is None:
        return False
    return _all_fit(nested.nesting, of, prior, config, lambda p, c: _attributes_fit(nested.attributes, p, c))


def _all_fit(nesting: Nesting, of: Type, prior: Value, config: Value, fits: Fits) -> bool:
    match nesting:
        case "list" if isinstance(prior, list) and isinstance(config, list):
            return len(prior) == len(config) and all(fits(p, c) for p, c in zip(prior, config, strict=True))
        case "map" if isinstance(prior, dict) and isinstance(config, dict):
            return prior.keys() == config.keys() and all(fits(prior[key], config[key]) for key in config)
        case "set":
            return same(of, prior, config)
        case "single" | "group":
            return fits(prior, config)
    return prior is None and config is None


def _only_given(nested: NestedType, prior: Value) -> bool:
    """Whether a prior value has something in it that no provider computes, and so was once given."""
    match nested.nesting, prior:
        case (("list" | "set"), list()):
            objects = prior
        case "map", dict():
            objects = list(prior.values())
        case _, dict():
            objects = [prior]
        case _:
            return False
    for one in objects:
        if not isinstance(one, dict):
            continue
        for name, attribute in nested.attributes.items():
            value = one.get(name)
            if value is None:
                continue
            if attribute.nested is not None and _only_given(attribute.nested, value):
                return True
            if not attribute.computed and attribute.given:
                return True
    return False
