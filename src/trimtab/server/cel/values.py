"""What CEL's values are in Python, when two of them are equal, and how data becomes values.

Null, booleans, ints, doubles, strings, bytes, lists and maps are what they are in Python; a `Uint` is an int that says so; times
are counted in nanoseconds. Data whose schema is known becomes values as expressions reach for it: an `Object` converts a field at
the first look, so that a rule on a large object costs what it reads.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.server.cel.types import Declared

INT_MIN, INT_MAX, UINT_MAX = -(2**63), 2**63 - 1, 2**64 - 1
SECOND = 1_000_000_000
TIMESTAMP_MIN = -62135596800 * SECOND
TIMESTAMP_MAX = 253402300800 * SECOND - 1


class EvaluationError(Exception):
    """An expression has no value: the text says why, in cel-go's words."""

    cost = 0


class CostExceeded(Exception):
    """An evaluation was stopped because it cost too much."""

    def __init__(self) -> None:
        super().__init__("operation cancelled: actual cost limit exceeded")


class Uint(int):
    """An unsigned 64-bit integer."""

    __slots__ = ()


class _Instant:
    __slots__ = ("ns",)

    def __init__(self, ns: int) -> None:
        self.ns = ns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Instant) and type(other) is type(self) and other.ns == self.ns

    def __hash__(self) -> int:
        return hash(self.ns)

    def __lt__(self, other: _Instant) -> bool:
        return self.ns < other.ns


class Duration(_Instant):
    """A length of time."""

    __slots__ = ()

    def __init__(self, ns: int) -> None:
        if not INT_MIN <= ns <= INT_MAX:
            raise EvaluationError("duration overflow")
        super().__init__(ns)

    def __str__(self) -> str:
        """`90s`, as CEL writes it: seconds, with a fraction if needed."""
        whole, rest = divmod(abs(self.ns), SECOND)
        fraction = f".{rest:09d}".rstrip("0") if rest else ""
        return f"{'-' if self.ns < 0 else ''}{whole}{fraction}s"


