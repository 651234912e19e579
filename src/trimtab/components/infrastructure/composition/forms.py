"""Python's types and the fields of an API, both ways: what a class says of its fields, and a class filled with what a claim says.

    class Lab: hosts: Annotated[int, Limit(ge=1)] = 1  --described-->  {"hosts": {"type": "integer", "minimum": 1, "default": 1}}
                                                       <--filled-----  {"hosts": 3}

Of dataclasses and of msgspec's Structs. Only the standard library, as this runs where compositions run, beside `trimtab.compose`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import keyword
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from trimtab.compose import camel, plain

Schema = dict[str, Any]
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}
LIMITS = {
    "ge": "minimum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
    "description": "description",
    "immutable": "immutable",
}
OF_LISTS = {"minLength": "minItems", "maxLength": "maxItems"}
LEVELS_MAX = 20
_MISSING = object()


class BadType(TypeError):
    """A class whose fields no API can have: one line that names the field."""


class BadValue(ValueError):
    """A value that a field cannot have: one line that names the field."""


def described(cls: Any, path: str = "spec", level: int = 0) -> dict[str, Schema]:
    """The fields of a class, by their names in the API. Raises `BadType`."""
    if level > LEVELS_MAX:
        raise BadType(f"{path}: a class within itself has no form in an API")
    out: dict[str, Schema] = {}
    for name, (of, default) in members(cls, path).items():
        mine = api_name(cls, name)
        schema = type_schema(of, f"{path}.{mine}", level)
        if default is _MISSING:
            schema["required"] = True
        elif default is not None and default is not dataclasses.MISSING:
            schema["default"] = plain(default)
        out[mine] = schema
    return out


def members(cls: Any, path: str) -> dict[str, tuple[Any, Any]]:
    """Name -> type and default; `_MISSING` where one has to be given, `MISSING` of dataclasses where a function makes it."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as err:
        raise BadType(f"{path}: {getattr(cls, '__name__', cls)}: its types cannot be read: {err}") from None
    if dataclasses.is_dataclass(cls):
        found = {}
        for one in dataclasses.fields(cls):
            if not one.init:
                continue
            made = one.default_factory is not dataclasses.MISSING
            default = dataclasses.MISSING if made else _MISSING if one.default is dataclasses.MISSING else one.default
            found[one.name] = (hints[one.name], default)
        return found
    names = getattr(cls, "__struct_fields__", None)
    if names is None:
        raise BadType(f"{path}: {getattr(cls, '__name__', cls)} is no dataclass: write @dataclass above it")
    defaults = [_MISSING] * (len(names) - len(cls.__struct_defaults__)) + list(cls.__struct_defaults__)
    return {name: (hints[name], _struct_default(default)) for name, default in zip(names, defaults, strict=True)}


def _struct_default(default: Any) -> Any:
    kind = type(default).__name__
    if kind == "NoDefaultType":  # of keyword-only fields in between
        return _MISSING
    return dataclasses.MISSING if kind == "Factory" else default


def api_name(cls: Any, name: str) -> str:
    """The field of the API that an attribute of a typed class stands for."""
    return getattr(cls, "NAMES", {}).get(name) or camel(name)


def type_schema(of: Any, path: str, level: int) -> Schema:
    """The schema of values of a type. Raises `BadType`."""
    if get_origin(of) is Annotated:
        inner, *notes = get_args(of)
        schema = type_schema(inner, path, level)
        for note in notes:
            schema |= _limits(note, schema)
        return schema
    origin, arguments = get_origin(of), get_args(of)
    if origin in (Union, types.UnionType):
        rest = [one for one in arguments if one is not type(None)]
        if len(rest) == 1:
            return type_schema(rest[0], path, level)
    if of in SCALARS:
        return {"type": SCALARS[of]}
    if origin is Literal:
        values = list(arguments)
        if all(isinstance(one, str) for one in values):
            return {"type": "string", "enum": values}
        if all(isinstance(one, int) and not isinstance(one, bool) for one in values):
            return {"type": "integer", "enum": values}
    if isinstance(of, type) and issubclass(of, enum.Enum):
        return {"type": "string", "enum": [one.value for one in of]}
    if origin in (list, tuple, set) and arguments and (origin is not tuple or arguments[-1] is Ellipsis):
        return {"type": "array", "items": type_schema(arguments[0], f"{path}[]", level + 1)}
    if getattr(origin, "__name__", "") in ("dict", "Mapping") and arguments[0] is str:
        if arguments[1] is Any:
            return {"type": "object"}
        return {"type": "object", "values": type_schema(arguments[1], f"{path}.*", level + 1)}
    if dataclasses.is_dataclass(of) or hasattr(of, "__struct_fields__"):
        return {"type": "object", "fields": described(of, path, level + 1)}
    raise BadType(
        f"{path}: {_name(of)} has no form in an API: use str, int, float, bool, Literal, list, dict[str, ...], dict[str, Any] or a dataclass"
    )


