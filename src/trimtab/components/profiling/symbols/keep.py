"""Keeping a program's names while the program is there: a container's files are gone when somebody asks for names.

    agent, at the first sight of a build --descriptor--> sandbox (`extract.py`) --> the shelf: symbols only, never the program

What cannot be kept (a program without symbols) is noted too, as that is an answer. Blocks: to be called from a thread.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

import msgspec

from trimtab.components.profiling.symbols.extract import Extracted
from trimtab.components.profiling.symbols.sandbox import ParseError, Sandbox
from trimtab.components.profiling.symbols.shelf import Link, Quality, Shelf

DWARF_BYTES_MAX = 64 << 20
"""Of the debug information of one program, when the agent keeps names; reading it takes about a second of CPU time. The names of a
bigger one come from its symbol table, and its lines when somebody asks while it is still there."""


class Keeper:
    """Of names, under `root`: DATA/profiles. sandbox: the caller's, if it has one already."""

    def __init__(self, root: Path, *, sandbox: Sandbox | None = None, dwarf_bytes_max: int = DWARF_BYTES_MAX) -> None:
        self._shelf = Shelf(root)
        self._dwarf_bytes_max = dwarf_bytes_max
        self._sandbox = sandbox or Sandbox()
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def keep(self, fd: int, build_id: str, path: str = "") -> None:
        """Of the program that `fd` is open on; path: where the process has it from. At once when it is known.

        Raises:
            ParseError: it cannot be read, or is another build; one line.
            TimeoutError, OSError: of the sandbox and the disk; worth another try.
        """
        with self._lock:
            if build_id in self._seen:
                return
            if self._shelf.best(build_id) is None:
                self._keep(fd, build_id, path)
            self._seen.add(build_id)

    def _keep(self, fd: int, build_id: str, path: str) -> None:
        trail = self._shelf.trail(build_id)
        try:
            found = take(self._shelf, self._sandbox, fd, build_id, dwarf_bytes_max=self._dwarf_bytes_max)
        except ParseError as err:
            trail.trouble = str(err)
            self._shelf.note(build_id, trail)
            self._seen.add(build_id)
            raise
        trail.link = Link(found.debuglink, path) if found.debuglink else None
        trail.trouble = found.trouble
        if trail.link or trail.trouble:
            self._shelf.note(build_id, trail)

    def close(self) -> None:
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take(
    shelf: Shelf, sandbox: Sandbox, fd: int, build_id: str, *, than: Quality | None = None, dwarf_bytes_max: int = 0
) -> Extracted:
    """Puts what the file has of names on the shelf, if it is better than `than`. dwarf_bytes_max: 0 is without a limit.

    Raises `ParseError` (not ELF, another build), `TimeoutError` and `OSError`.
    """
    with shelf.part() as part:
        answer = sandbox.run("symbols.extract:extract", than, dwarf_bytes_max, fds=[fd, part.file.fileno()])
        try:
            found = msgspec.convert(answer, Extracted)
        except msgspec.ValidationError as err:
            raise ParseError(f"the parser's answer cannot be read: {err}") from err
        if found.build_id != build_id:
            raise ParseError(f"is build {found.build_id[:40]}, not {build_id[:40]}")
        shelf.put(part, build_id, found.quality)
    return found
