"""Frames get names when somebody reads them, from the best that is known by then: profiles that are stored get better with time.

    frames --by build--> the shelf --sandbox (`lookup.py`)--> inline chains of name, file, line
                    '--> `search.py` looks for something better meanwhile

A frame that has no name says why, in words for who reads it. Better knowledge replaces worse: dwarf > Go's table > symbol table >
.gnu_debugdata > exported names > nothing; as long as it is not the best, it is looked for again.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from trimtab.components.profiling.batch import MARKS, Frame
from trimtab.components.profiling.symbols.sandbox import ParseError, ParserDied, Sandbox
from trimtab.components.profiling.symbols.search import Search
from trimtab.components.profiling.symbols.shelf import Quality, Shelf, Trail, is_build_id
from trimtab.components.profiling.symbols.sources import (
    BAD,
    DEBUG_DIRECTORIES,
    NOT_FOUND,
    UNREACHABLE,
    UNREADABLE,
    DebugFiles,
    Debuginfod,
    Patience,
    Programs,
    Source,
)

MEMORY_PLACES_MAX = 200_000
LOOKUP_MAX = 50_000

REASONS = {
    "stripped": "the program is stripped",
    "exported": "the program is stripped, this is none of the functions that it exports",
    "gone": "the program was gone before its symbols were read",
    "unreadable": "the program may not be read by the user who answers",
    "corrupt": "the symbols cannot be read: {detail}",
    "failed": "its symbols cannot be looked for: {detail}",
    "no-function": "the symbols have no function at this address",
    "fetching": "its debug information is being looked for: ask again in a moment",
    "no-build-id": "the address is in no file that is known",
    "no-server": "{first}, and no debuginfod server is set (spec.debuginfod.urls of the Profiler)",
    "not-found": "{first}, and no debuginfod server has its debug information (404)",
    "unreachable": "{first}, and {server} cannot be asked: {detail}",
    "bad-answer": "{first}, and what {server} has cannot be used: {detail}",
    "jit": "made at run time, and no perf map names it",
    "kernel": "the kernel hides its symbols (kernel.kptr_restrict)",
}
"""Every way to have no name, but for the marks of incomplete stacks (`batch.MARKS`)."""


class Line(Struct, frozen=True, array_like=True):
    """One function at a place. file and line are set as far as they are known."""

    name: str
    file: str = ""
    line: int = 0


class Named(Struct, frozen=True, array_like=True):
    """A frame's inline chain, innermost first. reason: why there is no name; then one line says where the place is."""

    lines: list[Line]
    reason: str = ""


class _Known(Struct):
    """What was looked up of a build while its quality was that."""

    quality: Quality
    places: dict[int, list[Line]]


