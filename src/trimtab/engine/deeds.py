"""Deeds: what components do as processes of their own, `python -m trimtab.engine.NAME DATA DEED ...`, and how such a program is made.

    trimtab.runtime.deeds (node agent, root) --starts--> main(DEEDS) --apart, as the engine's user--> one JSON object a line

A deed begins as root only to give it up: its work runs where of all engines it reaches the directories that it names. It dies with who
started it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.confinement import calls
from trimtab.engine import datadir, planning
from trimtab.engine.errors import EngineError
from trimtab.engine.isolation import Send, isolated
from trimtab.runtime.settings import Settings

Deed = Callable[[Settings, list[str]], int]
"""Given the engine's settings and the deed's arguments, returns the exit status. Raises `EngineError`."""


def say(what: dict[str, Any]) -> None:
    """A line for who started this."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def apart(
    settings: Settings, work: Callable[[Send], Any], *, writable: Sequence[Path], readable: Sequence[Path] = ()
) -> Any:
    """Runs `work` as the engine's user where of all engines only these directories are in reach. Raises `EngineError`."""
    return isolated(
        settings.user,
        work,
        say,
        readable=[*planning.program_directories(), *map(str, readable)],
        writable=list(map(str, writable)),
        concealed=[settings.data, *datadir.data_of_others(), str(datadir.RUN_ROOT)],
    )


def main(deeds: Mapping[str, Deed]) -> None:
    """Does what the command line says, and ends the process; an error is a line `{"error": ...}` and status 1."""
    data, deed, *arguments = sys.argv[1:]
    calls.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(deeds[deed](datadir.load(Path(data)), arguments))
    except EngineError as err:
        say({"error": str(err)})
        sys.exit(1)
