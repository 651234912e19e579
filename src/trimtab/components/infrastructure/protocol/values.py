"""Values on their way to a provider and back: msgpack, walked along their type.

    Python: str, bool, int | float | Decimal, list, dict, None, UNKNOWN, Dynamic <--encode, decode--> DynamicValue.msgpack

Sets are lists whose order means nothing; `same` compares them so. An unknown value is any msgpack extension when read (refinements of
it are of no use to us), extension 0 when written. A float means the decimal number that it is written as: 0.1 is a tenth, and goes as the
text "0.1", for no double is a tenth. What no float is written as is a `Decimal` or an `int` here.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

import msgspec

from trimtab.components.infrastructure.protocol.types import DEPTH_MAX, Type, from_json, one_line, to_json

Value = Any
"""What JSON has, `Decimal`, `UNKNOWN` and `Dynamic`."""

UNKNOWN_CODE = 0


class Unknown:
    """A value that is known only once something has been done."""

    _one: Unknown | None = None

    def __new__(cls) -> Unknown:
        if cls._one is None:
            cls._one = super().__new__(cls)
        return cls._one

    def __repr__(self) -> str:
        return "(known after apply)"

    def __deepcopy__(self, memo: Any) -> Unknown:
        return self


UNKNOWN: Final = Unknown()


class Dynamic(NamedTuple):
    """The value of a place whose type is `dynamic`: it brings its own type along."""

    type: Type
    value: Value


class ValueFault(ValueError):
    """A value that does not fit its type: one line that names the field."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(one_line(f"{path}: {message}" if path else message))
        self.path = path


# Python -> wire


def encode(of: Type, value: Value) -> bytes:
    """Raises `ValueFault`: the value does not fit."""
    return msgspec.msgpack.encode(_out(of, value, ""))


def _out(of: Type, value: Value, path: str) -> Any:
    if value is None:
        return None
    if value is UNKNOWN:
        return msgspec.msgpack.Ext(UNKNOWN_CODE, b"\0")
    match of.kind:
        case "string":
            if not isinstance(value, str):
                raise _unfit(path, of, value)
            return unicodedata.normalize("NFC", value)
        case "number":
            return _number_out(value, path, of)
        case "bool":
            if not isinstance(value, bool):
                raise _unfit(path, of, value)
            return value
        case "list" | "set":
            if not isinstance(value, list):
                raise _unfit(path, of, value)
            assert of.element is not None
            return [_out(of.element, one, f"{path}[{i}]") for i, one in enumerate(value)]
        case "map":
            if not isinstance(value, dict):
                raise _unfit(path, of, value)
            assert of.element is not None
            return {_key(key): _out(of.element, one, _at(path, key)) for key, one in sorted(value.items())}
        case "object":
            if not isinstance(value, dict):
                raise _unfit(path, of, value)
            if strange := value.keys() - of.attributes.keys():
                raise ValueFault(_at(path, min(strange)), "there is no such field")
            return {name: _out(one, value.get(name), _at(path, name)) for name, one in of.attributes.items()}
        case "tuple":
            if not isinstance(value, list) or len(value) != len(of.elements):
                raise _unfit(path, of, value)
            return [_out(t, one, f"{path}[{i}]") for i, (t, one) in enumerate(zip(of.elements, value, strict=True))]
        case _:
            inner = value if isinstance(value, Dynamic) else Dynamic(implied(value), value)
            return [json.dumps(to_json(inner.type)).encode(), _out(inner.type, inner.value, path)]


def _key(key: Any) -> str:
    return unicodedata.normalize("NFC", str(key))


