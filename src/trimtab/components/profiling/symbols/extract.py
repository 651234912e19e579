"""Taking out of an ELF file what it has of names, once: runs in the sandbox.

    file --the best of: DWARF (symbolic), Go's table, .symtab, .gnu_debugdata, .dynsym--> descriptor that the caller gave

Of DWARF a symcache is made: address to inline chain with files and lines, found without reading it. What a file claims and has not
(DWARF that cannot be read) falls back to what is next.
"""

from __future__ import annotations

import lzma
import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from trimtab.components.profiling.symbols import golang, table
from trimtab.components.profiling.symbols.elf import ElfFile, content_id
from trimtab.components.profiling.symbols.sandbox import ParseError, one_line
from trimtab.components.profiling.symbols.shelf import QUALITIES, Quality, better

MINIDEBUG_BYTES_MAX = 256 << 20
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11


class Extracted(Struct, array_like=True):
    """What was written, of which build."""

    build_id: str
    quality: Quality
    has_code: bool
    debuglink: str
    trouble: str = ""
    """Why something better could not be read."""


def extract(than: Quality | None, dwarf_bytes_max: int, *, fds: Sequence[int]) -> Any:
    """Runs in the sandbox. fds: the file, and where the names go. Writes only what is better than `than`.

    dwarf_bytes_max: of debug information that is read; 0 is without a limit. An `Extracted`, as a list.
    """
    source, target = fds
    file = ElfFile(source)
    troubles: list[str] = []
    quality: Quality = "nothing"
    for quality, read in _ways(file, source, dwarf_bytes_max):
        if not better(quality, than):
            continue
        try:
            content = read()
        except (ParseError, MemoryError, lzma.LZMAError) as err:
            troubles.append(one_line(f"{quality}: {err or 'it takes more memory than the parser may use'}"))
            continue
        if content:
            _write(target, content)
            break
    else:
        quality = "nothing"
    has_code = any(s.flags & 4 and s.type != 8 for s in file.sections)
    build_id = file.build_id() or content_id(source)
    return [build_id, quality, has_code, file.debuglink(), "; ".join(troubles)]


def _ways(file: ElfFile, fd: int, dwarf_bytes_max: int) -> list[tuple[Quality, Callable[[], Any]]]:
    """What may be there, best first."""
    ways: dict[Quality, Callable[[], Any]] = {}
    kinds = {s.type: s for s in file.sections if s.size and s.type in (_SHT_SYMTAB, _SHT_DYNSYM)}
    if file.section(".debug_info", ".zdebug_info"):
        ways["dwarf"] = lambda: symcache(file, fd, dwarf_bytes_max)
    if (go := file.section(".gopclntab", ".data.rel.ro.gopclntab")) is not None:
        ways["pclntab"] = lambda: golang.kept(file, go)
    if _SHT_SYMTAB in kinds:
        ways["symtab"] = lambda: table.build(file, kinds.values())
    if (mini := file.section(".gnu_debugdata")) is not None:
        ways["minidebug"] = lambda: minidebug(file, file.content(mini, MINIDEBUG_BYTES_MAX), kinds.get(_SHT_DYNSYM))
    if _SHT_DYNSYM in kinds:
        ways["dynsym"] = lambda: table.build(file, [kinds[_SHT_DYNSYM]])
    return [(quality, ways[quality]) for quality in reversed(QUALITIES) if quality in ways]


def symcache(file: ElfFile, fd: int, most: int) -> bytes | None:
    """Of the file's DWARF; None when it names nothing."""
    size = sum(s.size for s in file.sections if s.name.startswith((".debug_", ".zdebug_")) and s.type != 8)
    if most and size > most:
        raise ParseError(f"{size} bytes of debug information, more than the {most} that are read now")
    from symbolic._lowlevel import ffi
    from symbolic.debuginfo import Archive

    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped, ffi.from_buffer("uint8_t[]", mapped) as content:
        try:
            archive = Archive.from_bytes(content)
            made: list[Any] = [found.make_symcache() for found in archive.iter_objects()]
            caches = [cache.open_stream().read() for cache in made]
        except Exception as err:  # symbolic has an exception for each of its errors, of no common kind
            raise ParseError(one_line(f"{type(err).__name__}: {err}")) from err
        del archive, made
    return caches[0] if caches else None


def minidebug(file: ElfFile, content: bytes, dynsym: Any) -> bytes:
    """The symbol table that is compressed in the file, with the dynamic symbols, which it leaves out."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MINIDEBUG_BYTES_MAX)
    unpacked = unpacker.decompress(content, MINIDEBUG_BYTES_MAX)
    if not unpacker.eof:
        raise ParseError(f"more than {MINIDEBUG_BYTES_MAX} bytes when unpacked, or cut short")
    handle = os.memfd_create("minidebug")
    try:
        _write(handle, unpacked)
        inner = ElfFile(handle)
        symbols = [s for s in inner.sections if s.type == _SHT_SYMTAB and s.size]
        found = [row for s in symbols for row in table.rows(inner, s)]
    finally:
        os.close(handle)
    if dynsym is not None:
        found += table.rows(file, dynsym)
    return table.merged(found)


def _write(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def section(name: str, *, fds: Sequence[int]) -> bool:
    """Runs in the sandbox: copies the content of a section of fds[0] to fds[1]; whether there is one."""
    source, target = fds
    file = ElfFile(source)
    found = file.section(name)
    if found is None:
        return False
    at, end = found.offset, found.offset + found.size
    if end > file.size:
        raise ParseError(f"section {one_line(name)}: past the end of the file")
    while at < end and (chunk := os.pread(source, min(1 << 20, end - at), at)):
        _write(target, chunk)
        at += len(chunk)
    return True
