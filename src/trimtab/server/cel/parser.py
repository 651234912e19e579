"""From tokens to nodes, by CEL's grammar (https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax).

Macros are expanded on the way (`macros.py`). The words for what cannot be parsed are those that the real server's parser has
for the commonest mistakes.
"""

from __future__ import annotations

from trimtab.server.cel.macros import expand
from trimtab.server.cel.syntax import (
    RESERVED,
    Call,
    CompileError,
    Faults,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
    Token,
    tokens,
    unquoted,
    unquoted_bytes,
)
from trimtab.server.cel.values import INT_MAX, INT_MIN, UINT_MAX, Uint

DEPTH_MAX = 60
"""Nesting of an expression beyond which it is refused: recursion must end (each level is several calls deep)."""
LENGTH_MAX = 100_000
"""Characters of an expression; the real parser's limit."""

_STARTERS = ("[", "{", "(", ".", "-", "!", "true", "false", "null", "float", "int", "uint", "string", "bytes", "ident")
_RELATIONS = ("<", "<=", ">=", ">", "==", "!=", "in")
DIGITS_MAX = 1_000
"""Of a whole number: far more than any that fits, far less than what takes long to read."""
_EXPECTED = (
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
)


class _Unreadable(Exception):
    """Parsing cannot go on; the fault was noted."""


def parse(text: str, faults: Faults) -> Node | None:
    """The expression that a text is; None when it is none, with the faults noted."""
    if len(text) > LENGTH_MAX:
        raise CompileError(f"expression code point size exceeds limit: size: {len(text)}, limit {LENGTH_MAX}")
    parser = _Parser(tokens(text, faults), faults)
    try:
        node = parser.expression()
        if parser.token.kind != "end":
            parser.unexpected("<EOF>", extraneous=parser.is_last())
    except _Unreadable:
        return None
    return node


