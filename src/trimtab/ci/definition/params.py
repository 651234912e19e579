"""Parameters of a pipeline: what its function takes, as types and constraints, checked before anything runs.

    @pipeline
    def ci(push: bool = False, k8s: Annotated[str, Param(pattern=r"1\\.\\d+")] = "1.31"): ...

`schema` gives them as JSON Schema (2020-12), `values` makes values of the texts of a command line.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from trimtab.ci.definition.site import DefinitionError, Site

_TYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class Param:
    """Constraints of a parameter, in `Annotated[TYPE, Param(...)]`."""

    help: str = ""
    pattern: str | None = None
    """The whole value has to match it."""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Declared:
    """A parameter as its function declares it. default: `inspect.Parameter.empty` for none."""

    name: str
    type: type
    choices: tuple[Any, ...] | None
    optional: bool
    default: Any
    constraints: Param

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def schema(self) -> dict[str, Any]:
        out: dict[str, Any] = {"type": [_TYPES[self.type], "null"] if self.optional else _TYPES[self.type]}
        if self.choices:
            out["enum"] = [*self.choices, *([None] if self.optional else [])]
        if self.constraints.help:
            out["description"] = self.constraints.help
        if self.constraints.pattern is not None:
            out["pattern"] = f"^(?:{self.constraints.pattern})$"
        for name in ("minimum", "maximum"):
            if (bound := getattr(self.constraints, name)) is not None:
                out[name] = bound
        if not self.required:
            out["default"] = self.default
        return out

    def parse(self, text: str) -> Any:
        """The value that a text of the command line means. Raises ValueError: one line."""
        if self.optional and text == "":
            return None
        if self.type is bool:
            if text.lower() not in ("true", "false"):
                raise ValueError(f"{self.name} is {text!r}; write true or false")
            return text.lower() == "true"
        try:
            return self.type(text)
        except ValueError:
            raise ValueError(f"{self.name} is {text!r}, which is no {_TYPES[self.type]}") from None

    def problem(self, value: Any) -> str:
        """What is wrong with a value, in one line; empty when nothing is."""
        if value is None and self.optional:
            return ""
        good = isinstance(value, self.type) or (self.type is float and isinstance(value, int))
        if not good or (isinstance(value, bool) and self.type is not bool):
            return f"{self.name} is {value!r}, which is no {_TYPES[self.type]}"
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}; it may be {', '.join(map(repr, self.choices))}"
        wanted = self.constraints
        if wanted.pattern is not None and not re.fullmatch(wanted.pattern, str(value)):
            return f"{self.name} is {value!r}, which does not match {wanted.pattern}"
        if wanted.minimum is not None and value < wanted.minimum:
            return f"{self.name} is {value}; the least is {wanted.minimum}"
        if wanted.maximum is not None and value > wanted.maximum:
            return f"{self.name} is {value}; the most is {wanted.maximum}"
        return ""


def declared(function: Callable[..., Any]) -> list[Declared]:
    """The parameters of a function. Raises `DefinitionError` where an annotation is missing or not of a plain type."""
    code = function.__code__
    site = Site(code.co_filename, code.co_firstlineno)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as err:
        raise DefinitionError(f"{function.__name__}(): {err}", site) from None
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DefinitionError(f"{function.__name__}(*{name}): a pipeline names its parameters one by one", site)
        if name not in hints:
            raise DefinitionError(
                f"{function.__name__}({name}) has no type; write {name}: str, int, float or bool", site
            )
        one = _declared(function.__name__, name, hints[name], parameter.default, site)
        if not one.required and (said := one.problem(one.default)):
            raise DefinitionError(f"the default of {function.__name__}(): {said}", site)
        found.append(one)
    return found


def plain(function: Callable[..., Any]) -> dict[str, Declared]:
    """The parameters of a step's function that have a type of a parameter, by name; others may have any type, or none."""
    code = function.__code__
    site = Site(code.co_filename, code.co_firstlineno)
    if not function.__annotations__:
        return {}
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as err:
        raise DefinitionError(f"{function.__name__}(): {err}", site) from None
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        with suppress(DefinitionError):
            if name in hints:
                found[name] = _declared(function.__name__, name, hints[name], parameter.default, site)
    return found


def _declared(of: str, name: str, hint: Any, default: Any, site: Site) -> Declared:
    constraints = Param()
    if get_origin(hint) is typing.Annotated:
        hint, *notes = get_args(hint)
        constraints = next((note for note in notes if isinstance(note, Param)), constraints)
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        optional = len(rest) < len(get_args(hint))
        hint = rest[0] if len(rest) == 1 else hint
    choices = get_args(hint) if get_origin(hint) is Literal else None
    kind = type(choices[0]) if choices else hint
    if kind not in _TYPES or (choices and any(type(choice) is not kind for choice in choices)):
        raise DefinitionError(
            f"{of}({name}) is of a type that no parameter can have; write str, int, float, bool or Literal", site
        )
    return Declared(name, kind, choices, optional, default, constraints)


def schema(parameters: list[Declared], title: str) -> dict[str, Any]:
    """The parameters as JSON Schema, for editors and other programs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": {p.name: p.schema() for p in parameters},
        "required": [p.name for p in parameters if p.required],
        "additionalProperties": False,
    }


def values(parameters: list[Declared], given: Mapping[str, str]) -> dict[str, Any]:
    """The values of a run. given: texts of the command line. Raises ValueError with a line for each problem."""
    known = {p.name: p for p in parameters}
    problems = [f"there is no parameter {name}; there {_are(list(known))}" for name in given if name not in known]
    found: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in given:
            if parameter.required:
                problems.append(f"{parameter.name} is required: -p {parameter.name}=...")
            else:
                found[parameter.name] = parameter.default
            continue
        try:
            value = parameter.parse(given[parameter.name])
        except ValueError as err:
            problems.append(str(err))
            continue
        if said := parameter.problem(value):
            problems.append(said)
        found[parameter.name] = value
    if problems:
        raise ValueError("\n".join(problems))
    return found


def examples(parameters: list[Declared]) -> dict[str, str]:
    """Texts for parameters without default where one comes to mind: the first choice, the least number."""
    found = {}
    for one in parameters:
        if not one.required:
            continue
        if one.choices:
            found[one.name] = str(one.choices[0])
        elif one.type is bool:
            found[one.name] = "false"
        elif one.type in (int, float):
            bound = one.constraints.minimum if one.constraints.minimum is not None else one.constraints.maximum
            found[one.name] = str(one.type(bound or 0))
    return found


def _are(names: list[str]) -> str:
    return f"are {', '.join(names)}" if len(names) > 1 else f"is {names[0]}" if names else "are none"
