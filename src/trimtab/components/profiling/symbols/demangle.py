"""Names as their authors wrote them: C++ (by the C++ library's own function), Rust of both manglings.

Runs in the sandbox. A name that is of none of them, or that cannot be read, stays as it is.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import Any

MANGLED_MAX = 4096
"""Longer names are left mangled: demangling may take time and memory out of all proportion."""
_COPY = re.compile(rb"(\.(llvm|part|cold|isra|constprop|lto_priv|clone)(\.[0-9A-Za-z]+)*)+$")
"""Compilers make copies of functions, with names of their own."""
_COLD = re.compile(rb"\.cold(\.[0-9]+)?$")
"""What a compiler puts apart of a function is no other function; of one in two places symbolic says the name of the lower."""
_LEGACY_HASH = re.compile(r"::h[0-9a-f]{16}$")
_LEGACY_ESCAPE = re.compile(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$")
_LEGACY = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}


def demangled(raw: bytes) -> str:
    raw = _COLD.sub(b"", raw)
    name = raw.decode("utf-8", "replace")
    if len(raw) > MANGLED_MAX:
        return name
    if name.startswith(("_Z", "__Z")):
        return _cpp(raw) or name
    if name.startswith("_R"):
        from trimtab.components.profiling.symbols.rust import demangled as of_rust

        return of_rust(name) or name
    return name


def _cpp(raw: bytes) -> str:
    demangle, free = _library()
    if demangle is None:
        return ""
    symbol = _COPY.sub(b"", raw)
    text = _asked(demangle, free, symbol)
    if _LEGACY_HASH.search(text):
        return _legacy_rust(_LEGACY_HASH.sub("", text))
    suffix = raw[len(symbol) :].decode("utf-8", "replace")
    return f"{text} [{suffix}]" if suffix and text else text


def _asked(demangle: Any, free: Any, symbol: bytes) -> str:
    pointer = demangle(symbol, None, None, None)
    if not pointer:
        return ""
    try:
        return ctypes.string_at(pointer).decode("utf-8", "replace")
    finally:
        free(pointer)


def _legacy_rust(text: str) -> str:
    """Rust before v0 mangled as C++ does, with what C++ has no letters for written between dollars."""

    def letter(match: re.Match[str]) -> str:
        code = match[1]
        return _LEGACY.get(code) or chr(min(int(code[1:], 16), 0x10FFFF))

    parts = [p[1:] if p.startswith("_$") else p for p in text.split("::")]
    return _LEGACY_ESCAPE.sub(letter, "::".join(parts)).replace("..", "::")


@cache
def _library() -> tuple[Any, Any]:
    """The C++ library's demangler, and what frees its answer; none where there is no C++ library."""
    try:
        demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError):
        return None, None
    demangle.restype = ctypes.c_void_p
    demangle.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
    free = ctypes.CDLL(None).free
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    return demangle, free
