"""From the text of a CEL expression to tokens, and what its parsed form is made of.

Every node knows where it stands in the text, so that an error can point at it, and carries what the checker finds out:
`type` and `overloads`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from trimtab.server.cel.types import DYN, Type

RESERVED = frozenset(
    [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "package",
        "namespace",
        "null",
        "return",
        "true",
        "var",
        "void",
        "while",
    ]
)


class Node:
    """One expression. `at` is its offset in the text."""

    __slots__ = ("at", "overloads", "type")

    def __init__(self, at: int) -> None:
        self.at = at
        self.type: Type = DYN
        self.overloads: tuple[str, ...] = ()


class Literal(Node):
    __slots__ = ("value",)

    def __init__(self, at: int, value: Any) -> None:
        super().__init__(at)
        self.value = value


class Ident(Node):
    __slots__ = ("name",)

    def __init__(self, at: int, name: str) -> None:
        super().__init__(at)
        self.name = name


class Select(Node):
    """`operand.name`; `test` is has(operand.name), `optional` is operand.?name."""

    __slots__ = ("name", "operand", "optional", "test")

    def __init__(self, at: int, operand: Node, name: str, *, test: bool = False, optional: bool = False) -> None:
        super().__init__(at)
        self.operand = operand
        self.name = name
        self.test = test
        self.optional = optional


class Call(Node):
    """A function, an operator (`_+_`), or with `target` a method."""

    __slots__ = ("args", "function", "target")

    def __init__(self, at: int, function: str, args: Sequence[Node], target: Node | None = None) -> None:
        super().__init__(at)
        self.function = function
        self.args = list(args)
        self.target = target


class ListNode(Node):
    __slots__ = ("elements", "optional")

    def __init__(self, at: int, elements: Sequence[Node], optional: Sequence[bool] = ()) -> None:
        super().__init__(at)
        self.elements = list(elements)
        self.optional = list(optional) or [False] * len(self.elements)


class MapNode(Node):
    __slots__ = ("entries",)

    def __init__(self, at: int, entries: Sequence[tuple[Node, Node, bool]]) -> None:
        super().__init__(at)
        self.entries = list(entries)


class Fold(Node):
    """A loop: what macros like `all` and `map` stand for."""

    __slots__ = ("accumulator", "condition", "first", "initial", "over", "result", "second", "step")

    def __init__(
        self,
        at: int,
        over: Node,
        first: str,
        second: str,
        accumulator: str,
        initial: Node,
        condition: Node,
        step: Node,
        result: Node,
    ) -> None:
        super().__init__(at)
        self.over = over
        self.first = first
        self.second = second
        self.accumulator = accumulator
        self.initial = initial
        self.condition = condition
        self.step = step
        self.result = result


class Bind(Node):
    """`name` is `value` inside of `result`."""

    __slots__ = ("name", "result", "value")

    def __init__(self, at: int, name: str, value: Node, result: Node) -> None:
        super().__init__(at)
        self.name = name
        self.value = value
        self.result = result


def walked(node: Node) -> Iterator[Node]:
    """An expression and all in it."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        match one:
            case Select():
                waiting.append(one.operand)
            case Call():
                waiting += [*one.args, *([one.target] if one.target is not None else [])]
            case ListNode():
                waiting += one.elements
            case MapNode():
                waiting += [part for key, value, _ in one.entries for part in (key, value)]
            case Fold():
                waiting += [one.over, one.initial, one.condition, one.step, one.result]
            case Bind():
                waiting += [one.value, one.result]


class Token(NamedTuple):
    kind: str
    """`ident`, `escaped`, `int`, `uint`, `float`, `string`, `bytes`, `end`, or the operator itself."""
    text: str
    at: int


class CompileError(Exception):
    """An expression that cannot be compiled; the text is what the real server says of it."""


