"""Rust's names of the mangling `v0`, as rustc's book specifies it ("Symbol Mangling", RFC 2603), without hashes and type suffixes.

_RINvNtC3std3mem8align_ofjE --> std::mem::align_of::<usize>
"""

from __future__ import annotations

from collections.abc import Callable

DEPTH_MAX = 100
TEXT_MAX = 4096
_BASIC = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize", "j": "usize", "l": "i32",
    "m": "u32", "n": "i128", "o": "u128", "p": "_", "s": "i16", "t": "u16", "u": "()", "v": "...", "x": "i64", "y": "u64", "z": "!",
}  # fmt: skip


def demangled(name: str) -> str:
    """Empty when it is no such name."""
    try:
        return _Reader(name.partition(".")[0]).whole()
    except _Broken:
        return ""


class _Broken(Exception):
    """Not a name of this mangling."""


class _Reader:
    def __init__(self, name: str) -> None:
        self._text = name
        self._at = 2
        self._depth = 0
        self._lifetimes = 0
        if not name.isascii():
            raise _Broken

    def whole(self) -> str:
        """The path, and without a word the crate that it was made for."""
        text = self.path(in_value=True)
        if self._at < len(self._text):
            self.path()
        if self._at < len(self._text):
            raise _Broken
        return text

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise _Broken
        self._at += 1
        return self._text[self._at - 1]

    def _eat(self, letter: str) -> bool:
        if self._text[self._at : self._at + 1] == letter:
            self._at += 1
            return True
        return False

    def _number(self) -> int:
        """In base 62, ended by `_`; alone it is 0."""
        if self._eat("_"):
            return 0
        value = 0
        while not self._eat("_"):
            letter = self._next()
            if letter.isdigit():
                digit = int(letter)
            elif letter.islower():
                digit = ord(letter) - ord("a") + 10
            elif letter.isupper():
                digit = ord(letter) - ord("A") + 36
            else:
                raise _Broken
            value = value * 62 + digit
            if value > 1 << 64:
                raise _Broken
        return value + 1

    def _optional(self, letter: str) -> int:
        return self._number() + 1 if self._eat(letter) else 0

    def _identifier(self) -> tuple[str, int]:
        """With its disambiguator."""
        which = self._optional("s")
        return self._undisambiguated(), which

    def _undisambiguated(self) -> str:
        puny = self._eat("u")
        digits = ""
        while self._text[self._at : self._at + 1].isdigit() and (digits != "0"):
            digits += self._next()
        if not digits:
            raise _Broken
        self._eat("_")
        size = int(digits[:9])
        name = self._text[self._at : self._at + size]
        if len(name) < size:
            raise _Broken
        self._at += size
        return _unpuny(name) if puny else name

    def _again(self, read: Callable[[], str]) -> str:
        """What stands at an earlier place."""
        start = self._at - 1
        to = self._number() + 2
        if to >= start:
            raise _Broken
        here, self._at = self._at, to
        try:
            return read()
        finally:
            self._at = here

    def _deeper(self, read: Callable[[], str]) -> str:
        self._depth += 1
        try:
            if self._depth > DEPTH_MAX:
                raise _Broken
            text = read()
            if len(text) > TEXT_MAX:
                raise _Broken
            return text
        finally:
            self._depth -= 1

    def path(self, in_value: bool = False) -> str:
        return self._deeper(lambda: self._path(in_value))

    def _path(self, in_value: bool) -> str:
        match self._next():
            case "C":
                return self._identifier()[0]
            case "M":
                self._optional("s")
                self.path()
                return f"<{self.type()}>"
            case "X":
                self._optional("s")
                self.path()
                return self._as()
            case "Y":
                return self._as()
            case "N":
                return self._nested(in_value)
            case "I":
                outer = self.path(in_value)
                return f"{outer}{'::' if in_value else ''}<{', '.join(self._until_end(self._generic))}>"
            case "B":
                return self._again(lambda: self.path(in_value))
        raise _Broken

    def _as(self) -> str:
        own = self.type()
        return f"<{own} as {self.path()}>"

    def _nested(self, in_value: bool) -> str:
        space = self._next()
        outer = self.path(in_value)
        name, which = self._identifier()
        if space.isupper():
            kind = {"C": "closure", "S": "shim"}.get(space, space)
            return f"{outer}::{{{kind}{':' + name if name else ''}#{which}}}"
        return f"{outer}::{name}" if name else outer

    def _until_end(self, read: Callable[[], str]) -> list[str]:
        found: list[str] = []
        while not self._eat("E"):
            found.append(read())
            if len(found) > TEXT_MAX:
                raise _Broken
        return found

    def _generic(self) -> str:
        if self._eat("L"):
            return self._lifetime()
        if self._eat("K"):
            return self._deeper(self._constant)
        return self.type()

    def _lifetime(self) -> str:
        number = self._number()
        return (
            "'_" if number == 0 or number > self._lifetimes else f"'{chr(ord('a') + (self._lifetimes - number) % 26)}"
        )

    def type(self) -> str:
        return self._deeper(self._type)

    def _type(self) -> str:
        letter = self._next()
        if letter in _BASIC:
            return _BASIC[letter]
        match letter:
            case "R" | "Q":
                life = f"{self._lifetime()} " if self._eat("L") else ""
                life = "" if life == "'_ " else life
                return f"&{life}{'mut ' if letter == 'Q' else ''}{self.type()}"
            case "P":
                return f"*const {self.type()}"
            case "O":
                return f"*mut {self.type()}"
            case "A":
                element = self.type()
                return f"[{element}; {self._deeper(self._constant)}]"
            case "S":
                return f"[{self.type()}]"
            case "T":
                elements = self._until_end(self.type)
                return f"({elements[0]},)" if len(elements) == 1 else f"({', '.join(elements)})"
            case "F":
                return self._function()
            case "D":
                return self._dynamic()
            case "B":
                return self._again(self.type)
        self._at -= 1
        return self.path()

    def _bound(self, read: Callable[[], str]) -> str:
        """`for<'a, ...>` before what it binds."""
        count = self._optional("G")
        if count > 64:
            raise _Broken
        self._lifetimes += count
        try:
            names = ", ".join(f"'{chr(ord('a') + (self._lifetimes - count + n) % 26)}" for n in range(count))
            return (f"for<{names}> " if count else "") + read()
        finally:
            self._lifetimes -= count

    def _function(self) -> str:
        return self._bound(self._signature)

    def _signature(self) -> str:
        text = "unsafe " if self._eat("U") else ""
        if self._eat("K"):
            text += f'extern "{"C" if self._eat("C") else self._undisambiguated().replace("_", "-")}" '
        text += f"fn({', '.join(self._until_end(self.type))})"
        result = self.type()
        return text if result == "()" else f"{text} -> {result}"

    def _dynamic(self) -> str:
        text = self._bound(lambda: " + ".join(self._until_end(self._trait)))
        if not self._eat("L"):
            raise _Broken
        life = self._lifetime()
        return f"dyn {text}" + ("" if life == "'_" else f" + {life}")

    def _trait(self) -> str:
        text = self.path()
        bindings = []
        while self._eat("p"):
            name = self._undisambiguated()
            bindings.append(f"{name} = {self.type()}")
        if not bindings:
            return text
        inner = ", ".join(bindings)
        return f"{text[:-1]}, {inner}>" if text.endswith(">") else f"{text}<{inner}>"

    def _constant(self) -> str:
        if self._eat("B"):
            return self._again(lambda: self._deeper(self._constant))
        if self._eat("p"):
            return "_"
        kind = _BASIC.get(self._next(), "")
        sign = "-" if self._eat("n") else ""
        digits = ""
        while not self._eat("_"):
            digits += self._next()
        if len(digits) > 32 or any(d not in "0123456789abcdef" for d in digits):
            raise _Broken
        value = int(digits or "0", 16)
        if kind == "bool":
            return "true" if value else "false"
        if kind == "char":
            return repr(chr(value)) if value < 0x110000 else "_"
        if not kind:
            raise _Broken
        return f"{sign}{value}"


def _unpuny(name: str) -> str:
    """Rust writes Punycode with `_` for `-`."""
    plain, _, coded = name.rpartition("_")
    try:
        return (f"{plain}-{coded}" if plain else coded).encode().decode("punycode")
    except UnicodeError as err:
        raise _Broken from err
