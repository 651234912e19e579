"""A definition is evaluated purely: what reaches out of it is refused, at the user's own line.

    with pure(directory): the user's functions run

What a step depends on has to be declared, or its cache could not be right. Two of the interpreter's own doors are watched:
audit events tell of files, processes and the network; a profile function sees calls of C functions and so the clock,
randomness and the environment, for which there are no events. A module that the user's file imports may read its own files.
Only code of the user counts: files below `directory` that are no library's.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from trimtab.ci.definition.site import DefinitionError, Site, complain

_STEP = "; do that in a step"
_DECLARE = "; declare files by src(...) and read them in a step"
_CLOCK = (
    "asks the clock",
    "; the same definition has to come out at any time: make it a parameter, or do it in a step",
)
_RANDOM = ("asks for randomness", "; the same definition has to come out each time")
_HOST = ("asks what machine or process this is", _STEP)

_EVENTS = {
    "open": ("reads or writes {0}", _DECLARE),
    "os.listdir": ("looks into {0}", _DECLARE),
    "os.scandir": ("looks into {0}", _DECLARE),
    "os.remove": ("removes {0}", _STEP),
    "os.rename": ("renames {0}", _STEP),
    "os.mkdir": ("makes {0}", _STEP),
    "subprocess.Popen": ("starts {0}", _STEP),
    "os.system": ("starts a command", _STEP),
    "os.exec": ("starts {0}", _STEP),
    "os.fork": ("starts a process", _STEP),
    "os.posix_spawn": ("starts {0}", _STEP),
    "socket.connect": ("speaks to the network", _STEP),
    "socket.getaddrinfo": ("looks up {0}", _STEP),
    "socket.gethostname": _HOST,
    "socket.bind": ("listens on the network", _STEP),
}

_CALLS: dict[Any, tuple[str, str]] = {
    **{
        getattr(time, name): _CLOCK
        for name in (
            *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"),
            *("localtime", "gmtime", "ctime", "strftime"),
        )
    },
    time.sleep: ("waits", _STEP),
    # Later Pythons start a Thread by another function.
    **{
        getattr(_thread, name): ("starts a thread", _STEP)
        for name in ("start_new_thread", "start_joinable_thread")
        if hasattr(_thread, name)
    },
    os.urandom: _RANDOM,
    os.getpid: _HOST,
    os.uname: _HOST,
    os.getcwd: _HOST,
    os.stat: ("looks at a file", _DECLARE),
    os.lstat: ("looks at a file", _DECLARE),
    os.access: ("looks at a file", _DECLARE),
}
_DATETIME = frozenset(("now", "utcnow", "today"))
_RANDOM_METHODS = frozenset(("random", "getrandbits"))
_ENVIRONMENT = type(os.environ).__getitem__.__code__
_PACKAGE = str(Path(__file__).parent.parent.parent) + os.sep
_LIBRARIES = tuple(
    {os.path.join(prefix, "lib", "") for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)} | {_PACKAGE}
)
_watched: list[str] = []
_refused: list[DefinitionError] = []
_hooked = False


@contextmanager
def pure(directory: Path) -> Iterator[None]:
    """Refuses what reaches out of the definition, when code below `directory` does it. Raises `DefinitionError`.

    A refusal that the user's code catches is raised at the end.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    before = sys.getprofile()
    collects = gc.isenabled()
    gc.disable()  # whoever is called when it collects would seem to be called by the user's line
    _watched.append(os.path.join(directory, ""))
    _refused.clear()
    sys.setprofile(_profile)
    try:
        yield
    finally:
        sys.setprofile(before)
        _watched.pop()
        if collects:
            gc.enable()
    for err in _refused:
        complain(err)


def watch_again() -> None:
    """Goes on after a refusal: the interpreter drops a profile function that has raised."""
    if _watched:
        sys.setprofile(_profile)


def of_the_user(file: str, directory: str) -> bool:
    """Whether a file of code is the user's: below the project (which ends with `/`), and no library in it."""
    return file.startswith(directory) and not file.startswith(_LIBRARIES) and "/site-packages/" not in file


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event in _EVENTS:
        text, hint = _EVENTS[event]
        _refuse(sys._getframe(1), text.format(args[0] if args else ""), hint)


def _profile(frame: FrameType, event: str, arg: Any) -> None:
    if event == "c_call":
        if arg in _CALLS:
            _refuse(frame, *_CALLS[arg])
            return
        name = arg.__name__
        if name in _DATETIME:
            if isinstance(arg.__self__, type) and arg.__self__.__module__ == "datetime":
                _refuse(frame, *_CLOCK)
        elif name in _RANDOM_METHODS:
            random = sys.modules.get("random")
            if random is not None and arg.__self__ is random._inst:
                _refuse(frame, *_RANDOM)
        elif name == "generate_time_safe":
            _refuse(frame, *_RANDOM)
    elif event == "call" and frame.f_code is _ENVIRONMENT:
        name = frame.f_locals["key"]
        hint = f"; make it a parameter: def ci({str(name).lower()}: str = ...)"
        _refuse(frame, f"reads the environment variable {name}", hint)


def _refuse(frame: FrameType | None, what: str, hint: str) -> None:
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib"):
            return
        if of_the_user(file, _watched[-1]):
            err = DefinitionError(f"{what} while the pipeline is defined{hint}", Site(file, frame.f_lineno))
            _refused.append(err)
            raise err
        frame = frame.f_back
