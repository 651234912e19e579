"""Where names are looked for, in order: each source looks for one build and puts what it finds on the shelf.

    the program where it was mapped from -> /usr/lib/debug -> debuginfod servers, in the order of the spec

What the agent kept and what was uploaded is on the shelf already. Every file is checked to be of the build that was asked for, in the
sandbox. A source answers with a line when it has nothing; how soon it is asked again depends on what it said.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from trimtab.components.profiling.symbols.keep import take
from trimtab.components.profiling.symbols.sandbox import ParseError, Sandbox, one_line
from trimtab.components.profiling.symbols.shelf import Asked, Quality, Shelf, Trail

DEBUG_DIRECTORIES = (Path("/usr/lib/debug"),)
DOWNLOAD_BYTES_MAX = 2 << 30
CHUNK_BYTES = 1 << 18
CONNECT_S = 10.0
"""Between two bytes, too: debuginfod servers may unpack a package first."""
DOWNLOAD_S = 900.0

GONE, UNREADABLE, NONE_HERE, NOT_FOUND, UNREACHABLE, BAD, FOUND = (
    "gone", "unreadable", "none", "404", "unreachable: ", "bad: ", "",
)  # fmt: skip


class Patience(Struct, frozen=True):
    """After how many seconds a source is asked again, by what it said; and how long a question waits meanwhile."""

    found_s: float = 86_400
    """Something, but not the best there is."""
    not_found_s: float = 3_600
    unreachable_s: float = 60
    local_s: float = 60
    first_wait_s: float = 2.0
    """For a source that was never asked: files on this machine are read by then."""
    again_wait_s: float = 0.0
    """The answer of before will do until the next question."""

    def due(self, asked: Asked | None, local: bool, now: float) -> bool:
        if asked is None or now < asked.at:  # a clock that went back
            return True
        if asked.outcome == FOUND:
            wait = self.found_s
        elif local:
            wait = self.local_s
        else:
            wait = self.unreachable_s if asked.outcome.startswith(UNREACHABLE) else self.not_found_s
        return now - asked.at >= wait


class Source(Protocol):
    @property
    def key(self) -> str: ...

    @property
    def local(self) -> bool: ...

    def look(self, build_id: str, path: str, than: Quality | None, trail: Trail, sandbox: Sandbox) -> str:
        """Puts what it has on the shelf. A line when it has nothing; empty when it had something."""
        ...


class Programs:
    """The program itself, if it is still where it was."""

    key, local = "program", True

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def look(self, build_id: str, path: str, than: Quality | None, trail: Trail, sandbox: Sandbox) -> str:
        if not path.startswith("/"):
            return GONE
        return _from_file(self._shelf, Path(path), build_id, than, trail, sandbox)


class DebugFiles:
    """Files of debug information that the distribution's packages installed."""

    key, local = "debug-files", True

    def __init__(self, shelf: Shelf, directories: tuple[Path, ...] = DEBUG_DIRECTORIES) -> None:
        self._shelf = shelf
        self._directories = directories

    def look(self, build_id: str, path: str, than: Quality | None, trail: Trail, sandbox: Sandbox) -> str:
        for file in self._candidates(build_id, trail):
            if file.exists() and _from_file(self._shelf, file, build_id, than, trail, sandbox) == FOUND:
                return FOUND
        return NONE_HERE

    def _candidates(self, build_id: str, trail: Trail) -> Iterator[Path]:
        for directory in self._directories:
            yield directory / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
        if trail.link is not None and trail.link.path.startswith("/"):
            where = Path(trail.link.path).parent
            yield where / trail.link.name
            yield where / ".debug" / trail.link.name
            for directory in self._directories:
                yield directory / where.relative_to("/") / trail.link.name


def _from_file(shelf: Shelf, path: Path, build_id: str, than: Quality | None, trail: Trail, sandbox: Sandbox) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except PermissionError:
        return UNREADABLE
    except (OSError, ValueError):
        return GONE
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return GONE
        found = take(shelf, sandbox, fd, build_id, than=than)
    except ParseError as err:
        if not str(err).startswith("is build "):  # another program is there now, which says nothing of this one
            trail.trouble = str(err)
        return GONE
    finally:
        os.close(fd)
    trail.trouble = found.trouble
    return FOUND


class Debuginfod:
    """A server of the debuginfod protocol: GET URL/buildid/ID/debuginfo."""

    local = False

    def __init__(self, shelf: Shelf, url: str, stop: threading.Event, *, bytes_max: int = DOWNLOAD_BYTES_MAX) -> None:
        self.key = url.rstrip("/")
        self._shelf = shelf
        self._stop = stop
        self._bytes_max = bytes_max
        self._down = ""
        self._down_since = 0.0
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
            urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
        ):  # fmt: skip  # and none for files, FTP and others, which a server might redirect to
            self._opener.add_handler(handler())

    def look(self, build_id: str, path: str, than: Quality | None, trail: Trail, sandbox: Sandbox) -> str:
        if build_id.startswith("sha256-"):  # our own way to name what has no build id
            return NOT_FOUND
        if self._down and time.monotonic() - self._down_since < CONNECT_S:
            return self._down  # others wait for it, too: not each for its own timeout
        try:
            with self._shelf.part() as part:
                self._download(f"{self.key}/buildid/{build_id}/debuginfo", part.file.fileno())
                found = take(self._shelf, sandbox, part.file.fileno(), build_id, than=than)
        except urllib.error.HTTPError as err:
            err.close()
            if err.code == 404:
                return NOT_FOUND
            return f"{UNREACHABLE}it answered {err.code}"
        except ParseError as err:
            return f"{BAD}{err}"
        except (OSError, ValueError) as err:
            cause = err.reason if isinstance(err, urllib.error.URLError) else err
            said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            self._down, self._down_since = f"{UNREACHABLE}{one_line(str(said))}", time.monotonic()
            return self._down
        self._down = ""
        return FOUND if found.quality != "nothing" else f"{BAD}it has no names"

    def _download(self, url: str, fd: int) -> None:
        """Raises `HTTPError`, `OSError`, and `ParseError` when it is too much."""
        deadline = time.monotonic() + DOWNLOAD_S
        request = urllib.request.Request(url, headers={"User-Agent": "trimtab", "Accept-Encoding": "identity"})
        size = 0
        with contextlib.closing(self._opener.open(request, timeout=CONNECT_S)) as answer:
            while chunk := answer.read1(CHUNK_BYTES):
                size += len(chunk)
                if size > self._bytes_max:
                    raise ParseError(f"more than the {self._bytes_max} bytes that are taken")
                if self._stop.is_set() or time.monotonic() > deadline:
                    raise TimeoutError(f"took longer than {DOWNLOAD_S:g} s" if not self._stop.is_set() else "stopped")
                while chunk:
                    chunk = chunk[os.write(fd, chunk) :]
            expected = answer.headers.get("Content-Length")
        if expected is not None and expected.isdigit() and int(expected) != size:
            raise OSError(f"ended after {size} of {expected} bytes")
