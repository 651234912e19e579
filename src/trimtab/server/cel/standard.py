"""CEL's own functions: arithmetic, comparison, conversion, times, optionals.

Each takes values and gives one, or raises `EvaluationError` in cel-go's words. They look at what they are given, since an
expression on dynamic values may bring anything.
"""

from __future__ import annotations

import datetime
import math
import re
import zoneinfo
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from trimtab.server.cel.values import (
    INT_MAX,
    INT_MIN,
    NONE,
    SECOND,
    UINT_MAX,
    Duration,
    EvaluationError,
    Object,
    Optional,
    Special,
    Timestamp,
    TypeValue,
    Uint,
    contains,
    duration,
    equal,
    merged,
    timestamp,
)

Function = Callable[..., Any]


def no_overload() -> EvaluationError:
    return EvaluationError("no such overload")


def integer(value: int) -> int:
    """The value when 64 bits hold it."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise EvaluationError("integer overflow")


def unsigned(value: int) -> Uint:
    """The value as unsigned when 64 bits hold it."""
    if 0 <= value <= UINT_MAX:
        return Uint(value)
    raise EvaluationError("unsigned integer overflow")


# Arithmetic


def add(a: Any, b: Any) -> Any:
    kinds = (type(a), type(b))
    if kinds == (int, int):
        return integer(a + b)
    if kinds in ((str, str), (float, float), (bytes, bytes)):
        return a + b
    if kinds == (Uint, Uint):
        return unsigned(a + b)
    if isinstance(a, list) and isinstance(b, list):
        return merged(a, b)
    if kinds == (Duration, Duration):
        return Duration(a.ns + b.ns)
    if kinds in ((Duration, Timestamp), (Timestamp, Duration)):
        return Timestamp(a.ns + b.ns)
    raise no_overload()


def subtract(a: Any, b: Any) -> Any:
    kinds = (type(a), type(b))
    if kinds == (int, int):
        return integer(a - b)
    if kinds == (float, float):
        return a - b
    if kinds == (Uint, Uint):
        return unsigned(a - b)
    if kinds in ((Duration, Duration), (Timestamp, Timestamp)):
        return Duration(a.ns - b.ns)
    if kinds == (Timestamp, Duration):
        return Timestamp(a.ns - b.ns)
    raise no_overload()


def multiply(a: Any, b: Any) -> Any:
    kinds = (type(a), type(b))
    if kinds == (int, int):
        return integer(a * b)
    if kinds == (float, float):
        return a * b
    if kinds == (Uint, Uint):
        return unsigned(a * b)
    raise no_overload()


def divide(a: Any, b: Any) -> Any:
    kinds = (type(a), type(b))
    if kinds == (float, float):
        if b == 0:
            return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
        return a / b
    if kinds not in ((int, int), (Uint, Uint)):
        raise no_overload()
    if b == 0:
        raise EvaluationError("division by zero")
    quotient = abs(a) // abs(b)
    return Uint(quotient) if kinds[0] is Uint else integer(quotient if (a < 0) == (b < 0) else -quotient)


def modulo(a: Any, b: Any) -> Any:
    kinds = (type(a), type(b))
    if kinds not in ((int, int), (Uint, Uint)):
        raise no_overload()
    if b == 0:
        raise EvaluationError("modulus by zero")
    rest = abs(a) % abs(b)
    return Uint(rest) if kinds[0] is Uint else (-rest if a < 0 else rest)


def negate(a: Any) -> Any:
    if type(a) is int:
        return integer(-a)
    if type(a) is float:
        return -a
    raise no_overload()


def negation(a: Any) -> bool:
    if a.__class__ is bool:
        return not a
    raise no_overload()


# Comparison

_NUMBERS = (int, float, Uint)


def compare(a: Any, b: Any) -> int:
    """-1, 0 or 1."""
    kind, other = type(a), type(b)
    if kind in _NUMBERS and other in _NUMBERS:
        if a != a or b != b:
            raise EvaluationError("NaN values cannot be ordered")
    elif kind is not other or kind not in (str, bytes, bool, Timestamp, Duration):
        raise no_overload()
    return -1 if a < b else int(a != b)


def membership(value: Any, within: Any) -> bool:
    if isinstance(within, list):
        return contains(within, value)
    if isinstance(within, dict):
        return not isinstance(value, list | dict | Object) and value in within
    if isinstance(within, Object):
        return isinstance(value, str) and value in within.names()
    raise no_overload()


# Looking into


def index(container: Any, key: Any) -> Any:
    if isinstance(container, Optional):
        return index_optional(container, key)
    if isinstance(container, list):
        if isinstance(key, float) and key.is_integer():
            key = int(key)
        if not isinstance(key, int) or isinstance(key, bool):
            raise EvaluationError(f"unsupported index type '{type_name(key)}' in list")
        if 0 <= key < len(container):
            return container[key]
        raise EvaluationError(f"index out of bounds: {key}")
    if isinstance(container, dict):
        found = container.get(key, NONE) if not isinstance(key, list | dict) else NONE
        if found is not NONE:
            return found
        raise EvaluationError(f"no such key: {text_of(key)}")
    if isinstance(container, Object) and isinstance(key, str):
        return container.get(key)
    raise EvaluationError(f"no such key: {text_of(key)}")


def index_optional(container: Any, key: Any) -> Optional:
    if isinstance(container, Optional):
        if not container.present:
            return NONE
        container = container.value
    try:
        return Optional(True, index(container, key))
    except EvaluationError as err:
        if str(err).startswith(("no such key", "index out of bounds")):
            return NONE
        raise


def size(value: Any) -> int:
    if isinstance(value, str | bytes | list | dict | Object):
        return len(value)
    raise EvaluationError("no such overload: size")


def text_of(value: Any) -> str:
    """A value as errors print it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return string(value) if isinstance(value, str | int | float | bytes | Timestamp | Duration) else type_name(value)


