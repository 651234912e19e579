"""The debuginfod protocol's other side: what was uploaded is given to debuggers, and uploads are taken.

    PUT  BUILD_ID/debuginfo|executable   --a part--> sandbox: is it of that build, is it better than what is there? --> the shelf
    GET, HEAD BUILD_ID/debuginfo|executable|section/NAME  --> `find`: a file, for whoever serves it; None is 404

Names that were only kept (`keep.py`) are no ELF files, so there is nothing of them to serve. Nothing here speaks HTTP, and all of it
blocks. The protocol: debuginfod(8) of elfutils.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import msgspec

from trimtab.components.profiling.symbols.extract import Extracted
from trimtab.components.profiling.symbols.sandbox import ParseError, Sandbox
from trimtab.components.profiling.symbols.shelf import Shelf, better, is_build_id

UPLOAD_BYTES_MAX = 1 << 30
KINDS = ("debuginfo", "executable")
_SECTION = re.compile(r"\.?[A-Za-z0-9_.+-]{1,100}")


def find(root: Path, asked: str) -> Path | None:
    """The file for a path below `/buildid/`, `BUILD_ID/debuginfo`, `BUILD_ID/executable` or `BUILD_ID/section/NAME`; None when there
    is none. root: DATA/profiles. Raises `OSError` and `TimeoutError`."""
    build_id, _, what = asked.partition("/")
    if not is_build_id(build_id):
        return None
    shelf = Shelf(root)
    if what in KINDS:
        path = shelf.upload(build_id, what)
        return path if path.exists() else None
    kind, _, name = what.partition("/")
    if kind != "section" or not _SECTION.fullmatch(name):
        return None
    return _section(shelf, build_id, name)


def _section(shelf: Shelf, build_id: str, name: str) -> Path | None:
    """As debuginfod does: of the debug information, else of the program."""
    made = shelf.upload(build_id, f"section.{name}")
    if made.exists():
        return made
    for kind in KINDS:
        try:
            with open(shelf.upload(build_id, kind), "rb") as file, shelf.part() as part, Sandbox() as sandbox:
                if sandbox.run("symbols.extract:section", name, fds=[file.fileno(), part.file.fileno()]) is True:
                    shelf.put_upload(part, build_id, f"section.{name}")
                    return made
        except (FileNotFoundError, ParseError):
            continue
    return None


class Upload:
    """A file that is being uploaded as `BUILD_ID/debuginfo` or `BUILD_ID/executable`; gone after the block unless it was taken.

    Raises `ValueError` when that is no such place, `OSError` when the disk is full.
    """

    def __init__(self, root: Path, asked: str, *, bytes_max: int = UPLOAD_BYTES_MAX) -> None:
        self._build_id, _, self._kind = asked.partition("/")
        if not is_build_id(self._build_id) or self._kind not in KINDS:
            raise ValueError(f"{asked[:100]!r} is no place for a file: write BUILD_ID/debuginfo or BUILD_ID/executable")
        self._shelf = Shelf(root)
        self._bytes_max = bytes_max
        self._size = 0
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self._part = self._held.enter_context(self._shelf.part())
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def write(self, content: bytes) -> None:
        """Raises `ValueError` when it is too much, `OSError`."""
        self._size += len(content)
        if self._size > self._bytes_max:
            raise ValueError(f"the file has more than the {self._bytes_max} bytes that are taken")
        self._part.file.write(content)

    def take(self) -> str:
        """Takes it in and returns its build id.

        Raises:
            ValueError: not ELF, without a build id or of another build, or nothing better than what is there; one line.
            TimeoutError, OSError: of the sandbox and the disk.
        """
        self._part.file.flush()
        with self._shelf.part() as names, Sandbox() as sandbox:
            fds = [self._part.file.fileno(), names.file.fileno()]
            found = msgspec.convert(sandbox.run("symbols.extract:extract", None, 0, fds=fds), Extracted)
            self._check(found)
            self._shelf.put(names, self._build_id, found.quality)
        self._shelf.put_upload(self._part, self._build_id, self._kind)
        other = KINDS[1 - KINDS.index(self._kind)]
        if (
            found.has_code if other == "executable" else found.quality == "dwarf"
        ):  # a program with its debug information is both
            with suppress(FileExistsError):
                self._shelf.upload(self._build_id, other).hardlink_to(self._shelf.upload(self._build_id, self._kind))
        return self._build_id

    def _check(self, found: Extracted) -> None:
        if found.build_id.startswith("sha256-"):
            raise ValueError("the file has no build id: link with -Wl,--build-id")
        if found.build_id != self._build_id:
            raise ValueError(f"the file is build {found.build_id}, not {self._build_id}")
        if self._kind == "executable":
            if not found.has_code:
                raise ValueError("the file has no code, so it is no executable: upload it as debuginfo")
            if self._shelf.upload(self._build_id, "executable").exists():
                raise ValueError(f"the executable of {self._build_id} is there already")
            return
        best = self._shelf.best(self._build_id)
        has = WHAT[found.quality] + (f" ({found.trouble})" if found.trouble else "")
        if found.quality in ("nothing", "dynsym", "pclntab"):
            raise ValueError(f"the file has {has}, which is no debug information")
        uploaded = self._shelf.upload(self._build_id, "debuginfo").exists()
        if best is not None and not better(found.quality, best[0]) and (uploaded or found.quality != best[0]):
            raise ValueError(f"the file has {has}, and what is there has {WHAT[best[0]]}: nothing better")


WHAT = {
    "nothing": "no names",
    "dynsym": "exported names only",
    "minidebug": "a compressed symbol table",
    "symtab": "a symbol table",
    "pclntab": "Go's table of functions",
    "dwarf": "full debug information",
}
"""What an ELF file has of names, in words."""
