"""The types of CEL: what they are called in errors, which fits where, and what the fields of an object are.

A `Type` is a small value that can be compared; an object's fields stand apart, in the `Declared` that names it, together with
the bounds (lengths, serialized sizes) from which the cost of an expression is estimated. Type parameters are bound by
`Bindings`, as cel-go's checker does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Type(NamedTuple):
    """One type. `kind` decides how it behaves; `name` is what errors call it."""

    kind: str
    name: str
    params: tuple[Type, ...] = ()

    def __str__(self) -> str:
        if not self.params:
            return self.name
        return f"{self.name}({', '.join(map(str, self.params))})"


def _simple(name: str) -> Type:
    return Type(name, name)


DYN, ERROR, NULL = _simple("dyn"), Type("error", "!error!"), _simple("null")
BOOL, INT, UINT, DOUBLE = _simple("bool"), _simple("int"), _simple("uint"), _simple("double")
STRING, BYTES = _simple("string"), _simple("bytes")
DURATION, TIMESTAMP = _simple("duration"), _simple("timestamp")
ANY_TYPE = Type("type", "type")
URL, QUANTITY = Type("object", "kubernetes.URL"), Type("object", "kubernetes.Quantity")
FORMAT, SEMVER = Type("object", "kubernetes.NamedFormat"), Type("object", "kubernetes.Semver")
IP, CIDR = Type("opaque", "net.IP"), Type("opaque", "net.CIDR")


def list_of(element: Type) -> Type:
    return Type("list", "list", (element,))


def map_of(key: Type, value: Type) -> Type:
    return Type("map", "map", (key, value))


def optional_of(value: Type) -> Type:
    return Type("opaque", "optional_type", (value,))


def type_of(value: Type) -> Type:
    return Type("type", "type", (value,))


def parameter(name: str) -> Type:
    return Type("param", name)


def object_type(name: str) -> Type:
    return Type("object", name)


SIMPLE: Mapping[str, Type] = {
    t.name: t
    for t in (
        DYN,
        NULL,
        BOOL,
        INT,
        UINT,
        DOUBLE,
        STRING,
        BYTES,
        DURATION,
        TIMESTAMP,
        URL,
        QUANTITY,
        FORMAT,
        SEMVER,
        IP,
        CIDR,
    )
}
SCALARS = frozenset(("bool", "double", "duration", "int", "timestamp", "uint"))


@dataclass(slots=True)
class Declared:
    """A type as something outside declares it: a variable, a field, an element.

    `fields` are those of an object, under the names by which expressions call them; `sources` their names in the data.
    """

    type: Type
    fields: Mapping[str, Declared] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    element: Declared | None = None
    key: Declared | None = None
    max_elements: int | None = None
    """The greatest length of a string, list or map; None where it is not known."""
    min_size: int = 0
    """The least number of bytes of its JSON."""
    list_type: str = ""
    """Of a list: `set` and `map` compare without order."""
    map_keys: tuple[str, ...] = ()

    def named(self, name: str) -> Declared:
        """The same with names given to the objects in it: `selfType`, `selfType.spec`, `selfType.items.@idx`."""
        if self.type.kind == "object" and self.type.name == "object":
            fields = {key: value.named(f"{name}.{key}") for key, value in self.fields.items()}
            made = _changed(self, type=object_type(name))
            made.fields = fields
            return made
        if self.element is not None and self.type.kind == "list":
            element = self.element.named(f"{name}.@idx")
            return _changed(self, type=list_of(element.type), element=element)
        if self.element is not None and self.type.kind == "map":
            element = self.element.named(f"{name}.@elem")
            return _changed(self, type=map_of(self.type.params[0], element.type), element=element)
        return self

    def objects(self) -> dict[str, Declared]:
        """Every object type in it, by its name."""
        found: dict[str, Declared] = {}
        waiting = [self]
        while waiting:
            one = waiting.pop()
            if one.type.kind == "object":
                found[one.type.name] = one
            waiting += one.fields.values()
            if one.element is not None:
                waiting.append(one.element)
        return found


def _changed(old: Declared, type: Type, element: Declared | None = None) -> Declared:
    return Declared(
        type,
        old.fields,
        old.sources,
        element or old.element,
        old.key,
        old.max_elements,
        old.min_size,
        old.list_type,
        old.map_keys,
    )


def is_dynamic(t: Type) -> bool:
    return t.kind in ("dyn", "error")


def unwrapped(t: Type) -> tuple[Type, bool]:
    """(what an optional holds, True) of an optional, (itself, False) of anything else."""
    return (t.params[0], True) if t.name == "optional_type" else (t, False)


class Bindings:
    """What type parameters stand for. Functions return whether types fit, and bind parameters only when they do."""

    def __init__(self) -> None:
        self._bound: dict[Type, Type] = {}
        self._counter = 0

    def fresh(self) -> Type:
        self._counter += 1
        return parameter(f"_var{self._counter - 1}")

    def fits(self, one: Sequence[Type], other: Sequence[Type]) -> bool:
        """Whether each type of `one` may stand where `other` has its."""
        before = dict(self._bound)
        if len(one) == len(other) and all(map(self._fits, one, other)):
            return True
        self._bound = before
        return False

    def _fits(self, a: Type, b: Type) -> bool:
        if b.kind == "param":
            valid, bound = self._substitutes(a, b)
            if valid or bound:
                return valid
        if a.kind == "param":
            return self._substitutes(b, a)[0]
        if is_dynamic(a) or is_dynamic(b):
            return True
        if a.kind == "null" or b.kind == "null":
            other = b if a.kind == "null" else a
            return other.kind in ("null", "opaque", "object", "duration", "timestamp")
        if a.kind == "type":
            return b.kind == "type"
        if a.kind in ("opaque", "list", "map"):
            return a.kind == b.kind and a.name == b.name and all(map(self._fits, a.params, b.params))
        return a == b

    def _substitutes(self, t: Type, param: Type) -> tuple[bool, bool]:
        """(whether `t` may stand for the parameter, whether the parameter is bound)."""
        if t == param:
            return True, True
        bound = self._bound.get(param)
        if bound is not None:
            if t == bound:
                return True, True
            if self._fits(t, bound):
                general = most_general(t, bound)
                if not self._occurs(param, general):
                    self._bound[param] = general
                return True, True
            return False, True
        if not self._occurs(param, t):
            self._bound[param] = t
            return True, False
        return False, False

    def _occurs(self, param: Type, within: Type) -> bool:
        if param == within:
            return True
        if within.kind == "param":
            bound = self._bound.get(within)
            return bound is not None and self._occurs(param, bound)
        return any(self._occurs(param, inner) for inner in within.params)

    def substitute(self, t: Type, *, free_to_dyn: bool = False) -> Type:
        bound = self._bound.get(t)
        if bound is not None:
            return self.substitute(bound, free_to_dyn=free_to_dyn)
        if t.kind == "param":
            return DYN if free_to_dyn else t
        if not t.params:
            return t
        return Type(t.kind, t.name, tuple(self.substitute(inner, free_to_dyn=free_to_dyn) for inner in t.params))

    def instantiate(self, types: Sequence[Type]) -> list[Type]:
        """The same types with parameters of their own, for one call."""
        renamed: dict[Type, Type] = {}

        def rename(t: Type) -> Type:
            if t.kind == "param":
                if t not in renamed:
                    renamed[t] = self.fresh()
                return renamed[t]
            return Type(t.kind, t.name, tuple(map(rename, t.params))) if t.params else t

        return [rename(t) for t in types]


def most_general(a: Type, b: Type) -> Type:
    """The wider of two types that fit each other."""
    return a if _less_specific(a, b) else b


def _less_specific(a: Type, b: Type) -> bool:
    if a.kind in ("dyn", "param"):
        return True
    if b.kind in ("dyn", "param") or a.kind != b.kind:
        return False
    if a.kind in ("opaque", "list", "map"):
        return a.name == b.name and len(a.params) == len(b.params) and all(map(_less_specific, a.params, b.params))
    return a.kind == "type" or a == b
