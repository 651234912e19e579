"""The fields that a definition says -> schemas of a CustomResourceDefinition, each checked with one line that names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from trimtab.api import JSON

LEVELS_MAX = 20
FIELDS_MAX = 500
NAME = re.compile(r"^[a-z][A-Za-z0-9]{0,62}$")
OF_STATUS = frozenset({"conditions", "observedGeneration", "resources", "connectionSecret"})
"""What every claim's status has."""
Count = Annotated[int, Meta(ge=0)]


class Field(Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One field of an API of one's own."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"]
    description: str = ""
    required: bool = False
    default: Any | UnsetType = UNSET
    enum: list[str | int] | UnsetType = UNSET
    minimum: float | int | UnsetType = UNSET
    maximum: float | int | UnsetType = UNSET
    min_length: Count | UnsetType = UNSET
    max_length: Count | UnsetType = UNSET
    pattern: str | UnsetType = UNSET
    min_items: Count | UnsetType = UNSET
    max_items: Count | UnsetType = UNSET
    immutable: bool = False
    items: JSON | UnsetType = UNSET
    """Of an array: the field that each of its values is."""
    fields: dict[str, JSON] | UnsetType = UNSET
    """Of an object: its fields."""
    values: JSON | UnsetType = UNSET
    """Of an object: the field that each of its values is, whatever it is called."""


class BadField(ValueError):
    """A field that no API can have: one line that names it."""


LIMITS: Mapping[str, tuple[str, ...]] = {
    "string": ("min_length", "max_length", "pattern", "enum"),
    "integer": ("minimum", "maximum", "enum"),
    "number": ("minimum", "maximum"),
    "boolean": (),
    "array": ("min_items", "max_items"),
    "object": (),
}
_ALL_LIMITS = sorted({name for names in LIMITS.values() for name in names})


def schema(fields: Mapping[str, Any], path: str, level: int = 0) -> JSON:
    """The schema of an object with these fields. path: of the definition, for what is said of a bad one. Raises `BadField`."""
    if level > LEVELS_MAX:
        raise BadField(f"{path}: more than {LEVELS_MAX} levels of fields")
    if len(fields) > FIELDS_MAX:
        raise BadField(f"{path}: {len(fields)} fields; at most {FIELDS_MAX}")
    properties: JSON = {}
    required = []
    for name, said in fields.items():
        where = f"{path}.{name}"
        if not NAME.match(name):
            raise BadField(f"{where}: a field's name is camelCase: letters and digits, at most 63")
        one = _field(said, where)
        properties[name] = _schema(one, where, level)
        if one.required:
            required.append(name)
            if one.default is not UNSET:
                raise BadField(f"{where}: it is required and has a default; leave one out")
    out: JSON = {"type": "object", "properties": properties}
    return out | ({"required": required} if required else {})


def status_schema(fields: Mapping[str, Any], path: str) -> JSON:
    """As `schema`, of what a function may set."""
    if taken := sorted(OF_STATUS & fields.keys()):
        raise BadField(f"{path}.{taken[0]}: every claim's status has it; call yours otherwise")
    out = schema(fields, path)
    out.pop("required", None)  # until it is set
    return out


def _field(said: Any, where: str) -> Field:
    try:
        return msgspec.convert(said, Field)
    except msgspec.ValidationError as err:
        raise BadField(f"{where}: {_told(str(err))}") from None


def _told(text: str) -> str:
    what, _, place = text.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    return f"{place}: {what}" if place else what


def _schema(one: Field, where: str, level: int) -> JSON:
    for name in _ALL_LIMITS:
        if getattr(one, name) is not UNSET and name not in LIMITS[one.type]:
            wire = msgspec.structs.fields(Field)
            shown = next(f.encode_name for f in wire if f.name == name)
            raise BadField(f"{where}: {shown} does not go with the type {one.type}")
    out: JSON = {"type": one.type}
    if one.type == "integer":
        out["format"] = "int64"
    for name in LIMITS[one.type]:
        if (value := getattr(one, name)) is not UNSET:
            out[next(f.encode_name for f in msgspec.structs.fields(Field) if f.name == name)] = value
    if one.description:
        out["description"] = one.description
    if one.immutable:
        out["x-kubernetes-validations"] = [{"rule": "self == oldSelf", "message": "it stays as it was made"}]
    if one.type == "array":
        if one.items is UNSET:
            raise BadField(f"{where}: an array needs `items`: what its values are")
        out["items"] = _schema(_field(one.items, f"{where}.items"), f"{where}.items", level + 1)
    if one.type == "object":
        out |= _object(one, where, level)
    if one.default is not UNSET:
        out["default"] = _default(one, where)
    return out


def _object(one: Field, where: str, level: int) -> JSON:
    if one.fields is not UNSET and one.values is not UNSET:
        raise BadField(f"{where}: it has `fields` and `values`; leave one out")
    if one.fields is not UNSET:
        return schema(one.fields, f"{where}.fields", level + 1)
    if one.values is not UNSET:
        values = _schema(_field(one.values, f"{where}.values"), f"{where}.values", level + 1)
        return {"additionalProperties": values}
    return {"x-kubernetes-preserve-unknown-fields": True}


_PYTHON: Mapping[str, Any] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict
}  # fmt: skip


def _default(one: Field, where: str) -> Any:
    try:
        value = msgspec.convert(one.default, _PYTHON[one.type])
    except msgspec.ValidationError:
        raise BadField(f"{where}: the default {one.default!r:.60} is no {one.type}") from None
    if one.enum is not UNSET and value not in one.enum:
        raise BadField(f"{where}: the default {value!r:.60} is none of {', '.join(map(str, one.enum))}")
    return value
