"""Which of a project's files stay out of its image: the rules of a .dockerignore.

Patterns are relative to the project directory; `*` and `?` stop at a slash, `**` does not; a pattern that matches a
directory matches all below it; a `!` takes a file back in; the last pattern that matches decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from trimtab.content.errors import BadSpec

DEFAULTS = (
    "**/.git",
    "**/.venv",
    "**/__pycache__",
    "**/*.pyc",
    "**/.mypy_cache",
    "**/.pytest_cache",
    "**/.ruff_cache",
    "**/.tox",
    "**/.DS_Store",
    "**/.env",  # secrets belong into Secrets
    ".dockerignore",
)
IGNORE_FILE = ".dockerignore"
FILES_MAX = 200_000


class Found(msgspec.Struct, frozen=True):
    """A file or symbolic link of the project; `path` is relative, `source` is where it is."""

    path: str
    source: Path


class Ignore:
    """Compiled patterns."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules = [(not text.startswith("!"), _compile(text.removeprefix("!"))) for text in patterns]
        self._takes_back = any(not leaves_out for leaves_out, _ in self._rules)

    def matches(self, path: str) -> bool:
        ignored = False
        for leaves_out, rule in self._rules:
            if leaves_out != ignored and rule.fullmatch(path):
                ignored = leaves_out
        return ignored

    def prunes(self, path: str) -> bool:
        """Whether nothing below this directory can be wanted."""
        return not self._takes_back and self.matches(path)


def patterns_of(context: Path, declared: Sequence[str]) -> list[str]:
    """Our defaults, then the project's own .dockerignore, then the spec's."""
    own: list[str] = []
    file = context / IGNORE_FILE
    if file.is_file():
        own = [line.strip() for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [*DEFAULTS, *own, *declared]


def walk(context: Path, source: str, ignore: Ignore) -> Iterator[Found]:
    """The files below `source`, relative to it, in the order of their names. Raises BadSpec for what is no file.

    A source that is itself a file is given whatever the patterns say: it was named.
    """
    top = context / source
    if not top.resolve().is_relative_to(context.resolve()):
        raise BadSpec(f"files: {source!r} leads out of the project directory {context}")
    if top.is_file():
        yield Found("", top)
        return
    if not top.is_dir():
        raise BadSpec(f"files: there is no {source!r} in {context}")
    prefix = "" if source.strip("/") in ("", ".") else source.strip("/").removeprefix("./") + "/"
    count = 0
    stack = [""]
    while stack:
        relative = stack.pop()
        entries = sorted((top / relative).iterdir(), key=lambda path: path.name)
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir() and not entry.is_symlink():
                if not ignore.prunes(prefix + path):
                    stack.append(path)
                continue
            if ignore.matches(prefix + path):
                continue
            if not entry.is_symlink() and not entry.is_file():
                raise BadSpec(f"files: {entry} is neither a file nor a directory; add it to the ignore list")
            count += 1
            if count > FILES_MAX:
                raise BadSpec(
                    f"files: {source!r} has more than {FILES_MAX} files; add what is not needed to the ignore list"
                )
            yield Found(path, entry)


def _compile(pattern: str) -> re.Pattern[str]:
    pattern = pattern.strip().strip("/").removeprefix("./")
    out: list[str] = []
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            out.append("(?:.*/)?")
            position += 3
        elif pattern.startswith("**", position):
            out.append(".*")
            position += 2
        elif pattern[position] == "*":
            out.append("[^/]*")
            position += 1
        elif pattern[position] == "?":
            out.append("[^/]")
            position += 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            out.append("[" + pattern[position + 1 : end].replace("\\", "\\\\") + "]")
            position = end + 1
        else:
            out.append(re.escape(pattern[position]))
            position += 1
    return re.compile("".join(out) + "(?:/.*)?", re.DOTALL)
