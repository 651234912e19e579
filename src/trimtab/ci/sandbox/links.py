"""Following the links of a directory tree as somebody inside of it would, without entering it.

path, where each link in it leads --followed--> the same place, by a path without links, which never leaves the root
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable

LINKS_MAX = 40  # as many as the kernel follows


class CircleOfLinks(FileNotFoundError):
    """A path that goes through more links than the kernel would follow."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ELOOP, "a circle of links", path)


def followed(path: str, target: Callable[[str], str | None]) -> str:
    """An absolute path without links, "." and "..". target: where the link at an absolute path leads; None when none is there, be it
    something else or nothing.

    Raises:
        CircleOfLinks: and whatever `target` raises.
    """
    done = "/"
    pending = _parts(path)
    links = 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            done = posixpath.dirname(done)
            continue
        here = posixpath.join(done, part)
        leads = target(here)
        if leads is None:
            done = here
            continue
        links += 1
        if links > LINKS_MAX:
            raise CircleOfLinks(path)
        if leads.startswith("/"):
            done = "/"
        pending = _parts(leads) + pending
    return done


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


__all__ = ["CircleOfLinks", "followed"]