class Faults:
    """Collects the faults of one expression; each is shown with its line and a pointer."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: list[tuple[int, int, int, str]] = []

    def add(self, at: int, message: str) -> None:
        before = self._text[:at]
        line = before.count("\n") + 1
        column = at - (before.rfind("\n") + 1)
        if (line, column) not in [(found[0], found[1]) for found in self._found if found[3] == message]:
            self._found.append((line, column, len(self._found), message))

    def raise_any(self) -> None:
        """Raises `CompileError` when there are any."""
        if not self._found:
            return
        raise CompileError(
            "\n".join(self._shown(line, column, message) for line, column, _, message in sorted(self._found))
        )

    def _shown(self, line: int, column: int, message: str) -> str:
        shown = self._text.split("\n")[line - 1].replace("\t", " ")
        pointer = "".join("\uff0e" if ord(c) > 127 else "." for c in shown[:column])
        wide = column < len(shown) and ord(shown[column]) > 127
        return f"ERROR: <input>:{line}:{column + 1}: {message}\n | {shown}\n | {pointer}{chr(0xFF3E) if wide else '^'}"


_ESCAPE = r"\\(?:[abfnrtv\"'\\?`]|[xX][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2})"
_QUOTED = (
    r"[rR]\"\"\"(?:.|\n)*?\"\"\"|[rR]'''(?:.|\n)*?'''|[rR]\"[^\"\n\r]*\"|[rR]'[^'\n\r]*'"
    rf"|\"\"\"(?:{_ESCAPE}|[^\\])*?\"\"\"|'''(?:{_ESCAPE}|[^\\])*?'''"
    rf"|\"(?:{_ESCAPE}|[^\\\"\n\r])*\"|'(?:{_ESCAPE}|[^\\'\n\r])*'"
)
_TOKEN = re.compile(
    rf"""(?P<space>[\t \r\n\f]+|//[^\n]*)
    |(?P<float>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)
    |(?P<uint>(?:0x[0-9a-fA-F]+|[0-9]+)[uU])
    |(?P<int>0x[0-9a-fA-F]+|[0-9]+)
    |(?P<bytes>[bB](?:{_QUOTED}))
    |(?P<string>{_QUOTED})
    |(?P<ident>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<escaped>`[A-Za-z0-9_.\-/ ]+`)
    |(?P<op>==|!=|<=|>=|&&|\|\||[\[\]{{}}().,\-!?:+*/%<>])""",
    re.VERBOSE,
)
_BEGUN = re.compile(
    rf"(?:[rR]\"[^\"\n\r]*|[rR]'[^'\n\r]*|\"(?:{_ESCAPE}|[^\\\"\n\r])*(?:\\(?=.))?|'(?:{_ESCAPE}|[^\\'\n\r])*(?:\\(?=.))?)"
)
"""A string that does not end as it should."""
_ONE_ESCAPE = re.compile(_ESCAPE)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def tokens(text: str, faults: Faults) -> list[Token]:
    """The tokens of a text; what is none is reported and skipped."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            begun = _BEGUN.match(text, at)
            end = begun.end() + 1 if begun is not None else at + 1
            shown = text[at:end].replace("\n", "\\n")
            faults.add(at, f"Syntax error: token recognition error at: '{shown}'")
            at = end
            continue
        kind = match.lastgroup or ""
        if kind != "space":
            if kind == "op" or (kind == "ident" and match[0] in ("in", "true", "false", "null")):
                kind = match[0]
            found.append(Token(kind, match[0], at))
        at = match.end()
    found.append(Token("end", "<EOF>", len(text)))
    return found


def unquoted(text: str) -> str:
    """The value of a string token.

    Raises:
        ValueError: an escape that names no character.
    """
    raw = text[0] in "rR"
    if raw:
        text = text[1:]
    size = 3 if text[:3] in ('"""', "'''") else 1
    inner = text[size:-size]
    return inner if raw else _ONE_ESCAPE.sub(_character, inner)


def unquoted_bytes(text: str) -> bytes:
    """The value of a bytes token: hexadecimal and octal escapes are bytes, everything else is UTF-8."""
    raw = text[1] in "rR"
    text = text[2:] if raw else text[1:]
    size = 3 if text[:3] in ('"""', "'''") else 1
    inner = text[size:-size]
    if raw:
        return inner.encode()
    out = b""
    at = 0
    for match in _ONE_ESCAPE.finditer(inner):
        out += inner[at : match.start()].encode()
        escape = match[0][1]
        out += bytes([ord(_character(match))]) if escape in "xX0123" else _character(match).encode()
        at = match.end()
    return out + inner[at:].encode()


def _character(match: re.Match[str]) -> str:
    text = match[0][1:]
    if text[0] in "xXuU":
        return chr(int(text[1:], 16))
    if text[0] in "0123":
        return chr(int(text, 8))
    return _LETTERS.get(text, text)
