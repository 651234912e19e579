"""`"%s is %d".format([name, count])`: when it runs, and checked ahead where pattern and values are literals.

The words and forms are those of cel-go's string extension, version 2, down to the exponent of `%e`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.server.cel.standard import Function, double_text, no_overload, string, type_name
from trimtab.server.cel.text import bounded
from trimtab.server.cel.types import Type
from trimtab.server.cel.values import Duration, EvaluationError, Special, Timestamp, TypeValue

_VERB = re.compile(r"%(%|(?:\.(\d+))?(.))", re.DOTALL)
_POWER = re.compile(r"e([+-])(\d+)")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
PRECISION, PRECISION_MAX = 6, 1000

_WANTED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "d": ("decimal clause can only be used on integers", ("int", "uint")),
    "f": ("fixed-point clause can only be used on doubles", ("double",)),
    "e": ("scientific clause can only be used on doubles", ("double",)),
    "b": ("only integers and bools can be formatted as binary", ("int", "uint", "bool")),
    "o": ("octal clause can only be used on integers", ("int", "uint")),
    "x": ("only integers, byte buffers, and strings can be formatted as hex", ("int", "uint", "string", "bytes")),
    "s": (
        "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
        (
            "bool",
            "bytes",
            "double",
            "google.protobuf.Duration",
            "google.protobuf.Timestamp",
            "int",
            "list",
            "map",
            "null_type",
            "string",
            "type",
            "uint",
        ),
    ),
}


def _clauses(pattern: str) -> Iterator[tuple[str, int | None, str]]:
    """(text before, precision, verb) of each clause; the rest comes with the empty verb."""
    at = 0
    while (percent := pattern.find("%", at)) >= 0:
        match = _VERB.match(pattern, percent)
        if match is None:
            yield pattern[at:percent], None, "%"
            return
        if match[1] == "%":
            yield pattern[at : percent + 1], None, "%%"
        else:
            yield pattern[at:percent], int(match[2]) if match[2] else None, match[3]
        at = match.end()
    yield pattern[at:], None, ""


def _refusal(verb: str, name: str) -> str:
    """Why a verb does not take a value of such a type; empty when it does."""
    wanted = _WANTED.get(verb.lower() if verb == "X" else verb)
    if wanted is None:
        return f'could not parse formatting clause: unrecognized formatting clause "{verb}"'
    return "" if name in wanted[1] else f"error during formatting: {wanted[0]}, was given {name}"


def formatted(pattern: Any, args: Any) -> str:
    """The pattern with the values in it. Raises `EvaluationError`."""
    if not isinstance(pattern, str) or not isinstance(args, list):
        raise no_overload()
    parts: list[str] = []
    used = 0
    for before, precision, verb in _clauses(pattern):
        parts.append(before)
        if verb in ("", "%%"):
            continue
        if used >= len(args):
            raise EvaluationError(f"index {used} out of range")
        if verb == "%":
            raise EvaluationError("unexpected end of string")
        value = args[used]
        used += 1
        problem = _refusal(verb, type_name(value))
        if problem:
            raise EvaluationError(problem)
        parts.append(_clause(verb, PRECISION if precision is None else min(precision, PRECISION_MAX), value))
        bounded(sum(map(len, parts)))
    return "".join(parts)


def faults_of(pattern: str, types: Sequence[Type]) -> Iterator[tuple[int | None, str]]:
    """(which value or None, what is wrong) of a pattern and the types of its values; the first fault only."""
    used = 0
    for _, _, verb in _clauses(pattern):
        if verb in ("", "%%"):
            continue
        if used >= len(types):
            yield None, f"index {used} out of range"
            return
        if verb == "%":
            yield None, "unexpected end of string"
            return
        kind = types[used]
        problem = _refusal(verb, _RUNTIME_NAMES.get(kind.kind, kind.name))
        if problem and (kind.kind != "dyn" or verb.lower() not in _WANTED):
            yield (used if problem.startswith("error during") else None), problem
            return
        used += 1
    if used < len(types):
        yield None, f"too many arguments supplied to string.format (expected {used}, got {len(types)})"


_RUNTIME_NAMES = {
    "null": "null_type",
    "duration": "google.protobuf.Duration",
    "timestamp": "google.protobuf.Timestamp",
    "list": "list",
    "map": "map",
    "type": "type",
}


def _clause(verb: str, precision: int, value: Any) -> str:
    match verb:
        case "s":
            return _text(value)
        case "f":
            return f"{value:.{precision}f}"
        case "e":
            return _POWER.sub(_raised, f"{value:.{precision}e}")
        case "b" | "o":
            return f"{int(value):{verb}}"
        case "x" | "X" if isinstance(value, int):
            return f"{value:{verb}}"
        case "x" | "X":
            digits: str = (value.encode() if isinstance(value, str) else value).hex()
            return digits if verb == "x" else digits.upper()
    return str(int(value))


def _raised(match: re.Match[str]) -> str:
    return f"×10{'⁻' if match[1] == '-' else ''}{match[2].translate(_RAISED)}"


def _text(value: Any) -> str:
    """A value as `%s` prints it."""
    match value:
        case None:
            return "null"
        case TypeValue():
            return value.name
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case dict():
            pairs = sorted((_literal(key), _literal(inner)) for key, inner in value.items())
            return "{" + ", ".join(f"{key}:{inner}" for key, inner in pairs) + "}"
    return string(value)


def _literal(value: Any) -> str:
    """A value inside of a list or map: as an expression would write it."""
    match value:
        case str():
            return _quoted(value)
        case bytes():
            return f"b{_quoted(value.decode(errors='replace'))}"
        case float():
            text = double_text(value)
            return f'"{text}"' if text in ("NaN", "+Inf", "-Inf") else f"{value:.{PRECISION}f}"
        case Timestamp():
            return f'timestamp("{value}")'
        case Duration():
            return f'duration("{value}")'
        case Special():
            raise no_overload()
    return _text(value)


_ESCAPED = {ord(c): "\\" + e for c, e in zip('\a\b\f\n\r\t\v\\"', 'abfnrtv\\"', strict=True)}


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPED)}"'


FUNCTIONS: Mapping[str, Function] = {"format": formatted}