class Symbolizer:
    """root: DATA/profiles. urls: of debuginfod servers, in the order in which they are asked. Any thread may ask."""

    def __init__(
        self,
        root: Path,
        urls: Sequence[str] = (),
        *,
        debug_directories: tuple[Path, ...] = DEBUG_DIRECTORIES,
        patience: Patience = Patience(),  # noqa: B008 (frozen)
    ) -> None:
        self._shelf = Shelf(root)
        self._stop = threading.Event()
        self._servers = [Debuginfod(self._shelf, url, self._stop) for url in urls]
        sources: list[Source] = [Programs(self._shelf), DebugFiles(self._shelf, debug_directories), *self._servers]
        self._search = Search(self._shelf, sources, patience)
        self._sandbox = Sandbox()
        self._known: dict[str, _Known] = {}
        self._trouble: dict[str, str] = {}
        self._lock = threading.Lock()

    def names(self, frames: Sequence[Frame], wait_s: float | None = None) -> list[Named]:
        """For each frame, in order. wait_s: how long to wait for searches, instead of what `patience` says; what comes later is for the
        next question."""
        wanted: dict[str, set[int]] = {}
        paths: dict[str, str] = {}
        for frame in frames:
            if frame.kind == "native" and is_build_id(frame.build_id):
                wanted.setdefault(frame.build_id, set()).add(frame.address)
                paths.setdefault(frame.build_id, frame.file)
        searches = [search for b in wanted if (search := self._search.begin(b, paths[b])) is not None]
        self._search.wait(searches, wait_s)
        with self._lock:
            found = {build_id: self._places(build_id, addresses) for build_id, addresses in wanted.items()}
        why: dict[str, str] = {}
        return [self._named(frame, found, why) for frame in frames]

    @property
    def left(self) -> int:
        """How many programs something is being looked for of: a process that ends now would begin again."""
        return self._search.left

    def close(self) -> None:
        self._stop.set()
        self._search.close()
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Names

    def _places(self, build_id: str, addresses: set[int]) -> dict[int, list[Line]]:
        best = self._shelf.best(build_id)
        if best is None or best[0] == "nothing":
            return {}
        quality, path = best
        known = self._known.get(build_id)
        if known is None or known.quality != quality:
            known = self._known[build_id] = _Known(quality, {})
        if missing := sorted(addresses - known.places.keys()):
            self._trouble.pop(build_id, None)
            for first in range(0, len(missing), LOOKUP_MAX):
                some = missing[first : first + LOOKUP_MAX]
                try:
                    known.places.update(zip(some, self._looked_up(quality, path, some), strict=True))
                except (ParseError, TimeoutError, OSError) as err:
                    self._broken(build_id, quality, err)
                    break
        places = known.places
        if sum(len(k.places) for k in self._known.values()) > MEMORY_PLACES_MAX:
            self._known.clear()
        return places

    def _looked_up(self, quality: Quality, path: Path, addresses: list[int]) -> list[list[Line]]:
        with open(path, "rb") as file:
            packed = struct.pack(f"<{len(addresses)}Q", *(a & 0xFFFFFFFFFFFFFFFF for a in addresses))
            answer = self._sandbox.run("symbols.lookup:lookup", quality, packed, fds=[file.fileno()])
        try:
            texts, rows = msgspec.convert(answer, tuple[list[str], list[list[int]]])
            made: dict[tuple[int, int, int], Line] = {}

            def line(key: tuple[int, int, int]) -> Line:
                known = made.get(key)
                if known is None:
                    known = made[key] = Line(texts[key[0]], texts[key[1]], key[2])
                return known

            found = [[line((row[n], row[n + 1], row[n + 2])) for n in range(0, len(row), 3)] for row in rows]
        except (msgspec.ValidationError, IndexError) as err:
            raise ParseError("the parser's answer cannot be read") from err
        if len(found) != len(addresses):
            raise ParseError("the parser's answer is not whole")
        return found

    def _broken(self, build_id: str, quality: Quality, err: Exception) -> None:
        """What cannot be read is looked for anew; what could not be read now is kept, as there may be nothing else."""
        self._trouble[build_id] = str(err)
        if isinstance(err, ParseError) and not isinstance(err, ParserDied):
            self._shelf.forget(build_id, quality)
            self._shelf.note(build_id, Trail(trouble=str(err)))

    def _named(self, frame: Frame, found: dict[str, dict[int, list[Line]]], why: dict[str, str]) -> Named:
        if frame.kind == "mark":
            return Named([Line(f"[{frame.name}]")], MARKS.get(frame.name, frame.name))
        if frame.kind != "native":
            if frame.name:
                return Named([Line(frame.name, frame.file, frame.line)])
            reason = REASONS[frame.kind if frame.kind in ("jit", "kernel") else "no-build-id"]
            return Named([Line(f"[{frame.kind}]")], reason)
        place = f"{os.path.basename(frame.file) or frame.build_id[:12] or '[unknown]'}+{frame.address:#x}"
        if frame.build_id not in found:
            return Named([Line(place)], REASONS["no-build-id"])
        if lines := found[frame.build_id].get(frame.address):
            if any(line.name for line in lines):
                return Named(lines)
            place = f"{place} ({lines[0].file}:{lines[0].line})" if lines[0].file else place
        if frame.build_id not in why:
            why[frame.build_id] = self._why(frame.build_id)
        return Named([Line(place)], why[frame.build_id])

    # Why there is none

    def _why(self, build_id: str) -> str:
        if self._search.is_first(build_id):
            return REASONS["fetching"]
        best, trail = self._shelf.best(build_id), self._shelf.trail(build_id)
        if (detail := self._trouble.get(build_id)) is not None:
            return REASONS["corrupt"].format(detail=detail)
        if detail := self._search.failure(build_id):
            return REASONS["failed"].format(detail=detail)
        if best is not None and best[0] in ("dwarf", "pclntab", "symtab"):
            return REASONS["no-function"]
        if best is not None:
            first = REASONS["stripped" if best[0] == "nothing" else "exported"]
        elif trail.trouble:
            first = REASONS["corrupt"].format(detail=trail.trouble)
        else:
            program = trail.asked.get("program")
            first = REASONS["unreadable" if program and program.outcome == UNREADABLE else "gone"]
        return self._and_elsewhere(first, trail)

    def _and_elsewhere(self, first: str, trail: Trail) -> str:
        if not self._servers:
            return REASONS["no-server"].format(first=first)
        for kind, start in (("unreachable", UNREACHABLE), ("bad-answer", BAD)):
            for server in self._servers:
                asked = trail.asked.get(server.key)
                if asked is not None and asked.outcome.startswith(start):
                    detail = asked.outcome.removeprefix(start)
                    return REASONS[kind].format(first=first, server=server.key, detail=detail)
        if all((asked := trail.asked.get(s.key)) is not None and asked.outcome == NOT_FOUND for s in self._servers):
            return REASONS["not-found"].format(first=first)
        return first