def _number_out(value: Value, path: str, of: Type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _unfit(path, of, value)
    if not isinstance(value, int):
        exact = _decimal(value)
        if not exact.is_finite():
            raise _unfit(path, of, value)
        if exact != exact.to_integral_value():
            near = float(exact)
            return near if Decimal(near) == exact else f"{exact:f}".rstrip("0")
        value = int(exact)
    return value if -(1 << 63) <= value < 1 << 64 else str(value)


def _decimal(value: float | Decimal) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(repr(value))


def _unfit(path: str, of: Type, value: Value) -> ValueFault:
    shown = json.dumps(value, default=repr)
    return ValueFault(path, f"expected {of}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _at(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def implied(value: Value) -> Type:
    """The type that a value without one has, for a place of type `dynamic`."""
    match value:
        case bool():
            return from_json("bool")
        case str():
            return from_json("string")
        case int() | float() | Decimal():
            return from_json("number")
        case list():
            return Type("tuple", elements=tuple(map(implied, value)))
        case dict():
            return Type("object", attributes={str(key): implied(one) for key, one in value.items()})
        case Dynamic():
            return value.type
        case _:
            return from_json("dynamic")


# Wire -> Python

_DECODER = msgspec.msgpack.Decoder(ext_hook=lambda code, data: UNKNOWN)


def decode(of: Type, raw: bytes) -> Value:
    """Raises `ValueFault`: the bytes are no value of this type."""
    try:
        wire = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ValueFault("", f"the provider sent no msgpack: {err}") from None
    return _in(of, wire, "", 0)


def decode_json(of: Type, raw: bytes) -> Value:
    """As `decode`, of the JSON form, which some answers have."""
    try:
        wire = json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError) as err:
        raise ValueFault("", f"the provider sent no JSON: {err}") from None
    return _in(of, wire, "", 0, text=True)


def _in(of: Type, wire: Any, path: str, depth: int, *, text: bool = False) -> Value:
    if wire is None or wire is UNKNOWN:
        return wire
    if depth > DEPTH_MAX:
        raise ValueFault(path, f"nested deeper than {DEPTH_MAX} levels")
    below = depth + 1
    match of.kind, wire:
        case "string", str():
            return wire
        case "bool", bool():
            return wire
        case "number", (int() | float() | str() | Decimal()) if not isinstance(wire, bool):
            return _number_in(wire, path, of)
        case (("list" | "set"), list()):
            assert of.element is not None
            return [_in(of.element, one, f"{path}[{i}]", below, text=text) for i, one in enumerate(wire)]
        case "map", dict():
            assert of.element is not None
            return {str(key): _in(of.element, one, _at(path, key), below, text=text) for key, one in wire.items()}
        case "object", dict():
            return {
                name: _in(one, wire.get(name), _at(path, name), below, text=text) for name, one in of.attributes.items()
            }
        case "tuple", list() if len(wire) == len(of.elements):
            pairs = enumerate(zip(of.elements, wire, strict=True))
            return [_in(one, value, f"{path}[{i}]", below, text=text) for i, (one, value) in pairs]
        case "dynamic", _:
            return _dynamic_in(wire, path, below, text)
    raise _unfit(path, of, wire)


def encode_json(of: Type, value: Value) -> Any:
    """The JSON form, which a state is kept in: what `decode_json` takes, as Python values. Raises `ValueFault`, also for an unknown value."""
    return _json(of, msgspec.msgpack.decode(encode(of, value), ext_hook=lambda code, data: UNKNOWN), "")


def _json(of: Type, wire: Any, path: str) -> Any:
    """Of what is on the wire: only what is dynamic looks different in JSON."""
    if wire is UNKNOWN:
        raise ValueFault(path, "is not known yet")
    if wire is None:
        return None
    match of.kind:
        case "list" | "set":
            assert of.element is not None
            return [_json(of.element, one, f"{path}[{i}]") for i, one in enumerate(wire)]
        case "map":
            assert of.element is not None
            return {key: _json(of.element, one, _at(path, key)) for key, one in wire.items()}
        case "object":
            return {name: _json(one, wire[name], _at(path, name)) for name, one in of.attributes.items()}
        case "tuple":
            return [_json(t, one, f"{path}[{i}]") for i, (t, one) in enumerate(zip(of.elements, wire, strict=True))]
        case "dynamic":
            kind = json.loads(wire[0])
            return {"type": kind, "value": _json(from_json(kind), wire[1], path)}
    if of.kind == "number" and isinstance(wire, str):
        near = _plain_number(Decimal(wire))
        return near if isinstance(near, float) else wire
    return wire


def _dynamic_in(wire: Any, path: str, depth: int, text: bool) -> Value:
    match wire:
        case {"type": kind, "value": value} if text and len(wire) == 2:
            pass
        case [(bytes() | str()) as raw, value] if not text:
            try:
                kind = json.loads(raw)
            except (ValueError, RecursionError):
                raise _unfit(path, Type("dynamic"), wire) from None
        case _:
            raise _unfit(path, Type("dynamic"), wire)
    try:
        of = from_json(kind)
    except ValueError as err:
        raise ValueFault(path, str(err)) from None
    return Dynamic(of, _in(of, value, path, depth, text=text))


def _number_in(wire: Any, path: str, of: Type) -> int | float | Decimal:
    if isinstance(wire, int):
        return wire
    try:
        exact = Decimal(wire) if isinstance(wire, str) else _decimal(wire)
    except InvalidOperation:
        raise _unfit(path, of, wire) from None
    if not exact.is_finite() or abs(exact.adjusted()) > 1024:
        raise _unfit(path, of, wire)
    return _plain_number(exact)


# Comparing


def same(of: Type, a: Value, b: Value) -> bool:
    """Whether two values mean the same: sets in any order, 1 and 1.0 alike. Unknown is only the same as unknown."""
    return bool(_shape(of, a) == _shape(of, b))


def fingerprint(of: Type, value: Value) -> str:
    """A text that two values have in common exactly when they are the `same`, to look one up among many."""
    return repr(_shape(of, value))


def _shape(of: Type, value: Value) -> Any:
    """A value that compares equal exactly when the other means the same."""
    if value is None or value is UNKNOWN:
        return value
    match of.kind:
        case "string":
            return unicodedata.normalize("NFC", value) if isinstance(value, str) else value
        case "bool":
            return ("bool", value)
        case "list" if of.element is not None:
            return [_shape(of.element, one) for one in value]
        case "set" if of.element is not None:
            return [one for _, one in sorted(_members(of.element, value).items())]
        case "map" if of.element is not None:
            return {_key(key): _shape(of.element, value[key]) for key in sorted(value)}
        case "object":
            return {name: _shape(of.attributes[name], value.get(name)) for name in sorted(of.attributes)}
        case "tuple":
            return [_shape(t, one) for t, one in zip(of.elements, value, strict=True)]
        case "dynamic":
            inner = value if isinstance(value, Dynamic) else Dynamic(implied(value), value)
            return (json.dumps(to_json(inner.type), sort_keys=True), _shape(inner.type, inner.value))
        case _:
            return _plain_number(value)


def _members(of: Type, value: list[Value]) -> dict[tuple[str, int], Any]:
    """The shapes of a set's members, each once, as a set has them; of those that are not known every one may be another."""
    out: dict[tuple[str, int], Any] = {}
    for i, one in enumerate(value):
        shape = _shape(of, one)
        out.setdefault((repr(shape), i if _vague(of, one) else 0), shape)
    return out


def distinct(of: Type, value: Value) -> Value:
    """The value with each member of its sets once: what is given twice is there once, for whoever pairs or counts them."""
    if isinstance(value, list) and of.element is not None:
        each = [distinct(of.element, one) for one in value]
        return each if of.kind != "set" else each_once(of.element, each)
    if isinstance(value, list) and len(value) == len(of.elements):
        return [distinct(t, one) for t, one in zip(of.elements, value, strict=True)]
    if isinstance(value, dict):
        types = of.attributes
        return {
            name: distinct(of.element or types[name], one) if of.element or name in types else one
            for name, one in value.items()
        }
    return value


def each_once(of: Type, members: list[Value]) -> list[Value]:
    """The members of a set in their order, without those that were there before; of those that are not known every one may be another."""
    if len(members) < 2:
        return members
    out: dict[tuple[str, int], Value] = {}
    for i, one in enumerate(members):
        out.setdefault((fingerprint(of, one), i if _vague(of, one) else 0), one)
    return list(out.values())


def _plain_number(value: float | Decimal) -> int | float | Decimal:
    """One form of a number, so that what compares equal also prints equal: 0.1 is the double that is written so, too."""
    if isinstance(value, int):
        return value
    exact = _decimal(value)
    if not exact.is_finite():
        return value
    if exact == exact.to_integral_value():
        return int(exact)
    return near if Decimal(repr(near := float(exact))) == exact else exact


def unknowns(of: Type, value: Value, path: str = "") -> Iterator[str]:
    """The places within a value that are unknown."""
    if value is UNKNOWN:
        yield path
    elif isinstance(value, Dynamic):
        yield from unknowns(value.type, value.value, path)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from unknowns(of.element or Type("dynamic"), one, f"{path}[{i}]")
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from unknowns(of.attributes.get(name) or of.element or Type("dynamic"), one, _at(path, name))


def _vague(of: Type, value: Value) -> bool:
    return next(unknowns(of, value), None) is not None


def known(value: Value) -> Value:
    """A value with null for what is unknown."""
    match value:
        case Unknown():
            return None
        case Dynamic():
            return Dynamic(value.type, known(value.value))
        case list():
            return [known(one) for one in value]
        case dict():
            return {key: known(one) for key, one in value.items()}
    return value


def plain(value: Value) -> Any:
    """JSON of a value for people and for API objects: unknown as its text, what no double holds as a string."""
    match value:
        case Unknown():
            return repr(value)
        case Dynamic():
            return plain(value.value)
        case Decimal():
            return str(value)
        case list():
            return [plain(one) for one in value]
        case dict():
            return {str(key): plain(one) for key, one in value.items()}
        case _:
            return value