def _limits(note: Any, schema: Schema) -> Schema:
    if isinstance(note, str):
        return {"description": note}
    found = {ours: getattr(note, name, None) for name, ours in LIMITS.items()}
    if schema["type"] == "array":
        found = {OF_LISTS.get(name, name): value for name, value in found.items()}
    return {name: value for name, value in found.items() if value is not None and value is not False}


# From what a claim says to the class


def filled(of: Any, value: Any, path: str = "spec") -> Any:
    """A value of a type from JSON. Raises `BadValue`, `BadType`."""
    if get_origin(of) is Annotated:
        of = get_args(of)[0]
    origin, arguments = get_origin(of), get_args(of)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return filled(next(one for one in arguments if one is not type(None)), value, path)
    if of is Any:
        return value
    if of in SCALARS:
        return _scalar(of, value, path)
    if origin is Literal:
        if value not in arguments:
            raise BadValue(f"{path}: {value!r} is none of {', '.join(map(str, arguments))}")
        return value
    if isinstance(of, type) and issubclass(of, enum.Enum):
        try:
            return of(value)
        except ValueError:
            raise BadValue(f"{path}: {value!r} is none of {', '.join(str(one.value) for one in of)}") from None
    if origin in (list, tuple, set):
        if not isinstance(value, list):
            raise BadValue(f"{path}: {_called(value)} is no list")
        return origin(filled(arguments[0], one, f"{path}[{i}]") for i, one in enumerate(value))
    if arguments and len(arguments) == 2:
        if not isinstance(value, Mapping):
            raise BadValue(f"{path}: {_called(value)} is no map")
        return {name: filled(arguments[1], one, f"{path}.{name}") for name, one in value.items()}
    return _object(of, value, path)


def _object(of: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise BadValue(f"{path}: {_called(value)} is no map")
    known = members(of, path)
    given, names = {}, {api_name(of, name): name for name in known}
    if strange := [name for name in value if name not in names]:
        raise BadValue(f"{path}.{strange[0]}: there is no such field; there are {', '.join(names) or 'none'}")
    for mine, name in names.items():
        of_field, default = known[name]
        if mine in value:
            given[name] = filled(of_field, value[mine], f"{path}.{mine}")
        elif default is _MISSING:
            raise BadValue(f"{path}.{mine}: it is required")
    return of(**given)


def _scalar(of: type, value: Any, path: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    right = {str: isinstance(value, str), bool: isinstance(value, bool), float: number}.get(
        of, number and int(value) == value
    )
    if not right:
        raise BadValue(f"{path}: {_called(value)} is no {SCALARS[of]}")
    return of(value)


def _called(value: Any) -> str:
    return f"{value!r:.80}"


def _name(of: Any) -> str:
    return getattr(of, "__name__", None) or str(of)


# Fields that a definition says in YAML, of a function that says no class


def made(fields: Mapping[str, Schema], name: str = "Spec") -> type:
    """A class with these fields, for claims of a function that names none."""
    required: list[tuple[str, Any]] = []
    optional: list[tuple[str, Any, Any]] = []
    for mine, schema in fields.items():
        of = _python(schema, mine)
        if schema.get("required"):
            required.append((_snake(mine), of))
        elif "default" in schema:
            factory = functools.partial(filled, of, schema["default"])
            optional.append((_snake(mine), of, dataclasses.field(default_factory=factory)))
        else:
            optional.append((_snake(mine), of | None, dataclasses.field(default=None)))
    names = {_snake(mine): mine for mine in fields}
    return dataclasses.make_dataclass(name, [*required, *optional], namespace={"NAMES": names}, kw_only=True)


def _python(schema: Schema, name: str) -> Any:
    match schema.get("type"):
        case "object" if "fields" in schema:
            return made(schema["fields"], name[:1].upper() + name[1:])
        case "object":
            values: Any = _python(schema["values"], name) if "values" in schema else Any
            return dict.__class_getitem__((str, values))
        case "array":
            return list.__class_getitem__(_python(schema["items"], name) if "items" in schema else Any)
        case kind:
            return {kind: of for of, kind in SCALARS.items()}.get(str(kind), Any)


def _snake(name: str) -> str:
    out = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
    return out + "_" if keyword.iskeyword(out) else out
