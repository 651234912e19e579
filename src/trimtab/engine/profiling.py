"""The deeds of profiling, each as a process: `python -m trimtab.engine.profiling DATA DEED ...`, started by the node agent as root.

    serve FD,.. JSON    queries, pages, pprof in and out, debuginfod, on sockets that listen already   (profiling/served.py)
    roll-up JSON        what has come in becomes Parquet, and what is too old or too much goes         (profiling/storage)
    scrape JSON         asks for pprof profiles, until its input ends                                  (profiling/formats)

    root --isolated--> user `trimtab`, its own processes and file system: DATA/profiles alone --JSON lines--> output

What is parsed here comes from programs of strangers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trimtab.engine import datadir, planning, privileges
from trimtab.engine.errors import EngineError
from trimtab.engine.isolation import Send, isolated
from trimtab.runtime.settings import Settings

Deed = Callable[[Settings, list[str]], int]


def say(what: dict[str, Any]) -> None:
    """A line for who started this."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def apart(settings: Settings, work: Callable[[Send], Any]) -> Any:
    """Runs `work` as the engine's user where of all engines only the profiles are in reach. Raises `EngineError`."""
    return isolated(
        settings.user,
        work,
        say,
        readable=planning.program_directories(),
        writable=[str(profiles(settings))],
        concealed=[settings.data, *datadir.data_of_others(), str(datadir.RUN_ROOT)],
    )


def profiles(settings: Settings) -> Path:
    return settings.data_path("profiles")


def serve(settings: Settings, arguments: list[str]) -> int:
    """Serves on the sockets of these numbers."""
    handles, given = arguments
    root, options = profiles(settings), json.loads(given)

    def work(_: Send) -> None:
        import asyncio

        from trimtab.components.profiling import served

        listening = [socket.socket(fileno=int(number)) for number in handles.split(",")]
        asyncio.run(served.serve(root, listening, options["urls"]))

    apart(settings, work)
    return 0


def roll_up(settings: Settings, arguments: list[str]) -> int:
    """Puts together what has come in, and says what the store then takes."""
    root, limits = profiles(settings), json.loads(arguments[0])
    command = [sys.executable, "-I", "-m", "trimtab.components.profiling.storage.rollup", str(root)]
    command += ["--retention-s", str(limits["retention_s"]), "--max-bytes", str(limits["disk_bytes"])]

    def work(_: Send) -> Any:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if complaint := done.stderr.strip():
            print(complaint, file=sys.stderr)
        if done.returncode != 0:
            raise EngineError((complaint.splitlines() or [f"it ended with status {done.returncode}"])[-1])
        return {"disk_bytes": size_bytes(root)}

    say(apart(settings, work))
    return 0


def size_bytes(root: Path) -> int:
    """What the files below a directory take on the disk."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):  # it has just been replaced
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


DEEDS: dict[str, Deed] = {"serve": serve, "roll-up": roll_up}


def main() -> None:
    data, deed, *arguments = sys.argv[1:]
    privileges.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(DEEDS[deed](datadir.load(Path(data)), arguments))
    except EngineError as err:
        say({"error": str(err)})
        sys.exit(1)


if __name__ == "__main__":
    main()
