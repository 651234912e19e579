"""YAML bodies, read as JSON. Imported only when YAML comes.

The parser's events become values one after the other, on a stack of our own: PyYAML's composers recurse (the C one until
the process's stack is gone), and here a client chooses how deep. Scalars mean what they mean to the real server, whose
rules (`resolve.go` of go-yaml 2) are YAML 1.1 without numbers to the base of 60: `1:30` is text.
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import yaml

DEPTH_MAX = 250
"""Nesting is refused here; what is allowed in an object is less (`bodies.DEPTH_MAX`)."""
ALIASED_MAX = 100_000
"""Values that aliases may add to one document; more is the "billion laughs"."""

VALUES_MAX = 300_000
"""Values of one document. An object of the size that can be stored has a tenth of them."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = "tag:yaml.org,2002:"
_MERGE = object()
"""The key `<<`."""

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    "<<": _MERGE,
}
_INTEGER = re.compile(r"([-+]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|0[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INT64_MIN, _UINT64_MAX = -(1 << 63), (1 << 64) - 1


class YamlProblem(ValueError):
    """One line: what is wrong and where."""


class _Open:
    """A mapping or list that is being read. `key`: a mapping's, once it was read and until its value is."""

    __slots__ = ("anchor", "awaits_value", "key", "line", "merged", "size", "value")

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: Any = None
        self.line = 0
        self.awaits_value = False
        self.merged: list[Any] = []
        self.size = 1


class _Reader:
    """Makes a value of one document's events."""

    def __init__(self) -> None:
        self.duplicates: list[str] = []
        self.root: Any = None
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        self._aliased = 0
        self._values = 0

    def take(self, event: Any) -> None:
        self._values += 1
        if self._values > VALUES_MAX:
            raise YamlProblem(f"more than {VALUES_MAX} values: send JSON")
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = (value, 1)
            self._put(value, 1, event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(self._open) >= DEPTH_MAX:
                raise YamlProblem(f"nested more than {DEPTH_MAX} levels deep")
            if self._open and isinstance(self._open[-1].value, dict) and not self._open[-1].awaits_value:
                raise YamlProblem("a key must be text, not a mapping or a list")
            if event.anchor:
                self._anchors[event.anchor] = None
            self._open.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            done = self._open.pop()
            for more in done.merged:
                done.value = {**more, **done.value}  # type: ignore[dict-item]  # only mappings are merged
            if done.anchor:
                self._anchors[done.anchor] = (done.value, done.size)
            self._put(done.value, done.size)
        elif isinstance(event, yaml.AliasEvent):
            self._put(*self._alias(event.anchor or ""))

    def _alias(self, name: str) -> tuple[Any, int]:
        if name not in self._anchors:
            raise YamlProblem(f"unknown anchor '{name}' referenced")
        found = self._anchors[name]
        if found is None:
            raise YamlProblem(f"anchor '{name}' value contains itself")
        value, size = found
        self._aliased += size
        if self._aliased > ALIASED_MAX:
            raise YamlProblem("document contains excessive aliasing")
        return copy.deepcopy(value), size

    def _put(self, value: Any, size: int, event: Any = None) -> None:
        if not self._open:
            self.root = value
            return
        top = self._open[-1]
        top.size += size
        if isinstance(top.value, list):
            top.value.append(_plain(value))
        elif not top.awaits_value:
            top.key, top.awaits_value = value if value is _MERGE else _key(value), True
            top.line = event.start_mark.line + 1 if event is not None else top.line
        else:
            top.awaits_value = False
            if top.key is _MERGE:
                self._merge(top, value)
                return
            if top.key in top.value:
                self.duplicates.append(f'line {top.line}: key "{top.key}" already set in map')
            top.value[top.key] = _plain(value)

    def _merge(self, top: _Open, value: Any) -> None:
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(one, dict) for one in several):
            raise YamlProblem("map merge requires map or sequence of maps as the value")
        top.merged += several


def _plain(value: Any) -> Any:
    return "<<" if value is _MERGE else value


def _key(value: Any) -> str:
    """A key as text, as the real server writes it."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (dict, list)):
        raise YamlProblem("a key must be text, not null, a mapping or a list")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _scalar(event: Any) -> Any:
    text: str = event.value
    tag: str = event.tag or ""
    if not tag:
        return _resolved(text) if event.implicit[0] else text
    if not tag.startswith(_TAGS):
        if tag == "!":
            return text
        raise YamlProblem(f"line {event.start_mark.line + 1}: the tag {tag} is not known")
    name = tag.removeprefix(_TAGS)
    if name in ("str", "binary", "timestamp"):
        return text
    value = _resolved(text)
    if name == "float" and type(value) is int:
        return float(value)
    wanted = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(name)
    if wanted is None or type(value) is not wanted:
        raise YamlProblem(f"line {event.start_mark.line + 1}: cannot decode {text[:40]!r} as a !!{name}")
    return value


def _resolved(text: str) -> Any:
    """What a plain scalar means."""
    if text in _WORDS:
        value = _WORDS[text]
        if isinstance(value, float):
            raise YamlProblem(f"unsupported value: {text}: JSON has no such number")
        return value
    if len(text) > 100 or text[0] not in "+-.0123456789":
        return text
    plain = text.replace("_", "")
    if (found := _INTEGER.fullmatch(plain)) is not None:
        sign, digits = found.groups()
        octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567"
        number = int(digits, 8 if octal else 0) * (-1 if sign == "-" else 1)
        if _INT64_MIN <= number <= _UINT64_MAX:
            return number
    if _FLOAT.fullmatch(plain) is not None and math.isfinite(value := float(plain)):
        return value
    return text


def load(body: bytes) -> tuple[Any, list[str]]:
    """The document's value and what is said of the keys that stand twice in it. Raises `YamlProblem`."""
    reader = _Reader()
    documents = 0
    try:
        parser = _Parser(body)
        try:
            while parser.check_event():
                event = parser.get_event()
                documents += isinstance(event, yaml.DocumentStartEvent)
                if documents > 1:
                    raise YamlProblem(f"line {event.start_mark.line + 1}: expected a single document")
                reader.take(event)
        finally:
            parser.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        mark = getattr(err, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        text = str(getattr(err, "problem", None) or getattr(err, "reason", None) or err)
        raise YamlProblem(where + " ".join(text.split())) from None
    return _plain(reader.root), reader.duplicates
