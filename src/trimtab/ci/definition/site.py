"""Where in the user's file something was said: every complaint of `trimtab.ci` names that line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OWN = (str(Path(__file__).parent.parent), "<string>")
"""`<string>`: the methods that dataclasses make."""


@dataclass(frozen=True, slots=True)
class Site:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def caller() -> Site:
    """The innermost line outside of this package that led here."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN):
        frame = frame.f_back
    return Site(frame.f_code.co_filename, frame.f_lineno)


class DefinitionError(Exception):
    """What is wrong with a definition, in one line, and where it was said."""

    def __init__(self, message: str, site: Site | None = None) -> None:
        self.site = site or caller()
        self.message = message
        super().__init__(f"{self.site}: {message}")


_collected: list[list[DefinitionError]] = []


@contextmanager
def collecting() -> Iterator[list[DefinitionError]]:
    """While it lasts, what is told by `complain` is gathered here instead of ending the evaluation."""
    found: list[DefinitionError] = []
    _collected.append(found)
    try:
        yield found
    finally:
        _collected.pop()


def complain(err: DefinitionError) -> None:
    """Raises what is wrong, or gathers it, once, where all that is wrong is wanted; the caller then goes on with a guess."""
    if not _collected:
        raise err
    if str(err) not in map(str, _collected[-1]):
        _collected[-1].append(err)