class Timestamp(_Instant):
    """A moment, from the year 1 to the year 9999."""

    __slots__ = ()

    def __init__(self, ns: int) -> None:
        if not TIMESTAMP_MIN <= ns <= TIMESTAMP_MAX:
            raise EvaluationError("timestamp overflow")
        super().__init__(ns)

    def __str__(self) -> str:
        moment = self.moment()
        rest = self.ns % SECOND
        fraction = f".{rest:09d}".rstrip("0") if rest else ""
        return f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S}{fraction}Z"

    def moment(self) -> datetime.datetime:
        """To the second, in UTC."""
        return _EPOCH + datetime.timedelta(seconds=self.ns // SECOND)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Optional:
    """A value that may be missing."""

    __slots__ = ("present", "value")

    def __init__(self, present: bool, value: Any = None) -> None:
        self.present = present
        self.value = value


NONE = Optional(False)


class TypeValue:
    """What `type(x)` gives."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypeValue) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Special:
    """A value of a Kubernetes library (`kubernetes.py`): a URL, a quantity, an address; compared by `==`."""

    type_name = ""


class DeclaredList(list[Any]):
    """A list whose schema says that its order does not matter."""

    __slots__ = ("keys", "list_type")

    def __init__(self, values: Sequence[Any], list_type: str, keys: Sequence[str]) -> None:
        super().__init__(values)
        self.list_type = list_type
        self.keys = keys


class Object:
    """An object whose fields are declared, over its data."""

    __slots__ = ("_data", "_declared", "_made")

    def __init__(self, data: dict[str, Any], declared: Declared) -> None:
        self._data = data
        self._declared = declared
        self._made: dict[str, Any] = {}

    @property
    def type_name(self) -> str:
        return self._declared.type.name

    def has(self, name: str) -> bool:
        """Whether a field is set. Raises `EvaluationError` for one that is not declared."""
        if name not in self._declared.fields:
            raise EvaluationError(f"no such key: {name}")
        return self._declared.sources.get(name, name) in self._data

    def get(self, name: str) -> Any:
        """The value of a field. Raises `EvaluationError` when it is not set."""
        found = self._made.get(name, self)
        if found is not self:
            return found
        declared = self._declared.fields.get(name)
        source = self._declared.sources.get(name, name)
        if declared is None or source not in self._data:
            raise EvaluationError(f"no such key: {name}")
        found = self._made[name] = value_of(self._data[source], declared)
        return found

    def names(self) -> Iterator[str]:
        """The declared fields that are set."""
        sources = self._declared.sources
        return (name for name in self._declared.fields if sources.get(name, name) in self._data)

    def __len__(self) -> int:
        return len(self._data)


def value_of(data: Any, declared: Declared) -> Any:
    """The value that data of a declared type is.

    Raises:
        EvaluationError: it does not have that type after all.
    """
    if data is None:
        return None
    match declared.type.kind:
        case "object":
            return Object(data, declared) if isinstance(data, dict) else data
        case "list" if declared.element is not None and isinstance(data, list):
            element = declared.element
            made = (
                data if element.type.kind in ("string", "bool", "int", "dyn") else [value_of(v, element) for v in data]
            )
            if declared.list_type in ("set", "map"):
                return DeclaredList(made, declared.list_type, declared.map_keys)
            return made
        case "map" if declared.element is not None and isinstance(data, dict):
            element = declared.element
            if element.type.kind in ("string", "bool", "int", "dyn"):
                return data
            return {key: value_of(v, element) for key, v in data.items()}
        case "double" if isinstance(data, int):
            return float(data)
        case "int" if isinstance(data, float) and data.is_integer():
            return int(data)
        case "bytes" if isinstance(data, str):
            try:
                return base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError):
                raise EvaluationError("Invalid byte format string") from None
        case "duration" if isinstance(data, str):
            return loose_duration(data)
        case "timestamp" if isinstance(data, str):
            text = f"{data}T00:00:00Z" if len(data) == 10 else data
            try:
                return timestamp(text)
            except EvaluationError:
                what = "date" if len(data) == 10 else "date-time"
                raise EvaluationError(f"Invalid {what} formatted string {data}: not RFC 3339") from None
    return data


# Equality


def equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; numbers of different types by what they count, values of different types never."""
    kind, other = type(a), type(b)
    if kind is other and kind in (str, int, bool, bytes):
        return bool(a == b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if isinstance(a, list):
        return isinstance(b, list) and _equal_lists(a, b)
    if isinstance(a, dict):
        if not isinstance(b, dict) or len(a) != len(b):
            return False
        return all(key in b and equal(value, b[key]) for key, value in a.items())
    if isinstance(a, Object):
        if not isinstance(b, Object):
            return False
        names = list(a.names())
        return set(names) == set(b.names()) and all(equal(a.get(name), b.get(name)) for name in names)
    if isinstance(a, Optional):
        return isinstance(b, Optional) and a.present == b.present and (not a.present or equal(a.value, b.value))
    return kind is other and bool(a == b)


def _equal_lists(a: list[Any], b: list[Any]) -> bool:
    if len(a) != len(b):
        return False
    list_type = getattr(a, "list_type", "") or getattr(b, "list_type", "")
    if list_type == "set":
        return all(contains(b, value) for value in a)
    if isinstance(a, DeclaredList) and list_type == "map":
        keyed = {_key(value, a.keys): value for value in b}
        return all((key := _key(value, a.keys)) in keyed and equal(value, keyed[key]) for value in a)
    return all(map(equal, a, b))


def _key(value: Any, keys: Sequence[str]) -> tuple[Any, ...]:
    if not isinstance(value, Object):
        return ()
    return tuple((value.get(key) if value.has(key) else None) for key in keys)


def contains(values: list[Any], wanted: Any) -> bool:
    """Whether a list has an element equal to `wanted`."""
    if type(wanted) is str:
        return wanted in values
    return any(equal(value, wanted) for value in values)


def merged(a: list[Any], b: list[Any]) -> list[Any]:
    """`a + b`: of sets and maps, what stands in both stands there once, as the server would merge it."""
    if not isinstance(a, DeclaredList):
        return a + b
    joined = list(a)
    if a.list_type == "set":
        joined += [value for value in b if not contains(a, value)]
    else:
        places = {_key(value, a.keys): index for index, value in enumerate(a)}
        for value in b:
            index = places.get(_key(value, a.keys))
            if index is None:
                joined.append(value)
            else:
                joined[index] = value
    return DeclaredList(joined, a.list_type, a.keys)


# Times


_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)")
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_LOOSE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµμ]+)")
_WORDS = {
    **dict.fromkeys(("d", "day", "days"), 24 * 3600 * SECOND),
    **dict.fromkeys(("w", "wk", "week", "weeks"), 7 * 24 * 3600 * SECOND),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600 * SECOND),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60 * SECOND),
    **dict.fromkeys(("s", "sec", "second", "seconds"), SECOND),
    **dict.fromkeys(("ms", "milli", "millis", "millisecond", "milliseconds"), 10**6),
    **dict.fromkeys(("us", "µs", "μs", "micro", "micros", "microsecond", "microseconds"), 1000),
    **dict.fromkeys(("ns", "nano", "nanos", "nanosecond", "nanoseconds"), 1),
}


def timestamp(text: str) -> Timestamp:
    """A moment from its RFC 3339 form. Raises `EvaluationError`."""
    match = _RFC3339.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second = map(int, match.groups()[:6])
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    except ValueError:
        raise EvaluationError("type conversion error from 'string' to 'google.protobuf.Timestamp'") from None
    ns = int((moment - _EPOCH) / datetime.timedelta(seconds=1)) * SECOND + int((match[7] or "").ljust(9, "0"))
    zone = match[8]
    if zone not in "Zz":
        offset = (int(zone[1:3]) * 60 + int(zone[4:])) * 60 * SECOND
        ns -= offset if zone[0] == "+" else -offset
    return Timestamp(ns)


def duration(text: str) -> Duration:
    """A length of time in Go's form, like `1h30m`. Raises `EvaluationError`."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text[1:] if text[:1] == "+" else text)
    if rest == "0":
        return Duration(0)
    total, at = 0, 0
    for match in _PART.finditer(rest):
        if match.start() != at:
            break
        at = match.end()
        whole, _, fraction = match[1].partition(".")
        unit = _UNITS[match[2]]
        total += int(whole or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
    if not rest or at != len(rest):
        raise EvaluationError("type conversion error from 'string' to 'google.protobuf.Duration'")
    return Duration(sign * total)


def loose_duration(text: str) -> Duration:
    """A duration as the format of a schema allows it: Go's form, or with words, like `3 days`."""
    try:
        return duration(text)
    except EvaluationError:
        total, at = 0, 0
        for match in _LOOSE.finditer(text):
            unit = _WORDS.get(match[2].lower())
            if match.start() != at or unit is None:
                break
            at = match.end()
            total += round(float(match[1]) * unit)
        if not text.strip() or at != len(text.rstrip()):
            raise EvaluationError(f"Invalid duration formatted string {text}") from None
        return Duration(total)
