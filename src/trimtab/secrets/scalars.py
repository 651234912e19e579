"""What a plain scalar of YAML means to the readers of SOPS files (YAML 1.2 with timestamps, as Go's yaml.v3 takes it), and how a
value is written so that they, and YAML 1.1 as well, read the same value again.

PyYAML's own rules are those of YAML 1.1: `yes` would become a truth value there, and its code would be another one.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from trimtab.secrets.cipher import Moment, Value, text_of

_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BASES = (
    (re.compile(r"0x[0-9a-f]+", re.I), 16),
    (re.compile(r"0o?[0-7]+", re.I), 8),
    (re.compile(r"0b[01]+", re.I), 2),
)
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
_TIME = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:(?:[Tt]|\s+)(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.(\d{1,9})\d*)?(Z|[-+]\d\d:\d\d)?)?"
)
_BRACKETS = re.compile(r"[][{},]")
_INTEGER_BITS = 63
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


def plain(text: str) -> Value | None:
    """The value of a scalar without quotes or tag; None for null."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text.lower() in _SPECIAL:
        return float(_SPECIAL[text.lower()])
    if not text[0].isascii() or not (text[0].isdigit() or text[0] in "+-."):
        return text
    moment = _moment(text)
    if moment is not None:
        return moment
    number = _number(text.replace("_", ""))
    return text if number is None else number


def _number(text: str) -> int | float | None:
    sign, digits = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    for form, base in ((_DECIMAL, 10), *_BASES):
        if form.fullmatch(digits):
            value = sign * int(digits[2:] if digits[1:2].isalpha() else digits, base)
            if value.bit_length() <= _INTEGER_BITS:
                return value
            break
    return float(text) if _FLOAT.fullmatch(text) else None


def _moment(text: str) -> Moment | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    zone = match[8]
    offset = timedelta()
    if zone not in (None, "Z"):
        offset = (1 if zone[0] == "+" else -1) * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=timezone(offset) if offset else UTC)
    except ValueError:
        return None
    fraction = (match[7] or "").rstrip("0")
    end = "Z" if not offset else zone
    return Moment(f"{at:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + (f".{fraction}" if fraction else "") + end)


def written(value: Value | None, column: int | None = None, *, flow: bool = False) -> str:
    """A value as YAML. column: where the key stands, if lines of a longer text may go below it; flow: inside of brackets."""
    if value is None:
        return "null"
    if isinstance(value, Moment):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = text_of(value)
        return text if _FLOAT.fullmatch(text) and not _DECIMAL.fullmatch(text.removeprefix("-")) else _special(text)
    if isinstance(value, int):
        return str(value)
    if column is not None and _suits_a_block(value):
        return _block(value, column + 2)
    return value if _suits_as_it_is(value) and not (flow and _BRACKETS.search(value)) else quoted(value)


def _special(text: str) -> str:
    return {"NaN": ".nan", "+Inf": ".inf", "-Inf": "-.inf"}.get(text, f"{text}.0")


def _suits_as_it_is(text: str) -> bool:
    import yaml

    if not isinstance(plain(text), str) or isinstance(plain(text), Moment):
        return False
    if not text.isascii() or not text.isprintable():
        return False
    try:
        node: Any = yaml.compose(f"k: {text}\n", yaml.SafeLoader)
    except yaml.YAMLError:
        return False
    (_, value), *others = node.value
    return not others and value.tag == "tag:yaml.org,2002:str" and value.value == text and value.style is None


def _suits_a_block(text: str) -> bool:
    lines = text.split("\n")
    return (
        len(lines) > 1
        and bool(lines[0])
        and not lines[0].startswith((" ", "\t"))
        and all(line.isprintable() and "\ufeff" not in line for line in lines)
        and not any(line != line.rstrip() for line in lines)
    )


def _block(text: str, indent: int) -> str:
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    head = "|-" if ends == 0 else "|" if ends == 1 else "|+"
    lines = [" " * indent + line if line else "" for line in body.split("\n")]
    return "\n".join((head, *lines, *[""] * max(0, ends - 1)))


def quoted(text: str) -> str:
    """A text in double quotes."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(character: str) -> str:
    point = ord(character)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