class _Parser:
    def __init__(self, found: list[Token], faults: Faults) -> None:
        self._tokens = found
        self._next = 0
        self._faults = faults
        self._depth = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._next]

    def is_last(self) -> bool:
        return self._tokens[self._next + 1].kind == "end"

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _accept(self, *kinds: str) -> Token | None:
        return self._take() if self.token.kind in kinds else None

    def _expect(self, kind: str, shown: str = "") -> Token:
        found = self._accept(kind)
        if found is not None:
            return found
        if self.token.kind == "end" and kind in ")]}":
            self._faults.add(self.token.at, f"Syntax error: missing '{kind}' at '<EOF>'")
        else:
            self.unexpected(shown or f"'{kind}'")
        raise _Unreadable

    def unexpected(self, expected: str, *, extraneous: bool = False) -> None:
        what = "extraneous" if extraneous else "mismatched"
        self._faults.add(self.token.at, f"Syntax error: {what} input '{self.token.text}' expecting {expected}")

    def expression(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._faults.add(self.token.at, f"expression recursion limit exceeded: {DEPTH_MAX}")
            raise _Unreadable
        node = self._or()
        question = self._accept("?")
        if question is not None:
            yes = self._or()
            self._expect(":")
            node = Call(question.at, "_?_:_", [node, yes, self.expression()])
        self._depth -= 1
        return node

    def _or(self) -> Node:
        return self._joined("||", "_||_", lambda: self._joined("&&", "_&&_", self._relation))

    def _joined(self, operator: str, function: str, part: object) -> Node:
        assert callable(part)
        terms: list[Node] = [part()]
        where: list[int] = []
        while (found := self._accept(operator)) is not None:
            where.append(found.at)
            terms.append(part())
        return _balanced(function, terms, where, 0, len(where) - 1) if where else terms[0]

    def _relation(self) -> Node:
        node = self._sum()
        while (found := self._accept(*_RELATIONS)) is not None:
            function = "@in" if found.kind == "in" else f"_{found.kind}_"
            node = Call(found.at, function, [node, self._sum()])
        return node

    def _sum(self) -> Node:
        node = self._product()
        while (found := self._accept("+", "-")) is not None:
            node = Call(found.at, f"_{found.kind}_", [node, self._product()])
        return node

    def _product(self) -> Node:
        node = self._unary()
        while (found := self._accept("*", "/", "%")) is not None:
            node = Call(found.at, f"_{found.kind}_", [node, self._unary()])
        return node

    def _unary(self) -> Node:
        first = self.token
        if first.kind not in ("!", "-"):
            return self._member()
        if first.kind == "-" and self._tokens[self._next + 1].kind in ("int", "float"):
            return self._member()
        count = 0
        while self._accept(first.kind) is not None:
            count += 1
        node = self._member()
        function = "!_" if first.kind == "!" else "-_"
        return Call(first.at, function, [node]) if count % 2 else node

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if (dot := self._accept(".")) is not None:
                optional = self._accept("?") is not None
                name = self._field_name()
                opening = self._accept("(") if not optional else None
                if opening is not None:
                    args = self._arguments(")")
                    node = expand(Call(opening.at, name, args, node), self._faults)
                else:
                    node = Select(dot.at, node, name, optional=optional)
            elif (opening := self._accept("[")) is not None:
                optional = self._accept("?") is not None
                index = self.expression()
                self._expect("]")
                node = Call(opening.at, "_[?_]" if optional else "_[_]", [node, index])
            else:
                return node

    def _field_name(self) -> str:
        token = self.token
        if token.kind == "escaped":
            self._faults.add(token.at, "unsupported syntax: '`'")
            raise _Unreadable
        if token.kind != "ident":
            self.unexpected("IDENTIFIER" if token.kind != "end" else "{'?', IDENTIFIER, ESC_IDENTIFIER}")
            raise _Unreadable
        self._take()
        return token.text

    def _arguments(self, closing: str) -> list[Node]:
        args: list[Node] = []
        if self._accept(closing) is not None:
            return args
        args.append(self.expression())
        while self._accept(",") is not None:
            args.append(self.expression())
        self._expect(closing)
        return args

    def _primary(self) -> Node:
        token = self._take()
        match token.kind:
            case "." | "ident":
                return self._named(token)
            case "(":
                node = self.expression()
                self._expect(")")
                return node
            case "[":
                return self._list(token)
            case "{":
                return self._map(token)
            case "-" if self.token.kind in ("int", "uint", "float"):
                return self._number(self._take(), token.at, "-")
            case "int" | "uint" | "float":
                return self._number(token, token.at, "")
            case "string":
                return self._string(token)
            case "bytes":
                return Literal(token.at, unquoted_bytes(token.text))
            case "true" | "false":
                return Literal(token.at, token.kind == "true")
            case "null":
                return Literal(token.at, None)
        if token.kind == "end":
            self.unexpected(_EXPECTED)
            raise _Unreadable
        self._next -= 1
        follows = self._tokens[self._next + 1].kind in _STARTERS
        self.unexpected(_EXPECTED, extraneous=follows)
        if not follows:
            raise _Unreadable
        self._next += 1
        return self._primary()

    def _named(self, token: Token) -> Node:
        name = token if token.kind == "ident" else self._expect("ident", "IDENTIFIER")
        if name.text in RESERVED:
            self._faults.add(name.at, f"reserved identifier: {name.text}")
            raise _Unreadable
        opening = self._accept("(")
        if opening is not None:
            return expand(Call(opening.at, name.text, self._arguments(")")), self._faults)
        if self.token.kind == "{":
            self._faults.add(self.token.at, f"undeclared reference to '{name.text}' (in container '')")
            raise _Unreadable
        return Ident(token.at, name.text)

    def _string(self, token: Token) -> Node:
        try:
            return Literal(token.at, unquoted(token.text))
        except (ValueError, OverflowError):
            self._faults.add(token.at, "unable to unescape string")
            raise _Unreadable from None

    def _number(self, token: Token, at: int, sign: str) -> Node:
        text = sign + token.text
        if token.kind == "float":
            return Literal(at, float(text))
        if len(text) > DIGITS_MAX:
            self._faults.add(at, f"invalid {token.kind} literal")
            raise _Unreadable
        if token.kind == "uint":
            number = int(text[:-1], 0) if "x" in text else int(text[:-1])
            if number > UINT_MAX:
                self._faults.add(at, "invalid uint literal")
                raise _Unreadable
            return Literal(at, Uint(number))
        number = int(text, 16) if "x" in text else int(text)
        if not INT_MIN <= number <= INT_MAX:
            self._faults.add(at, "invalid int literal")
            raise _Unreadable
        return Literal(at, number)

    def _list(self, opening: Token) -> Node:
        elements: list[Node] = []
        optional: list[bool] = []
        while self.token.kind != "]":
            if self.token.kind == "," and elements:
                self._take()
                break
            optional.append(self._accept("?") is not None)
            elements.append(self.expression())
            if self._accept(",") is None:
                break
        self._expect("]")
        return ListNode(opening.at, elements, optional)

    def _map(self, opening: Token) -> Node:
        entries: list[tuple[Node, Node, bool]] = []
        while self.token.kind != "}":
            optional = self._accept("?") is not None
            key = self.expression()
            self._expect(":")
            entries.append((key, self.expression(), optional))
            if self._accept(",") is None:
                break
        self._expect("}")
        return MapNode(opening.at, entries)


def _balanced(function: str, terms: list[Node], where: list[int], low: int, high: int) -> Node:
    """Chains of && and || as a balanced tree, so that long ones are not deep."""
    middle = (low + high + 1) // 2
    left = terms[middle] if middle == low else _balanced(function, terms, where, low, middle - 1)
    right = terms[middle + 1] if middle == high else _balanced(function, terms, where, middle + 1, high)
    return Call(where[middle], function, [left, right])
