"""Frames as names, for those who write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trimtab.components.profiling.batch import MARKS, Frame
from trimtab.components.profiling.storage.selection import Selection

Name = tuple[str, str, int]
"""Function, file, line; what is not known is empty."""


class Line(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...


class Named(Protocol):
    """Names of a frame, innermost first."""

    @property
    def lines(self) -> Sequence[Line]: ...


class Symbolizer(Protocol):
    def names(self, frames: Sequence[Frame]) -> Sequence[Named]: ...


def names_of(frame: Frame, named: Named) -> list[Name]:
    """Functions of a frame, innermost first; none for a place in a file that has no name."""
    if frame.kind == "mark":
        return [(f"[{MARKS.get(frame.name, frame.name)}]", "", 0)]
    if named.lines:
        return [(line.name, line.file, line.line) for line in named.lines]
    return [(frame.name, frame.file, frame.line)] if frame.kind != "native" else []


def stacks_of_names(selection: Selection, symbolizer: Symbolizer) -> tuple[list[Name], list[list[int]]]:
    """All names, and the selection's stacks as indexes into them, leaf first."""
    numbers: dict[Name, int] = {}
    by_frame = [
        [numbers.setdefault(name, len(numbers)) for name in names_of(frame, named) or [_place(frame)]]
        for frame, named in zip(selection.frames, symbolizer.names(selection.frames), strict=True)
    ]
    return list(numbers), [[name for frame in stack for name in by_frame[frame]] for stack in selection.stacks]


def _place(frame: Frame) -> Name:
    return f"{frame.file.rpartition('/')[2] or '?'}+{frame.address:#x}", frame.file, 0
