"""Which files a pattern means: `app/**`, `*.toml`, `docs`, with excludes; relative to the project, separators are `/`.

A walk carries what is left of each pattern from directory to directory, so that a directory in which nothing can match is
never looked into, and one in which all matches needs no matching at all. `**` crosses directories, `*` and `?` do not; a
pattern that matches a directory means all below it. What version control and Python keep for themselves is never meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

NEVER = frozenset({".git", ".hg", ".svn", ".jj", ".bzr", "CVS", "__pycache__"})

Rest = tuple[str, ...]
"""What is left of a pattern, by directories."""
State = frozenset[Rest]

NOTHING: State = frozenset()
EVERYTHING: State = frozenset({("**",)})


@dataclass(frozen=True)
class Selection:
    """Patterns of what is meant, and of what is not meant all the same. One that is excluded excludes all below it."""

    patterns: tuple[str, ...]
    exclude: tuple[str, ...] = ()

    def __str__(self) -> str:
        but = f" but {' '.join(self.exclude)}" if self.exclude else ""
        return " ".join(self.patterns) + but

    def start(self) -> tuple[State, State]:
        """What the walk carries into the project's directory: of the patterns and of the excludes."""
        return _state(self.patterns), _state(self.exclude)


def step(state: State, name: str) -> tuple[bool, State]:
    """Whether an entry of this name is meant, and what is left for what is below it."""
    if state is EVERYTHING or not state:
        return bool(state), state
    return _step(state, name)


@lru_cache(maxsize=65536)
def _step(state: State, name: str) -> tuple[bool, State]:
    left: set[Rest] = set()
    for rest in state:
        head = rest[0]
        if head == "**":
            _add(left, rest)
        elif _matches(head, name):
            if len(rest) == 1:
                return True, EVERYTHING
            _add(left, rest[1:])
    if ("**",) in left:
        return False, EVERYTHING  # `app/**` means what is below app, not a file of that name
    return False, frozenset(left)


def _state(patterns: tuple[str, ...]) -> State:
    found: set[Rest] = set()
    for pattern in patterns:
        parts = tuple(part for part in pattern.split("/") if part not in ("", "."))
        _add(found, parts or ("**",))
    return EVERYTHING if ("**",) in found else frozenset(found)


def _add(found: set[Rest], rest: Rest) -> None:
    """Adds a rest and what it is when its `**` stands for no directory at all."""
    while len(rest) > 1 and rest[0] == rest[1] == "**":
        rest = rest[1:]
    found.add(rest)
    if rest[0] == "**" and len(rest) > 1:
        _add(found, rest[1:])


def _matches(segment: str, name: str) -> bool:
    if not any(mark in segment for mark in "*?["):
        return segment == name
    return _compiled(segment).fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _compiled(segment: str) -> re.Pattern[str]:
    out = []
    at = 0
    while at < len(segment):
        char = segment[at]
        close = segment.find("]", at + 2) if char == "[" else -1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif close > 0:
            inside = segment[at + 1 : close].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[{'^' + inside[1:] if inside[0] in '!^' else inside}]")
            at = close
        else:
            out.append(re.escape(char))
        at += 1
    return re.compile("".join(out), re.DOTALL)
