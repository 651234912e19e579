"""Finding the names of addresses in what `extract.py` made: runs in the sandbox, as those files are made of strangers' bytes.

    addresses, file --symcache, Go's table or table of symbols--> for each address its inline chain, by indexes into the strings

Names are demangled here, shortened, and made printable.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from trimtab.components.profiling.symbols.demangle import demangled
from trimtab.components.profiling.symbols.extract import HEAD
from trimtab.components.profiling.symbols.golang import Lines
from trimtab.components.profiling.symbols.sandbox import ParseError, one_line
from trimtab.components.profiling.symbols.table import Table

NAME_MAX = 1000
INLINES_MAX = 64

Place = tuple[bytes, bytes, int]
"""Name (mangled), file, line."""


def lookup(quality: str, addresses: bytes, *, fds: Sequence[int]) -> Any:
    """Runs in the sandbox. addresses: 64-bit numbers. The strings, and for each address [name, file, line, name, file, line ...],
    innermost first and empty when it has no name. A line of 0 is not known."""
    wanted = struct.unpack(f"<{len(addresses) // 8}Q", addresses)
    strings = Strings()
    with mmap.mmap(fds[0], 0, prot=mmap.PROT_READ) as mapped:
        find, close = _opened(quality, mapped)
        try:
            found = [strings.chain(find(address)) for address in wanted]
        finally:
            close()
    return [strings.texts, found]


class Strings:
    """Each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._names: dict[bytes, int] = {b"": 0}
        self._files: dict[bytes, int] = {b"": 0}

    def chain(self, places: Sequence[Place]) -> list[int]:
        row: list[int] = []
        for name, file, line in places[:INLINES_MAX]:
            row += (
                self._index(self._names, name, demangled),
                self._index(self._files, file, _plain),
                line & 0x7FFFFFFF,
            )
        return row

    def _index(self, known: dict[bytes, int], raw: bytes, text: Callable[[bytes], str]) -> int:
        index = known.get(raw)
        if index is None:
            index = known[raw] = len(self.texts)
            shown = text(raw)
            self.texts.append(shown if shown.isprintable() and len(shown) < NAME_MAX else _shortened(shown))
        return index


def _plain(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _shortened(text: str) -> str:
    kept = "".join(c if c.isprintable() else "?" for c in text)
    return kept if len(kept) < NAME_MAX else f"{kept[: NAME_MAX - 1]}…"


def _opened(quality: str, mapped: mmap.mmap) -> tuple[Callable[[int], Sequence[Place]], Callable[[], None]]:
    """What finds the chain of an address, and what to call after the last."""
    if quality == "dwarf":
        return _symcache(mapped)
    if quality == "pclntab":
        lines = Lines(mapped)

        def in_go(address: int) -> Sequence[Place]:
            place = lines.place(address)
            return [place] if place else []

        return in_go, lines.close
    table = Table(mapped)

    def in_table(address: int) -> Sequence[Place]:
        name = table.name(address)
        return [(name, b"", 0)] if name else []

    return in_table, table.close


def _symcache(mapped: mmap.mmap) -> tuple[Callable[[int], Sequence[Place]], Callable[[], None]]:
    """By symbolic's C functions: a tenth of the time that its classes take for each address."""
    from symbolic import symcache
    from symbolic._lowlevel import ffi, lib

    if len(mapped) < HEAD.size:
        raise ParseError("the symcache is cut short")
    base, count = HEAD.unpack_from(mapped)
    starts_at = HEAD.size + 8 * count
    if starts_at >= len(mapped):
        raise ParseError("the symcache is cut short")
    covered = struct.unpack_from(f"<{count}Q", mapped, HEAD.size)
    view = memoryview(mapped)[starts_at:]
    held = ffi.from_buffer("uint8_t[]", view)
    try:
        opened: Any = symcache.SymCache
        cache = opened.from_bytes(held)
    except Exception as err:  # symbolic has an exception for each of its errors, of no common kind
        ffi.release(held)
        view.release()
        raise ParseError(one_line(f"{type(err).__name__}: {err}")) from err
    pointer, find, free = cache._get_objptr(), lib.symbolic_symcache_lookup, lib.symbolic_lookup_result_free
    buffer = ffi.buffer

    def in_cache(address: int) -> Sequence[Place]:
        if address < base:
            return []
        lib.symbolic_err_clear()
        result = find(pointer, address - base)
        if lib.symbolic_err_get_last_code():
            raise ParseError("the symcache cannot be read")
        places = []
        for index in range(result.len):
            one = result.items[index]
            symbol, path = one.symbol, one.full_path
            file = buffer(path.data, path.len)[:] if path.len else b""
            places.append((buffer(symbol.data, symbol.len)[:] if symbol.len else b"", file, one.line))
        free(ffi.addressof(result))
        # Of a file that dwz made smaller the names of inlined functions may stand in another file: they are their callers' then.
        places = [place for place in places if place[0]] or places
        # What has no line is of the symbol table, of which symbolic extends each symbol to the next one: over the PLT, for example.
        if len(places) == 1 and not places[0][2] and covered and not bisect_right(covered, address) % 2:
            return []
        return places

    def close() -> None:
        nonlocal cache, pointer
        from symbolic.utils import attached_refs

        attached_refs.pop(cache, None)
        del cache, pointer
        ffi.release(held)
        view.release()

    return in_cache, close
