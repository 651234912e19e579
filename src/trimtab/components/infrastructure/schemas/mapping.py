"""An object of the API as a provider's configuration, and a provider's state as an object of the API.

    spec.forProvider, secrets --configured--> value of the kind's type      state --shown--> status.atProvider
                                                                                  --hidden--> what only a Secret may hold

Names are turned by the schema, both ways; a path in one naming becomes a path in the other by `api_path`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedType, Nesting
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Dynamic, Value, encode, plain
from trimtab.components.infrastructure.schemas import naming

Secrets = Callable[[str, str], Value]
"""(name, key) -> the text in that Secret, unknown, or None when it is no longer needed. Raises `LookupError`: one line."""


TOP = "spec.forProvider"


class Output(NamedTuple):
    """What another resource gives: it becomes what the field holds, as an id that is a text there and a number here."""

    value: Value


class FieldFault(ValueError):
    """A field of an object that cannot be what it says: its path in the object's own names, and what is wrong."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


# Object -> provider


def configured(block: Block, given: Mapping[str, Any], secrets: Secrets, path: str = TOP) -> Value:
    """What is given, in the provider's names, with the secrets that it names. What is not given is left out.

    Raises:
        FieldFault: a field that there is none of, one within that is required and is not given, or a Secret that is not there.
    """
    names = naming.of_block(block)
    out = _attributes(block.attributes, names, given, secrets, path)
    for name, nested in block.blocks.items():
        mine = names[name]
        if (value := given.get(mine)) is not None:
            out[name] = _nest(
                nested.nesting,
                value,
                f"{path}.{mine}",
                lambda v, at, n=nested: configured(n.block, v, secrets, at),  # type: ignore[misc]
            )
    known = {_given_name(names[name], one) for name, one in block.attributes.items() if one.given}
    _no_others(given, known | {names[name] for name in block.blocks}, path)
    if path != TOP:
        _none_missing(block.attributes, names, given, path)
    return out


def _given_name(mine: str, attribute: Attribute) -> str:
    return mine + naming.SECRET_REF if attribute.secret else mine


def _no_others(given: Mapping[str, Any], known: set[str], path: str) -> None:
    if strange := sorted(given.keys() - known):
        raise FieldFault(f"{path}.{strange[0]}", "there is no such field, or the provider alone sets it")


def _none_missing(
    attributes: Mapping[str, Attribute], names: Mapping[str, str], given: Mapping[str, Any], path: str
) -> None:
    """At the top the API says so; within, it cannot know of references."""
    for name, attribute in attributes.items():
        mine = _given_name(names[name], attribute)
        if attribute.required and not attribute.write_only and given.get(mine) is None:
            raise FieldFault(f"{path}.{mine}", "is required: give it here, or as a reference")


def _attributes(
    attributes: Mapping[str, Attribute], names: Mapping[str, str], given: Mapping[str, Any], secrets: Secrets, path: str
) -> dict[str, Value]:
    out: dict[str, Value] = {}
    for name, attribute in attributes.items():
        mine = _given_name(names[name], attribute)
        value = given.get(mine)
        if value is None or not attribute.given:
            continue
        at = f"{path}.{mine}"
        if attribute.secret:
            out[name] = _secret(attribute, value, secrets, at)
        elif attribute.nested is not None:
            out[name] = _nested(attribute.nested, value, secrets, at)
        else:
            assert attribute.type is not None
            out[name] = to_type(attribute.type, value, at)
    return out


def _nested(nested: NestedType, value: Any, secrets: Secrets, path: str) -> Value:
    names = naming.of_attributes(nested.attributes)

    def one(inner: Any, at: str) -> Value:
        _no_others(inner, {_given_name(names[n], a) for n, a in nested.attributes.items() if a.given}, at)
        _none_missing(nested.attributes, names, inner, at)
        return _attributes(nested.attributes, names, inner, secrets, at)

    return _nest(nested.nesting, value, path, one)


def _secret(attribute: Attribute, value: Any, secrets: Secrets, path: str) -> Value:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not isinstance(value.get("key"), str):
        raise FieldFault(path, "expected {name, key} of a Secret")
    try:
        text = secrets(value["name"], value["key"])
    except LookupError as err:
        raise FieldFault(path, str(err)) from None
    if text is None or text is UNKNOWN:
        return text
    of = attribute.implied
    if of.kind == "string":
        return text
    import json

    try:
        found = to_type(of, json.loads(text), path)
        encode(of, found)
    except (ValueError, RecursionError):  # whose text would have what is in the Secret
        raise FieldFault(path, f"the Secret's {value['key']} is no JSON of {of}") from None
    return found


def _nest(nesting: Nesting, value: Any, path: str, one: Callable[[Any, str], Value]) -> Value:
    if isinstance(value, Output):
        value = value.value
    if value is UNKNOWN:
        return UNKNOWN
    if nesting in ("list", "set"):
        if not isinstance(value, list):
            raise FieldFault(path, "expected a list")
        return [one(_object(v, f"{path}[{i}]"), f"{path}[{i}]") for i, v in enumerate(value)]
    if nesting == "map":
        return {key: one(_object(v, f"{path}.{key}"), f"{path}.{key}") for key, v in _object(value, path).items()}
    return one(_object(value, path), path)


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldFault(path, "expected an object")
    return value


