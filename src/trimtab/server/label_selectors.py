"""Reads label selectors: `a=b, a==b, a!=b, a in (b,c), a notin (b,c), a, !a, a>1, a<1`.

    text -> tokens -> requirements, each of them with a key and values that labels can have

Grammar and words of refusals are those of k8s.io/apimachinery `pkg/labels/selector.go`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from trimtab.server import names
from trimtab.server.errors import bad_request

_TOKEN = re.compile(r"\s*(?:(?P<mark>==|!=|[=!(),<>])|(?P<word>[^\s=!(),<>]+))")
_END = ""
_MARKS = frozenset(("==", "!=", "=", "!", "(", ")", ",", "<", ">", _END))
_OPERATORS = "=, !=, ==, in, notin"


@dataclass(frozen=True, slots=True)
class LabelTerm:
    """One requirement. `operator`: in, notin, exists, absent, or gt and lt with one whole number."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
            case _:
                return value is not None and self._compares(value)

    def _compares(self, value: str) -> bool:
        try:
            here, [bound] = int(value), [int(one) for one in self.values]
        except ValueError:
            return False
        return here > bound if self.operator == "gt" else here < bound


def parse_labels(text: str) -> tuple[LabelTerm, ...]:
    """Raises `StatusError` 400 where the text is no selector."""
    return tuple(_Parser(text).terms())


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = [found["mark"] or found["word"] for found in _TOKEN.finditer(text)] + [_END]
        self._at = 0

    def terms(self) -> list[LabelTerm]:
        found: list[LabelTerm] = []
        while self._next() != _END:
            if self._next() in _MARKS and self._next() != "!":
                _refuse(f"found '{self._next()}', expected: !, identifier, or 'end of string'")
            found.append(self._term())
            token = self._take()
            if token == _END:
                break
            if token != ",":
                _refuse(f"found '{token}', expected: ',' or 'end of string'")
            if self._next() in _MARKS and self._next() != "!":
                _refuse(f"found '{self._next()}', expected: identifier after ','")
        return found

    def _next(self) -> str:
        return self._tokens[self._at]

    def _take(self) -> str:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _term(self) -> LabelTerm:
        absent = self._next() == "!"
        if absent:
            self._take()
        key = self._take()
        if key in _MARKS:
            _wrong(f"found '{key}', expected: identifier")
        _check("<nil>", key, names.qualified_name(key))
        if absent:
            return LabelTerm(key, "absent")
        if self._next() in (_END, ","):
            return LabelTerm(key, "exists")
        operator = self._take()
        if operator in ("in", "notin"):
            return LabelTerm(key, operator, self._checked(key, self._values()))
        if operator in ("=", "==", "!="):
            return LabelTerm(key, "notin" if operator == "!=" else "in", self._checked(key, {self._value()}))
        if operator not in ("<", ">"):
            _wrong(f"found '{operator}', expected: {_OPERATORS}")
        return LabelTerm(key, "gt" if operator == ">" else "lt", self._number(key, self._value()))

    def _value(self) -> str:
        if self._next() in (_END, ","):
            return ""
        value = self._take()
        if value in _MARKS:
            _wrong(f"found '{value}', expected: identifier")
        return value

    def _values(self) -> set[str]:
        """What stands in parentheses; between two commas stands the empty text."""
        if (token := self._take()) != "(":
            _wrong(f"found '{token}' expected: '('")
        if self._next() in _MARKS and self._next() not in (",", ")"):
            _wrong(f"found '{self._next()}', expected: ',', ')' or identifier")
        values: set[str] = set()
        last = ","
        while (token := self._take()) != ")":
            if token == ",":
                if last == ",":
                    values.add("")
            elif token in _MARKS:
                _wrong(f"found '{token}', expected: ',', or identifier")
            elif last != ",":
                _wrong(f"found '{token}', expected: ',' or ')'")
            else:
                values.add(token)
            last = token
        if last == ",":
            values.add("")
        return values

    def _checked(self, key: str, values: set[str]) -> frozenset[str]:
        for index, value in enumerate(sorted(values)):
            _check(f"values[{index}][{key}]", value, names.label_value(value))
        return frozenset(values)

    def _number(self, key: str, value: str) -> frozenset[str]:
        if not re.fullmatch(r"[+-]?[0-9]+", value):
            _check("values[0]", value, ["for 'Gt', 'Lt' operators, the value must be an integer"])
        return self._checked(key, {value})


def _check(at: str, value: str, problems: list[str]) -> None:
    for problem in problems:
        _wrong(f"{at}: Invalid value: {json.dumps(value)}: {problem}")


def _wrong(text: str) -> NoReturn:
    _refuse(f"unable to parse requirement: {text}")


def _refuse(text: str) -> NoReturn:
    raise bad_request(text)
