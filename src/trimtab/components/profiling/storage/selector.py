"""Label selectors, as Prometheus writes them: `app="shipnotes",image=~"sha256:ab.*",process!="x"`, with or without braces.

A label that a sample does not have is the empty text, so `pod=""` selects what runs in no pod. Patterns match the whole value; they are
RE2's, linear in time whatever they are. A name that is not a word is quoted: `"thread id"="7"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

LENGTH_MAX = 4096
MATCHERS_MAX = 64
PATTERN_MEMORY_MAX = 1 << 20

Operator = Literal["=", "!=", "=~", "!~"]

_SPACE = re.compile(r"[ \t\r\n]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_OPERATOR = re.compile(r"=~|!~|!=|=")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


class Matcher(NamedTuple):
    label: str
    operator: Operator
    value: str
    accepts: Callable[[str], bool]


def parse(text: str) -> list[Matcher]:
    """The matchers of a selector, all of which must accept. Raises `ValueError` with one line that names the position."""
    if len(text) > LENGTH_MAX:
        raise ValueError(f"selector: {len(text)} characters, more than {LENGTH_MAX}: shorten it")
    return _Reader(text).matchers()


def matches(matchers: list[Matcher], labels: Mapping[str, str]) -> bool:
    return all(matcher.accepts(labels.get(matcher.label, "")) for matcher in matchers)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def matchers(self) -> list[Matcher]:
        self._space()
        braces = self._take("{")
        self._space()
        found: list[Matcher] = []
        while not self._ended(braces):
            found.append(self._matcher())
            if len(found) > MATCHERS_MAX:
                raise self._error(f"more than {MATCHERS_MAX} matchers: shorten it")
            self._space()
            if not self._take(",") and not self._ended(braces):
                raise self._error("expected , between two matchers" + (" or } at the end" if braces else ""))
            self._space()
        if braces:
            self._take("}")
            self._space()
            if self.at < len(self.text):
                raise self._error("nothing may follow }")
        return found

    def _ended(self, braces: bool) -> bool:
        if self.at < len(self.text):
            return braces and self.text[self.at] == "}"
        if braces:
            raise self._error("} is missing")
        return True

    def _matcher(self) -> Matcher:
        if self._peek() in ('"', "'", "`"):
            label = self._quoted()
        elif name := _NAME.match(self.text, self.at):
            label, self.at = name.group(), name.end()
        else:
            raise self._error('expected the name of a label, as in app="shipnotes"')
        self._space()
        operator = _OPERATOR.match(self.text, self.at)
        if operator is None:
            raise self._error(f"expected = != =~ or !~ after {label}")
        self.at = operator.end()
        self._space()
        if self._peek() not in ('"', "'", "`"):
            raise self._error(f'expected a text in quotes, as in {label}{operator.group()}"..."')
        at = self.at
        value = self._quoted()
        return _made(label, operator.group(), value, lambda why: self._error(why, at))

    def _quoted(self) -> str:
        start, quote = self.at, self.text[self.at]
        self.at += 1
        out: list[str] = []
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == quote:
                self.at += 1
                return "".join(out)
            if character == "\\" and quote != "`":
                escaped = self.text[self.at + 1 : self.at + 2]
                if escaped not in _ESCAPES:
                    raise self._error(f"unknown escape \\{escaped}: write \\\\{escaped} for a backslash, or use `...`")
                out.append(_ESCAPES[escaped])
                self.at += 2
            else:
                out.append(character)
                self.at += 1
        raise self._error(f"the text that begins here has no closing {quote}", start)

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self.at += 1
        return True

    def _space(self) -> None:
        if space := _SPACE.match(self.text, self.at):
            self.at = space.end()

    def _error(self, why: str, at: int | None = None) -> ValueError:
        return ValueError(f"selector, position {(self.at if at is None else at) + 1}: {why}")


def _made(label: str, operator: str, value: str, error: Callable[[str], ValueError]) -> Matcher:
    if operator == "=":
        return Matcher(label, "=", value, lambda other: other == value)
    if operator == "!=":
        return Matcher(label, "!=", value, lambda other: other != value)
    import re2

    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_MAX
    options.log_errors = False
    try:
        pattern = re2.compile(value, options=options)
    except re2.error as err:
        why = err.args[0] if err.args else err
        text = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        raise error(f"not a pattern ({text})") from err
    if operator == "=~":
        return Matcher(label, "=~", value, lambda other: pattern.fullmatch(other) is not None)
    return Matcher(label, "!~", value, lambda other: pattern.fullmatch(other) is None)