def _turned(of: Type, value: Any) -> Any:
    """An output in terms of a field's type: texts, numbers and truth values turn into each other where nothing is lost."""
    match of.kind, value:
        case "string", bool():
            return "true" if value else "false"
        case "string", int() | float():
            return str(value)
        case "number", str() if re.fullmatch(r"-?[0-9]+", value):
            return int(value)
        case "number", str() if re.fullmatch(r"-?[0-9]+\.[0-9]+", value):
            return float(value)
        case "bool", "true" | "false":
            return value == "true"
        case (("list" | "set" | "map"), list() | dict()) if of.element is not None:
            element = of.element
            if isinstance(value, dict):
                return {key: _turned(element, one) for key, one in value.items()}
            return [_turned(element, one) for one in value]
    return value


def to_type(of: Type, value: Any, path: str) -> Value:
    """A given value with the fields of its objects in the provider's names."""
    if isinstance(value, Output):
        value = _turned(of, value.value)
    if value is None:
        return None
    match of.kind:
        case "list" | "set" if isinstance(value, list):
            assert of.element is not None
            return [to_type(of.element, one, f"{path}[{i}]") for i, one in enumerate(value)]
        case "map" if isinstance(value, dict):
            assert of.element is not None
            return {key: to_type(of.element, one, f"{path}.{key}") for key, one in value.items()}
        case "object" if isinstance(value, dict):
            names = naming.of_object(of.attributes)
            _no_others(value, set(names.values()), path)
            return {
                name: to_type(one, value.get(names[name]), f"{path}.{names[name]}")
                for name, one in of.attributes.items()
            }
    return value


# Provider -> object


def shown(block: Block, value: Value) -> Any:
    """A state as an object of the API may show it: our names, nothing sensitive, nothing that is null."""
    if not isinstance(value, dict):
        return plain(value)
    names = naming.of_block(block)
    out = _shown_attributes(block.attributes, names, value)
    for name, nested in block.blocks.items():
        if (inner := value.get(name)) is not None:
            out[names[name]] = _each(nested.nesting, inner, lambda v, n=nested: shown(n.block, v))  # type: ignore[misc]
    return out


def _shown_attributes(
    attributes: Mapping[str, Attribute], names: Mapping[str, str], value: Mapping[str, Value]
) -> dict[str, Any]:
    out = {}
    for name, attribute in attributes.items():
        inner = value.get(name)
        if inner is None or attribute.secret:
            continue
        if attribute.nested is not None:
            out[names[name]] = _shown_nested(attribute.nested, inner)
        else:
            assert attribute.type is not None
            out[names[name]] = _shown_type(attribute.type, inner)
    return out


def _shown_nested(nested: NestedType, value: Value) -> Any:
    names = naming.of_attributes(nested.attributes)

    def one(inner: Value) -> Any:
        return _shown_attributes(nested.attributes, names, inner) if isinstance(inner, dict) else plain(inner)

    return _each(nested.nesting, value, one)


def _each(nesting: Nesting, value: Value, one: Callable[[Value], Any]) -> Any:
    if nesting in ("list", "set") and isinstance(value, list):
        return [one(v) for v in value]
    if nesting == "map" and isinstance(value, dict):
        return {key: one(v) for key, v in value.items()}
    return one(value)


def _shown_type(of: Type, value: Value) -> Any:
    match value:
        case Dynamic():
            return plain(value)
        case list() if of.element is not None:
            return [_shown_type(of.element, one) for one in value]
        case dict() if of.element is not None:
            return {key: _shown_type(of.element, one) for key, one in value.items()}
        case dict() if of.kind == "object":
            names = naming.of_object(of.attributes)
            return {
                names[name]: _shown_type(of.attributes[name], one) for name, one in value.items() if one is not None
            }
    return plain(value)


def hidden(block: Block, value: Value) -> dict[str, Any]:
    """The sensitive fields at the top of a state, by the provider's names: what connection Secrets are made of."""
    if not isinstance(value, dict):
        return {}
    return {
        name: plain(value[name])
        for name, attribute in block.attributes.items()
        if attribute.sensitive and value.get(name) is not None
    }


# Paths

STEP = re.compile(r'([^.\[\]]+)|\[(\d+|\*|"(?:[^"\\]|\\.)*")\]')


def api_path(block: Block, path: str) -> str:
    """A path in the provider's names, in the object's: `node_pool[0].auto_scale` -> `nodePool[0].autoScale`. What is not in the schema stays
    as it is."""
    out = ""
    level: Block | NestedType | Type | None = block
    for name, index in STEP.findall(path):
        if index:
            out += f"[{index}]"
            if isinstance(level, Type):
                level = level.element
            continue
        mine, level = _step(level, name)
        out += f".{mine}" if out else mine
    return out


def _step(level: Block | NestedType | Type | None, name: str) -> tuple[str, Block | NestedType | Type | None]:
    match level:
        case Block():
            mine = naming.of_block(level).get(name, name)
            if name in level.blocks:
                return mine, level.blocks[name].block
            return _attribute_step(level.attributes.get(name), mine)
        case NestedType():
            mine = naming.of_attributes(level.attributes).get(name, name)
            return _attribute_step(level.attributes.get(name), mine)
        case Type() if level.kind == "object":
            return naming.of_object(level.attributes).get(name, name), level.attributes.get(name)
    return name, None


def _attribute_step(attribute: Attribute | None, mine: str) -> tuple[str, NestedType | Type | None]:
    if attribute is None:
        return mine, None
    return _given_name(mine, attribute) if attribute.given else mine, attribute.nested or attribute.type
