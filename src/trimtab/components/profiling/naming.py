"""Names of frames, as whoever shows or writes them needs them; `symbols/` is where they come from.

frames --Symbolizer.names--> a Named for each: its functions, innermost first, or why there is none
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trimtab.components.profiling.batch import Frame

INTERPRETERS = r"^(lib)?python3[.0-9]*(\.so[.0-9]*)?$"
"""Binaries whose functions do the work of Python functions, which are in the same stacks."""


class Line(Protocol):
    """What a symbolizer says of an address: a function, and its place in the source if known."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...


class Named(Protocol):
    """The names of one frame, innermost first: more than one where functions were inlined. reason: why there is no name."""

    @property
    def lines(self) -> Sequence[Line]: ...
    @property
    def reason(self) -> str: ...


class Symbolizer(Protocol):
    def names(self, frames: Sequence[Frame]) -> Sequence[Named]:
        """Of each frame its names."""