# Types and conversions

EXPONENT_FROM = 6
"""The power of ten from which doubles are written with an exponent."""

_TYPE_NAMES: Mapping[type, str] = {
    type(None): "null_type",
    bool: "bool",
    int: "int",
    Uint: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    dict: "map",
    Timestamp: "google.protobuf.Timestamp",
    Duration: "google.protobuf.Duration",
    Optional: "optional_type",
    TypeValue: "type",
}


def type_name(value: Any) -> str:
    if isinstance(value, list):
        return "list"
    if isinstance(value, Object | Special):
        return value.type_name
    return _TYPE_NAMES.get(type(value), "dyn")


def _conversion_failed(value: Any, to: str) -> EvaluationError:
    return EvaluationError(f"type conversion error from '{type_name(value)}' to '{to}'")


_INTEGER = re.compile(r"[+-]?[0-9]+")


def to_int(value: Any) -> int:
    match value:
        case bool():
            raise no_overload()
        case float():
            if not math.isfinite(value) or not INT_MIN < value < 2.0**63:
                raise EvaluationError("integer overflow")
            return int(value)
        case int():
            return integer(int(value))
        case str() if _INTEGER.fullmatch(value):
            return integer(int(value))
        case str():
            raise _conversion_failed(value, "int")
        case Timestamp():
            return value.ns // SECOND
        case Duration():
            return value.ns
    raise no_overload()


def to_uint(value: Any) -> Uint:
    match value:
        case bool():
            raise no_overload()
        case float():
            if not math.isfinite(value) or not 0 <= value < 2.0**64:
                raise EvaluationError("unsigned integer overflow")
            return Uint(int(value))
        case int():
            return unsigned(value)
        case str() if _INTEGER.fullmatch(value):
            return unsigned(int(value))
        case str():
            raise _conversion_failed(value, "uint")
    raise no_overload()


def to_double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise no_overload()
    try:
        return float(value)
    except ValueError:
        raise _conversion_failed(value, "double") from None


def to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in ("1", "t", "T", "TRUE", "true", "True"):
            return True
        if value in ("0", "f", "F", "FALSE", "false", "False"):
            return False
        raise _conversion_failed(value, "bool")
    raise no_overload()


def to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise no_overload()


def string(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return double_text(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise EvaluationError("invalid UTF-8 in bytes, cannot convert to string") from None
        case Timestamp() | Duration() | Special():
            return str(value)
    raise no_overload()


def double_text(value: float) -> str:
    """A double in the fewest digits that mean it, with an exponent from a million on: Go's `FormatFloat(v, 'g', -1, 64)`."""
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    shown = "".join(map(str, digits))
    power = exponent + len(shown) - 1
    minus = "-" if sign else ""
    if not value or -4 <= power < EXPONENT_FROM:
        return f"{minus}{Decimal(repr(abs(value))):f}".removesuffix(".0")
    fraction = f".{shown[1:]}" if len(shown) > 1 else ""
    return f"{minus}{shown[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"


def to_timestamp(value: Any) -> Timestamp:
    if isinstance(value, Timestamp):
        return value
    if isinstance(value, str):
        return timestamp(value)
    if type(value) is int:
        return Timestamp(value * SECOND)
    raise no_overload()


def to_duration(value: Any) -> Duration:
    if isinstance(value, Duration):
        return value
    if isinstance(value, str):
        return duration(value)
    if type(value) is int:
        return Duration(value)
    raise no_overload()


# Times

_ZONE = re.compile(r"([+-]?)(\d\d):(\d\d)")


def _local(value: Any, zone: Any) -> datetime.datetime:
    if not isinstance(value, Timestamp):
        raise no_overload()
    moment = value.moment()
    if zone is None:
        return moment
    if not isinstance(zone, str):
        raise no_overload()
    offset = _ZONE.fullmatch(zone)
    if offset is not None:
        delta = datetime.timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return moment - delta if offset[1] == "-" else moment + delta
    try:
        return moment.astimezone(zoneinfo.ZoneInfo(zone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, OverflowError):
        raise EvaluationError(f"unknown time zone {zone}") from None


def _calendar(read: Callable[[datetime.datetime], int]) -> Function:
    return lambda value, zone=None: read(_local(value, zone))


def _clock(read: Callable[[datetime.datetime], int], unit_ns: int) -> Function:
    """A part of a timestamp's clock, or the whole of a duration in that unit."""

    def found(value: Any, zone: Any = None) -> int:
        if isinstance(value, Duration) and zone is None:
            whole = abs(value.ns) // unit_ns
            return -whole if value.ns < 0 else whole
        return read(_local(value, zone))

    return found


def _milliseconds(value: Any, zone: Any = None) -> int:
    if isinstance(value, Duration):
        return int(math.copysign(abs(value.ns) // 10**6, value.ns))
    _local(value, zone)
    return int(value.ns % SECOND // 10**6)


# Optionals


def _of_non_zero(value: Any) -> Optional:
    empty = (isinstance(value, str | bytes | list | dict) and not value) or value is None or value is False
    zero = isinstance(value, int | float) and value == 0
    return NONE if empty or zero or (isinstance(value, Duration) and value.ns == 0) else Optional(True, value)


def _value(value: Any) -> Any:
    if not isinstance(value, Optional):
        raise no_overload()
    if not value.present:
        raise EvaluationError("optional.none() dereference")
    return value.value


def _has_value(value: Any) -> bool:
    if not isinstance(value, Optional):
        raise no_overload()
    return value.present


FUNCTIONS: Mapping[str, Function] = {
    "_+_": add,
    "_-_": subtract,
    "_*_": multiply,
    "_/_": divide,
    "_%_": modulo,
    "-_": negate,
    "!_": negation,
    "_==_": equal,
    "_!=_": lambda a, b: not equal(a, b),
    "_<_": lambda a, b: compare(a, b) < 0,
    "_<=_": lambda a, b: compare(a, b) <= 0,
    "_>_": lambda a, b: compare(a, b) > 0,
    "_>=_": lambda a, b: compare(a, b) >= 0,
    "@in": membership,
    "_[_]": index,
    "_[?_]": index_optional,
    "size": size,
    "type": lambda value: TypeValue(type_name(value)),
    "dyn": lambda value: value,
    "int": to_int,
    "uint": to_uint,
    "double": to_double,
    "bool": to_bool,
    "bytes": to_bytes,
    "string": string,
    "timestamp": to_timestamp,
    "duration": to_duration,
    "getFullYear": _calendar(lambda t: t.year),
    "getMonth": _calendar(lambda t: t.month - 1),
    "getDayOfYear": _calendar(lambda t: t.timetuple().tm_yday - 1),
    "getDayOfMonth": _calendar(lambda t: t.day - 1),
    "getDate": _calendar(lambda t: t.day),
    "getDayOfWeek": _calendar(lambda t: t.isoweekday() % 7),
    "getHours": _clock(lambda t: t.hour, 3600 * SECOND),
    "getMinutes": _clock(lambda t: t.minute, 60 * SECOND),
    "getSeconds": _clock(lambda t: t.second, SECOND),
    "getMilliseconds": _milliseconds,
    "optional.of": lambda value: Optional(True, value),
    "optional.ofNonZeroValue": _of_non_zero,
    "optional.none": lambda: NONE,
    "value": _value,
    "hasValue": _has_value,
    "or": lambda value, other: value if _has_value(value) else other,
    "orValue": lambda value, other: value.value if _has_value(value) else other,
    "optional.unwrap": lambda values: [value.value for value in values if _has_value(value)],
    "unwrapOpt": lambda values: [value.value for value in values if _has_value(value)],
}
